/*-------------------------------------------------------------------------
 *
 * request.c
 *	  conduit_request and conduit_preview: calling a provider's API without
 *	  handing the credential out.
 *
 * The session makes the request whole, credential and all, seals it and has
 * the worker send it; the response comes back the same way.  On a 401 it goes
 * on with a newer generation, if one is stored, or has the credential refreshed
 * like anybody else who was answered so, and tries once more.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include <math.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/report.h"
#include "base/settings.h"
#include "lifecycle/argument.h"
#include "lifecycle/call.h"
#include "lifecycle/catalogue.h"
#include "lifecycle/key.h"
#include "lifecycle/rate.h"
#include "lifecycle/renewal.h"
#include "lifecycle/store.h"
#include "provider/api_request.h"
#include "provider/egress.h"
#include "provider/url.h"
#include "shared/area.h"
#include "shared/last_use.h"

PG_FUNCTION_INFO_V1(conduit_request);
PG_FUNCTION_INFO_V1(conduit_preview);

/* What the provider asks for without saying how long, in seconds. */
#define STANDARD_PAUSE 30.0

/* One call of an API, from the argument to the answer. */
typedef struct Caller
{
	const char *owner;
	const char *tenant;
	TimestampTz until;			/* real time */
	CredentialView view;
	const ConduitConnector *connector;
	const ConduitJson *params;
	char	   *client_id;
	LimiterKey	bucket;
	LimiterRate rate;
	ApiRequest	request;
} Caller;

/* ---- who may, and with what ---- */

/*
 * The connection's connector, params and bucket.  False if it has another
 * credential by now than the one that was looked up: params that name another
 * host drop the credential, so that one must not be sent by the other's params.
 */
static bool
find_connection(Caller *caller)
{
	static StoreQuery select = {
		"SELECT n.account, n.client_id, n.params::pg_catalog.text, k.revision, c.generation FROM conduit.connection n"
		" JOIN conduit.connector k ON k.slug = n.connector"
		" LEFT JOIN conduit.credential c ON c.connection_id = n.id WHERE n.id = $1",
		1, {UUIDOID}
	};
	const pg_uuid_t *id = &caller->view.place.connection;
	const char *slug = caller->view.place.connector;
	MemoryContext context = CurrentMemoryContext;
	StoreArgs	args = {0};
	StoreScope	scope;
	char	   *params;
	char	   *account;
	bool		same;

	conduit_arg_uuid(&args, id);
	conduit_store_begin(&scope);
	if (conduit_store_run(&select, &args) == 0)
		conduit_raise(CONDUIT_ERR_CONNECTION_NOT_FOUND, NULL);
	account = conduit_row_text(0, 1, context);
	caller->client_id = conduit_row_utf8(0, 2, context);
	params = conduit_row_text(0, 3, context);

	/* What is parked is the next generation of the one that is stored. */
	same = !conduit_row_isnull(0, 5) && conduit_row_int64(0, 5) <= caller->view.generation;
	caller->connector = conduit_catalogue_get(slug, conduit_row_int64(0, 4));
	conduit_store_end(&scope);

	caller->params = conduit_parse_object(params, "invalid params");
	if (!conduit_area_attached())
		conduit_raise(CONDUIT_ERR_NO_WORKER, "not_preloaded");
	caller->bucket = conduit_rate_api_key(caller->tenant, slug, account, id);
	caller->rate = conduit_rate_of(&caller->connector->api_limit);
	return same;
}

static void
find_credential(Caller *caller, const pg_uuid_t *id)
{
	do
	{
		CHECK_FOR_INTERRUPTS();
		conduit_credential_entitled(id, caller->owner, caller->tenant, &caller->view);
		if (conduit_credential_due(&caller->view, conduit_now(), 0))
			(void) conduit_renew(&caller->view, caller->owner, caller->tenant, false, caller->until);
		if (!conduit_credential_usable(&caller->view, conduit_now()))
			conduit_raise(CONDUIT_ERR_NEEDS_REAUTH, "expired");
	} while (!find_connection(caller));
}

