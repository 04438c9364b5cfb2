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
#include "shared/mailbox.h"
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

/* A request that waits, with its mailbox if it has one. */
typedef struct Wait
{
	FlightRequest request;
	WaitMail   *mail;			/* NULL: none */
	Mailbox    *mailbox;
} Wait;

static void
close_mailbox(Wait *wait)
{
	if (wait->mailbox != NULL)
		conduit_mailbox_close(wait->mailbox);
	wait->mailbox = NULL;
}

/* Post the request, with a mailbox of its own; false if there is none to be had. */
static bool
post(Wait *wait)
{
	if (wait->mail != NULL)
	{
		close_mailbox(wait);
		wait->mailbox = conduit_mailbox_open();
		if (wait->mailbox == NULL)
			return false;
		wait->request.mail = conduit_mailbox_handle(wait->mailbox);
		(void) conduit_mailbox_send(wait->mailbox, wait->mail->message, wait->mail->length);
	}
	conduit_flight_post(&wait->request);
	return true;
}

/* The worker has answered; ANSWER_NONE while its message is under way. */
static RequestAnswer
take_reply(Wait *wait, RequestAnswer answer)
{
	const void *reply;

	if (answer != ANSWER_DONE || wait->mail == NULL || !wait->mail->wants_reply)
		return answer;
	switch (conduit_mailbox_receive(wait->mailbox, &reply, &wait->mail->reply_length))
	{
		case MAIL_PENDING:
			return ANSWER_NONE;
		case MAIL_GONE:
			return ANSWER_FAILED;
		case MAIL_DONE:
			break;
	}
	wait->mail->reply = palloc(wait->mail->reply_length + 1);
	memcpy(wait->mail->reply, reply, wait->mail->reply_length);
	return answer;
}

static RequestAnswer
wait_for_answer(Wait *wait, TimestampTz until, int *count)
{
	static uint32 wait_event = 0;

	if (!post(wait))
		return ANSWER_FAILED;
	for (;;)
	{
		RequestAnswer answer;
		long		left;

		CHECK_FOR_INTERRUPTS();
		if (wait->mail != NULL)
			(void) conduit_mailbox_send(wait->mailbox, wait->mail->message, wait->mail->length);
		answer = take_reply(wait, conduit_flight_answer(count));
		if (answer != ANSWER_NONE && answer != ANSWER_GONE)
			return answer;
		if (!conduit_worker_possible())
			return ANSWER_GONE;

		/* A worker that left, to be drained for example, has a successor. */
		if (answer == ANSWER_GONE && !post(wait))
			return ANSWER_FAILED;

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
conduit_wait_with_mail(const FlightRequest *request, WaitMail *mail, int timeout_ms, int *count)
{
	volatile RequestAnswer answer = ANSWER_GONE;
	Wait	   *wait = palloc0(sizeof(Wait));
	int			refreshed = 0;

	wait->request = *request;
	wait->mail = mail;

	if (conduit_worker_possible())
	{
		PG_TRY();
		{
			answer = wait_for_answer(wait, wait_until(timeout_ms), &refreshed);
		}
		PG_FINALLY();
		{
			conduit_flight_give_up();
			close_mailbox(wait);
		}
		PG_END_TRY();
	}
	if (count != NULL)
		*count = refreshed;
	return answer;
}

RequestAnswer
conduit_wait_for_worker(const FlightRequest *request, int timeout_ms, int *count)
{
	return conduit_wait_with_mail(request, NULL, timeout_ms, count);
}
