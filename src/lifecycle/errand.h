/*-------------------------------------------------------------------------
 *
 * errand.h
 *	  Work of the worker with a provider other than refreshes; for it alone.
 *
 * Wording:
 *	   - An errand is one conversation with a provider, of one request or of
 *		 several in turn: a code and the account it stands for, a document, a
 *		 revocation.
 *	   - Its kind says what to do at each step; the worker (worker/errands.c)
 *		 calls the steps, in this order: claim; then send, receive and keep as
 *		 often as there are requests; settle.
 *
 * Claim, keep, settle, park and withdraw run in a transaction and between
 * conduit_store_begin and _end, and wait for nobody's row lock; the others
 * outside of any.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_ERRAND_H
#define CONDUIT_ERRAND_H

#include "base/compat.h"
#include "datatype/timestamp.h"
#include "lib/ilist.h"
#include "nodes/pg_list.h"
#include "provider/exchange.h"
#include "shared/flight.h"

typedef struct Errand Errand;

typedef struct ErrandKind
{
	const char *what;			/* for the log: "authorizing" */
	bool		asked;			/* people wait for it: it goes first */

	/*
	 * claim makes durable that a request is about to be sent.  ANSWER_NONE if
	 * it may be, ANSWER_DEFERRED if somebody's open transaction has to end
	 * first; anything else ends the errand.  NULL: nothing to claim.
	 */
	RequestAnswer (*claim) (Errand *errand);

	/* send starts the exchange; false if the errand has its outcome without. */
	bool		(*send) (Errand *errand);

	/* receive reads the finished exchange and frees it; true if there is another request. */
	bool		(*receive) (Errand *errand);

	/*
	 * keep makes durable what has come, before the next request is sent; if it
	 * fails the errand goes on without.  NULL: nothing to keep.
	 */
	void		(*keep) (Errand *errand);

	/* settle moves the outcome to where it belongs; false if somebody's open transaction has to end first. */
	bool		(*settle) (Errand *errand);

	/*
	 * park keeps the outcome, where settle has failed, at least where a crash
	 * cannot lose it, and ends the errand.  NULL: settle is tried again.
	 */
	void		(*park) (Errand *errand);

	/*
	 * give_up gives an errand that could not be sent or read an outcome, and
	 * frees its exchange.
	 */
	void		(*give_up) (Errand *errand);

	/* withdraw undoes a claim whose request has not left: the worker leaves.  NULL: nothing was claimed. */
	void		(*withdraw) (Errand *errand);

	/* free wipes and frees the errand with its exchange, if it has one. */
	void		(*free) (Errand *errand);
} ErrandKind;

/* The common part, at the beginning of each kind's own structure. */
struct Errand
{
	ExchangeOwner base;			/* first */
	const ErrandKind *kind;
	MemoryContext context;		/* holds all of it */
	const char *connector;		/* slug; '' where there is none */
	Exchange   *exchange;		/* while a request is out */
	RequestAnswer answer;		/* for those who wait, once it is over */
	const void *reply;			/* goes with ANSWER_DONE; NULL: none */
	Size		reply_length;

	/* The worker's. */
	dlist_node	node;
	List	   *waiters;		/* struct Mail * */
	TimestampTz retry_at;		/* real time: not to be tried before */
	int			delay;
};

#endif							/* CONDUIT_ERRAND_H */
