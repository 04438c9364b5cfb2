/*-------------------------------------------------------------------------
 *
 * jwt.h
 *	  JSON Web Tokens: proving one, and making one (RFC 7515, 7519).
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_JWT_H
#define CONDUIT_JWT_H

#include "base/compat.h"
#include "datatype/timestamp.h"
#include "door/jwk.h"

/*
 * conduit_jwt_verify returns the claims of a token in compact form that one of
 * the keys proves and that is valid at now for audience (NULL: any), or NULL.
 * exp is required; exp, nbf and iat may be off by half a minute.  A header that
 * asks for anything but a plain signature ("crit", "b64") is refused.
 */
extern const ConduitJson *conduit_jwt_verify(const char *token, const JwkSet *keys,
											 const char *audience, TimestampTz now);

/* True if a claim, a text or an array of texts, has the value. */
extern bool conduit_jwt_claim_has(const ConduitJson *claims, const char *name, const char *value);

/*
 * conduit_jwt_sign returns a token with these claims (JSON text) under the
 * first key that can sign, or NULL if none can.
 */
extern char *conduit_jwt_sign(const char *claims, const JwkSet *keys);

#endif							/* CONDUIT_JWT_H */
