/*-------------------------------------------------------------------------
 *
 * mail.h
 *	  Mail under way between waiting backends and the worker.
 *
 * A request with a mailbox is taken here until its message has come whole; then
 * conduit_mail_next hands it out, and whoever takes it answers it, at last.  A
 * reply is sent on, a piece each round, as the backend takes it.
 *
 * A mail that is here is answered however little memory there is: where its
 * message or its reply does not fit into it, by ANSWER_FAILED.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_MAIL_H
#define CONDUIT_MAIL_H

#include "base/compat.h"
#include "lib/ilist.h"
#include "shared/flight.h"

typedef struct Mail
{
	dlist_node	node;			/* of mail.c */
	FlightRequest request;
	FlightWaiter waiter;
	const void *data;			/* the message, as it came; NULL once its sender has asked anew */
	Size		length;
	struct Mailbox *mailbox;	/* NULL then, too */
	void	   *reply;			/* a copy, while it is under way */
	Size		reply_length;
} Mail;

/* conduit_mail_take attaches a request's mailbox; forgotten if its backend has left. */
extern void conduit_mail_take(const FlightRequest *request, FlightWaiter waiter);

/* conduit_mail_pump goes on with what is under way; each round. */
extern void conduit_mail_pump(void);

/* The next request whose message is there, or NULL. */
extern Mail *conduit_mail_next(void);

/* conduit_mail_answer answers a request that was handed out without a message of its own. */
extern void conduit_mail_answer(Mail *mail, RequestAnswer answer);

/* conduit_mail_close forgets one whose slot is answered otherwise. */
extern void conduit_mail_close(Mail *mail);

/* True while a reply is under way. */
extern bool conduit_mail_leaving(void);

/* conduit_mail_reply answers one with ANSWER_DONE and a message, which is copied; raises nothing. */
extern void conduit_mail_reply(Mail *mail, const void *data, Size length);

#endif							/* CONDUIT_MAIL_H */
