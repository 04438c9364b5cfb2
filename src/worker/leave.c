/*-------------------------------------------------------------------------
 *
 * leave.c
 *	  How a worker leaves: it claims nothing more and settles what it can.
 *
 *-------------------------------------------------------------------------
 */

#include "worker/round.h"

#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/timestamp.h"

#include "base/settings.h"
#include "lifecycle/store.h"
#include "provider/exchange.h"
#include "provider/http.h"
#include "worker/api_calls.h"
#include "worker/errands.h"
#include "worker/mail.h"
#include "worker/queue.h"

/* End flights whose request has not left: a successor begins with them. */
void
conduit_withdraw(List *flights)
{
	ListCell   *cell;
	StoreScope	scope;

	conduit_round_begin();
	conduit_store_begin(&scope);
	foreach(cell, flights)
		conduit_refresh_withdraw(lfirst(cell));
	conduit_store_end(&scope);
	conduit_round_commit();
	foreach(cell, flights)
	{
		RefreshFlight *flight = lfirst(cell);

		conduit_queue_finish(flight->owner, ANSWER_GONE, false);
		conduit_refresh_free(flight);
	}
}

/* Flights whose request has not left yet hold a claim for nothing. */
static void
withdraw_unsent(void)
{
	List	   *unsent = NIL;
	ListCell   *cell;

	foreach(cell, conduit_queue_flights())
	{
		RefreshFlight *flight = lfirst(cell);

		if (flight->exchange != NULL && !conduit_exchange_sent(flight->exchange))
			unsent = lappend(unsent, flight);
	}
	conduit_withdraw(unsent);
}

/*
 * Give requests that are out the grace to be answered; what has not been by
 * then stays claimed, and so is in doubt for the next worker.
 */
void
conduit_drain(void)
{
	TimestampTz until = conduit_real_time_in(conduit_shutdown_grace);

	pgstat_report_activity(STATE_RUNNING, "leaving");
	conduit_round.settle_at = 0;
	conduit_guarded(withdraw_unsent, "leaving");
	conduit_guarded(conduit_errands_withdraw, "leaving");
	conduit_api_calls_withdraw();
	conduit_queue_finish_waiting(ANSWER_GONE);
	for (;;)
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);
		long		deadline = conduit_http_deadline();

		CHECK_FOR_INTERRUPTS();
		if ((conduit_http_in_flight() == 0 && conduit_round.unsettled == NIL && !conduit_errands_unsettled() &&
			 !conduit_mail_leaving()) ||
			left <= 0 || conduit_roster_told_to_leave() == ROSTER_LEAVE_NOW)
			break;
		if (deadline >= 0)
			left = Min(left, deadline);
		left = Min(left, TimestampDifferenceMilliseconds(GetCurrentTimestamp(), conduit_errands_next()));
		conduit_round_wait(left);
		ResetLatch(MyLatch);	/* before what may have set it is looked at */
		conduit_guarded(conduit_take_answers, "settling");
		conduit_guarded(conduit_mail_pump, "sending replies");
	}
	conduit_api_calls_end();
	if (conduit_round.tell)
		conduit_guarded(conduit_tell, "numbering events");
}

bool
conduit_should_leave(void)
{
	RosterLeave leave = conduit_roster_told_to_leave();

	if (leave == ROSTER_LEAVE_NOW)
	{
		conduit_guarded(conduit_take_answers, "leaving");
		proc_exit(0);
	}
	return ShutdownRequestPending || leave == ROSTER_DRAIN ||
		(conduit_round.restart && conduit_queue_flying() == 0 && conduit_errands_under_way() == 0 &&
		 conduit_api_calls_under_way() == 0);
}
