/*-------------------------------------------------------------------------
 *
 * mail.c
 *	  Mail under way between waiting backends and the worker.
 *
 *-------------------------------------------------------------------------
 */
#include "worker/mail.h"

#include "utils/memutils.h"

#include "shared/mailbox.h"
#include "worker/round.h"

/* Each mail is in one of these. */
static dlist_head arriving = DLIST_STATIC_INIT(arriving);	/* not whole yet */
static dlist_head arrived = DLIST_STATIC_INIT(arrived);
static dlist_head taken = DLIST_STATIC_INIT(taken); /* handed out, and not answered yet */
static dlist_head leaving = DLIST_STATIC_INIT(leaving); /* replies */

static void
move_to(dlist_head *mails, Mail *mail)
{
	dlist_delete(&mail->node);
	dlist_push_tail(mails, &mail->node);
}

static void
free_mail(Mail *mail)
{
	dlist_delete(&mail->node);
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
	dlist_iter	iter;

	dlist_foreach(iter, &taken)
	{
		Mail	   *mail = dlist_container(Mail, node, iter.cur);

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
		dlist_push_tail(&arriving, &mail->node);
}

/* One that cannot be received for want of memory is as good as gone. */
static MailStatus
receive(Mail *mail)
{
	volatile MailStatus status = MAIL_GONE;

	PG_TRY();
	{
		status = conduit_mailbox_receive(mail->mailbox, &mail->data, &mail->length);
	}
	PG_CATCH();
	{
		conduit_round_recover("receiving mail");
	}
	PG_END_TRY();
	return status;
}

/* Who stops waiting closes its mailbox. */
static void
pump_arriving(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &arriving)
	{
		Mail	   *mail = dlist_container(Mail, node, iter.cur);
		MailStatus	status = receive(mail);

		if (status == MAIL_DONE)
			move_to(&arrived, mail);
		else if (status == MAIL_GONE)
			conduit_mail_answer(mail, ANSWER_FAILED);
	}
}

static void
pump_leaving(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &leaving)
	{
		Mail	   *mail = dlist_container(Mail, node, iter.cur);

		if (conduit_mailbox_send(mail->mailbox, mail->reply, mail->reply_length) != MAIL_PENDING)
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
	return !dlist_is_empty(&leaving);
}

Mail *
conduit_mail_next(void)
{
	Mail	   *mail;

	if (dlist_is_empty(&arrived))
		return NULL;
	mail = dlist_head_element(Mail, node, &arrived);
	move_to(&taken, mail);
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
	mail->reply = MemoryContextAllocExtended(TopMemoryContext, Max(length, 1), MCXT_ALLOC_NO_OOM);
	if (mail->reply == NULL)
	{
		conduit_mail_answer(mail, ANSWER_FAILED);
		return;
	}
	memcpy(mail->reply, data, length);
	mail->reply_length = length;

	/* The first piece is there before the backend wakes. */
	status = conduit_mailbox_send(mail->mailbox, mail->reply, length);
	conduit_flight_reply(mail->waiter, ANSWER_DONE);
	if (status == MAIL_PENDING)
		move_to(&leaving, mail);
	else
		free_mail(mail);
}