/* Each request draws on the bucket, a second try as well. */
static void
take_from_bucket(const Caller *caller)
{
	LimiterAnswer answer = conduit_limiter_take(&caller->bucket, &caller->rate, 1, conduit_now());

	if (!answer.allowed)
		conduit_raise(CONDUIT_ERR_RATE_LIMITED, psprintf("rate_limited retry_after=%.0f", ceil(answer.retry_after)));
}

/* ---- one request and its answer ---- */

pg_noreturn static void
bad_request(const char *field, const char *problem)
{
	static const struct
	{
		const char *field;
		const char *message;
		const char *hint;
	}			texts[] =
	{
		{"method", "invalid method", "It is GET, HEAD, POST, PUT, PATCH or DELETE."},
		{"path", "invalid path", "Pass a path such as /user/repos, below the connector's api_base_url; parameters go into query."},
		{"query", "invalid query", "Pass an object of texts, numbers and booleans, or arrays of them."},
		{"headers", "invalid headers", "Pass an object of texts; headers of HTTP itself and those that carry a credential cannot be set."},
		{"body", "invalid body", "Pass body as JSON or raw as bytes, not both, of at most conduit.request_max_size."}
	};

	for (int i = 0; i < lengthof(texts); i++)
		if (strcmp(field, texts[i].field) == 0)
			conduit_bad_argument(texts[i].message, problem, texts[i].hint);
	elog(ERROR, "unknown field");
}

/* A request that could not be made is a matter of the connector. */
pg_noreturn static void
cannot_be_made(const char *problem)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("connector cannot be called"),
			 errdetail_internal("%s", problem),
			 errhint("no_api: it has no api_base_url; invalid_params: a variable of it has no value; denied: its host may not be reached; no_credential: api_auth wants what the credential has not."),
			 errhidestmt(true), errhidecontext(true)));
}

/* There is no answer, or none that may be handed on: say why. */
static void
check_response(const HttpResponse *response)
{
	switch (response->result)
	{
		case HTTP_OK:
			return;
		case HTTP_DENIED:
			conduit_raise(CONDUIT_ERR_UNAVAILABLE, "denied");
		case HTTP_UNRESOLVED:
			conduit_raise(CONDUIT_ERR_UNAVAILABLE, "dns");
		case HTTP_UNREACHABLE:
			conduit_raise(CONDUIT_ERR_UNAVAILABLE, "refused");
		case HTTP_TLS:
			conduit_raise(CONDUIT_ERR_UNAVAILABLE, "tls");
		case HTTP_TIMEOUT:
			conduit_raise(CONDUIT_ERR_UNAVAILABLE, "timeout");
		case HTTP_TOO_LARGE:
			conduit_raise(CONDUIT_ERR_BAD_RESPONSE, "too_large");
		case HTTP_BROKEN:
			conduit_raise(CONDUIT_ERR_BAD_RESPONSE, "broken");
	}
}

static void
report_throttling(const Caller *caller, const HttpResponse *response)
{
	if (response->status == 429)
		conduit_limiter_block(&caller->bucket,
							  response->retry_after >= 0 ? Min(response->retry_after, CONDUIT_LONGEST_PAUSE) : STANDARD_PAUSE,
							  response->retry_after < 0, conduit_now());
}

