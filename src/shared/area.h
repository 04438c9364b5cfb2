/*-------------------------------------------------------------------------
 *
 * area.h
 *	  Conduit's part of the main shared memory: how it is asked for and found.
 *
 * Each file of this wing names its structure, its size and how to initialise
 * it in the table of area.c.  Without shared_preload_libraries there is no
 * area: conduit_area_attached() is false, warm vends still work, and whatever
 * needs the worker says that it is not there.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_AREA_H
#define CONDUIT_AREA_H

#include "base/compat.h"
#include "storage/lwlock.h"

/* Locks of the tranche "conduit".  None is held over I/O, waits or errors. */
typedef enum ConduitLock
{
	CONDUIT_LOCK_ROSTER,		/* roster and request slots */
	CONDUIT_LOCK_STATS,			/* which connectors have counters */
	CONDUIT_NUM_LOCKS
} ConduitLock;

extern void conduit_area_install_hooks(void);
extern bool conduit_area_attached(void);
extern LWLock *conduit_area_lock(ConduitLock lock);

#endif							/* CONDUIT_AREA_H */
