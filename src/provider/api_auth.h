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
 * headers, and parameters of the URL.  Without one a token is a bearer token
 * (RFC 6750), name and password are Basic (RFC 7617).  client_id may be NULL; a
 * header that wants it is left out then.  What the credential lacks is the
 * problem "no_credential".
 */
extern void conduit_api_auth_add(OutgoingRequest *out, const ConduitSecret *secret, const char *client_id);

#endif							/* CONDUIT_API_AUTH_H */
