/*-------------------------------------------------------------------------
 *
 * authorize_callback.c
 *	  conduit_authorize_callback: what the provider's redirect brought.
 *
 * The caller checks and asks; the worker exchanges the code and commits.  What
 * came of it is read from the row of the state, so that it does not matter
 * whether the caller waited, left or comes again.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/authorize.h"

#include "access/xlog.h"
#include "mb/pg_wchar.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"

#include "base/clock.h"
#include "base/report.h"
#include "base/settings.h"
#include "lifecycle/argument.h"
#include "lifecycle/catalogue.h"
#include "lifecycle/failure.h"
#include "lifecycle/key.h"
#include "lifecycle/redirect.h"
#include "lifecycle/store.h"
#include "lifecycle/wait.h"

#define MAX_STATE_LEN 512
#define MAX_CODE_LEN (16 * 1024)

PG_FUNCTION_INFO_V1(conduit_authorize_callback);

/* ---- the message to the worker ---- */

static SealPlace
message_place(const pg_uuid_t *id)
{
	SealPlace	place = {
		.purpose = "mail",.row = id,.connection = id,.tenant = "",.owner = "",.connector = "",
		.field = "callback",.generation = 0,.origin = ""
	};

	return place;
}

/* Each text as its length with the NUL, 0 for none, and its bytes with the NUL. */
#define NUM_TEXTS 5

static void
texts_of(AuthorizeCallback *callback, char **texts[NUM_TEXTS])
{
	texts[0] = &callback->owner;
	texts[1] = &callback->tenant;
	texts[2] = &callback->state;
	texts[3] = &callback->code;
	texts[4] = &callback->params;
}

bytea *
conduit_callback_seal(const AuthorizeCallback *callback, const pg_uuid_t *id)
{
	AuthorizeCallback copy = *callback;
	SealPlace	place = message_place(id);
	char	  **texts[NUM_TEXTS];
	Size		size = 0;
	uint8	   *message;
	uint8	   *to;
	bytea	   *sealed;
	SealStatus	status;

	texts_of(&copy, texts);
	for (int i = 0; i < NUM_TEXTS; i++)
		size += sizeof(uint32) + (*texts[i] ? strlen(*texts[i]) + 1 : 0);
	message = to = palloc(size);
	for (int i = 0; i < NUM_TEXTS; i++)
	{
		uint32		length = *texts[i] ? strlen(*texts[i]) + 1 : 0;
		uint32		prefix = pg_hton32(length);

		memcpy(to, &prefix, sizeof(prefix));
		if (length > 0)
			memcpy(to + sizeof(prefix), *texts[i], length);
		to += sizeof(prefix) + length;
	}
	status = conduit_seal(&place, message, size, &sealed);
	conduit_wipe(message, size);
	pfree(message);
	if (status != SEAL_OK)
		conduit_key_raise(status, NULL);
	conduit_key_seal_done();
	return sealed;
}

static bool
read_texts(OpenedSecret *opened, AuthorizeCallback *callback)
{
	uint8	   *at = opened->data;
	uint8	   *end = opened->data + opened->length;
	char	  **texts[NUM_TEXTS];

	texts_of(callback, texts);
	for (int i = 0; i < NUM_TEXTS; i++)
	{
		uint32		length;

		if (end - at < sizeof(length))
			return false;
		memcpy(&length, at, sizeof(length));
		length = pg_ntoh32(length);
		at += sizeof(length);
		if (length > end - at || (length > 0 && at[length - 1] != '\0'))
			return false;
		*texts[i] = length > 0 ? (char *) at : NULL;
		at += length;
	}
	return callback->owner != NULL && callback->tenant != NULL && callback->state != NULL;
}

SealStatus
conduit_callback_open(const void *message, Size length, const pg_uuid_t *id,
					  OpenedSecret *opened, AuthorizeCallback *callback)
{
	SealPlace	place = message_place(id);
	SealStatus	status;

	/* The blob is a bytea, and its length must be what has come. */
	if (length < VARHDRSZ || VARSIZE_ANY(message) != length)
		return SEAL_CANNOT_OPEN;
	status = conduit_open(&place, message, opened, NULL);
	if (status == SEAL_OK && !read_texts(opened, callback))
	{
		conduit_wipe_opened(opened);
		status = SEAL_CANNOT_OPEN;
	}
	return status;
}

/* ---- what came of it ---- */

