/*-------------------------------------------------------------------------
 *
 * token_request.c
 *	  What is asked of a token endpoint, and how the provider wants it put.
 *
 * The order of parameters and headers is fixed, which no provider minds and
 * every reader of a trace is glad of.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "provider/assertion.h"
#include "provider/token_request.h"

static void
add_text(OutgoingRequest *out, const ConduitJson *names, const char *canonical, const char *value)
{
	if (value != NULL)
		conduit_outgoing_param(out, names, canonical, value, strlen(value));
}

/* ---- JWT bearer ---- */

static List *
assertion_claims(const ConduitConnector *connector, OutgoingRequest *out)
{
	const ConduitJson *claim = connector->jwt_claims ? connector->jwt_claims->first : NULL;
	List	   *claims = NIL;

	for (; claim != NULL; claim = claim->next)
	{
		const char *value = conduit_outgoing_fill(out, claim->text, NULL);
		AssertionClaim *made;

		if (value == NULL)
			continue;
		made = palloc(sizeof(AssertionClaim));
		made->name = claim->key;
		made->value = value;
		claims = lappend(claims, made);
	}
	return claims;
}

/* False with a problem of the request. */
static bool
make_assertion(const TokenRequest *request, OutgoingRequest *out, SecretText *jwt)
{
	const ConduitConnector *connector = request->connector;
	Assertion	assertion = {0};
	SizedText  *text = palloc0(sizeof(SizedText));

	assertion.algorithm = connector->signing_algorithm;
	assertion.key = request->private_key;
	assertion.key_id = request->key_id;
	assertion.issuer = request->issuer;
	assertion.subject = request->subject;
	assertion.audience = request->audience;
	if (assertion.audience == NULL)
		assertion.audience = connector->jwt_audience != NULL ?
			conduit_outgoing_fill(out, connector->jwt_audience, NULL) : request->endpoint;
	assertion.scope = connector->jwt_scope_claim ? request->scope : NULL;
	assertion.lifetime_s = connector->jwt_lifetime_s;
	assertion.claims = assertion_claims(connector, out);
	if (out->problem != NULL)
		return false;

	out->texts = lappend(out->texts, text);
	if (!conduit_assertion_sign(&assertion, text))
	{
		conduit_outgoing_fail(out, "bad_private_key");
		return false;
	}
	jwt->data = text->data;
	jwt->length = (int) text->length;
	return true;
}

static void
add_jwt_bearer(const TokenRequest *request, OutgoingRequest *out, const ConduitJson *names)
{
	const ConduitConnector *connector = request->connector;
	SecretText	jwt;

	if (!make_assertion(request, out, &jwt))
		return;
	if (connector->jwt_in_header)
		conduit_outgoing_bearer(out, &jwt);
	else
	{
		add_text(out, names, "grant_type", connector->refresh_request.grant_type);
		conduit_outgoing_secret_param(out, names, "assertion", &jwt);
	}
	if (!connector->jwt_scope_claim)
		add_text(out, names, "scope", request->scope);
}

/* ---- the whole ---- */

/* What each kind has of its own, without the client. */
static void
add_grant(const TokenRequest *request, OutgoingRequest *out, const RequestForm *form)
{
	const ConduitConnector *connector = request->connector;
	const ConduitJson *names = form->param_names;

	switch (request->kind)
	{
		case TOKEN_REQUEST_CODE:
			add_text(out, names, "grant_type", form->grant_type);
			conduit_outgoing_secret_param(out, names, "code", &request->code);
			add_text(out, names, "redirect_uri", request->redirect_uri);
			conduit_outgoing_secret_param(out, names, "code_verifier", &request->code_verifier);
			break;
		case TOKEN_REQUEST_REFRESH:
			add_text(out, names, "grant_type", form->grant_type);
			conduit_outgoing_secret_param(out, names, "refresh_token", &request->refresh_token);
			if (connector->refresh_sends_scope)
				add_text(out, names, "scope", request->scope);
			break;
		case TOKEN_REQUEST_EXCHANGE:
			add_text(out, names, "grant_type", connector->exchange_grant_type);
			conduit_outgoing_secret_param(out, names, "refresh_token", &request->refresh_token);
			break;
		case TOKEN_REQUEST_CLIENT_CREDENTIALS:
			add_text(out, names, "grant_type", form->grant_type);
			add_text(out, names, "scope", request->scope);
			break;
		case TOKEN_REQUEST_JWT_BEARER:
			add_jwt_bearer(request, out, names);
			break;
		case TOKEN_REQUEST_BEARER_RENEW:
			conduit_outgoing_bearer(out, &request->refresh_token);
			break;
	}
}

void
conduit_token_request_build(const TokenRequest *request, OutgoingRequest *out)
{
	const ConduitConnector *connector = request->connector;
	const RequestForm *form = request->kind == TOKEN_REQUEST_CODE ?
		&connector->code_request : &connector->refresh_request;
	OutgoingClient client = {connector->client_auth, request->client_id, request->client_secret, request->endpoint};
	BodyFormat	format = form->body_format;

	conduit_outgoing_start(out, connector, request->params, request->timeout_ms);

	/* A GET that refreshes is no less of a refresh. */
	out->http.once = true;
	conduit_outgoing_headers(out, request->client_id, &request->client_secret);
	add_grant(request, out, form);

	/* Where the grant stands in the Authorization header, it is all the proof there is. */
	if (request->kind == TOKEN_REQUEST_BEARER_RENEW)
		format = form->body_format == BODY_QUERY ? BODY_QUERY : BODY_JSON;
	else if (request->kind != TOKEN_REQUEST_JWT_BEARER || !connector->jwt_in_header)
		conduit_outgoing_client(out, &client, form->param_names);
	conduit_outgoing_extra_params(out, form->extra_params);
	conduit_outgoing_finish(out, form->method, request->endpoint, format);
}
