/*-------------------------------------------------------------------------
 *
 * get_request.c
 *	  A JSON document that is fetched.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "provider/api_auth.h"
#include "provider/get_request.h"

void
conduit_get_request_build(const GetRequest *request, OutgoingRequest *out)
{
	conduit_outgoing_start(out, request->connector, request->params, request->timeout_ms);
	conduit_outgoing_header(out, "Accept", "application/json");
	if (request->access_token.data != NULL)
		conduit_api_auth_add(out, &request->access_token, request->client_id);
	conduit_outgoing_finish(out, "GET", request->endpoint, BODY_QUERY);
}
