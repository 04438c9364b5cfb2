/*-------------------------------------------------------------------------
 *
 * limiter.c
 *	  Token buckets in shared memory.
 *
 * A set-associative table: a bucket stands in one set of a few, each set under
 * a spinlock of its own.  Which set, and which bucket, tells a hash of 128 bits
 * under a seed drawn at the server's start: nobody can choose names that meet
 * in one place.
 *
 * A bucket keeps what is missing from it rather than what is in it, so that
 * one with another capacity, after its connector was registered anew, goes on
 * where it was.
 *
 *-------------------------------------------------------------------------
 */
#include "shared/limiter.h"

#include <math.h>

#include "common/hashfn.h"
#include "storage/spin.h"
#include "utils/timestamp.h"

#include "base/clock.h"

#define SETS 2048
#define WAYS 8

/*
 * Two processes may read the clock in one order and come here in the other.
 * Only a clock that is behind by more, in seconds, was set back.
 */
#define CLOCK_SKEW 1.0

/* What is missing by less than this time brings, in seconds, is there. */
#define TICK 1e-6

/* Seconds until the first probe of a presumed block; then doubled each time. */
#define FIRST_PROBE 60.0

/* No line is longer, in seconds: who would come later comes and asks again. */
#define LONGEST_LINE 3600.0

typedef struct TokenBucket
{
	bool		used;
	LimiterKey	key;
	double		missing;		/* tokens, when it was last looked at */
	double		per_second;		/* refill, as last said */
	TimestampTz at;				/* when that was */
	TimestampTz blocked_until;	/* DT_NOBEGIN: not blocked */
	TimestampTz probe_at;		/* of a presumed block; DT_NOEND: not presumed */
	double		probe_step;		/* seconds from that probe to the next */
	TimestampTz line_until;		/* the last place in line; DT_NOBEGIN: none */
} TokenBucket;

typedef struct TokenBucketSet
{
	slock_t		mutex;
	TokenBucket buckets[WAYS];
} TokenBucketSet;

typedef struct SharedLimiter
{
	uint64		seeds[2];
	TokenBucketSet sets[SETS];
} SharedLimiter;

static SharedLimiter *limiter = NULL;

Size
conduit_limiter_size(void)
{
	return sizeof(SharedLimiter);
}

void
conduit_limiter_attach(void *memory, bool initialise)
{
	limiter = memory;
	if (!initialise)
		return;
	memset(limiter, 0, sizeof(*limiter));
	if (!pg_strong_random(limiter->seeds, sizeof(limiter->seeds)))
		ereport(FATAL, (errmsg("could not generate random bytes")));
	for (int i = 0; i < SETS; i++)
		SpinLockInit(&limiter->sets[i].mutex);
}

LimiterKey
conduit_limiter_key(LimiterKind kind, const char *tenant, const char *connector, const void *holder, Size length)
{
	LimiterKey	key = {{0}};

	Assert(limiter != NULL);
	key.tenant = hash_bytes_extended((const unsigned char *) tenant, strlen(tenant), limiter->seeds[0] ^ MyDatabaseId);
	for (int i = 0; i < lengthof(key.hash); i++)
	{
		uint64		hash = limiter->seeds[i] ^ (((uint64) MyDatabaseId << 8) | kind);

		hash = hash_bytes_extended((const unsigned char *) tenant, strlen(tenant), hash);
		hash = hash_bytes_extended((const unsigned char *) connector, strlen(connector), hash);
		key.hash[i] = hash_bytes_extended(holder, length, hash);
	}
	return key;
}

static TokenBucketSet *
set_of(const LimiterKey *key)
{
	return &limiter->sets[key->hash[0] % SETS];
}

static bool
is_bucket_of(const TokenBucket *bucket, const LimiterKey *key)
{
	return bucket->used && bucket->key.hash[0] == key->hash[0] && bucket->key.hash[1] == key->hash[1];
}

