/*-------------------------------------------------------------------------
 *
 * stats.h
 *	  Counters per database and connector, since the server started.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_STATS_H
#define CONDUIT_STATS_H

#include "base/compat.h"

#define CONDUIT_MAX_SLUG_LEN 63

/* Order of the columns of conduit_stats(). */
typedef enum StatsCounter
{
	STATS_VENDS,
	STATS_WAITS,				/* vends and refreshes that waited for the worker */
	STATS_REFRESHED,			/* the six outcome classes, in the order of OutcomeClass */
	STATS_DEAD,
	STATS_CONFIG,
	STATS_THROTTLED,
	STATS_TRANSIENT,
	STATS_UNKNOWN,
	STATS_IN_FLIGHT,			/* a gauge */
	STATS_MICROSECONDS,			/* spent by providers on refreshes */
	STATS_NUM_COUNTERS
} StatsCounter;

typedef struct StatsRow
{
	char		connector[CONDUIT_MAX_SLUG_LEN + 1];
	uint64		counters[STATS_NUM_COUNTERS];
} StatsRow;

extern Size conduit_stats_size(void);
extern void conduit_stats_attach(void *memory, bool initialise);

/*
 * conduit_stats_add adds to a counter of this database's connector.  Beyond
 * the number of connectors that fit, all others count under one row named '';
 * without shared memory it does nothing.
 */
extern void conduit_stats_add(const char *connector, StatsCounter counter, int64 amount);

/* A worker that starts takes back what its predecessor left in flight. */
extern void conduit_stats_clear_in_flight(void);

/* conduit_stats_read copies this database's rows; returns how many (palloc'd). */
extern int	conduit_stats_read(StatsRow **rows);

#endif							/* CONDUIT_STATS_H */
