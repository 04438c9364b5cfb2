/*-------------------------------------------------------------------------
 *
 * revoke_request.c
 *	  A request that ends a grant at its provider.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "provider/revoke_request.h"
#include "provider/url_template.h"

/* The URL, with the token in it where that is its place. */
static const char *
build_url(const RevokeRequest *request, const SecretText *token, OutgoingRequest *out)
{
	const char *template_url = request->connector->revoke_url;
	const char *plain = conduit_outgoing_copy(out, token);
	const char *problem;
	const char *variable;
	char	   *url = NULL;

	if (request->client_id != NULL || !conduit_text_has_variable(template_url, "client_id"))
		url = conduit_connector_expand_revoke(request->connector, request->params, plain, request->client_id,
											  &problem, &variable);
	if (url == NULL)
	{
		conduit_outgoing_fail(out, "endpoint_invalid");
		return "";
	}
	conduit_outgoing_adopt(out, url);
	if (conduit_text_has_variable(template_url, "token"))
		conduit_outgoing_secret(out, token);
	return url;
}

void
conduit_revoke_request_build(const RevokeRequest *request, OutgoingRequest *out)
{
	const ConduitConnector *connector = request->connector;
	const ConduitJson *names = connector->refresh_request.param_names;
	bool		by_access_token = request->refresh_token.data == NULL ||
		(connector->revoke_by_access_token && request->access_token.data != NULL);
	const SecretText *token = by_access_token ? &request->access_token : &request->refresh_token;
	bool		as_client = connector->revoke_auth == REVOKE_AUTH_CLIENT || connector->revoke_auth == REVOKE_AUTH_BASIC;
	OutgoingClient client = {connector->client_auth, request->client_id, request->client_secret};
	SecretText	none = {NULL, 0};
	const char *url;

	conduit_outgoing_start(out, connector, request->params, request->timeout_ms);
	if (token->data == NULL ||
		(connector->revoke_auth == REVOKE_AUTH_TOKEN && request->access_token.data == NULL))
	{
		conduit_outgoing_fail(out, "token_missing");
		return;
	}
	url = build_url(request, token, out);
	client.endpoint = url;

	/* The client's secret is bound to endpoints that it is authenticated at. */
	conduit_outgoing_headers(out, request->client_id, as_client ? &request->client_secret : &none);
	if (connector->revoke_param != NULL)
	{
		conduit_outgoing_secret_param(out, NULL, connector->revoke_param, token);

		/* Who calls it as RFC 7009 does may be helped by the hint, too. */
		if (strcmp(connector->revoke_param, "token") == 0 && connector->revoke_body_format == BODY_FORM)
		{
			const char *hint = by_access_token ? "access_token" : "refresh_token";

			conduit_outgoing_param(out, NULL, "token_type_hint", hint, strlen(hint));
		}
	}
	switch (connector->revoke_auth)
	{
		case REVOKE_AUTH_BASIC:
			client.method = CLIENT_AUTH_BASIC;
			conduit_outgoing_client(out, &client, names);
			break;
		case REVOKE_AUTH_CLIENT:
			conduit_outgoing_client(out, &client, names);
			break;
		case REVOKE_AUTH_TOKEN:
			conduit_outgoing_bearer(out, &request->access_token);
			break;
		case REVOKE_AUTH_NONE:
			break;
	}
	conduit_outgoing_finish(out, connector->revoke_method, url, connector->revoke_body_format);
}
