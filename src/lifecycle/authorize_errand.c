/*-------------------------------------------------------------------------
 *
 * authorize_errand.c
 *	  The worker exchanges a code for tokens, and finds out whose they are.
 *
 * One errand for a state: callers who repeat the callback meanwhile join it.
 * Up to three requests: the code; where the connector has an
 * exchange_grant_type, the token for a longer-lived one; where it has an
 * account_url, the account.  From the first reply on there is something to
 * lose, so it is committed to the row before the next request.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/authorize.h"

#include "utils/memutils.h"

#include "base/clock.h"
#include "base/settings.h"
#include "lifecycle/argument.h"
#include "lifecycle/catalogue.h"
#include "lifecycle/client.h"
#include "lifecycle/rate.h"
#include "lifecycle/redirect.h"
#include "lifecycle/store.h"
#include "provider/account.h"
#include "provider/classify.h"
#include "shared/stats.h"

typedef struct AuthorizeErrand
{
	Errand		base;			/* first */
	OpenedSecret message;		/* what callback points into */
	bool		message_open;
	AuthorizeCallback callback;
	AuthorizeState *state;		/* NULL until claimed */
	const ConduitConnector *connector;
	ConduitJson *params;		/* the connection's, for URLs */
	char	   *token_endpoint;
	ConduitClient *client;
	int			secret;			/* which of the client's is tried */
	AuthorizeStep step;		/* the one that is out, or comes next */
	bool		code_sent;
	TokenOutcome outcome;		/* of the code */
	AuthorizeGrant grant;
	bool		granted;
} AuthorizeErrand;

/* ---- making one ---- */

static AuthorizeErrand *
make_errand(void)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "conduit authorization", ALLOCSET_SMALL_SIZES);
	AuthorizeErrand *errand = MemoryContextAllocZero(context, sizeof(AuthorizeErrand));

	errand->base.kind = &conduit_authorize_errand;
	errand->base.context = context;
	errand->base.connector = "";
	return errand;
}

Errand *
conduit_authorize_errand_make(const pg_uuid_t *id, const void *message, Size length, RequestAnswer *answer)
{
	AuthorizeErrand *errand = make_errand();
	MemoryContext old = MemoryContextSwitchTo(errand->base.context);

	errand->message_open = conduit_callback_open(message, length, id, &errand->message, &errand->callback) == SEAL_OK;
	MemoryContextSwitchTo(old);
	if (errand->message_open)
		return &errand->base;
	*answer = ANSWER_VAULT;
	errand->base.kind->free(&errand->base);
	return NULL;
}

bool
conduit_authorize_errand_same(const Errand *errand, const void *other)
{
	const AuthorizeCallback *a = &((const AuthorizeErrand *) errand)->callback;
	const AuthorizeCallback *b = &((const AuthorizeErrand *) other)->callback;

	return a->state != NULL && conduit_same_text(a->state, b->state) && conduit_same_text(a->code, b->code) &&
		conduit_same_text(a->owner, b->owner) && conduit_same_text(a->tenant, b->tenant);
}

/* The client that the state was made under; false if it is gone, or lacks what it needs. */
static bool
find_client(AuthorizeErrand *errand)
{
	const AuthorizeState *state = errand->state;

	errand->client = conduit_client_find(state->tenant, state->connector, state->client_id, errand->base.context);
	if (errand->client == NULL)
		errand->client = conduit_client_from_environment(state->tenant, errand->connector, state->builtin,
														 state->client_id);
	return errand->client != NULL &&
		(errand->client->nsecrets > 0 || !conduit_connector_needs_secret(errand->connector));
}

