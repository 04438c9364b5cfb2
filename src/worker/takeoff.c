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

/*
 * Due tasks of one connector in memory, at most; and never more than half as
 * many as there is room for, so that the lanes of providers that do not answer
 * leave some to those that come after them.
 */
#define MAX_QUEUED_OF_LANE 2000
#define MAX_PART_OF_ROOM 2
#define SCAN_BATCH 1000

/* Milliseconds. */
#define LEAST_BETWEEN_SCANS 50
#define RETRY_SCAN 1000
#define RETRY_CLAIM 30000
#define SETTLE_APART 60000
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

static int
room(void)
{
	return CONDUIT_MAX_QUEUED - conduit_queue_waiting_unasked();
}

static int
most_of_lane(void)
{
	return Min(MAX_QUEUED_OF_LANE, Max(1, room() / MAX_PART_OF_ROOM));
}

/* Where due ones begin of lanes that were passed over and are half empty again. */
static TimestampTz
room_again_from(bool take)
{
	return conduit_queue_room_again(Max(1, most_of_lane() / 2), take);
}

void
conduit_scan_due(void)
{
	TimestampTz now = conduit_now();
	int			max = Min(SCAN_BATCH, most_of_lane());
	List	   *passed_over;
	DueRow	   *rows;
	int			n;

	conduit_round.scan_at = conduit_real_time_in(RETRY_SCAN);	/* if this one fails */
	conduit_scan_from(room_again_from(true));
	conduit_scan_from(now);				/* a clock that was set back */
	passed_over = conduit_queue_pass_over(most_of_lane(), conduit_round.scanned_to.refresh_at);

	conduit_round_begin();
	n = conduit_due_scan(&conduit_round.scanned_to, now, passed_over, max, &rows);
	for (int i = 0; i < n; i++)
		(void) conduit_queue_add(&rows[i].connection, rows[i].connector, -1, false, false, true);
	memset(&conduit_round.scanned_to, 0, sizeof(conduit_round.scanned_to));
	if (n == max)
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
		conduit_queue_forget_passed_over();
		conduit_round.next_due = DT_NOBEGIN;
		conduit_round.full_scan_at = conduit_real_time_in(FULL_SCAN_EVERY);
		conduit_round.report.last_full_scan = real_now;
	}

	if (!TIMESTAMP_IS_NOEND(room_again_from(false)))
		conduit_round.next_due = DT_NOBEGIN;
	return conduit_round.scan_at <= real_now && room() > 0 &&
		conduit_round.next_due <= conduit_now();
}

typedef struct ClaimedTask
{
	Task	   *task;
	RequestAnswer answer;
	RefreshFlight *flight;
} ClaimedTask;

static RefreshClaim
claim_of(const Task *task)
{
	RefreshClaim claim = {.connection = task->connection,.generation = task->generation,
	.forced = task->forced,.unasked = task->unasked};

	return claim;
}

/* Who asked has been overtaken, and what overtook may be due by now. */
static void
claim_overtaken(ClaimedTask *claimed, int n)
{
	RefreshClaim claims[CONDUIT_ROUND_BATCH];
	ClaimedTask *overtaken[CONDUIT_ROUND_BATCH];
	int			count = 0;

	for (int i = 0; i < n; i++)
	{
		if (claimed[i].answer != ANSWER_NEWER || !claimed[i].task->due)
			continue;
		claims[count] = claim_of(claimed[i].task);
		claims[count].generation = -1;
		claims[count].forced = false;
		claims[count].unasked = true;
		overtaken[count++] = &claimed[i];
	}
	if (count == 0)
		return;
	conduit_refresh_claim(claims, count);
	for (int i = 0; i < count; i++)
	{
		if (claims[i].flight == NULL)
			continue;
		overtaken[i]->answer = ANSWER_NONE;
		overtaken[i]->flight = claims[i].flight;
	}
}

static void
claim(ClaimedTask *claimed, int n)
{
	RefreshClaim claims[CONDUIT_ROUND_BATCH];

	for (int i = 0; i < n; i++)
		claims[i] = claim_of(claimed[i].task);
	conduit_refresh_claim(claims, n);
	for (int i = 0; i < n; i++)
	{
		claimed[i].answer = claims[i].answer;
		claimed[i].flight = claims[i].flight;
	}
	claim_overtaken(claimed, n);
}

