/*-------------------------------------------------------------------------
 *
 * token_time.h
 *	  Points in time as providers write them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_TOKEN_TIME_H
#define CONDUIT_TOKEN_TIME_H

#include "base/compat.h"
#include "base/json.h"
#include "datatype/timestamp.h"
#include "vault/secret.h"

/* No token is taken to live longer. */
#define CONDUIT_MAX_LIFETIME_S	(10.0 * 365.25 * 86400)

/*
 * conduit_read_time reads ISO 8601, or an epoch in seconds, milliseconds or
 * microseconds, as a number or as text.  False if member is NULL or no such
 * thing.
 */
extern bool conduit_read_time(const ConduitJson *member, TimestampTz *result);

/*
 * conduit_read_jwt_expiry reads exp of a token that is a JWT, and the lifetime
 * as exp less iat, 0 if that is not known.  The token is not verified: this
 * only tells when it would be wise to renew.  False if it is none or has no exp.
 */
extern bool conduit_read_jwt_expiry(const SecretText *token, TimestampTz *expires_at, double *lifetime);

#endif							/* CONDUIT_TOKEN_TIME_H */
