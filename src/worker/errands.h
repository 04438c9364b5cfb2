/*-------------------------------------------------------------------------
 *
 * errands.h
 *	  The worker's errands: which wait, which are under way, which are over.
 *
 * They have places of their own, a quarter of conduit.max_in_flight, so that
 * neither refreshes nor errands wait for the other.  Of these places no
 * connector takes more than half, nor do the errands that nobody waits for.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_ERRANDS_H
#define CONDUIT_ERRANDS_H

#include "base/compat.h"
#include "lifecycle/errand.h"
#include "worker/mail.h"

/*
 * conduit_errands_add takes an errand, to be claimed and sent when there is a
 * place; mail is the request of who waits for it, or NULL.
 */
extern void conduit_errands_add(Errand *errand, Mail *mail);

/* conduit_errands_resume takes one that is claimed already: its next request is sent. */
extern void conduit_errands_resume(Errand *errand);

/* conduit_errands_join makes another request wait for an errand there is. */
extern void conduit_errands_join(Errand *errand, Mail *mail);

/* The first errand of a kind that match says is the one, or NULL. */
extern Errand *conduit_errands_find(const ErrandKind *kind, bool (*match) (const Errand *errand, const void *key),
									const void *key);

/* How many errands of a kind have not been claimed yet. */
extern int	conduit_errands_waiting(const ErrandKind *kind);

/* How many more errands of a kind that nobody waits for may be added now. */
extern int	conduit_errands_room(const ErrandKind *kind);

/* How many of a kind there are of a connector. */
extern int	conduit_errands_of_connector(const ErrandKind *kind, const char *connector);

/* How many may be under way at a time. */
extern int	conduit_errands_places(void);

/* Those that are claimed and not over yet. */
extern int	conduit_errands_under_way(void);

/* When to come again, in real time; DT_NOEND: when something happens. */
extern TimestampTz conduit_errands_next(void);

/* Steps of the worker's round. */
extern void conduit_errands_start(void);	/* claim and send those that wait */
extern void conduit_errands_receive(Errand *errand);	/* its exchange has finished */
extern void conduit_errands_settle(void);	/* those that are over */

/* The worker leaves: those that have not been sent are not any more. */
extern void conduit_errands_withdraw(void);

/* Whether some are over and not settled yet. */
extern bool conduit_errands_unsettled(void);

#endif							/* CONDUIT_ERRANDS_H */