static TokenBucket *
find_bucket(TokenBucketSet *set, const LimiterKey *key)
{
	for (int i = 0; i < WAYS; i++)
		if (is_bucket_of(&set->buckets[i], key))
			return &set->buckets[i];
	return NULL;
}

/* From when on the bucket is as good as a new one. */
static TimestampTz
idle_from(const TokenBucket *bucket)
{
	TimestampTz full = bucket->missing > 0 && bucket->per_second > 0 ?
		conduit_time_add(bucket->at, bucket->missing / bucket->per_second) : bucket->at;

	return Max(full, bucket->blocked_until);
}

static int
count_of_tenant(const TokenBucketSet *set, uint64 tenant)
{
	int			n = 0;

	for (int i = 0; i < WAYS; i++)
		n += set->buckets[i].used && set->buckets[i].key.tenant == tenant;
	return n;
}

/* A bucket that is as good as a new one can go, whose ever it is. */
static bool
is_spare(const TokenBucket *bucket, TimestampTz now)
{
	return !bucket->used || idle_from(bucket) <= now;
}

/*
 * The bucket to be given up: a spare one, else of the tenant that has most of
 * the set the one that would be spare first.  A tenant may have any number of
 * holders, and pauses as long as it likes: these must not push out another's.
 */
static TokenBucket *
choose_bucket(TokenBucketSet *set, TimestampTz now)
{
	TokenBucket *chosen = NULL;
	int			most = 0;

	for (int i = 0; i < WAYS; i++)
	{
		TokenBucket *bucket = &set->buckets[i];
		int			n;

		if (is_spare(bucket, now))
			return bucket;
		n = count_of_tenant(set, bucket->key.tenant);
		if (chosen == NULL || n > most || (n == most && idle_from(bucket) < idle_from(chosen)))
		{
			chosen = bucket;
			most = n;
		}
	}
	return chosen;
}

/* The holder's bucket, made where there is none. */
static TokenBucket *
get_bucket(TokenBucketSet *set, const LimiterKey *key, TimestampTz now)
{
	TokenBucket *bucket = find_bucket(set, key);

	if (bucket != NULL)
		return bucket;
	bucket = choose_bucket(set, now);
	bucket->used = true;
	bucket->key = *key;
	bucket->missing = bucket->per_second = bucket->probe_step = 0;
	bucket->at = now;
	bucket->blocked_until = bucket->line_until = DT_NOBEGIN;
	bucket->probe_at = DT_NOEND;
	return bucket;
}

static void
refill(TokenBucket *bucket, double per_second, TimestampTz now)
{
	double		elapsed = conduit_seconds_between(bucket->at, now);

	bucket->per_second = per_second;
	if (elapsed > 0)
		bucket->missing = Max(0, bucket->missing - elapsed * per_second);
	else if (elapsed > -CLOCK_SKEW)
		return;

	/* A clock that was set back: what was left of a block is left of it now. */
	else if (!TIMESTAMP_IS_NOBEGIN(bucket->blocked_until))
		bucket->blocked_until = conduit_time_add(bucket->blocked_until, elapsed);
	bucket->at = now;
}

/* Seconds until the block is over or may be probed, 0 if there is none. */
static double
blocked_for(const TokenBucket *bucket, TimestampTz now)
{
	TimestampTz until = Min(bucket->blocked_until, bucket->probe_at);

	return now >= until ? 0 : conduit_seconds_between(now, until);
}

/* The next probe comes later, by twice as much each time. */
static void
note_probe(TokenBucket *bucket, TimestampTz now)
{
	bucket->probe_at = conduit_time_add(now, bucket->probe_step);
	bucket->probe_step *= 2;
}

static bool
is_blocked(const TokenBucket *bucket, TimestampTz now)
{
	return now < bucket->blocked_until;
}