/* Send the request with the credential of the view; the caller wipes the response. */
static void
send_with_credential(Caller *caller, CallResponse *response)
{
	CredentialView *view = &caller->view;
	SealPlace	place = conduit_credential_seal_place(&view->place, "access", view->generation);
	char		key_id[CONDUIT_KEY_ID_LEN + 1];
	ConduitSecret secret;
	OpenedSecret opened;
	OutgoingRequest out;
	SealStatus	status;
	bool		leaked;

	take_from_bucket(caller);
	status = conduit_secret_open(&place, view->access, &opened, &secret, key_id);
	if (status != SEAL_OK)
		conduit_key_raise(status, key_id);

	caller->request.connector = caller->connector;
	caller->request.params = caller->params;
	caller->request.secret = &secret;
	caller->request.client_id = caller->client_id;
	PG_TRY();
	{
		conduit_api_request_build(&caller->request, &out);
		if (out.problem != NULL)
			cannot_be_made(out.problem);
		conduit_call(&out.http, caller->connector->slug, caller->until, response);
	}
	PG_FINALLY();
	{
		conduit_outgoing_wipe(&out);
		caller->request.secret = NULL;
	}
	PG_END_TRY();

	leaked = response->http.result == HTTP_OK && conduit_api_answer_leaks(&secret, &response->http);
	conduit_wipe_opened(&opened);
	if (leaked)
	{
		conduit_call_wipe(response);
		conduit_raise(CONDUIT_ERR_BAD_RESPONSE, "credential_echoed");
	}
	check_response(&response->http);
	report_throttling(caller, &response->http);
}

/*
 * After a 401: whether there is another credential to try with, a newer one
 * that is stored already or one that a refresh brings.
 */
static bool
find_newer_credential(Caller *caller)
{
	int64		used = caller->view.generation;
	bool		newer;

	conduit_credential_entitled(&caller->view.place.connection, caller->owner, caller->tenant, &caller->view);
	if (caller->view.generation != used)
		newer = conduit_credential_usable(&caller->view, conduit_now());
	else
		newer = caller->view.refreshable &&
			conduit_renew(&caller->view, caller->owner, caller->tenant, true, caller->until);
	return newer && find_connection(caller);
}

static void
call_api(Caller *caller, CallResponse *response)
{
	send_with_credential(caller, response);
	if (response->http.status != 401 || !find_newer_credential(caller))
		return;
	conduit_call_wipe(response);
	send_with_credential(caller, response);
}

/* ---- arguments ---- */

/* A jsonb object as nodes, in UTF-8; NULL for null. */
static const ConduitJson *
object_argument(FunctionCallInfo fcinfo, int n, const char *field)
{
	char	   *text;

	if (PG_ARGISNULL(n))
		return NULL;
	text = conduit_object_argument(fcinfo, n, field);
	return conduit_parse_object(text, field);
}

static char *
utf8_argument(FunctionCallInfo fcinfo, int n)
{
	char	   *text = conduit_text_argument(fcinfo, n);

	return text ? pg_server_to_any(text, strlen(text), PG_UTF8) : NULL;
}

static void
read_request_arguments(FunctionCallInfo fcinfo, int method, int path, int query, int headers, Caller *caller)
{
	ApiRequest *request = &caller->request;

	request->method = method >= 0 ? utf8_argument(fcinfo, method) : "GET";
	request->path = utf8_argument(fcinfo, path);
	request->query = object_argument(fcinfo, query, "invalid query");
	request->headers = headers >= 0 ? object_argument(fcinfo, headers, "invalid headers") : NULL;
	request->max_response = (Size) conduit_request_max_size * 1024;
	if (request->method == NULL)
		bad_request("method", "null");
	if (request->path == NULL)
		bad_request("path", "null");
}

/* What depends on the connector, too. */
static void
check_request(Caller *caller)
{
	const char *problem;
	const char *field;

	caller->request.connector = caller->connector;
	field = conduit_api_request_check(&caller->request, &problem);
	if (field != NULL)
		bad_request(field, problem);
}

/* body as JSON or raw as it is. */
static void
read_body(FunctionCallInfo fcinfo, int body, int raw, ApiRequest *request)
{
	if (!PG_ARGISNULL(body) && !PG_ARGISNULL(raw))
		bad_request("body", "both");
	if (!PG_ARGISNULL(body))
	{
		Jsonb	   *json = PG_GETARG_JSONB_P(body);
		char	   *text = JsonbToCString(NULL, &json->root, VARSIZE(json));

		request->body = pg_server_to_any(text, strlen(text), PG_UTF8);
		request->body_length = strlen(request->body);
		request->content_type = "application/json";
	}
	else if (!PG_ARGISNULL(raw))
	{
		bytea	   *bytes = PG_GETARG_BYTEA_PP(raw);

		request->body = VARDATA_ANY(bytes);
		request->body_length = VARSIZE_ANY_EXHDR(bytes);
		request->content_type = "application/octet-stream";
	}
	if (request->body_length > (Size) conduit_request_max_size * 1024)
		bad_request("body", psprintf("too_large %d", conduit_request_max_size * 1024));
}

