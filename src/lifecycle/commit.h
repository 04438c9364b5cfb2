/*-------------------------------------------------------------------------
 *
 * commit.h
 *	  Telling the worker, when the transaction commits, what there is to do.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_COMMIT_H
#define CONDUIT_COMMIT_H

#include "base/compat.h"
#include "datatype/timestamp.h"

/*
 * conduit_at_commit nudges this database's worker (NUDGE_* of roster.h) once
 * the current transaction has committed; earliest_due goes with NUDGE_DUE.
 * After a rollback nobody is told, after PREPARE TRANSACTION the worker finds
 * the work by itself within a minute.
 */
extern void conduit_at_commit(uint32 what, TimestampTz earliest_due);

/* conduit_restart_at_commit makes the worker of a database start anew then. */
extern void conduit_restart_at_commit(Oid database);

/* conduit_announce_at_commit makes the launcher look at this database then. */
extern void conduit_announce_at_commit(void);

#endif							/* CONDUIT_COMMIT_H */
