/*-------------------------------------------------------------------------
 *
 * limiter.h
 *	  Token buckets: how often a provider may still be asked.
 *
 * Wording:
 *	   - A bucket has room for its capacity of tokens.  It starts full and is
 *		 refilled at a steady rate; who takes a token may send a request.
 *	   - Its holder is whom the provider counts: an account at its API, a client
 *		 at its token endpoint, of one tenant.  All backends share it.
 *	   - A block means that the provider asked for a pause.  It is presumed where
 *		 it is taken from an answer to somebody else: then one request is let
 *		 through now and then, as a probe, and an answer to what it asked, be it
 *		 a refusal, ends the block.
 *	   - The line gives each of those who were sent away a time of its own to
 *		 come back at, so that they do not all come for the one next token.
 *
 * Memory alone: what was taken stays taken, whatever becomes of the
 * transaction.  The number of buckets is bounded.  One that is full again is
 * forgotten without loss; where there is none, the one that would be full first
 * makes room.  Nothing here raises an error.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_LIMITER_H
#define CONDUIT_LIMITER_H

#include "base/compat.h"
#include "datatype/timestamp.h"

typedef enum LimiterKind
{
	LIMITER_API_ACCOUNT,
	LIMITER_API_CONNECTION,		/* whose account is not known */
	LIMITER_TOKEN_CLIENT,
	LIMITER_TOKEN_CONNECTION	/* that names no client there */
} LimiterKind;

typedef struct LimiterKey
{
	uint64		hash[2];
	uint64		tenant;			/* whose it is: a hash, too */
} LimiterKey;

typedef struct LimiterRate
{
	double		capacity;		/* 0: no limit is known */
	double		per_second;
} LimiterRate;

typedef struct LimiterAnswer
{
	bool		allowed;
	bool		probe;			/* allowed, although a block is presumed */
	double		remaining;		/* tokens that could be taken now; -1: no limit is known */
	double		retry_after;	/* seconds until as many can be had, 0 if allowed; -1: never */
	double		reset_after;	/* seconds until all can be had */
} LimiterAnswer;

extern Size conduit_limiter_size(void);
extern void conduit_limiter_attach(void *memory, bool initialise);

/* Names the bucket of a tenant's holder in this database; with shared memory alone. */
extern LimiterKey conduit_limiter_key(LimiterKind kind, const char *tenant, const char *connector,
									  const void *holder, Size length);

/*
 * conduit_limiter_take takes as many tokens as cost says, at least one, or none
 * where there are not so many or a block stands.
 */
extern LimiterAnswer conduit_limiter_take(const LimiterKey *key, const LimiterRate *rate, int cost,
										  TimestampTz now);

/* conduit_limiter_charge takes one that may not be there: the bucket owes it. */
extern void conduit_limiter_charge(const LimiterKey *key, const LimiterRate *rate, TimestampTz now);

/*
 * conduit_limiter_block lets nobody through for so many seconds; it never
 * shortens a block.  conduit_limiter_unblock ends one that was presumed.
 */
extern void conduit_limiter_block(const LimiterKey *key, double seconds, bool presumed, TimestampTz now);
extern void conduit_limiter_unblock(const LimiterKey *key);

/*
 * conduit_limiter_line returns in how many seconds one who has been told to
 * wait so long should come back: after all others who stand in line.
 */
extern double conduit_limiter_line(const LimiterKey *key, const LimiterRate *rate, double wait,
								   TimestampTz now);

#endif							/* CONDUIT_LIMITER_H */
