/*-------------------------------------------------------------------------
 *
 * schedule.c
 *	  When a token is due, and when to try again.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/schedule.h"

#include "common/hashfn.h"
#include "common/pg_prng.h"

#include "base/clock.h"
#include "base/settings.h"

/* A provider that hands out tokens of a few seconds must not keep us busy. */
#define LEAST_SECONDS_AFTER_SETTLE 30

/* Of tokens that the next refresh kills, whoever holds them, most of the life is used. */
#define LEAD_OF_KILLED_TOKEN 60

#define FIRST_RETRY 30
#define LAST_RETRY (15 * 60)

/* Our own configuration does not mend itself in seconds. */
#define CONFIG_RETRY (5 * 60)

/* A refusal that is doubted (storm.c) is looked at again in so long and up to half as much more. */
#define DOUBT_RETRY (10 * 60)

/* Part of the lead over which refreshes that would fall together are spread. */
#define JITTER_PART 0.1

static double
lead_of(const ConduitConnector *connector, double lifetime)
{
	double		lead = conduit_refresh_lead;

	if (connector->refresh_lead_s >= 0)
		lead = connector->refresh_lead_s;
	else if (connector->refresh_kills_access_token)
		lead = Min(lead, LEAD_OF_KILLED_TOKEN);
	return lifetime > 0 ? Min(lead, lifetime / 2) : lead;
}

/* The same for the same credential: computed again, it is no other time. */
static double
jitter_of(const pg_uuid_t *connection, int64 generation)
{
	uint64		hash = hash_bytes_extended(connection->data, UUID_LEN, (uint64) generation);

	return (hash % 10000) / 10000.0;
}

TimestampTz
conduit_schedule_due(const ConduitConnector *connector, const pg_uuid_t *connection, int64 generation,
					 TimestampTz now, TimestampTz expires_at, double lifetime, bool settled)
{
	double		lead;
	TimestampTz due;

	if (TIMESTAMP_IS_NOEND(expires_at))
		return DT_NOEND;
	lead = lead_of(connector, lifetime);
	due = conduit_time_add(expires_at, -lead * (1 + JITTER_PART * jitter_of(connection, generation)));
	if (lifetime > 0)
		due = Max(due, conduit_time_add(expires_at, -lifetime / 2));
	if (settled)
		due = Max(due, conduit_time_add(now, LEAST_SECONDS_AFTER_SETTLE));
	return due;
}

TimestampTz
conduit_schedule_refresh(const pg_uuid_t *connection, int64 generation, TimestampTz due_at,
						 TimestampTz refreshed_at, TimestampTz refresh_expires_at)
{
	TimestampTz keep_alive = conduit_schedule_keep_alive(connection, generation, refreshed_at, refresh_expires_at);

	/* What is dead already by its own account is not refreshed sooner for that. */
	if (refresh_expires_at <= refreshed_at)
		return due_at;
	return Min(due_at, Max(keep_alive, conduit_time_add(refreshed_at, LEAST_SECONDS_AFTER_SETTLE)));
}

TimestampTz
conduit_schedule_retry(const ConduitConnector *connector, OutcomeClass outcome, int attempts, bool in_doubt,
					   double retry_after, TimestampTz now)
{
	double		delay = outcome == OUTCOME_CONFIG ? CONFIG_RETRY : FIRST_RETRY;

	if (outcome == OUTCOME_DEAD)
		return conduit_time_add(now, DOUBT_RETRY * (1 + 0.5 * pg_prng_double(&pg_global_prng_state)));

	for (int i = 1; i < attempts && delay < LAST_RETRY; i++)
		delay *= 2;
	delay = Min(delay, LAST_RETRY);
	delay *= 0.8 + 0.4 * pg_prng_double(&pg_global_prng_state);

	/* While the provider still takes a token that it has consumed, the answer that got lost is had again. */
	if (outcome == OUTCOME_UNKNOWN && !in_doubt && connector->reuse_window_s > 0)
		delay = Min(delay, connector->reuse_window_s / 2.0);

	/* The provider knows best; what is added keeps its callers apart. */
	if (retry_after >= 0 && (outcome == OUTCOME_THROTTLED || retry_after > delay))
		delay = retry_after * (1 + JITTER_PART * pg_prng_double(&pg_global_prng_state));
	return conduit_time_add(now, delay);
}

TimestampTz
conduit_schedule_keep_alive(const pg_uuid_t *connection, int64 generation,
							TimestampTz refreshed_at, TimestampTz refresh_expires_at)
{
	double		left;

	if (TIMESTAMP_IS_NOEND(refresh_expires_at))
		return DT_NOEND;
	left = conduit_seconds_between(refreshed_at, refresh_expires_at);
	return conduit_time_add(refresh_expires_at,
							-Max(left, 0) / 4 * (1 + JITTER_PART * jitter_of(connection, generation)));
}

TimestampTz
conduit_schedule_spread(TimestampTz due_at, TimestampTz half_life, TimestampTz usable_until,
						TimestampTz refresh_expires_at, double spread, TimestampTz now)
{
	TimestampTz from = now;
	TimestampTz to;

	if (TIMESTAMP_IS_NOEND(due_at) || spread <= 0)
		return due_at;
	if (due_at > now)
	{
		from = Max(Max(now, half_life), conduit_time_add(due_at, -spread));
		to = due_at;
	}
	else if (usable_until > now)
		return due_at;
	else
	{
		to = conduit_time_add(now, spread);
		if (!TIMESTAMP_IS_NOEND(refresh_expires_at))
			to = Min(to, conduit_time_add(now, conduit_seconds_between(now, refresh_expires_at) / 2));
	}
	if (from >= to)
		return to;
	return conduit_time_add(from, conduit_seconds_between(from, to) * pg_prng_double(&pg_global_prng_state));
}