static void
start(FunctionCallInfo fcinfo, int tenant, Caller *caller)
{
	caller->owner = conduit_owner_argument(fcinfo, 0);
	caller->tenant = conduit_tenant_argument(fcinfo, tenant);
	caller->until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), conduit_request_timeout);
	conduit_key_prepare_to_seal();
	find_credential(caller, conduit_connection_argument(fcinfo, 1));
	check_request(caller);
	conduit_last_use_note(USE_CONNECTION, &caller->view.place.connection, conduit_last_use_day(conduit_now()));
}

/* ---- results ---- */

static bool
is_json(const char *media_type)
{
	size_t		length = strlen(media_type);

	return strcmp(media_type, "application/json") == 0 ||
		(length > 5 && strcmp(media_type + length - 5, "+json") == 0);
}

/* jsonb of a text, or nothing where it is none that the server can hold; never an error. */
static bool
jsonb_of(const char *utf8, Size length, Datum *result)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool done = false;

	PG_TRY();
	{
		char	   *copy = pnstrdup(utf8, length);

		*result = DirectFunctionCall1(jsonb_in, CStringGetDatum(pg_any_to_server(copy, length, PG_UTF8)));
		done = true;
	}
	PG_CATCH();
	{
		int			sqlstate = geterrcode();

		if (ERRCODE_TO_CATEGORY(sqlstate) != ERRCODE_DATA_EXCEPTION &&
			ERRCODE_TO_CATEGORY(sqlstate) != ERRCODE_PROGRAM_LIMIT_EXCEEDED)
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
	}
	PG_END_TRY();
	return done;
}

/* A body that is text, as a JSON string. */
static bool
text_as_jsonb(const HttpResponse *response, Datum *result)
{
	StringInfoData json;

	if (memchr(response->body, '\0', response->length) != NULL ||
		pg_encoding_verifymbstr(PG_UTF8, response->body, (int) response->length) != (int) response->length)
		return false;
	initStringInfo(&json);
	conduit_json_write_string(&json, response->body, (int) response->length);
	return jsonb_of(json.data, json.len, result);
}

static Datum
bytes_of(const HttpResponse *response)
{
	bytea	   *bytes = palloc(VARHDRSZ + response->length);

	SET_VARSIZE(bytes, VARHDRSZ + response->length);
	memcpy(VARDATA(bytes), response->body, response->length);
	return PointerGetDatum(bytes);
}

/* JSON and text go into reply, everything else, and what only claims to be such, into reply_raw. */
static void
set_reply(const HttpResponse *response, Datum *values, bool *nulls)
{
	char	   *media_type = conduit_media_type(response->content_type);
	bool		done = false;

	nulls[2] = nulls[3] = true;
	if (response->length == 0)
		return;
	if (media_type != NULL && is_json(media_type))
		done = jsonb_of(response->body, response->length, &values[2]);
	else if (media_type != NULL && strncmp(media_type, "text/", 5) == 0)
		done = text_as_jsonb(response, &values[2]);
	nulls[2] = !done;
	if (!done)
	{
		values[3] = bytes_of(response);
		nulls[3] = false;
	}
}

