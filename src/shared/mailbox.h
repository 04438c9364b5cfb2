/*-------------------------------------------------------------------------
 *
 * mailbox.h
 *	  Requests and replies that are larger than a slot.
 *
 * Wording:
 *	   - A mailbox is one dynamic shared memory segment, made by a backend for
 *		 one request to the worker.  It has a queue in each direction, and each
 *		 carries one message.
 *	   - A message is bytes, of a size that its sender knows.  Its first part
 *		 fits into the queue at once; a longer one goes on as the other side
 *		 takes it, which wakes the sender's latch.
 *
 * Whatever is secret in a message has been sealed before it comes here.
 *
 * Neither side blocks in here.  A mailbox is gone, memory and all, as soon as
 * both sides have closed it, died or given up; who is left is told by MAIL_GONE.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_MAILBOX_H
#define CONDUIT_MAILBOX_H

#include "base/compat.h"
#include "storage/dsm.h"

/* The largest message. */
#define CONDUIT_MAX_MAIL (16 * 1024 * 1024)

typedef enum MailStatus
{
	MAIL_PENDING,				/* under way: look again when the latch is set */
	MAIL_DONE,					/* all of it has been sent, or has come */
	MAIL_GONE					/* the other side has left before */
} MailStatus;

typedef struct Mailbox Mailbox;

/*
 * conduit_mailbox_open makes a mailbox, for a backend; NULL if the server has
 * no room for another segment.  It is closed with the current resource owner,
 * should an error come before conduit_mailbox_close.
 */
extern Mailbox *conduit_mailbox_open(void);

/* What a request names it by (FlightRequest.mail). */
extern dsm_handle conduit_mailbox_handle(const Mailbox *mailbox);

/*
 * conduit_mailbox_attach finds the mailbox of a request, for the worker; NULL if
 * the backend has left already.  It stays until it is closed or the process
 * ends, whatever transactions come and go.
 */
extern Mailbox *conduit_mailbox_attach(dsm_handle handle);

/*
 * conduit_mailbox_send sends this side's message; while it returns MAIL_PENDING
 * it is to be called again with the same bytes, which it does not copy.
 */
extern MailStatus conduit_mailbox_send(Mailbox *mailbox, const void *data, Size length);

/*
 * conduit_mailbox_receive takes the other side's message, whole; *data is a
 * copy that lives as long as the mailbox.
 */
extern MailStatus conduit_mailbox_receive(Mailbox *mailbox, const void **data, Size *length);

extern void conduit_mailbox_close(Mailbox *mailbox);

#endif							/* CONDUIT_MAILBOX_H */