Errand *
conduit_authorize_errand_resume(AuthorizeLoaded *loaded, MemoryContext context)
{
	AuthorizeErrand *errand = make_errand();
	MemoryContext old = MemoryContextSwitchTo(errand->base.context);

	errand->state = loaded->state;
	errand->base.connector = loaded->state->connector;
	errand->connector = conduit_catalogue_get(loaded->state->connector, -1);
	if (errand->connector != NULL)
		find_client(errand);
	errand->params = conduit_parse_object(loaded->state->params, "invalid params");
	errand->step = loaded->next;
	errand->code_sent = errand->granted = true;
	if (errand->client != NULL && conduit_authorize_unseal(loaded) == SEAL_OK)
	{
		errand->grant = loaded->grant;
		MemoryContextSwitchTo(old);
		MemoryContextSetParent(context, errand->base.context);
		return &errand->base;
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(errand->base.context);
	return NULL;
}

/* ---- claim ---- */

/* This callback ends the authorization, and its repetitions are told why. */
static RequestAnswer
close_refused(AuthorizeErrand *errand, const char *reason)
{
	conduit_authorize_refuse(errand->state, errand->callback.code, reason);
	return ANSWER_DONE;
}

/* A redirect that says that nobody has authorized anything. */
static RequestAnswer
close_denied(AuthorizeErrand *errand, const char *error)
{
	char		code[OUTCOME_CODE_LEN + 1];

	conduit_classify_clean_code(error, code);
	return close_refused(errand, strcmp(code, "access_denied") == 0 ? "denied" : code[0] ? code : "refused");
}

/* The redirect belongs to an open state: may its code be sent? */
static RequestAnswer
check_and_claim(AuthorizeErrand *errand)
{
	AuthorizeState *state = errand->state;
	ConduitJson *redirect = conduit_parse_object(errand->callback.params, "invalid params");
	const char *error = conduit_redirect_text(redirect, "error");
	const char *problem;
	const char *variable;
	ConduitJson *params;

	if (strcmp(conduit_client_origin(errand->connector), state->origin) != 0)
		return close_refused(errand, "connector_changed");
	if (!conduit_redirect_issuer_matches(errand->connector, errand->params, redirect))
		return close_refused(errand, "issuer_mismatch");
	if (errand->callback.code == NULL)
		return error != NULL ? close_denied(errand, error) : ANSWER_REFUSED;
	if (!conduit_redirect_params(errand->connector, redirect, &params))
		return ANSWER_REFUSED;
	errand->params = conduit_redirect_merge(errand->params, params);
	errand->token_endpoint = conduit_connector_expand(errand->connector, errand->connector->token_url,
													  errand->params, &problem, &variable);
	if (errand->token_endpoint == NULL)
	{
		conduit_authorize_reopen(state, conduit_outcome_name(OUTCOME_CONFIG), "endpoint_invalid");
		return ANSWER_DONE;
	}
	if (!find_client(errand))
		return ANSWER_NOT_CONFIGURED;
	state->token_origin = conduit_connector_token_origin(errand->connector, errand->params);
	conduit_authorize_claim(state, errand->callback.code, state->token_origin, params,
							conduit_redirect_metadata(errand->connector, redirect));
	errand->step = AUTHORIZE_SEND_CODE;
	return ANSWER_NONE;
}

static RequestAnswer
claim(Errand *base)
{
	AuthorizeErrand *errand = (AuthorizeErrand *) base;
	const AuthorizeCallback *callback = &errand->callback;
	MemoryContext old;
	RequestAnswer answer;
	bool		held;

	errand->state = conduit_authorize_lock(callback->state, callback->owner, callback->tenant, base->context, &held);
	if (errand->state == NULL)
		return held ? ANSWER_DEFERRED : ANSWER_REFUSED;

	/* A repetition is told from the row, but only with the code that it knows. */
	if (errand->state->status != AUTHORIZE_OPEN)
		return callback->code != NULL && conduit_authorize_same_code(errand->state, callback->code) ?
			ANSWER_DONE : ANSWER_REFUSED;
	if (errand->state->expires_at <= conduit_now())
		return ANSWER_REFUSED;
	errand->connector = conduit_catalogue_get(errand->state->connector, -1);
	if (errand->connector == NULL)
		return ANSWER_REFUSED;
	base->connector = errand->state->connector;

	old = MemoryContextSwitchTo(base->context);
	errand->params = conduit_parse_object(errand->state->params, "invalid params");
	answer = check_and_claim(errand);
	MemoryContextSwitchTo(old);
	return answer;
}

/* ---- send ---- */

static void
set_outcome(AuthorizeErrand *errand, OutcomeClass outcome, const char *code)
{
	memset(&errand->outcome, 0, sizeof(errand->outcome));
	errand->outcome.outcome = outcome;
	strlcpy(errand->outcome.code, code, sizeof(errand->outcome.code));
}

static void
set_vault_outcome(AuthorizeErrand *errand, SealStatus status)
{
	set_outcome(errand, OUTCOME_CONFIG,
				status == SEAL_UNKNOWN_KEY ? "unknown_key" :
				status == SEAL_CANNOT_OPEN ? "cannot_open" : "vault_locked");
}

/* The client's secret that is to be tried, if it has one. */
static SealStatus
open_client_secret(AuthorizeErrand *errand, OpenedSecret *opened, ConduitSecret *secret)
{
	const ConduitClient *client = errand->client;

	memset(opened, 0, sizeof(*opened));
	memset(secret, 0, sizeof(*secret));
	if (client->nsecrets == 0)
		return SEAL_OK;
	if (client->environment_secret != NULL)
	{
		secret->client_secret.data = client->environment_secret;
		secret->client_secret.length = strlen(client->environment_secret);
		return SEAL_OK;
	}
	return conduit_client_open_secret(client, errand->secret, errand->connector, opened, secret);
}

static SealStatus
open_verifier(AuthorizeErrand *errand, OpenedSecret *opened, ConduitSecret *secret)
{
	SealPlace	place = conduit_authorize_place(errand->state, "verifier");

	memset(opened, 0, sizeof(*opened));
	memset(secret, 0, sizeof(*secret));
	return errand->state->verifier == NULL ? SEAL_OK :
		conduit_secret_open(&place, errand->state->verifier, opened, secret, NULL);
}

static void
wipe_if_open(OpenedSecret *opened)
{
	if (opened->data != NULL)
		conduit_wipe_opened(opened);
}

static void
start_exchange(AuthorizeErrand *errand, TokenRequest *request)
{
	request->connector = errand->connector;
	request->params = errand->params;
	request->client_id = errand->client->client_id;
	request->timeout_ms = conduit_http_timeout;
	errand->base.exchange = conduit_exchange_token(request, &errand->base.base);
	conduit_rate_charge_client(errand->connector, errand->client->tenant, errand->client->client_id);
}

static bool
send_code(AuthorizeErrand *errand)
{
	TokenRequest request = {.kind = TOKEN_REQUEST_CODE};
	OpenedSecret client_opened;
	OpenedSecret verifier_opened;
	ConduitSecret client_secret;
	ConduitSecret verifier;
	SealStatus	status;

	status = open_client_secret(errand, &client_opened, &client_secret);
	if (status == SEAL_OK)
		status = open_verifier(errand, &verifier_opened, &verifier);
	if (status != SEAL_OK)
	{
		wipe_if_open(&client_opened);
		set_vault_outcome(errand, status);
		return false;
	}
	request.endpoint = errand->token_endpoint;
	request.client_secret = client_secret.client_secret;
	request.code.data = errand->callback.code;
	request.code.length = strlen(errand->callback.code);
	request.code_verifier = verifier.access_token;
	request.redirect_uri = errand->state->redirect_uri;
	start_exchange(errand, &request);
	wipe_if_open(&verifier_opened);
	wipe_if_open(&client_opened);
	return true;
}

static bool
send_exchange(AuthorizeErrand *errand)
{
	TokenRequest request = {.kind = TOKEN_REQUEST_EXCHANGE};
	const char *problem;
	const char *variable;
	OpenedSecret client_opened;
	ConduitSecret client_secret;

	request.endpoint = errand->connector->exchange_url == NULL ?
		conduit_connector_refresh_endpoint(errand->connector, errand->params, &problem, &variable) :
		conduit_connector_expand(errand->connector, errand->connector->exchange_url, errand->params, &problem, &variable);
	if (request.endpoint == NULL || open_client_secret(errand, &client_opened, &client_secret) != SEAL_OK)
		return false;
	request.client_secret = client_secret.client_secret;
	request.refresh_token = errand->grant.token.secret.access_token;
	start_exchange(errand, &request);
	wipe_if_open(&client_opened);
	return true;
}

static bool
send_account(AuthorizeErrand *errand)
{
	GetRequest	request = {.connector = errand->connector,.params = errand->params,
		.client_id = errand->client->client_id,.timeout_ms = conduit_http_timeout};
	const char *problem;
	const char *variable;

	request.endpoint = conduit_connector_expand(errand->connector, errand->connector->account_url, errand->params,
												&problem, &variable);
	if (request.endpoint == NULL)
		return false;
	request.access_token = errand->grant.token.secret.access_token;
	errand->base.exchange = conduit_exchange_get(&request, &errand->base.base);
	return true;
}

/* What comes after a request: that which the connector wants and nobody has made. */
static AuthorizeStep
step_after(const AuthorizeErrand *errand, AuthorizeStep step)
{
	if (step < AUTHORIZE_EXCHANGE && errand->connector->exchange_grant_type != NULL)
		return AUTHORIZE_EXCHANGE;
	if (step < AUTHORIZE_ACCOUNT && errand->connector->account_url != NULL)
		return AUTHORIZE_ACCOUNT;
	return AUTHORIZE_NOTHING;
}

static bool
send_request(Errand *base)
{
	AuthorizeErrand *errand = (AuthorizeErrand *) base;
	MemoryContext old = MemoryContextSwitchTo(base->context);
	bool		sent = false;

	if (errand->step == AUTHORIZE_SEND_CODE)
		sent = send_code(errand);
	else
		/* One that cannot be made is left out. */
		while (!sent && errand->step != AUTHORIZE_NOTHING)
		{
			sent = errand->step == AUTHORIZE_EXCHANGE ? send_exchange(errand) : send_account(errand);
			if (!sent)
				errand->step = step_after(errand, errand->step);
		}
	MemoryContextSwitchTo(old);
	if (sent)
		conduit_stats_add(base->connector, STATS_IN_FLIGHT, 1);
	return sent;
}

/* ---- receive ---- */

static void
end_exchange(AuthorizeErrand *errand)
{
	conduit_exchange_free(errand->base.exchange);
	errand->base.exchange = NULL;
	conduit_stats_add(errand->base.connector, STATS_IN_FLIGHT, -1);
}

/*
 * Only "this secret is wrong" leads to the client's other secret: the code has
 * not been looked at then.
 */
static bool
try_next_secret(AuthorizeErrand *errand)
{
	if (errand->outcome.outcome != OUTCOME_CONFIG || !conduit_classify_refuses_client(errand->outcome.code) ||
		errand->secret + 1 >= errand->client->nsecrets)
		return false;
	errand->secret++;
	memset(&errand->outcome, 0, sizeof(errand->outcome));
	return true;
}

static void
take_account(AuthorizeErrand *errand, const char *account, const char *label)
{
	if (account != NULL)
		errand->grant.account = account;
	if (label != NULL)
		errand->grant.account_label = label;
}

static bool
receive_code(AuthorizeErrand *errand)
{
	conduit_exchange_read(errand->base.exchange, &errand->outcome);
	errand->code_sent = errand->code_sent || conduit_exchange_sent(errand->base.exchange);
	end_exchange(errand);
	if (errand->outcome.outcome != OUTCOME_REFRESHED)
		return try_next_secret(errand);

	errand->granted = true;
	errand->grant.token = errand->outcome.grant;
	memset(&errand->outcome.grant, 0, sizeof(errand->outcome.grant));
	take_account(errand, errand->grant.token.account, errand->grant.token.account_label);
	errand->params = conduit_redirect_merge(errand->params, errand->grant.token.new_params);
	errand->step = step_after(errand, AUTHORIZE_SEND_CODE);
	return errand->step != AUTHORIZE_NOTHING;
}

/* A copy, for the first token's own memory is wiped. */
static void
take_missing(SecretText *to, const SecretText *from)
{
	char	   *copy;

	if (to->data != NULL || from->data == NULL)
		return;
	copy = palloc(from->length + 1);
	memcpy(copy, from->data, from->length);
	copy[from->length] = '\0';
	to->data = copy;
	to->length = from->length;
}

/* What came in exchange takes the place of the first token; what it does not say stays. */
static void
receive_exchange(AuthorizeErrand *errand)
{
	TokenOutcome outcome = {0};
	TokenGrant *first = &errand->grant.token;
	TokenGrant *second = &outcome.grant;

	conduit_exchange_read(errand->base.exchange, &outcome);
	end_exchange(errand);
	if (outcome.outcome == OUTCOME_REFRESHED && second->secret.access_token.data != NULL)
	{
		take_missing(&second->secret.refresh_token, &first->secret.refresh_token);
		take_missing(&second->secret.extra, &first->secret.extra);
		if (second->scope == NULL)
			second->scope = first->scope;
		if (second->new_params == NULL)
			second->new_params = first->new_params;
		if (second->new_metadata == NULL)
			second->new_metadata = first->new_metadata;
		take_account(errand, second->account, second->account_label);
		conduit_authorize_free_grant(&errand->grant);
		errand->grant.token = *second;
		memset(second, 0, sizeof(*second));
	}
	else
		ereport(LOG,
				(errmsg("conduit: a token of connector %s could not be exchanged: %s, %s",
						errand->base.connector, conduit_outcome_name(outcome.outcome), outcome.code),
				 errhidestmt(true), errhidecontext(true)));
	conduit_token_grant_wipe(second);
	errand->step = step_after(errand, AUTHORIZE_EXCHANGE);
}

static void
receive_account(AuthorizeErrand *errand)
{
	TokenOutcome outcome = {0};
	const ConduitJson *answer = conduit_exchange_read_json(errand->base.exchange, &outcome);
	const char *account = NULL;
	const char *label = NULL;

	if (answer != NULL)
		conduit_account_read(errand->connector, answer, &account, &label);
	end_exchange(errand);
	take_account(errand, account, label);
	if (account == NULL)
		ereport(LOG,
				(errmsg("conduit: the account of an authorization at connector %s is not known: %s",
						errand->base.connector, answer ? "no_account" : outcome.code),
				 errhidestmt(true), errhidecontext(true)));
	errand->step = AUTHORIZE_NOTHING;
}

static bool
receive(Errand *base)
{
	AuthorizeErrand *errand = (AuthorizeErrand *) base;
	MemoryContext old = MemoryContextSwitchTo(base->context);
	bool		more;

	if (errand->step == AUTHORIZE_SEND_CODE)
		more = receive_code(errand);
	else
	{
		if (errand->step == AUTHORIZE_EXCHANGE)
			receive_exchange(errand);
		else
			receive_account(errand);
		more = errand->step != AUTHORIZE_NOTHING;
	}
	MemoryContextSwitchTo(old);
	return more;
}

static void
give_up(Errand *base)
{
	AuthorizeErrand *errand = (AuthorizeErrand *) base;

	if (base->exchange != NULL)
	{
		errand->code_sent = errand->code_sent || conduit_exchange_sent(base->exchange);
		end_exchange(errand);
	}
	if (!errand->granted)
		set_outcome(errand, errand->code_sent ? OUTCOME_UNKNOWN : OUTCOME_TRANSIENT, "internal");
}

/* ---- keep, settle ---- */

static void
keep(Errand *base)
{
	AuthorizeErrand *errand = (AuthorizeErrand *) base;
	bool		gone;

	if (errand->granted && conduit_authorize_relock(errand->state, &gone))
		conduit_authorize_keep(errand->state, &errand->grant, errand->step);
}

static void
log_failure(const AuthorizeErrand *errand)
{
	ereport(LOG,
			(errmsg("conduit: an authorization at connector %s failed: %s, %s",
					errand->base.connector, conduit_outcome_name(errand->outcome.outcome), errand->outcome.code),
			 errhidestmt(true), errhidecontext(true)));
}

/* No token came.  A code that has not left may come again; any other is used up. */
static void
settle_failure(AuthorizeErrand *errand)
{
	const TokenOutcome *outcome = &errand->outcome;

	log_failure(errand);
	if (!errand->code_sent)
		conduit_authorize_reopen(errand->state, conduit_outcome_name(outcome->outcome), outcome->code);
	else if (outcome->outcome == OUTCOME_DEAD)
		conduit_authorize_fail(errand->state, "refused", "code_rejected");
	else
		conduit_authorize_fail(errand->state, conduit_outcome_name(outcome->outcome), outcome->code);
}

static bool
settle(Errand *base)
{
	AuthorizeErrand *errand = (AuthorizeErrand *) base;
	bool		gone;

	base->answer = ANSWER_DONE;
	if (!conduit_authorize_relock(errand->state, &gone))
		return gone;
	if (!errand->granted)
		settle_failure(errand);
	else if (conduit_authorize_settle(errand->state, &errand->grant) == AUTHORIZE_HELD)
	{
		conduit_authorize_keep(errand->state, &errand->grant, AUTHORIZE_NOTHING);
		base->answer = ANSWER_PARKED;
	}
	return true;
}

static void
park(Errand *base)
{
	AuthorizeErrand *errand = (AuthorizeErrand *) base;
	bool		gone;

	base->answer = ANSWER_PARKED;
	if (!conduit_authorize_relock(errand->state, &gone))
	{
		if (gone)
			return;
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("an authorization waits in memory for its row")));
	}
	if (errand->granted)
		conduit_authorize_keep(errand->state, &errand->grant, AUTHORIZE_NOTHING);
	else
		settle_failure(errand);
}

/* The worker leaves, and nothing of the request has. */
static void
withdraw(Errand *base)
{
	AuthorizeErrand *errand = (AuthorizeErrand *) base;

	if (!errand->code_sent)
		conduit_authorize_reopen(errand->state, NULL, NULL);
	else
		keep(base);				/* for the next worker */
}

static void
free_errand(Errand *base)
{
	AuthorizeErrand *errand = (AuthorizeErrand *) base;

	if (base->exchange != NULL)
		end_exchange(errand);
	conduit_authorize_free_grant(&errand->grant);
	if (errand->message_open)
		conduit_wipe_opened(&errand->message);
	if (errand->client != NULL && errand->client->environment_secret != NULL)
		conduit_wipe(errand->client->environment_secret, strlen(errand->client->environment_secret));
	MemoryContextDelete(base->context);
}

const ErrandKind conduit_authorize_errand = {
	.what = "authorizing",
	.asked = true,
	.claim = claim,
	.send = send_request,
	.receive = receive,
	.keep = keep,
	.settle = settle,
	.park = park,
	.give_up = give_up,
	.withdraw = withdraw,
	.free = free_errand,
};
