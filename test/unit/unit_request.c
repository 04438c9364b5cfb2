/*-------------------------------------------------------------------------
 *
 * unit_request.c
 *	  SQL functions over the requests of provider/, for tests.
 *
 * What would be sent comes back as text, secrets included: the request line,
 * the headers, an empty line, the body; or "! " and the problem.  Fields are a
 * JSON object with the members of TokenRequest and its like by name.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "base/json.h"
#include "catalog/pg_type.h"
#include "provider/assertion.h"
#include "provider/authorize_url.h"
#include "provider/exchange.h"
#include "storage/latch.h"
#include "utils/array.h"
#include "utils/builtins.h"

static ConduitConnector *
connector_argument(FunctionCallInfo fcinfo, int n)
{
	return conduit_connector_parse("unit", text_to_cstring(PG_GETARG_TEXT_PP(n)));
}

static const ConduitJson *
fields_argument(FunctionCallInfo fcinfo, int n)
{
	char	   *json = text_to_cstring(PG_GETARG_TEXT_PP(n));
	const char *problem;
	const ConduitJson *fields = conduit_json_parse(json, strlen(json), &problem);

	if (fields == NULL)
		elog(ERROR, "fields: %s", problem);
	return fields;
}

static const char *
field(const ConduitJson *fields, const char *name)
{
	return conduit_json_string(conduit_json_get(fields, name));
}

/* Without a NUL behind it, as an opened secret is. */
static SecretText
secret_field(const ConduitJson *fields, const char *name)
{
	const char *text = field(fields, name);
	SecretText	secret = {NULL, 0};
	char	   *copy;

	if (text == NULL)
		return secret;
	secret.length = strlen(text);
	copy = palloc(secret.length + 1);
	memcpy(copy, text, secret.length);
	copy[secret.length] = '!';
	secret.data = copy;
	return secret;
}

static const ConduitJson *
params_field(const ConduitJson *fields)
{
	return conduit_json_get(fields, "params");
}

/* The endpoint given, else the one of the template. */
static const char *
endpoint_field(const ConduitConnector *connector, const char *template_url, const ConduitJson *fields)
{
	const char *problem;
	const char *variable;
	const char *url = field(fields, "endpoint");

	if (url == NULL)
		url = conduit_connector_expand(connector, template_url, params_field(fields), &problem, &variable);
	if (url == NULL)
		elog(ERROR, "endpoint: %s", problem);
	return url;
}

static TokenRequest
token_request(const ConduitConnector *connector, const char *kind, const ConduitJson *fields)
{
	static const struct
	{
		const char *name;
		TokenRequestKind kind;
	}			kinds[] =
	{
		{"code", TOKEN_REQUEST_CODE},
		{"refresh", TOKEN_REQUEST_REFRESH},
		{"exchange", TOKEN_REQUEST_EXCHANGE},
		{"client_credentials", TOKEN_REQUEST_CLIENT_CREDENTIALS},
		{"jwt_bearer", TOKEN_REQUEST_JWT_BEARER},
		{"bearer_renew", TOKEN_REQUEST_BEARER_RENEW}
	};
	const char *refresh_url = connector->refresh_url ? connector->refresh_url : connector->token_url;
	TokenRequest request = {0};
	int			i = 0;

	while (i < lengthof(kinds) && strcmp(kinds[i].name, kind) != 0)
		i++;
	if (i == lengthof(kinds))
		elog(ERROR, "no such kind of request");
	request.kind = kinds[i].kind;
	request.connector = connector;
	request.params = params_field(fields);
	request.endpoint = endpoint_field(connector,
									  request.kind == TOKEN_REQUEST_CODE ? connector->token_url :
									  request.kind == TOKEN_REQUEST_EXCHANGE && connector->exchange_url ?
									  connector->exchange_url : refresh_url, fields);
	request.client_id = field(fields, "client_id");
	request.client_secret = secret_field(fields, "client_secret");
	request.code = secret_field(fields, "code");
	request.code_verifier = secret_field(fields, "code_verifier");
	request.redirect_uri = field(fields, "redirect_uri");
	request.refresh_token = secret_field(fields, "refresh_token");
	request.private_key = secret_field(fields, "private_key");
	request.issuer = field(fields, "issuer");
	request.subject = field(fields, "subject");
	request.key_id = field(fields, "key_id");
	request.audience = field(fields, "audience");
	request.scope = field(fields, "scope");
	request.timeout_ms = 5000;
	return request;
}

static RevokeRequest
revoke_request(const ConduitConnector *connector, const ConduitJson *fields)
{
	RevokeRequest request = {0};

	request.connector = connector;
	request.params = params_field(fields);
	request.client_id = field(fields, "client_id");
	request.client_secret = secret_field(fields, "client_secret");
	request.refresh_token = secret_field(fields, "refresh_token");
	request.access_token = secret_field(fields, "access_token");
	request.timeout_ms = 5000;
	return request;
}