/* Claim n tasks, and settle flights that make room for them (NULL: none), in one transaction. */
static void
claim_together(ClaimedTask *claimed, int n, Settlement *settlement)
{
	StoreScope	scope;

	conduit_round_begin();
	if (settlement != NULL)
		conduit_settlement_begin(settlement);
	conduit_store_begin(&scope);
	if (settlement != NULL)
		conduit_settlement_write(settlement);

	/* Here, too: a restore fills the tables after the worker has looked. */
	if (conduit_adoption_settled())
		claim(claimed, n);
	else
	{
		conduit_round.check = true;
		for (int i = 0; i < n; i++)
			claimed[i].answer = ANSWER_PAUSED;
	}
	conduit_store_end(&scope);
	conduit_round_commit();
}

static bool
try_claim(ClaimedTask *claimed, int n, Settlement *settlement)
{
	volatile bool done = false;

	PG_TRY();
	{
		claim_together(claimed, n, settlement);
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

/*
 * The claims' commit was cut short: a synchronous standby may not have them, and
 * if it is promoted, it sends the same refresh tokens.  So nothing is sent here.
 */
static void
take_back(ClaimedTask *claimed, int n)
{
	List	   *flights = NIL;

	for (int i = 0; i < n; i++)
	{
		RefreshFlight *flight = claimed[i].flight;

		if (flight == NULL)
		{
			conduit_queue_finish(claimed[i].task, claimed[i].answer, false);
			continue;
		}
		flight->owner = claimed[i].task;
		claimed[i].task->flight = flight;
		if (ShutdownRequestPending)
			flights = lappend(flights, flight);
		else
		{
			conduit_refresh_give_up(flight);
			conduit_add_unsettled(flight);
		}
	}
	if (flights != NIL)
		conduit_withdraw(flights);
}

static void
send_or_take_back(ClaimedTask *claimed, int n)
{
	if (conduit_round_waited())
		for (int i = 0; i < n; i++)
			send_claimed(&claimed[i]);
	else
		take_back(claimed, n);
}

static bool
may_claim(void)
{
	return !conduit_round.settle_failed && !conduit_round.restart && !ShutdownRequestPending &&
		conduit_roster_told_to_leave() == ROSTER_STAY;
}

static void
fail_claim(ClaimedTask *claimed)
{
	conduit_queue_finish(claimed->task, ANSWER_FAILED, false);
	conduit_round.full_scan_at = Min(conduit_round.full_scan_at, conduit_real_time_in(RETRY_CLAIM));
}

/*
 * One task that cannot be claimed with others must not keep them.  What kept
 * them may be that the worker was told to leave.
 */
static void
claim_alone(ClaimedTask *claimed)
{
	if (!conduit_round.settle_failed && !may_claim())
		conduit_queue_finish(claimed->task, ANSWER_GONE, false);
	else if (!conduit_round.settle_failed && try_claim(claimed, 1, NULL))
		send_or_take_back(claimed, 1);
	else
		fail_claim(claimed);
}

/*
 * What keeps claims from being written must not keep what was answered from
 * being settled, for longer than it takes to see it: a claim reads tables that
 * a settle does not touch.
 */
static void
settle_apart(void)
{
	conduit_round.apart_until = conduit_real_time_in(SETTLE_APART);
	conduit_settle_answers();
}

/* One batch; false if there is nobody to claim. */
static bool
claim_next(void)
{
	ClaimedTask claimed[CONDUIT_ROUND_BATCH] = {{0}};
	Settlement	settlement;
	int			kept;
	int			n = 0;

	if (conduit_round.apart_until > GetCurrentTimestamp())
	{
		conduit_settle_answers();
		if (!may_claim())
			return false;
	}
	settlement.n = conduit_settlement_size();
	kept = list_length(conduit_round.unsettled) - settlement.n;
	while (n < CONDUIT_ROUND_BATCH && (claimed[n].task = conduit_queue_next(conduit_max_in_flight, kept)) != NULL)
		n++;
	if (n == 0)
		return false;
	if (try_claim(claimed, n, settlement.n > 0 ? &settlement : NULL))
	{
		send_or_take_back(claimed, n);
		conduit_settlement_end(&settlement);
		return true;
	}
	if (settlement.n > 0)
		settle_apart();
	for (int i = 0; i < n; i++)
		claim_alone(&claimed[i]);
	return true;
}

void
conduit_claim_and_send(void)
{
	while (may_claim() && claim_next())
	{
		conduit_receive_answers();
		conduit_take_requests();
	}
}
