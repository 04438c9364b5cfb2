/*-------------------------------------------------------------------------
 *
 * clock.h
 *	  What Conduit takes for now.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_CLOCK_H
#define CONDUIT_CLOCK_H

#include "base/compat.h"
#include "datatype/timestamp.h"

/*
 * conduit_now returns the wall clock, not the start of the transaction,
 * shifted by conduit.clock_offset.
 */
extern TimestampTz conduit_now(void);

/* Whole and fractional seconds between two times, negative if b is earlier. */
extern double conduit_seconds_between(TimestampTz a, TimestampTz b);

/* t moved by seconds; saturates at the ends of what timestamptz can hold. */
extern TimestampTz conduit_time_add(TimestampTz t, double seconds);

#endif							/* CONDUIT_CLOCK_H */
