/*-------------------------------------------------------------------------
 *
 * event.h
 *	  The durable event log.
 *
 * Wording:
 *	   - An event is written in the transaction that makes the change, without
 *		 a number; the worker numbers what has been committed (seq), in that
 *		 order, and notifies.  So a cursor over seq never misses one.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_EVENT_H
#define CONDUIT_EVENT_H

#include "base/compat.h"
#include "utils/uuid.h"

typedef struct ConduitEvent
{
	const char *kind;			/* created, authorized, needs_reauth, recovered,
								 * revoked, deleted, exported,
								 * revocation_failed */
	const char *tenant;
	const pg_uuid_t *connection;
	const char *owner;
	const char *connector;
	const char *account;
	const char *old_status;
	const char *new_status;
	const char *reason;
} ConduitEvent;

/* conduit_event_write records an event, conduit_event_write_many several; within conduit_store_begin and _end. */
extern void conduit_event_write(const ConduitEvent *event);
extern void conduit_event_write_many(const ConduitEvent *events, int n);

/*
 * conduit_event_tell numbers committed events and notifies, a batch of them;
 * returns how many, so that the worker comes again while there are some.  For
 * the worker, in a transaction of its own.
 */
extern int	conduit_event_tell(bool notify);

/* conduit_event_purge removes numbered events beyond conduit.event_retention, a batch. */
extern int	conduit_event_purge(void);

#endif							/* CONDUIT_EVENT_H */
