/*-------------------------------------------------------------------------
 *
 * unit_provider.c
 *	  SQL functions over provider/, for tests.
 *
 * The HTTP functions run libcurl in the session that calls them, which Conduit
 * itself never does, and keep its connections until unit_http_shut_down().
 *
 * Wording:
 *	   - A definition is a connector's, as text.
 *	   - A result is an HttpResult by number, as the enum has it.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "catalog/pg_type.h"
#include "provider/connector.h"
#include "provider/egress.h"
#include "provider/exchange.h"
#include "provider/http.h"
#include "provider/token_response.h"
#include "portability/instr_time.h"
#include "storage/latch.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

static const char *const result_names[] = {
	[HTTP_OK] = "ok",
	[HTTP_DENIED] = "denied",
	[HTTP_UNRESOLVED] = "unresolved",
	[HTTP_UNREACHABLE] = "unreachable",
	[HTTP_TLS] = "tls",
	[HTTP_TIMEOUT] = "timeout",
	[HTTP_TOO_LARGE] = "too_large",
	[HTTP_BROKEN] = "broken",
};

/* A JSON object from text; SQL null and bad input are NULL. */
static ConduitJson *
json_of_text(const char *text)
{
	const char *problem;

	return conduit_json_parse(pstrdup(text), strlen(text), &problem);
}

PG_FUNCTION_INFO_V1(unit_check_url);
Datum
unit_check_url(PG_FUNCTION_ARGS)
{
	const char *problem = conduit_egress_check_url(text_to_cstring(PG_GETARG_TEXT_PP(0)));

	PG_RETURN_TEXT_P(cstring_to_text(problem ? problem : "ok"));
}

PG_FUNCTION_INFO_V1(unit_origin);
Datum
unit_origin(PG_FUNCTION_ARGS)
{
	char	   *origin = conduit_egress_origin(text_to_cstring(PG_GETARG_TEXT_PP(0)));

	if (origin == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(origin));
}

PG_FUNCTION_INFO_V1(unit_address_allowed);
Datum
unit_address_allowed(PG_FUNCTION_ARGS)
{
	char	   *address = text_to_cstring(PG_GETARG_TEXT_PP(0));
	bool		listed = PG_GETARG_BOOL(1);
	struct sockaddr_in v4 = {.sin_family = AF_INET};
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};

	conduit_egress_prepare();
	if (inet_pton(AF_INET, address, &v4.sin_addr) == 1)
		PG_RETURN_BOOL(conduit_egress_address_allowed((struct sockaddr *) &v4, listed));
	if (inet_pton(AF_INET6, address, &v6.sin6_addr) == 1)
		PG_RETURN_BOOL(conduit_egress_address_allowed((struct sockaddr *) &v6, listed));
	PG_RETURN_NULL();
}

/* Everything of a grant in one line; times are seconds from started_at. */
static void
append_grant(StringInfo out, const TokenGrant *grant, TimestampTz started_at)
{
	appendStringInfo(out, " access=%s refresh=%s type=%s scope=%s lifetime=%.0f",
					 grant->secret.access_token.data ? grant->secret.access_token.data : "-",
					 grant->secret.refresh_token.data ? grant->secret.refresh_token.data : "-",
					 grant->token_type, grant->scope ? grant->scope : "-", grant->lifetime);
	if (TIMESTAMP_IS_NOEND(grant->expires_at))
		appendStringInfoString(out, " expires=never");
	else
		appendStringInfo(out, " expires=%.0f", conduit_seconds_between(started_at, grant->expires_at));
	if (!TIMESTAMP_IS_NOEND(grant->refresh_expires_at))
		appendStringInfo(out, " refresh_expires=%.0f",
						 conduit_seconds_between(started_at, grant->refresh_expires_at));
	if (grant->secret.extra.data)
		appendStringInfo(out, " extra=%.*s", grant->secret.extra.length, grant->secret.extra.data);
	if (grant->keeps_access_token)
		appendStringInfoString(out, " kept");
	if (grant->account)
		appendStringInfo(out, " account=%s", grant->account);
	if (grant->account_label)
		appendStringInfo(out, " label=%s", grant->account_label);
	if (grant->new_params)
	{
		appendStringInfoString(out, " params=");
		conduit_json_write(out, grant->new_params);
	}
	if (grant->new_metadata)
	{
		appendStringInfoString(out, " metadata=");
		conduit_json_write(out, grant->new_metadata);
	}
}

