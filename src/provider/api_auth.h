/*-------------------------------------------------------------------------
 *
 * api_auth.h
 *	  How a request to a provider's API carries the credential.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_API_AUTH_H
#define CONDUIT_API_AUTH_H

#include "base/compat.h"
#include "provider/outgoing.h"

/*
 * conduit_api_auth_add adds to the request what the connector's api_auth says:
 * headers, and parameters of the URL.  Without one the token is a bearer token
 * (RFC 6750).  client_id may be NULL; a header that wants it is left out then.
 */
extern void conduit_api_auth_add(OutgoingRequest *out, const SecretText *token, const char *client_id);

#endif							/* CONDUIT_API_AUTH_H */
