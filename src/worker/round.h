/*-------------------------------------------------------------------------
 *
 * round.h
 *	  What the parts of a worker's round share: its state, its transactions, and
 *	  how an error ends a step but not the worker.
 *
 * worker.c has the loop, requests.c what sessions ask for, takeoff.c what leads
 * up to a request to a provider (due, claim, send), landing.c what follows its
 * answer (settle, park, move), chores.c what is done beside, pause.c whether
 * anything may be, and leave.c the end.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_ROUND_H
#define CONDUIT_ROUND_H

#include "base/compat.h"
#include "lifecycle/due.h"
#include "lifecycle/refresh.h"
#include "nodes/pg_list.h"
#include "shared/roster.h"

/* Claims and settles that share a transaction, at most. */
#define CONDUIT_ROUND_BATCH 64

/* Due tasks in memory, at most. */
#define CONDUIT_MAX_QUEUED 10000

/* Milliseconds from one time of keeping house to the next. */
#define CONDUIT_HOUSEKEEPING_EVERY 60000

/* Milliseconds between looks at parked replies, until one cannot be moved. */
#define CONDUIT_RETRY_PARKED 250

typedef struct WorkerRound
{
	bool		restart;		/* settings of the database have changed */
	RosterPause pause;
	bool		check;			/* the extension or its identity may have changed */
	TimestampTz check_at;		/* real time: not before, for it failed */
	bool		absent;			/* the extension is not there, or not ours to serve */
	bool		tell;			/* there may be events without a number */
	List	   *unsettled;		/* RefreshFlight *: answered, not settled yet */
	bool		settle_failed;	/* the last settle could not commit */
	int			settle_delay;	/* until the next try */
	TimestampTz apart_until;	/* real time: claims may keep settles from being committed */
	int			parked;
	TimestampTz settle_at;		/* real time: when to try again */
	TimestampTz parked_at;
	int			parked_delay;
	TimestampTz errands_parked_at;	/* DT_NOEND: none is */
	TimestampTz queues_at;		/* when to look for queued work */
	TimestampTz housekeeping_at;
	TimestampTz alerts_at;		/* not to be written before: the last try failed */
	TimestampTz full_scan_at;
	TimestampTz scan_at;
	DueMark		scanned_to;		/* everything before is in memory */
	TimestampTz next_due;
	RosterReport report;
} WorkerRound;

extern WorkerRound conduit_round;

/* Reset after each round. */
extern MemoryContext conduit_round_context;

/* Signals, the context and the state at the start; before signals are unblocked. */
extern void conduit_round_start_up(void);

/* A transaction of the worker; both leave the round's context the current one. */
extern void conduit_round_begin(void);
extern void conduit_round_commit(void);

/*
 * conduit_round_waited says whether the transaction that was committed last is
 * sure to be where synchronous_commit wants it.
 */
extern bool conduit_round_waited(void);

/* In PG_CATCH: report, abort, and be outside of any transaction again. */
extern void conduit_round_recover(const char *what);

/* conduit_guarded runs a step; an error ends it alone. */
typedef void (*WorkerStep) (void);
extern void conduit_guarded(WorkerStep step, const char *what);

extern TimestampTz conduit_real_time_in(int milliseconds);

/* worker.c: sleep until there is something to do, so many milliseconds at most. */
extern void conduit_round_wait(long timeout);

/* requests.c */
extern void conduit_take_requests(void);

/* pause.c */
extern void conduit_check(void);
extern RequestAnswer conduit_pause_answer(void);

/* chores.c */
extern void conduit_tell(void);
extern void conduit_take_up_alerts(void);
extern void conduit_tend_alerts(void);
extern void conduit_keep_house(void);

/* leave.c */
extern bool conduit_should_leave(void);
extern void conduit_withdraw(List *flights);
extern void conduit_drain(void);

/* takeoff.c */
extern void conduit_scan_from(TimestampTz from);
extern bool conduit_scan_wanted(TimestampTz real_now);
extern void conduit_scan_due(void);
extern void conduit_claim_and_send(void);

/* landing.c */
extern bool conduit_try_flight(bool (*step) (RefreshFlight *), RefreshFlight *flight, const char *what);
extern void conduit_add_unsettled(RefreshFlight *flight);
extern void conduit_receive_answers(void);
extern void conduit_settle_answers(void);
extern void conduit_take_answers(void); /* both */

/*
 * The first n of the unsettled flights, which are settled together in a
 * transaction that may do more: begin seals them, before conduit_store_begin;
 * write settles; end, after the commit, tells those who wait.
 */
typedef struct Settlement
{
	int			n;
	RefreshFlight *flights[CONDUIT_ROUND_BATCH];
	SettleResult results[CONDUIT_ROUND_BATCH];
} Settlement;

extern void conduit_settlement_begin(Settlement *settlement);
extern void conduit_settlement_write(Settlement *settlement);
extern void conduit_settlement_end(Settlement *settlement);

/* How many are settled together where places in flight are wanted. */
extern int	conduit_settlement_size(void);
extern void conduit_move_parked(void);

#endif							/* CONDUIT_ROUND_H */