static char *
describe_outcome(TokenOutcome *outcome, TimestampTz started_at)
{
	StringInfoData out;

	initStringInfo(&out);
	appendStringInfoString(&out, conduit_outcome_name(outcome->outcome));
	if (outcome->code[0] != '\0')
		appendStringInfo(&out, " %s", outcome->code);
	if (outcome->retry_after >= 0)
		appendStringInfo(&out, " retry_after=%g", outcome->retry_after);
	if (outcome->outcome == OUTCOME_REFRESHED)
		append_grant(&out, &outcome->grant, started_at);
	return out.data;
}

/* unit_classify(definition, status, content_type, body, sent, result, retry_after, now, kind, own_client) */
PG_FUNCTION_INFO_V1(unit_classify);
Datum
unit_classify(PG_FUNCTION_ARGS)
{
	ConduitConnector *c = conduit_connector_parse("unit", text_to_cstring(PG_GETARG_TEXT_PP(0)));
	bytea	   *body = PG_GETARG_BYTEA_PP(3);
	TimestampTz started_at = PG_GETARG_TIMESTAMPTZ(7);
	HttpResponse response = {0};
	TokenOutcome outcome;

	response.status = PG_GETARG_INT32(1);
	response.content_type = text_to_cstring(PG_GETARG_TEXT_PP(2));
	response.length = VARSIZE_ANY_EXHDR(body);
	response.body = palloc0(response.length + 1);
	memcpy(response.body, VARDATA_ANY(body), response.length);
	response.sent = PG_GETARG_BOOL(4);
	response.result = (HttpResult) PG_GETARG_INT32(5);
	response.retry_after = PG_GETARG_FLOAT8(6);
	conduit_token_response_read(c, (TokenRequestKind) PG_GETARG_INT32(8), PG_GETARG_BOOL(9),
								&response, started_at, &outcome);
	PG_RETURN_TEXT_P(cstring_to_text(describe_outcome(&outcome, started_at)));
}

