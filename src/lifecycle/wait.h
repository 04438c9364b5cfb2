/*-------------------------------------------------------------------------
 *
 * wait.h
 *	  A backend asks the worker for something and waits.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_WAIT_H
#define CONDUIT_WAIT_H

#include "base/compat.h"
#include "shared/flight.h"

/*
 * conduit_wait_for_worker posts a request and waits, interruptibly, until it is
 * answered or timeout_ms (-1: none) is over, less where statement_timeout
 * leaves less.  Returns ANSWER_NONE when time was up and ANSWER_GONE when there
 * is no worker and none will come.  The caller must hold no lock that the
 * worker needs.
 */
extern RequestAnswer conduit_wait_for_worker(const FlightRequest *request, int timeout_ms, int *count);

/* A message that goes with a request, and the one that comes back. */
typedef struct WaitMail
{
	const void *message;		/* nothing secret in clear */
	Size		length;
	bool		wants_reply;
	void	   *reply;			/* palloc'd; with ANSWER_DONE alone */
	Size		reply_length;
} WaitMail;

/*
 * conduit_wait_with_mail does the same for a request with a message.  Where a
 * reply is wanted, ANSWER_DONE comes with it; ANSWER_FAILED also where it was
 * lost on its way, or the server has no room for another mailbox.
 */
extern RequestAnswer conduit_wait_with_mail(const FlightRequest *request, WaitMail *mail,
											int timeout_ms, int *count);

/* True if a worker is there or will come: preloaded, no standby, launcher up, slot free. */
extern bool conduit_worker_possible(void);

#endif							/* CONDUIT_WAIT_H */
