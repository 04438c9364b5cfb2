/*-------------------------------------------------------------------------
 *
 * throttle.c
 *	  Refreshes and the rate limit of the token endpoint.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/throttle.h"

#include "base/clock.h"
#include "lifecycle/rate.h"

bool
conduit_throttle_admit(RefreshFlight *flight, bool unasked)
{
	LimiterRate rate = conduit_rate_of(&flight->connector->token_limit);
	TimestampTz now = conduit_now();
	LimiterAnswer answer;
	double		wait;

	flight->bucket = conduit_rate_token_key(flight->client ? flight->client->tenant : flight->place.tenant,
											flight->place.connector,
											flight->client ? flight->client->client_id : flight->own_client,
											&flight->place.connection);
	answer = conduit_limiter_take(&flight->bucket, &rate, 1, now);
	flight->limiter_probe = answer.probe;
	if (answer.allowed)
		return true;

	/* Who is waited for goes first; all others would come for the same token. */
	wait = unasked ? conduit_limiter_line(&flight->bucket, &rate, answer.retry_after, now) :
		answer.retry_after;
	conduit_refresh_put_off(flight, OUTCOME_THROTTLED, "rate_limited", wait);
	return false;
}

void
conduit_throttle_repeat(const RefreshFlight *flight)
{
	LimiterRate rate = conduit_rate_of(&flight->connector->token_limit);

	conduit_limiter_charge(&flight->bucket, &rate, conduit_now());
}

/*
 * Whether the provider has looked at what it was asked, whatever it said of it.
 * An outage tells nothing about a pause, nor does what could not be sent.
 */
static bool
was_heard(const TokenOutcome *outcome)
{
	return outcome->outcome == OUTCOME_REFRESHED || outcome->outcome == OUTCOME_DEAD ||
		(outcome->outcome == OUTCOME_CONFIG && outcome->status != 0);
}

void
conduit_throttle_note(const RefreshFlight *flight)
{
	if (flight->outcome.outcome == OUTCOME_THROTTLED && flight->outcome.retry_after >= 0)
		conduit_limiter_block(&flight->bucket, flight->outcome.retry_after, true, conduit_now());
	else if (flight->limiter_probe && was_heard(&flight->outcome))
		conduit_limiter_unblock(&flight->bucket);
}