/* The state tells of this callback: it is the one that it was closed with, not long ago. */
static bool
tells_of(const AuthorizeState *state, const char *code)
{
	if (state->code_hash == NULL)
		return code == NULL;	/* closed by a refusal */
	return code != NULL && conduit_authorize_same_code(state, code);
}

pg_noreturn static void
raise_failure(const AuthorizeState *state)
{
	const char *outcome = state->outcome ? state->outcome : "unknown";
	const char *reason = state->reason ? state->reason : "unknown";

	if (strcmp(outcome, "refused") == 0)
		conduit_raise(CONDUIT_ERR_AUTHORIZATION_FAILED, reason);
	conduit_raise(conduit_failure_error(outcome, reason), reason);
}

/* True with *result set if the state is done; raises an error if it has failed. */
static bool
read_result(const AuthorizeState *state, const char *code, pg_uuid_t *result)
{
	switch (state->status)
	{
		case AUTHORIZE_OPEN:
		case AUTHORIZE_CLAIMED:
		case AUTHORIZE_RECEIVED:
		case AUTHORIZE_PARKED:
			return false;
		case AUTHORIZE_DONE:
		case AUTHORIZE_FAILED:
			break;
	}
	if (!tells_of(state, code) ||
		conduit_seconds_between(state->closed_at, conduit_now()) > CONDUIT_CALLBACK_REPEATS)
		conduit_raise(CONDUIT_ERR_AUTHORIZATION_FAILED, "invalid_state");
	if (state->status == AUTHORIZE_FAILED)
		raise_failure(state);
	*result = state->result;
	return true;
}

/* ---- the caller's arguments ---- */

/* The caller's text in UTF-8, checked for its length. */
static char *
utf8_argument(FunctionCallInfo fcinfo, int n, const char *message, int max)
{
	char	   *text = conduit_text_argument(fcinfo, n);

	if (text == NULL || text[0] == '\0')
		return NULL;
	if (strlen(text) > max)
		conduit_bad_argument(message, psprintf("too_long %d", max), "The number is the most bytes it may have.");
	return pg_server_to_any(text, strlen(text), PG_UTF8);
}

/* The redirect's parameters: an object of strings; nulls are left out. */
static const ConduitJson *
parse_redirect(const char *params)
{
	char	   *buffer;
	const char *problem;
	ConduitJson *redirect;

	if (params == NULL)
		return NULL;
	buffer = pstrdup(params);
	redirect = conduit_json_parse(buffer, strlen(buffer), &problem);
	if (redirect == NULL || redirect->type != CONDUIT_JSON_OBJECT)
		conduit_bad_argument("invalid params", redirect ? "not_an_object" : "json",
							 "Pass the redirect's parameters as one JSON object of strings.");
	for (const ConduitJson *member = redirect->first; member != NULL; member = member->next)
		if (member->type != CONDUIT_JSON_STRING && member->type != CONDUIT_JSON_NULL)
			conduit_bad_argument("invalid params", "bad_value",
								 "Pass the redirect's parameters as one JSON object of strings.");
	return redirect;
}

/* The code, which may have come under a name of the provider's. */
static void
find_code(const ConduitConnector *connector, const ConduitJson *redirect, AuthorizeCallback *callback)
{
	const char *code = conduit_redirect_text(redirect, connector->callback_code_param);

	if (callback->code == NULL && code != NULL && code[0] != '\0')
		callback->code = pstrdup(code);
	if (callback->code == NULL && conduit_redirect_text(redirect, "error") == NULL)
		conduit_bad_argument("invalid code", "blank",
							 "Pass the redirect's code, or its parameters with the error that it brought.");
}

/* What the redirect brought for the connection's params: fit for their patterns, and none left out. */
static void
check_params(const AuthorizeState *state, const ConduitConnector *connector, const ConduitJson *redirect)
{
	ConduitJson *params;
	const char *missing;

	if (!conduit_redirect_params(connector, redirect, &params))
		conduit_bad_argument("invalid params", "pattern",
							 "A parameter of the redirect does not match the pattern of its variable.");
	params = conduit_redirect_merge(conduit_parse_object(state->params, "invalid params"), params);
	missing = conduit_redirect_missing(connector, params);
	if (missing != NULL)
		conduit_bad_argument("invalid params", psprintf("missing %s", missing),
							 "Pass all parameters of the redirect, of which the connector needs this one.");
}

