/*-------------------------------------------------------------------------
 *
 * clock.c
 *	  What Conduit takes for now, and arithmetic on times that cannot overflow.
 *
 *-------------------------------------------------------------------------
 */
#include "base/clock.h"

#include <math.h>

#include "base/settings.h"
#include "common/int.h"
#include "utils/timestamp.h"

/* move_time adds microseconds to a finite time and stays within timestamptz. */
static TimestampTz
move_time(TimestampTz t, int64 microseconds)
{
	int64		moved;

	if (pg_add_s64_overflow(t, microseconds, &moved))
		moved = microseconds < 0 ? MIN_TIMESTAMP : END_TIMESTAMP - 1;
	return Min(Max(moved, MIN_TIMESTAMP), END_TIMESTAMP - 1);
}

TimestampTz
conduit_now(void)
{
	TimestampTz now = GetCurrentTimestamp();

	if (likely(conduit_clock_offset == 0))
		return now;
	return move_time(now, (int64) rint(conduit_clock_offset * USECS_PER_SEC));
}

double
conduit_seconds_between(TimestampTz a, TimestampTz b)
{
	int64		difference;

	/* Only an infinite end is that far off; what a double loses is no matter. */
	if (pg_sub_s64_overflow(b, a, &difference))
		return ((double) b - (double) a) / USECS_PER_SEC;
	return (double) difference / USECS_PER_SEC;
}

TimestampTz
conduit_time_add(TimestampTz t, double seconds)
{
	double		microseconds = rint(seconds * USECS_PER_SEC);

	if (TIMESTAMP_NOT_FINITE(t) || isnan(microseconds))
		return t;

	/* What no int64 holds is beyond either end from anywhere. */
	if (microseconds >= (double) PG_INT64_MAX)
		return END_TIMESTAMP - 1;
	if (microseconds <= (double) PG_INT64_MIN)
		return MIN_TIMESTAMP;
	return move_time(t, (int64) microseconds);
}
