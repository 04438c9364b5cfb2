/*-------------------------------------------------------------------------
 *
 * throttle.c
 *	  Refreshes and the rate limit of the token endpoint.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/throttle.h"

#include "catalog/pg_type.h"

#include "base/clock.h"
#include "lifecycle/commit.h"
#include "lifecycle/rate.h"
#include "lifecycle/schedule.h"
#include "lifecycle/store.h"
#include "shared/roster.h"

/*
 * Like a provider's own "not now", but that nothing was sent and no attempt is
 * counted.  A row that somebody holds is left as it is: the next full scan
 * meets it again.
 */
static void
put_off(const RefreshFlight *flight, double wait, TimestampTz now)
{
	static StoreQuery update = {
		"UPDATE conduit.credential SET refresh_at = CASE WHEN " CONDUIT_NEVER_MINTED " THEN NULL ELSE $2 END,"
		" next_attempt_at = $2, last_error = $3,"
		" last_error_code = 'rate_limited', last_error_at = $4 WHERE connection_id = ("
		" SELECT connection_id FROM conduit.credential WHERE connection_id = $1 AND generation = $5"
		" FOR NO KEY UPDATE SKIP LOCKED)",
		5, {UUIDOID, TIMESTAMPTZOID, TEXTOID, TIMESTAMPTZOID, INT8OID}
	};
	TimestampTz next = conduit_schedule_retry(flight->connector, OUTCOME_THROTTLED, 1, false, wait, now);
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, &flight->place.connection);
	conduit_arg_time(&args, next);
	conduit_arg_text(&args, conduit_outcome_name(OUTCOME_THROTTLED));
	conduit_arg_time(&args, now);
	conduit_arg(&args, Int64GetDatum(flight->generation));
	conduit_store_run(&update, &args);
	conduit_at_commit(NUDGE_DUE, next);
}

bool
conduit_throttle_admit(RefreshFlight *flight, bool unasked)
{
	LimiterRate rate = conduit_rate_of(&flight->connector->token_limit);
	TimestampTz now = conduit_now();
	LimiterAnswer answer;
	double		wait;

	flight->bucket = conduit_rate_token_key(flight->place.connector,
											flight->client ? flight->client->client_id : NULL,
											&flight->place.connection);
	answer = conduit_limiter_take(&flight->bucket, &rate, 1, now);
	flight->limiter_probe = answer.probe;
	if (answer.allowed)
		return true;

	/* Who is waited for goes first; all others would come for the same token. */
	wait = unasked ? conduit_limiter_line(&flight->bucket, &rate, answer.retry_after, now) :
		answer.retry_after;
	put_off(flight, wait, now);
	return false;
}

void
conduit_throttle_repeat(const RefreshFlight *flight)
{
	LimiterRate rate = conduit_rate_of(&flight->connector->token_limit);

	conduit_limiter_charge(&flight->bucket, &rate, conduit_now());
}

void
conduit_throttle_note(const RefreshFlight *flight)
{
	if (flight->outcome.outcome == OUTCOME_THROTTLED && flight->outcome.retry_after >= 0)
		conduit_limiter_block(&flight->bucket, flight->outcome.retry_after, true, conduit_now());
	else if (flight->outcome.outcome == OUTCOME_REFRESHED && flight->limiter_probe)
		conduit_limiter_unblock(&flight->bucket);
}
