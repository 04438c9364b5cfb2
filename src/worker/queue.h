/*-------------------------------------------------------------------------
 *
 * queue.h
 *	  What the worker has to refresh, in memory: who is waiting, what flies.
 *
 * Wording:
 *	   - A task is one connection's refresh that somebody asked for or that is
 *		 due; there is at most one for a connection.
 *	   - A lane holds the waiting tasks of one connector: those that a caller
 *		 waits for, and the others.  No lane has more than a quarter of the
 *		 places in flight while another lane waits; and one whose provider does
 *		 not answer leaves a quarter free for those who come later.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_QUEUE_H
#define CONDUIT_QUEUE_H

#include "base/compat.h"
#include "lib/ilist.h"
#include "lifecycle/refresh.h"
#include "nodes/pg_list.h"
#include "shared/flight.h"

struct Lane;

typedef struct TaskWaiter
{
	FlightWaiter waiter;
	bool		batch;			/* of conduit_refresh_due: counted, not answered alone */
} TaskWaiter;

typedef struct Task
{
	pg_uuid_t	connection;		/* hash key */
	struct Lane *lane;
	dlist_node	node;			/* in the lane, while waiting */
	bool		urgent;
	bool		forced;
	bool		unasked;		/* nobody has asked */
	bool		due;			/* by the clock: it is made whoever has asked and left */
	int64		generation;		/* -1: whichever is stored */
	RefreshFlight *flight;		/* while it flies or waits to be settled */
	bool		landed;			/* and which of these */
	int			nwaiters;
	int			max_waiters;
	TaskWaiter *waiters;
} Task;

extern void conduit_queue_start(void);

/*
 * conduit_queue_add makes a task, or finds the one there is and makes it at
 * least as urgent.  unasked: it is due by the clock.
 */
extern Task *conduit_queue_add(const pg_uuid_t *connection, const char *connector,
							   int64 generation, bool urgent, bool forced, bool unasked);
extern void conduit_queue_add_waiter(Task *task, FlightWaiter waiter, bool batch);

/*
 * conduit_queue_next takes the next task that may fly, or NULL.  So many of the
 * places are kept by tasks that have landed.
 */
extern Task *conduit_queue_next(int max_in_flight, int kept);

/*
 * conduit_queue_land says that a task's flight has its outcome, which is yet to
 * be settled: in its lane it makes room for the next one.
 */
extern void conduit_queue_land(Task *task);

/* conduit_queue_finish answers all who wait and forgets the task. */
extern void conduit_queue_finish(Task *task, RequestAnswer answer, bool refreshed);

/* Answer everybody: the worker is paused or leaves. */
extern void conduit_queue_finish_waiting(RequestAnswer answer);

/* The flights there are (List of RefreshFlight *, palloc'd). */
extern List *conduit_queue_flights(void);

extern int	conduit_queue_flying(void);	/* or landed and not finished */
extern int	conduit_queue_waiting(void);
extern int	conduit_queue_waiting_unasked(void);	/* those that are due by the clock alone */

/*
 * A lane with many tasks waiting is passed over when due ones are looked for.
 * conduit_queue_pass_over lists those with at least max (List of char *,
 * palloc'd) and remembers for each from when on it was; conduit_queue_room_again
 * returns that time of the lanes that now have fewer than max, the earliest, and
 * with "take" forgets it (DT_NOEND: there is none).
 */
extern List *conduit_queue_pass_over(int max, TimestampTz from);
extern TimestampTz conduit_queue_room_again(int max, bool take);
extern void conduit_queue_forget_passed_over(void);

#endif							/* CONDUIT_QUEUE_H */