static TupleDesc
result_shape(FunctionCallInfo fcinfo)
{
	TupleDesc	shape;

	if (get_call_result_type(fcinfo, NULL, &shape) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	return BlessTupleDesc(shape);
}

/* conduit_request(owner, connection_id, method, path, query, headers, body, raw, tenant) */
Datum
conduit_request(PG_FUNCTION_ARGS)
{
	Caller		caller = {0};
	CallResponse response;
	char	   *headers;
	Datum		values[4] = {0};
	bool		nulls[4] = {false};

	read_request_arguments(fcinfo, 2, 3, 4, 5, &caller);
	read_body(fcinfo, 6, 7, &caller.request);
	start(fcinfo, 8, &caller);
	call_api(&caller, &response);

	values[0] = Int32GetDatum(response.http.status);
	headers = conduit_api_answer_headers(&response.http);
	nulls[1] = !jsonb_of(headers, strlen(headers), &values[1]);
	set_reply(&response.http, values, nulls);
	conduit_call_wipe(&response);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(result_shape(fcinfo), values, nulls)));
}

/* ---- previews ---- */

/* "*.example.com" is any host below it, else the host itself. */
static bool
host_matches(const char *host, const char *pattern)
{
	size_t		length = strlen(host);
	size_t		tail = strlen(pattern);

	if (strncmp(pattern, "*.", 2) != 0)
		return strcmp(host, pattern) == 0;
	tail--;
	return length > tail && strcmp(host + length - tail, pattern + 1) == 0;
}

static bool
preview_host_allowed(const ConduitConnector *connector, const char *url)
{
	ConduitUrl	parts;
	ListCell   *cell;

	if (conduit_url_split(url, &parts) != NULL || conduit_egress_check_url(url) != NULL)
		return false;
	foreach(cell, connector->preview_hosts)
		if (host_matches(parts.host, lfirst(cell)))
			return true;
	return false;
}

/*
 * The address that the provider's answer names.  It is a secret: whoever has it
 * has the file.
 */
static char *
find_preview_url(const Caller *caller, const HttpResponse *response, const char *url_path)
{
	char	   *copy;
	const char *problem;
	ConduitJson *json;
	const char *url;

	if (response->status < 200 || response->status > 299)
		conduit_raise(CONDUIT_ERR_NOT_FOUND, NULL);
	copy = pnstrdup(response->body, response->length);
	json = conduit_json_parse(copy, (int) response->length, &problem);
	url = json ? conduit_json_string(conduit_json_path(json, url_path)) : NULL;
	if (url == NULL)
		conduit_raise(CONDUIT_ERR_BAD_RESPONSE, "no_url");
	if (!preview_host_allowed(caller->connector, url))
		conduit_raise(CONDUIT_ERR_BAD_RESPONSE, "url_refused");
	return pstrdup(url);
}

/* conduit_preview(owner, connection_id, path, url_path, query, tenant) */
Datum
conduit_preview(PG_FUNCTION_ARGS)
{
	static const HttpHeader accept[] = {{"Accept", "*/*"}};
	Caller		caller = {0};
	CallResponse response;
	HttpRequest request = {.method = "GET",.headers = accept,.nheaders = 1};
	char	   *url_path = utf8_argument(fcinfo, 3);
	char	   *url;
	char	   *media_type;
	Datum		values[2];
	bool		nulls[2] = {false, false};

	if (url_path == NULL || url_path[0] == '\0' || strlen(url_path) > 256)
		conduit_bad_argument("invalid url_path", "path", "It leads to the address in the provider's answer, as in data.url.");
	read_request_arguments(fcinfo, -1, 2, 4, -1, &caller);
	start(fcinfo, 5, &caller);
	call_api(&caller, &response);
	url = find_preview_url(&caller, &response.http, url_path);
	conduit_call_wipe(&response);

	request.url = url;
	request.max_response = caller.request.max_response;
	conduit_call(&request, caller.connector->slug, caller.until, &response);
	conduit_wipe(url, strlen(url));
	check_response(&response.http);
	if (response.http.status < 200 || response.http.status > 299)
		conduit_raise(CONDUIT_ERR_NOT_FOUND, NULL);
	media_type = conduit_media_type(response.http.content_type);
	values[0] = CStringGetTextDatum(media_type ? media_type : "application/octet-stream");
	values[1] = bytes_of(&response.http);
	conduit_call_wipe(&response);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(result_shape(fcinfo), values, nulls)));
}
