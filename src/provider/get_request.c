/*-------------------------------------------------------------------------
 *
 * get_request.c
 *	  A JSON document that is fetched.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "provider/api_auth.h"
#include "provider/egress.h"
#include "provider/get_request.h"

/* A token goes to where the definition says that accounts are asked for, whoever calls. */
static bool
endpoint_is_accounts(const GetRequest *request)
{
	const char *account_url = request->connector->account_url;
	char	   *wanted = account_url != NULL ?
		conduit_connector_origin(request->connector, account_url, request->params) : NULL;
	char	   *given = conduit_egress_origin(request->endpoint);

	return wanted != NULL && given != NULL && strcmp(wanted, given) == 0;
}

void
conduit_get_request_build(const GetRequest *request, OutgoingRequest *out)
{
	ConduitSecret secret = {.access_token = request->access_token};

	conduit_outgoing_start(out, request->connector, request->params, request->timeout_ms);
	conduit_outgoing_header(out, "Accept", "application/json");
	if (request->access_token.data != NULL && !endpoint_is_accounts(request))
		conduit_outgoing_fail(out, "endpoint_invalid");
	else if (request->access_token.data != NULL)
		conduit_api_auth_add(out, &secret, request->client_id);
	conduit_outgoing_finish(out, "GET", request->endpoint, BODY_QUERY);
}