static void
read_redirect(const AuthorizeState *state, AuthorizeCallback *callback)
{
	const ConduitJson *redirect = parse_redirect(callback->params);
	const char *theirs = conduit_redirect_text(redirect, "state");
	const ConduitConnector *connector;
	StoreScope	scope;

	conduit_store_begin(&scope);
	connector = conduit_catalogue_get(state->connector, -1);
	conduit_store_end(&scope);
	if (connector == NULL || (theirs != NULL && strcmp(theirs, callback->state) != 0))
		conduit_raise(CONDUIT_ERR_AUTHORIZATION_FAILED, "invalid_state");
	find_code(connector, redirect, callback);
	if (callback->code != NULL)
		check_params(state, connector, redirect);
}

/* ---- asking ---- */

static RequestAnswer
ask_worker(const AuthorizeCallback *callback, const char *connector)
{
	FlightRequest request = {.kind = REQUEST_CALLBACK};
	bytea	   *message;
	WaitMail	mail = {0};

	conduit_key_prepare_to_seal();
	request.connection = conduit_new_id();
	strlcpy(request.connector, connector, sizeof(request.connector));
	message = conduit_callback_seal(callback, &request.connection);
	mail.message = message;
	mail.length = VARSIZE(message);
	return conduit_wait_with_mail(&request, &mail, conduit_vend_timeout, NULL);
}

pg_noreturn static void
raise_answer(const AuthorizeState *state, RequestAnswer answer)
{
	switch (answer)
	{
		case ANSWER_REFUSED:
			conduit_raise(CONDUIT_ERR_AUTHORIZATION_FAILED, "invalid_state");
		case ANSWER_VAULT:
			conduit_raise(CONDUIT_ERR_VAULT_LOCKED, "worker_keyring");
		case ANSWER_NOT_CONFIGURED:
			conduit_raise(CONDUIT_ERR_NOT_CONFIGURED, "client_missing");
		case ANSWER_GONE:
			conduit_raise(CONDUIT_ERR_NO_WORKER, NULL);
		case ANSWER_FAILED:
			conduit_raise(CONDUIT_ERR_UNAVAILABLE, "internal");
		case ANSWER_DONE:
			/* the code has not left: it may come again */
			if (state != NULL && state->status == AUTHORIZE_OPEN && state->reason != NULL)
				raise_failure(state);
			break;
		default:
			break;
	}
	conduit_raise(CONDUIT_ERR_UNAVAILABLE, "pending");
}

static AuthorizeState *
find_state(const AuthorizeCallback *callback)
{
	StoreScope	scope;
	AuthorizeState *state;

	conduit_store_begin(&scope);
	state = conduit_authorize_find(callback->state, callback->owner, callback->tenant, scope.caller_context);
	conduit_store_end(&scope);
	return state;
}

static void
complete(AuthorizeCallback *callback, pg_uuid_t *result)
{
	AuthorizeState *state = find_state(callback);
	RequestAnswer answer;

	if (state == NULL)
		conduit_raise(CONDUIT_ERR_AUTHORIZATION_FAILED, "invalid_state");
	read_redirect(state, callback);
	if (read_result(state, callback->code, result))
		return;
	answer = ask_worker(callback, state->connector);
	state = find_state(callback);
	if (answer == ANSWER_REFUSED || state == NULL || !read_result(state, callback->code, result))
		raise_answer(state, answer);
}

/* conduit_authorize_callback(owner, state, code, params, tenant) */
Datum
conduit_authorize_callback(PG_FUNCTION_ARGS)
{
	AuthorizeCallback *callback = palloc0(sizeof(AuthorizeCallback));
	pg_uuid_t  *result = palloc(sizeof(pg_uuid_t));

	callback->owner = conduit_owner_argument(fcinfo, 0);
	callback->state = conduit_name_argument(fcinfo, 1, "invalid state", MAX_STATE_LEN);
	callback->code = utf8_argument(fcinfo, 2, "invalid code", MAX_CODE_LEN);
	callback->params = utf8_argument(fcinfo, 3, "invalid params", CONDUIT_MAX_JSON_LEN);
	callback->tenant = conduit_tenant_argument(fcinfo, 4);
	if (RecoveryInProgress())
		conduit_raise(CONDUIT_ERR_UNAVAILABLE, "standby");

	PG_TRY();
	{
		complete(callback, result);
	}
	PG_FINALLY();
	{
		if (callback->code != NULL)
			conduit_wipe(callback->code, strlen(callback->code));
		if (callback->params != NULL)
			conduit_wipe(callback->params, strlen(callback->params));
	}
	PG_END_TRY();
	PG_RETURN_UUID_P(result);
}