/* unit_grant(definition, secret, now): as conduit_store_credential reads one */
PG_FUNCTION_INFO_V1(unit_grant);
Datum
unit_grant(PG_FUNCTION_ARGS)
{
	ConduitConnector *c = conduit_connector_parse("unit", text_to_cstring(PG_GETARG_TEXT_PP(0)));
	ConduitJson *object = json_of_text(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	TimestampTz now = PG_GETARG_TIMESTAMPTZ(2);
	TokenGrant	grant;
	StringInfoData out;
	const char *problem = conduit_token_grant_from_json(c, object, now, false, &grant);

	initStringInfo(&out);
	if (problem != NULL)
		appendStringInfo(&out, "! %s", problem);
	else
	{
		appendStringInfoString(&out, "ok");
		append_grant(&out, &grant, now);
	}
	PG_RETURN_TEXT_P(cstring_to_text(out.data));
}

static void
pump_once(void)
{
	long		deadline = conduit_http_deadline();

	(void) WaitLatchOrSocket(MyLatch,
							 WL_LATCH_SET | WL_SOCKET_READABLE | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 conduit_http_descriptor(),
							 deadline < 0 ? 1000 : deadline, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	conduit_http_pump();
}

static char *
describe_transfer(HttpTransfer *transfer)
{
	HttpResponse *response = conduit_http_response(transfer);

	return psprintf("%s sent=%d status=%d type=%s retry_after=%.0f length=%zu body=%.400s",
					result_names[response->result], response->sent, response->status,
					response->content_type, response->retry_after, response->length, response->body);
}

/* unit_http(url, method, body, timeout_ms, max_response, headers): one transfer to its end */
PG_FUNCTION_INFO_V1(unit_http);
Datum
unit_http(PG_FUNCTION_ARGS)
{
	HttpRequest request = {0};
	HttpHeader	headers[16];
	HttpTransfer *transfer;
	Datum	   *elements;
	int			nelements;
	char	   *described;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(5), TEXTOID, -1, false, TYPALIGN_INT, &elements, NULL, &nelements);
	request.url = text_to_cstring(PG_GETARG_TEXT_PP(0));
	request.method = text_to_cstring(PG_GETARG_TEXT_PP(1));
	request.body = text_to_cstring(PG_GETARG_TEXT_PP(2));
	request.body_length = strlen(request.body);
	if (request.body_length > 0)
		request.content_type = "application/x-www-form-urlencoded";
	request.timeout_ms = PG_GETARG_INT32(3);
	request.max_response = PG_GETARG_INT32(4);
	request.headers = headers;
	for (int i = 0; i + 1 < nelements && request.nheaders < lengthof(headers); i += 2)
	{
		headers[request.nheaders].name = TextDatumGetCString(elements[i]);
		headers[request.nheaders++].value = TextDatumGetCString(elements[i + 1]);
	}

	conduit_http_start_up();
	transfer = conduit_http_start(&request, NULL);
	PG_TRY();
	{
		while (conduit_http_next_finished() == NULL)
			pump_once();
	}
	PG_CATCH();
	{
		conduit_http_free(transfer);
		PG_RE_THROW();
	}
	PG_END_TRY();
	described = describe_transfer(transfer);
	conduit_http_free(transfer);
	PG_RETURN_TEXT_P(cstring_to_text(described));
}

/* unit_http_many(url, count, timeout_ms): as many GETs at once; how many came back whole */
PG_FUNCTION_INFO_V1(unit_http_many);
Datum
unit_http_many(PG_FUNCTION_ARGS)
{
	HttpRequest request = {.method = "GET", .max_response = 65536};
	int			count = PG_GETARG_INT32(1);
	int			good = 0;

	request.url = text_to_cstring(PG_GETARG_TEXT_PP(0));
	request.timeout_ms = PG_GETARG_INT32(2);
	conduit_http_start_up();
	for (int i = 0; i < count; i++)
		(void) conduit_http_start(&request, NULL);
	while (count > 0)
	{
		HttpTransfer *transfer;

		pump_once();
		while ((transfer = conduit_http_next_finished()) != NULL)
		{
			if (conduit_http_response(transfer)->result == HTTP_OK)
				good++;
			conduit_http_free(transfer);
			count--;
		}
	}
	Assert(conduit_http_in_flight() == 0);
	PG_RETURN_INT32(good);
}

/* A socket that listens at 127.0.0.1, and the port. */
static int
listen_here(int *port)
{
	struct sockaddr_in address = {.sin_family = AF_INET,.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t	length = sizeof(address);
	int			server = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

	if (server < 0 || bind(server, (struct sockaddr *) &address, length) != 0 || listen(server, 128) != 0 ||
		getsockname(server, (struct sockaddr *) &address, &length) != 0)
		elog(ERROR, "could not listen: %m");
	*port = ntohs(address.sin_port);
	return server;
}

/*
 * unit_http_flooded(count, timeout_ms, pumps): as many transfers at once; of
 * each answer, which never ends, more has come whenever one looks.  How many are
 * left when their time has been over for so many looks.
 */
PG_FUNCTION_INFO_V1(unit_http_flooded);
Datum
unit_http_flooded(PG_FUNCTION_ARGS)
{
	static const char head[] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;";
	HttpRequest request = {.method = "GET",.max_response = 65536};
	int			count = PG_GETARG_INT32(0);
	int			pumps = PG_GETARG_INT32(2);
	int		   *clients = palloc(sizeof(int) * count);
	int			nclients = 0;
	int			port;
	int			server = listen_here(&port);
	HttpTransfer *transfer;
	int			left;
	TimestampTz late;

	request.url = psprintf("http://127.0.0.1:%d/", port);
	request.timeout_ms = PG_GETARG_INT32(1);
	conduit_http_start_up();
	for (int i = 0; i < count; i++)
		(void) conduit_http_start(&request, NULL);
	late = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), request.timeout_ms);
	while (conduit_http_in_flight() > 0 && pumps > 0)
	{
		while (nclients < count && (clients[nclients] = accept4(server, NULL, NULL, SOCK_NONBLOCK)) >= 0)
			(void) send(clients[nclients++], head, strlen(head), MSG_NOSIGNAL);
		for (int i = 0; i < nclients; i++)
			(void) send(clients[i], "x", 1, MSG_NOSIGNAL);
		pump_once();
		while ((transfer = conduit_http_next_finished()) != NULL)
			conduit_http_free(transfer);
		if (GetCurrentTimestamp() > late)
			pumps--;
	}
	left = conduit_http_in_flight();
	conduit_http_shut_down();
	while ((transfer = conduit_http_next_finished()) != NULL)
		conduit_http_free(transfer);
	for (int i = 0; i < nclients; i++)
		close(clients[i]);
	close(server);
	PG_RETURN_INT32(left);
}

/*
 * unit_http_late(url, timeout_ms): a transfer whose answer comes in time, and
 * whose owner only after it; NULL if it was not sent in time, or not answered.
 */
