/*-------------------------------------------------------------------------
 *
 * get_request.h
 *	  A JSON document that is fetched: about an account, with its token, or the
 *	  metadata of a server, without.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_GET_REQUEST_H
#define CONDUIT_GET_REQUEST_H

#include "base/compat.h"
#include "provider/outgoing.h"

/* Texts are UTF-8. */
typedef struct GetRequest
{
	const ConduitConnector *connector;	/* says how a token is carried; NULL where there is none */
	const ConduitJson *params;	/* of the connection, for variables; NULL: none */
	const char *endpoint;		/* expanded; with a token, of account_url's origin */
	const char *client_id;		/* some want it beside the token; NULL: none */
	SecretText	access_token;	/* data NULL: none */
	int			timeout_ms;
} GetRequest;

/*
 * conduit_get_request_build makes the request ready to be sent, or with a
 * problem: "endpoint_invalid", "invalid_params".  The caller wipes it.
 */
extern void conduit_get_request_build(const GetRequest *request, OutgoingRequest *out);

#endif							/* CONDUIT_GET_REQUEST_H */
