/*-------------------------------------------------------------------------
 *
 * takeoff.c
 *	  What leads up to a request: look for what is due, claim it, send it.
 *
 *-------------------------------------------------------------------------
 */
#include "worker/round.h"

#include "postmaster/interrupt.h"
#include "utils/timestamp.h"

#include "base/clock.h"
#include "base/settings.h"
#include "lifecycle/adoption.h"
#include "lifecycle/store.h"
#include "worker/queue.h"

/* Due tasks of one connector in memory, at most. */
#define MAX_QUEUED_OF_LANE 2000
#define SCAN_BATCH 1000

/* Milliseconds. */
#define LEAST_BETWEEN_SCANS 50
#define RETRY_CLAIM 30000
#define FULL_SCAN_EVERY 600000

/* Look again from a time on. */
void
conduit_scan_from(TimestampTz from)
{
	if (from > conduit_round.scanned_to.refresh_at)
		return;
	memset(&conduit_round.scanned_to, 0, sizeof(conduit_round.scanned_to));
	conduit_round.scanned_to.refresh_at = from;
}

void
conduit_scan_due(void)
{
	TimestampTz now = conduit_now();
	List	   *full = conduit_queue_full_lanes(MAX_QUEUED_OF_LANE);
	DueRow	   *rows;
	int			n;

	/* Lanes with room again: go back to where they were skipped. */
	if (full == NIL && !TIMESTAMP_IS_NOEND(conduit_round.skipped_from))
	{
		conduit_scan_from(conduit_round.skipped_from);
		conduit_round.skipped_from = DT_NOEND;
	}
	if (full != NIL)
		conduit_round.skipped_from = Min(conduit_round.skipped_from, conduit_round.scanned_to.refresh_at);
	conduit_scan_from(now);				/* a clock that was set back */

	conduit_round_begin();
	n = conduit_due_scan(&conduit_round.scanned_to, now, full, SCAN_BATCH, &rows);
	for (int i = 0; i < n; i++)
		(void) conduit_queue_add(&rows[i].connection, rows[i].connector, -1, false, false, true);
	memset(&conduit_round.scanned_to, 0, sizeof(conduit_round.scanned_to));
	if (n == SCAN_BATCH)
	{
		conduit_round.scanned_to.refresh_at = rows[n - 1].refresh_at;
		conduit_round.scanned_to.connection = rows[n - 1].connection;
		conduit_round.next_due = now;
	}
	else
	{
		conduit_round.scanned_to.refresh_at = now;
		conduit_round.next_due = conduit_due_next(now);
	}
	conduit_round_commit();
	conduit_round.scan_at = conduit_real_time_in(LEAST_BETWEEN_SCANS);
}

bool
conduit_scan_wanted(TimestampTz real_now)
{
	if (conduit_round.pause != PAUSE_NONE || conduit_round.settle_failed)
		return false;
	if (conduit_round.full_scan_at <= real_now)
	{
		conduit_scan_from(DT_NOBEGIN);
		conduit_round.skipped_from = DT_NOEND;
		conduit_round.next_due = DT_NOBEGIN;
		conduit_round.full_scan_at = conduit_real_time_in(FULL_SCAN_EVERY);
		conduit_round.report.last_full_scan = real_now;
	}

	/* A lane that was skipped has room again. */
	if (!TIMESTAMP_IS_NOEND(conduit_round.skipped_from) && conduit_queue_full_lanes(MAX_QUEUED_OF_LANE / 2) == NIL)
		conduit_round.next_due = DT_NOBEGIN;
	return conduit_round.scan_at <= real_now && conduit_queue_waiting_unasked() < CONDUIT_MAX_QUEUED &&
		conduit_round.next_due <= conduit_now();
}

typedef struct ClaimedTask
{
	Task	   *task;
	RequestAnswer answer;
	RefreshFlight *flight;
} ClaimedTask;

static void
claim_together(ClaimedTask *claimed, int n)
{
	StoreScope	scope;
	bool		adopted;

	conduit_round_begin();
	conduit_store_begin(&scope);

	/* Here, too: a restore fills the tables after the worker has looked. */
	adopted = conduit_adoption_settled();
	conduit_round.check |= !adopted;
	for (int i = 0; i < n; i++)
	{
		Task	   *task = claimed[i].task;

		claimed[i].answer = !adopted ? ANSWER_PAUSED : conduit_refresh_claim(&task->connection, task->generation, task->forced,
												  task->unasked, &claimed[i].flight);
	}
	conduit_store_end(&scope);
	conduit_round_commit();
}

static bool
try_claim(ClaimedTask *claimed, int n)
{
	volatile bool done = false;

	PG_TRY();
	{
		claim_together(claimed, n);
		done = true;
	}
	PG_CATCH();
	{
		conduit_round_recover("claiming");
		for (int i = 0; i < n; i++)
		{
			if (claimed[i].flight != NULL)
				conduit_refresh_free(claimed[i].flight);
			claimed[i].flight = NULL;
		}
	}
	PG_END_TRY();
	return done;
}

static void
send_claimed(ClaimedTask *claimed)
{
	RefreshFlight *flight = claimed->flight;

	if (flight == NULL)
	{
		conduit_queue_finish(claimed->task, claimed->answer, false);
		return;
	}
	flight->owner = claimed->task;
	claimed->task->flight = flight;
	if (!conduit_try_flight(conduit_refresh_send, flight, "sending"))
		conduit_add_unsettled(flight);
}

/* One task that cannot be claimed with others must not keep them. */
static void
claim_alone(ClaimedTask *claimed)
{
	if (try_claim(claimed, 1))
		send_claimed(claimed);
	else
	{
		conduit_queue_finish(claimed->task, ANSWER_FAILED, false);
		conduit_round.full_scan_at = Min(conduit_round.full_scan_at, conduit_real_time_in(RETRY_CLAIM));
	}
}

void
conduit_claim_and_send(void)
{
	while (!conduit_round.settle_failed && !conduit_round.restart && !ShutdownRequestPending &&
		   conduit_roster_told_to_leave() == ROSTER_STAY)
	{
		ClaimedTask claimed[CONDUIT_ROUND_BATCH] = {{0}};
		int			n = 0;

		while (n < CONDUIT_ROUND_BATCH && (claimed[n].task = conduit_queue_next(conduit_max_in_flight)) != NULL)
			n++;
		if (n == 0)
			return;
		if (try_claim(claimed, n))
			for (int i = 0; i < n; i++)
				send_claimed(&claimed[i]);
		else
			for (int i = 0; i < n; i++)
				claim_alone(&claimed[i]);
		conduit_take_answers();
		conduit_take_requests();
	}
}
