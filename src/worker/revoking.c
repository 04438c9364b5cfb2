/*-------------------------------------------------------------------------
 *
 * revoking.c
 *	  The worker takes up queued revocations.
 *
 *-------------------------------------------------------------------------
 */
#include "worker/revoking.h"

#include "utils/timestamp.h"

#include "base/clock.h"
#include "lifecycle/adoption.h"
#include "lifecycle/revocation.h"
#include "lifecycle/store.h"
#include "worker/errands.h"
#include "worker/round.h"

/* Of one connector at a time: one that hangs leaves places to others. */
#define OF_EACH 4

/* Milliseconds. */
#define RETRY_LOOK 30000
#define LONGEST 60000

TimestampTz
conduit_revoking_next(void)
{
	if (conduit_round.pause != PAUSE_NONE || conduit_errands_room(&conduit_revocation_errand) == 0)
		return DT_NOEND;
	return conduit_round.queues_at;
}

/* Conduit's clock may be another one than that by which the worker sleeps. */
static TimestampTz
real_time_of(TimestampTz at, TimestampTz now)
{
	double		left = TIMESTAMP_IS_NOEND(at) ? LONGEST / 1000.0 : conduit_seconds_between(now, at);

	return conduit_real_time_in((int) (Max(0, Min(left, LONGEST / 1000.0)) * 1000) + 1);
}

void
conduit_revoking_look(void)
{
	TimestampTz now = conduit_now();
	int			room = conduit_errands_room(&conduit_revocation_errand);
	RevocationDue *rows;
	StoreScope	scope;
	TimestampTz next;
	bool		adopted;
	int			n = 0;
	int			added = 0;

	conduit_round.queues_at = conduit_real_time_in(RETRY_LOOK); /* should this fail */
	conduit_round_begin();
	conduit_store_begin(&scope);
	adopted = conduit_adoption_settled();
	if (adopted)
		n = conduit_revocation_due(now, OF_EACH, room, conduit_round_context, &rows);
	next = conduit_revocation_next(now);
	conduit_store_end(&scope);
	conduit_round_commit();

	/* A restore fills the tables after the worker has looked. */
	conduit_round.check |= !adopted;
	for (int i = 0; i < n; i++)
	{
		if (conduit_errands_of_connector(&conduit_revocation_errand, rows[i].connector) >= OF_EACH ||
			conduit_errands_find(&conduit_revocation_errand, conduit_revocation_errand_is, &rows[i].id) != NULL)
			continue;
		conduit_errands_add(conduit_revocation_errand_make(&rows[i].id, rows[i].connector), NULL);
		added++;
	}
	if (adopted)
		conduit_round.queues_at = added > 0 ? 0 : real_time_of(next, now);
}
