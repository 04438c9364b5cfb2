/*-------------------------------------------------------------------------
 *
 * revoke_request.h
 *	  A request that ends a grant at its provider (RFC 7009 and what providers
 *	  make of it).
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_REVOKE_REQUEST_H
#define CONDUIT_REVOKE_REQUEST_H

#include "base/compat.h"
#include "provider/outgoing.h"

/* Texts are UTF-8. */
typedef struct RevokeRequest
{
	const ConduitConnector *connector;	/* outlives the exchange; has a revoke_url */
	const ConduitJson *params;	/* of the connection, for variables; NULL: none */
	const char *client_id;		/* NULL: none */
	SecretText	client_secret;	/* as in TokenRequest */
	SecretText	refresh_token;	/* data NULL: none; which of the two is sent, the */
	SecretText	access_token;	/* connector says, if it is there */
	int			timeout_ms;
} RevokeRequest;

/*
 * conduit_revoke_request_build makes the request ready to be sent, or with a
 * problem: "endpoint_invalid", "token_missing", "bad_private_key",
 * "invalid_params".  The caller wipes it.
 */
extern void conduit_revoke_request_build(const RevokeRequest *request, OutgoingRequest *out);

#endif							/* CONDUIT_REVOKE_REQUEST_H */