static GetRequest
get_request(const ConduitConnector *connector, const ConduitJson *fields)
{
	GetRequest	request = {0};

	request.connector = connector;
	request.params = params_field(fields);
	request.endpoint = endpoint_field(connector, connector ? connector->account_url : NULL, fields);
	request.client_id = field(fields, "client_id");
	request.access_token = secret_field(fields, "access_token");
	request.timeout_ms = 5000;
	return request;
}

/* As http.c puts it together, and which secrets are known to be in it. */
static text *
describe_request(OutgoingRequest *out, bool secrets)
{
	const HttpRequest *http = &out->http;
	StringInfoData text;
	ListCell   *cell;

	initStringInfo(&text);
	if (secrets)
	{
		foreach(cell, out->secrets)
		{
			const SecretText *secret = lfirst(cell);

			appendStringInfo(&text, "%s%.*s", text.len > 0 ? "|" : "", secret->length, secret->data);
		}
	}
	else if (out->problem != NULL)
		appendStringInfo(&text, "! %s", out->problem);
	else
	{
		appendStringInfo(&text, "%s %s", http->method, http->url);
		if (http->query != NULL)
			appendStringInfo(&text, "%s%s", strchr(http->url, '?') ? "&" : "?", http->query);
		for (int i = 0; i < http->nheaders; i++)
			appendStringInfo(&text, "\n%s: %s", http->headers[i].name, http->headers[i].value);
		if (http->content_type != NULL)
			appendStringInfo(&text, "\nContent-Type: %s\n\n%.*s", http->content_type,
							 (int) http->body_length, http->body);
	}
	conduit_outgoing_wipe(out);
	return cstring_to_text(text.data);
}

/* unit_token_request(definition, kind, fields, secrets) */
PG_FUNCTION_INFO_V1(unit_token_request);
Datum
unit_token_request(PG_FUNCTION_ARGS)
{
	TokenRequest request = token_request(connector_argument(fcinfo, 0), text_to_cstring(PG_GETARG_TEXT_PP(1)),
										 fields_argument(fcinfo, 2));
	OutgoingRequest out;

	conduit_token_request_build(&request, &out);
	PG_RETURN_TEXT_P(describe_request(&out, PG_GETARG_BOOL(3)));
}

/* unit_revoke_request(definition, fields, secrets) */
PG_FUNCTION_INFO_V1(unit_revoke_request);
Datum
unit_revoke_request(PG_FUNCTION_ARGS)
{
	RevokeRequest request = revoke_request(connector_argument(fcinfo, 0), fields_argument(fcinfo, 1));
	OutgoingRequest out;

	conduit_revoke_request_build(&request, &out);
	PG_RETURN_TEXT_P(describe_request(&out, PG_GETARG_BOOL(2)));
}

/* unit_get_request(definition, fields, secrets) */
PG_FUNCTION_INFO_V1(unit_get_request);
Datum
unit_get_request(PG_FUNCTION_ARGS)
{
	GetRequest	request = get_request(connector_argument(fcinfo, 0), fields_argument(fcinfo, 1));
	OutgoingRequest out;

	conduit_get_request_build(&request, &out);
	PG_RETURN_TEXT_P(describe_request(&out, PG_GETARG_BOOL(2)));
}

static List *
scopes_field(const ConduitJson *fields)
{
	const ConduitJson *scopes = conduit_json_get(fields, "scopes");
	List	   *list = NIL;

	for (const ConduitJson *s = scopes ? scopes->first : NULL; s != NULL; s = s->next)
		list = lappend(list, pstrdup(s->text));
	return list;
}

/* unit_authorize_url(definition, fields) */
PG_FUNCTION_INFO_V1(unit_authorize_url);
Datum
unit_authorize_url(PG_FUNCTION_ARGS)
{
	const ConduitJson *fields = fields_argument(fcinfo, 1);
	AuthorizeRequest request = {0};
	const char *problem;
	const char *variable;
	char	   *url;

	request.client_id = field(fields, "client_id");
	request.redirect_uri = field(fields, "redirect_uri");
	request.state = field(fields, "state");
	request.scopes = scopes_field(fields);
	request.code_challenge = field(fields, "code_challenge");
	request.params = params_field(fields);
	url = conduit_authorize_url(connector_argument(fcinfo, 0), &request, &problem, &variable);
	if (url == NULL)
		url = psprintf("! %s: %s", variable ? variable : "-", problem);
	PG_RETURN_TEXT_P(cstring_to_text(url));
}

