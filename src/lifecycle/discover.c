/*-------------------------------------------------------------------------
 *
 * discover.c
 *	  conduit_discover: a definition from a server's own metadata.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "base/json.h"
#include "base/report.h"
#include "base/settings.h"
#include "lifecycle/argument.h"
#include "lifecycle/call.h"
#include "lifecycle/key.h"
#include "lifecycle/store.h"
#include "provider/connector.h"
#include "provider/discovery.h"

PG_FUNCTION_INFO_V1(conduit_discover);

/* A document that is not there: the next place is looked at. */
static bool
not_there(const HttpResponse *response)
{
	return response->result == HTTP_OK && response->status >= 400 && response->status <= 499;
}

/* Raise what a document that did not come, or is none, means. */
static void
check_document(const HttpResponse *response)
{
	if (response->result == HTTP_TOO_LARGE)
		conduit_raise(CONDUIT_ERR_BAD_RESPONSE, "too_large");
	if (response->result == HTTP_BROKEN)
		conduit_raise(CONDUIT_ERR_BAD_RESPONSE, "broken");
	if (response->result != HTTP_OK)
		conduit_raise(CONDUIT_ERR_UNAVAILABLE,
					  response->result == HTTP_DENIED ? "denied" : response->result == HTTP_UNRESOLVED ? "dns" :
					  response->result == HTTP_TLS ? "tls" : response->result == HTTP_TIMEOUT ? "timeout" : "refused");
	if (response->status < 200 || response->status > 299)
		conduit_raise(CONDUIT_ERR_BAD_RESPONSE, psprintf("http_%d", response->status));
}

/* The metadata of an issuer, from the first place that has any. */
static const ConduitJson *
fetch_metadata(const char *issuer, CallResponse *response)
{
	static const HttpHeader accept[] = {{"Accept", "application/json"}};
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), conduit_request_timeout);
	const char *problem;
	ConduitJson *json;
	char	   *copy;

	for (int place = 0; place < CONDUIT_DISCOVERY_PLACES; place++)
	{
		HttpRequest request = {
			.method = "GET",.url = conduit_discovery_url(issuer, place),.headers = accept,.nheaders = 1,
			.max_response = (Size) conduit_max_response_size * 1024
		};

		conduit_call(&request, "", until, response);
		if (!not_there(&response->http) || place == CONDUIT_DISCOVERY_PLACES - 1)
			break;
		conduit_call_wipe(response);
	}
	check_document(&response->http);
	copy = pnstrdup(response->http.body, response->http.length);
	json = conduit_json_parse(copy, (int) response->http.length, &problem);
	if (json == NULL || json->type != CONDUIT_JSON_OBJECT)
		conduit_raise(CONDUIT_ERR_BAD_RESPONSE, "bad_json");
	return json;
}

/* conduit_discover(issuer) */
Datum
conduit_discover(PG_FUNCTION_ARGS)
{
	char	   *issuer = conduit_name_argument(fcinfo, 0, "invalid issuer", 1024);
	const char *problem = conduit_discovery_check_issuer(issuer);
	CallResponse response;
	char	   *definition;

	if (problem != NULL)
		conduit_bad_argument("invalid issuer", problem, "Give the issuer's URL, such as https://login.example.com.");
	(void) conduit_extension(false);
	conduit_key_prepare_to_seal();
	definition = conduit_discovery_definition(issuer, fetch_metadata(issuer, &response), &problem);
	if (definition == NULL)
		conduit_raise(CONDUIT_ERR_BAD_RESPONSE, problem);
	conduit_call_wipe(&response);

	/* What conduit_register_connector() would refuse is refused here, with the field's name. */
	definition = pg_any_to_server(definition, strlen(definition), PG_UTF8);
	(void) conduit_connector_parse("discovered", definition);
	PG_RETURN_DATUM(DirectFunctionCall1(jsonb_in, CStringGetDatum(definition)));
}
