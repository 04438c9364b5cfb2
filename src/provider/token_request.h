/*-------------------------------------------------------------------------
 *
 * token_request.h
 *	  What is asked of a token endpoint, and how the provider wants it put.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_TOKEN_REQUEST_H
#define CONDUIT_TOKEN_REQUEST_H

#include "base/compat.h"
#include "provider/outgoing.h"
#include "provider/token_response.h"

/* Texts are UTF-8. */
typedef struct TokenRequest
{
	TokenRequestKind kind;
	const ConduitConnector *connector;	/* outlives the exchange */
	const ConduitJson *params;	/* of the connection, for variables; NULL: none */
	const char *endpoint;		/* expanded */
	const char *client_id;		/* NULL: none */
	SecretText	client_secret;	/* data NULL: none; a PEM key where the connector signs */
	bool		own_client;		/* the connection's, not the connector's; with JWT_BEARER: no
								 * other client takes part */
	SecretText	code;			/* CODE */
	SecretText	code_verifier;	/* CODE; data NULL: none */
	const char *redirect_uri;	/* CODE; NULL: not sent */
	SecretText	refresh_token;	/* REFRESH, BEARER_RENEW; the access token for EXCHANGE and
								 * where that is the refresh credential */
	SecretText	private_key;	/* JWT_BEARER: PEM */
	const char *issuer;			/* JWT_BEARER; NULL: no such claim */
	const char *subject;		/* JWT_BEARER; NULL: no such claim */
	const char *key_id;			/* JWT_BEARER; NULL: no such header */
	const char *audience;		/* JWT_BEARER; NULL: what the connector says */
	const char *scope;			/* NULL: not sent; as conduit_scope_join makes it */
	int			timeout_ms;
} TokenRequest;

/*
 * conduit_token_request_build makes the request ready to be sent, or with a
 * problem: "bad_private_key", "invalid_params".  The caller wipes it.
 */
extern void conduit_token_request_build(const TokenRequest *request, OutgoingRequest *out);

#endif							/* CONDUIT_TOKEN_REQUEST_H */
