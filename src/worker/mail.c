/*-------------------------------------------------------------------------
 *
 * mail.c
 *	  Mail under way between waiting backends and the worker.
 *
 *-------------------------------------------------------------------------
 */
#include "worker/mail.h"

#include "nodes/pg_list.h"
#include "utils/memutils.h"

#include "shared/mailbox.h"

static List *arriving = NIL;	/* Mail *: not whole yet */
static List *arrived = NIL;
static List *taken = NIL;		/* handed out, and not answered yet */
static List *leaving = NIL;		/* replies */

static List *
add(List *mails, Mail *mail)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	mails = lappend(mails, mail);
	MemoryContextSwitchTo(old);
	return mails;
}

static void
free_mail(Mail *mail)
{
	taken = list_delete_ptr(taken, mail);
	if (mail->mailbox != NULL)
		conduit_mailbox_close(mail->mailbox);
	if (mail->reply != NULL)
		pfree(mail->reply);
	pfree(mail);
}

/*
 * A backend that asks again has left its former request.  Whoever has that
 * answers it in time; its mailbox goes now, for a server has few: who asks and
 * leaves, again and again, must not use them up.
 */
static void
forget_former(int procno)
{
	ListCell   *cell;

	foreach(cell, taken)
	{
		Mail	   *mail = lfirst(cell);

		if (mail->waiter.procno != procno || mail->mailbox == NULL)
			continue;
		conduit_mailbox_close(mail->mailbox);
		mail->mailbox = NULL;
		mail->data = NULL;
		mail->length = 0;
	}
}

void
conduit_mail_take(const FlightRequest *request, FlightWaiter waiter)
{
	Mail	   *mail = MemoryContextAllocZero(TopMemoryContext, sizeof(Mail));

	mail->request = *request;
	mail->waiter = waiter;
	forget_former(waiter.procno);
	mail->mailbox = conduit_mailbox_attach(request->mail);
	if (mail->mailbox == NULL)
		pfree(mail);
	else
		arriving = add(arriving, mail);
}

/* Who stops waiting closes its mailbox. */
static void
pump_arriving(void)
{
	ListCell   *cell;

	foreach(cell, arriving)
	{
		Mail	   *mail = lfirst(cell);
		MailStatus	status = conduit_mailbox_receive(mail->mailbox, &mail->data, &mail->length);

		if (status == MAIL_PENDING)
			continue;
		arriving = foreach_delete_current(arriving, cell);
		if (status == MAIL_DONE)
			arrived = add(arrived, mail);
		else
			free_mail(mail);
	}
}

static void
pump_leaving(void)
{
	ListCell   *cell;

	foreach(cell, leaving)
	{
		Mail	   *mail = lfirst(cell);

		if (conduit_mailbox_send(mail->mailbox, mail->reply, mail->reply_length) == MAIL_PENDING)
			continue;
		leaving = foreach_delete_current(leaving, cell);
		free_mail(mail);
	}
}

void
conduit_mail_pump(void)
{
	pump_arriving();
	pump_leaving();
}

bool
conduit_mail_leaving(void)
{
	return leaving != NIL;
}

Mail *
conduit_mail_next(void)
{
	Mail	   *mail;

	if (arrived == NIL)
		return NULL;
	mail = linitial(arrived);
	taken = add(taken, mail);
	arrived = list_delete_first(arrived);
	return mail;
}

void
conduit_mail_answer(Mail *mail, RequestAnswer answer)
{
	conduit_flight_reply(mail->waiter, answer);
	free_mail(mail);
}

void
conduit_mail_close(Mail *mail)
{
	free_mail(mail);
}

void
conduit_mail_reply(Mail *mail, const void *data, Size length)
{
	MailStatus	status;

	if (mail->mailbox == NULL)
	{
		conduit_mail_answer(mail, ANSWER_DONE);
		return;
	}
	mail->reply = MemoryContextAlloc(TopMemoryContext, Max(length, 1));
	memcpy(mail->reply, data, length);
	mail->reply_length = length;

	/* The first piece is there before the backend wakes. */
	status = conduit_mailbox_send(mail->mailbox, mail->reply, length);
	conduit_flight_reply(mail->waiter, ANSWER_DONE);
	if (status == MAIL_PENDING)
	{
		taken = list_delete_ptr(taken, mail);
		leaving = add(leaving, mail);
	}
	else
		free_mail(mail);
}
