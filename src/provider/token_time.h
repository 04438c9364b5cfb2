/*-------------------------------------------------------------------------
 *
 * token_time.h
 *	  Points in time and lifetimes as providers write them.
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

/* What a number or text that says when something ends is meant as, unless it tells by itself. */
typedef enum TimeMeaning
{
	TIME_SECONDS,				/* a lifetime */
	TIME_MILLISECONDS,			/* likewise */
	TIME_POINT					/* a point in time */
} TimeMeaning;

/*
 * conduit_read_end reads when something ends that began at from: a lifetime (a
 * number, or "1h"), or a point in time as of conduit_read_time.  *lifetime is
 * in seconds, 0 for a point in time; a lifetime is cut down to
 * CONDUIT_MAX_LIFETIME_S.  *end is DT_NOEND where the number is zero or less:
 * that says that it does not end.  False if member says nothing of the kind.
 */
extern bool conduit_read_end(const ConduitJson *member, TimeMeaning meaning, TimestampTz from,
							 TimestampTz *end, double *lifetime);

/*
 * conduit_read_jwt_expiry reads exp of a token that is a JWT, and the lifetime
 * as exp less iat, 0 if that is not known.  The token is not verified: this
 * only tells when it would be wise to renew.  False if it is none or has no exp.
 */
extern bool conduit_read_jwt_expiry(const SecretText *token, TimestampTz *expires_at, double *lifetime);

#endif							/* CONDUIT_TOKEN_TIME_H */