static LimiterAnswer
take_locked(TokenBucket *bucket, const LimiterRate *rate, int cost, TimestampTz now)
{
	LimiterAnswer answer = {0};
	bool		limited = rate->capacity > 0;
	double		lacking;

	refill(bucket, rate->per_second, now);
	lacking = limited ? Max(0, (bucket->missing + cost - rate->capacity) / rate->per_second) : 0;
	if (limited && cost > rate->capacity)
		answer.retry_after = -1;
	else
	{
		answer.retry_after = Max(blocked_for(bucket, now), lacking < TICK ? 0 : lacking);
		answer.allowed = answer.retry_after == 0;
	}
	answer.probe = answer.allowed && is_blocked(bucket, now);
	if (answer.probe)
		note_probe(bucket, now);
	if (answer.allowed && limited)
		bucket->missing += cost;

	answer.reset_after = limited ? bucket->missing / rate->per_second : 0;
	if (is_blocked(bucket, now))
		answer.reset_after = Max(answer.reset_after, conduit_seconds_between(now, bucket->blocked_until));
	answer.remaining = !limited ? -1 : is_blocked(bucket, now) ? 0 :
		floor(Max(0, rate->capacity - bucket->missing) + TICK);
	return answer;
}

LimiterAnswer
conduit_limiter_take(const LimiterKey *key, const LimiterRate *rate, int cost, TimestampTz now)
{
	TokenBucketSet *set = set_of(key);
	LimiterAnswer answer = {.allowed = true,.remaining = -1};
	TokenBucket *bucket;

	SpinLockAcquire(&set->mutex);
	bucket = rate->capacity > 0 ? get_bucket(set, key, now) : find_bucket(set, key);
	if (bucket != NULL)
		answer = take_locked(bucket, rate, cost, now);
	SpinLockRelease(&set->mutex);
	return answer;
}

void
conduit_limiter_charge(const LimiterKey *key, const LimiterRate *rate, TimestampTz now)
{
	TokenBucketSet *set = set_of(key);
	TokenBucket *bucket;

	if (rate->capacity <= 0)
		return;
	SpinLockAcquire(&set->mutex);
	bucket = get_bucket(set, key, now);
	refill(bucket, rate->per_second, now);
	bucket->missing += 1;
	SpinLockRelease(&set->mutex);
}

void
conduit_limiter_block(const LimiterKey *key, double seconds, bool presumed, TimestampTz now)
{
	TokenBucketSet *set = set_of(key);
	TimestampTz until = conduit_time_add(now, seconds);
	TokenBucket *bucket;

	SpinLockAcquire(&set->mutex);
	bucket = get_bucket(set, key, now);
	refill(bucket, bucket->per_second, now);
	if (!presumed)
		bucket->probe_at = DT_NOEND;
	else if (!is_blocked(bucket, now))
	{
		bucket->probe_step = FIRST_PROBE;
		note_probe(bucket, now);
	}
	bucket->blocked_until = Max(bucket->blocked_until, until);
	SpinLockRelease(&set->mutex);
}

void
conduit_limiter_unblock(const LimiterKey *key)
{
	TokenBucketSet *set = set_of(key);
	TokenBucket *bucket;

	SpinLockAcquire(&set->mutex);
	bucket = find_bucket(set, key);
	if (bucket != NULL && !TIMESTAMP_IS_NOEND(bucket->probe_at))
	{
		bucket->blocked_until = DT_NOBEGIN;
		bucket->probe_at = DT_NOEND;
	}
	SpinLockRelease(&set->mutex);
}

double
conduit_limiter_line(const LimiterKey *key, const LimiterRate *rate, double wait, TimestampTz now)
{
	TokenBucketSet *set = set_of(key);
	TimestampTz place = conduit_time_add(now, wait);
	TimestampTz end = conduit_time_add(now, Max(wait, LONGEST_LINE));
	TokenBucket *bucket;

	if (rate->capacity <= 0)
		return wait;
	SpinLockAcquire(&set->mutex);
	bucket = get_bucket(set, key, now);
	if (!TIMESTAMP_IS_NOBEGIN(bucket->line_until))
		place = Max(place, conduit_time_add(bucket->line_until, 1 / rate->per_second));
	place = Min(place, end);
	bucket->line_until = place;
	SpinLockRelease(&set->mutex);
	return conduit_seconds_between(now, place);
}