PG_FUNCTION_INFO_V1(unit_http_late);
Datum
unit_http_late(PG_FUNCTION_ARGS)
{
	HttpRequest request = {.method = "GET", .max_response = 65536};
	HttpTransfer *transfer;
	TimestampTz late;
	long		left;
	bool		answered = false;
	char	   *described;

	request.url = text_to_cstring(PG_GETARG_TEXT_PP(0));
	request.timeout_ms = PG_GETARG_INT32(1);
	conduit_http_start_up();
	transfer = conduit_http_start(&request, NULL);
	late = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), request.timeout_ms + 1);
	while (!conduit_http_sent(transfer) && conduit_http_in_flight() > 0)
		pump_once();

	/* Away: the answer comes, then the time is over, and nobody looks. */
	while ((left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), late)) > 0)
		answered |= (WaitLatchOrSocket(MyLatch, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH |
									   (answered ? 0 : WL_SOCKET_READABLE),
									   answered ? PGINVALID_SOCKET : conduit_http_descriptor(),
									   left, PG_WAIT_EXTENSION) & WL_SOCKET_READABLE) != 0;
	while (conduit_http_next_finished() == NULL)
		pump_once();
	described = describe_transfer(transfer);
	conduit_http_free(transfer);
	if (!answered)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(described));
}

/*
 * unit_http_abandon(url, by_free): begin a transfer, let it get going, then end
 * it by freeing it or by shutting down; milliseconds that the ending took.
 */
PG_FUNCTION_INFO_V1(unit_http_abandon);
Datum
unit_http_abandon(PG_FUNCTION_ARGS)
{
	HttpRequest request = {.method = "POST", .content_type = "text/plain", .body = "x", .body_length = 1,
	.timeout_ms = 60000, .max_response = 65536};
	HttpTransfer *transfer;
	instr_time	start;
	instr_time	end;

	request.url = text_to_cstring(PG_GETARG_TEXT_PP(0));
	conduit_http_start_up();
	transfer = conduit_http_start(&request, NULL);
	for (int i = 0; i < 20 && !conduit_http_sent(transfer); i++)
	{
		(void) WaitLatchOrSocket(MyLatch, WL_SOCKET_READABLE | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
								 conduit_http_descriptor(), 20, PG_WAIT_EXTENSION);
		conduit_http_pump();
	}
	INSTR_TIME_SET_CURRENT(start);
	if (PG_GETARG_BOOL(1))
		conduit_http_free(transfer);
	else
	{
		conduit_http_shut_down();
		conduit_http_shut_down();
		while (conduit_http_next_finished() != NULL)
			;
		conduit_http_free(transfer);
	}
	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_SUBTRACT(end, start);
	PG_RETURN_FLOAT8(INSTR_TIME_GET_MILLISEC(end));
}

PG_FUNCTION_INFO_V1(unit_http_shut_down);
Datum
unit_http_shut_down(PG_FUNCTION_ARGS)
{
	conduit_http_shut_down();
	PG_RETURN_VOID();
}

/* unit_refresh(definition, endpoint, client_id, client_secret, refresh_token, timeout_ms) */
PG_FUNCTION_INFO_V1(unit_refresh);
Datum
unit_refresh(PG_FUNCTION_ARGS)
{
	TokenRequest request = {.kind = TOKEN_REQUEST_REFRESH};
	ExchangeOwner owner = {0};
	Exchange   *exchange;
	TokenOutcome outcome;
	TimestampTz started_at = conduit_now();
	char	   *described;

	request.connector = conduit_connector_parse("unit", text_to_cstring(PG_GETARG_TEXT_PP(0)));
	request.endpoint = text_to_cstring(PG_GETARG_TEXT_PP(1));
	request.client_id = text_to_cstring(PG_GETARG_TEXT_PP(2));
	request.client_secret.data = text_to_cstring(PG_GETARG_TEXT_PP(3));
	request.client_secret.length = strlen(request.client_secret.data);
	request.refresh_token.data = text_to_cstring(PG_GETARG_TEXT_PP(4));
	request.refresh_token.length = strlen(request.refresh_token.data);
	request.timeout_ms = PG_GETARG_INT32(5);

	conduit_http_start_up();
	exchange = conduit_exchange_token(&request, &owner);
	while (conduit_exchange_next_finished() != exchange)
		pump_once();
	if (conduit_exchange_owner(exchange) != &owner)
		elog(ERROR, "the owner got lost");
	conduit_exchange_read(exchange, &outcome);
	described = psprintf("sent=%d %s", conduit_exchange_sent(exchange),
						 describe_outcome(&outcome, started_at));
	conduit_exchange_free(exchange);
	PG_RETURN_TEXT_P(cstring_to_text(described));
}