/* unit_scope_join(definition, fields) */
PG_FUNCTION_INFO_V1(unit_scope_join);
Datum
unit_scope_join(PG_FUNCTION_ARGS)
{
	char	   *scope = conduit_scope_join(connector_argument(fcinfo, 0), scopes_field(fields_argument(fcinfo, 1)));

	if (scope == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(scope));
}

/* unit_check_key(pem, algorithm): 'ok', or what is expected */
PG_FUNCTION_INFO_V1(unit_check_key);
Datum
unit_check_key(PG_FUNCTION_ARGS)
{
	text	   *pem = PG_GETARG_TEXT_PP(0);
	const char *expected = conduit_assertion_check_key(VARDATA_ANY(pem), VARSIZE_ANY_EXHDR(pem),
													   text_to_cstring(PG_GETARG_TEXT_PP(1)));

	PG_RETURN_TEXT_P(cstring_to_text(expected ? expected : "ok"));
}

/* ---- whole conversations ---- */

static void
wait_for(Exchange *exchange)
{
	while (conduit_exchange_next_finished() != exchange)
	{
		long		deadline = conduit_http_deadline();

		(void) WaitLatchOrSocket(MyLatch, WL_LATCH_SET | WL_SOCKET_READABLE | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
								 conduit_http_descriptor(), deadline < 0 ? 1000 : deadline, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		conduit_http_pump();
	}
}

static char *
describe_end(Exchange *exchange, const TokenOutcome *outcome)
{
	char	   *text = psprintf("sent=%d %s", conduit_exchange_sent(exchange), conduit_outcome_name(outcome->outcome));

	if (outcome->code[0] != '\0')
		text = psprintf("%s %s", text, outcome->code);
	if (outcome->retry_after >= 0)
		text = psprintf("%s retry_after=%g", text, outcome->retry_after);
	return text;
}

/* unit_token(definition, kind, fields): the outcome, and the access token it has brought */
PG_FUNCTION_INFO_V1(unit_token);
Datum
unit_token(PG_FUNCTION_ARGS)
{
	TokenRequest request = token_request(connector_argument(fcinfo, 0), text_to_cstring(PG_GETARG_TEXT_PP(1)),
										 fields_argument(fcinfo, 2));
	ExchangeOwner owner = {0};
	TokenOutcome outcome;
	Exchange   *exchange;
	char	   *text;

	conduit_http_start_up();
	exchange = conduit_exchange_token(&request, &owner);
	wait_for(exchange);
	conduit_exchange_read(exchange, &outcome);
	text = describe_end(exchange, &outcome);
	if (outcome.outcome == OUTCOME_REFRESHED)
		text = psprintf("%s %.*s", text, outcome.grant.secret.access_token.length, outcome.grant.secret.access_token.data);
	conduit_exchange_free(exchange);
	PG_RETURN_TEXT_P(cstring_to_text(text));
}

/* unit_revoke(definition, fields): the outcome */
PG_FUNCTION_INFO_V1(unit_revoke);
Datum
unit_revoke(PG_FUNCTION_ARGS)
{
	RevokeRequest request = revoke_request(connector_argument(fcinfo, 0), fields_argument(fcinfo, 1));
	ExchangeOwner owner = {.errand = true};
	TokenOutcome outcome;
	Exchange   *exchange;
	char	   *text;

	conduit_http_start_up();
	exchange = conduit_exchange_revoke(&request, &owner);
	wait_for(exchange);
	if (conduit_exchange_owner(exchange) != &owner)
		elog(ERROR, "the owner got lost");
	conduit_exchange_read_revocation(exchange, &outcome);
	text = describe_end(exchange, &outcome);
	conduit_exchange_free(exchange);
	PG_RETURN_TEXT_P(cstring_to_text(text));
}

/* unit_get(definition, fields): the outcome, and the object it has brought; definition '': none */
PG_FUNCTION_INFO_V1(unit_get);
Datum
unit_get(PG_FUNCTION_ARGS)
{
	bool		plain = VARSIZE_ANY_EXHDR(PG_GETARG_TEXT_PP(0)) == 0;
	GetRequest	request = get_request(plain ? NULL : connector_argument(fcinfo, 0), fields_argument(fcinfo, 1));
	ExchangeOwner owner = {.errand = true};
	TokenOutcome outcome;
	const ConduitJson *object;
	Exchange   *exchange;
	StringInfoData text;

	conduit_http_start_up();
	exchange = conduit_exchange_get(&request, &owner);
	wait_for(exchange);
	object = conduit_exchange_read_json(exchange, &outcome);
	initStringInfo(&text);
	appendStringInfoString(&text, describe_end(exchange, &outcome));
	if (object != NULL)
	{
		appendStringInfoChar(&text, ' ');
		conduit_json_write(&text, object);
	}
	conduit_exchange_free(exchange);
	PG_RETURN_TEXT_P(cstring_to_text(text.data));
}
