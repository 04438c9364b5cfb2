/*-------------------------------------------------------------------------
 *
 * wait.c
 *	  A backend asks the worker for something and waits.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/wait.h"

#include "access/xlog.h"
#include "storage/latch.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "shared/area.h"
#include "shared/roster.h"

/* What statement_timeout must leave for an answer of our own, in milliseconds. */
#define STATEMENT_TIMEOUT_MARGIN 50

/* How long to sleep at most before looking whether a worker can still come. */
#define MAX_SLEEP 1000

bool
conduit_worker_possible(void)
{
	return conduit_area_attached() && !RecoveryInProgress() &&
		conduit_roster_launcher_running() && !conduit_roster_no_slot(MyDatabaseId);
}

static TimestampTz
wait_until(int timeout_ms)
{
	TimestampTz until = timeout_ms < 0 ? DT_NOEND :
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);

	if (get_timeout_active(STATEMENT_TIMEOUT))
		until = Min(until, TimestampTzPlusMilliseconds(get_timeout_finish_time(STATEMENT_TIMEOUT),
													   -STATEMENT_TIMEOUT_MARGIN));
	return until;
}

static RequestAnswer
wait_for_answer(const FlightRequest *request, TimestampTz until, int *count)
{
	static uint32 wait_event = 0;

	conduit_flight_post(request);
	for (;;)
	{
		RequestAnswer answer;
		long		left;

		CHECK_FOR_INTERRUPTS();
		answer = conduit_flight_answer(count);
		if (answer != ANSWER_NONE && answer != ANSWER_GONE)
			return answer;
		if (!conduit_worker_possible())
			return ANSWER_GONE;

		/* A worker that left, to be drained for example, has a successor. */
		if (answer == ANSWER_GONE)
			conduit_flight_post(request);

		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);
		if (left <= 0)
			return ANSWER_NONE;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(left, MAX_SLEEP),
						 conduit_wait_event(&wait_event, "ConduitWaitForWorker"));
		ResetLatch(MyLatch);
	}
}

RequestAnswer
conduit_wait_for_worker(const FlightRequest *request, int timeout_ms, int *count)
{
	volatile RequestAnswer answer = ANSWER_GONE;
	int			refreshed = 0;

	if (conduit_worker_possible())
	{
		PG_TRY();
		{
			answer = wait_for_answer(request, wait_until(timeout_ms), &refreshed);
		}
		PG_FINALLY();
		{
			conduit_flight_give_up();
		}
		PG_END_TRY();
	}
	if (count != NULL)
		*count = refreshed;
	return answer;
}
