/*-------------------------------------------------------------------------
 *
 * throttle.h
 *	  Refreshes and the rate limit of the token endpoint; for the worker.
 *
 * A refresh draws on the bucket of its client before it is sent.  Where there
 * is none left it is put off, which is no failure.  A provider that asks one
 * connection to wait (Retry-After) is presumed to mean its client: the client's
 * others wait, too, but for one now and then that finds out.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_THROTTLE_H
#define CONDUIT_THROTTLE_H

#include "base/compat.h"
#include "lifecycle/refresh.h"

/*
 * conduit_throttle_admit draws for a refresh that is about to be claimed.  False
 * if it may not be sent now: then its next attempt is written down.  unasked:
 * nobody waits for it, so that it stands in line.
 */
extern bool conduit_throttle_admit(RefreshFlight *flight, bool unasked);

/* conduit_throttle_repeat counts a further request of an admitted refresh. */
extern void conduit_throttle_repeat(const RefreshFlight *flight);

/* conduit_throttle_note learns from the outcome of a request; raises nothing. */
extern void conduit_throttle_note(const RefreshFlight *flight);

#endif							/* CONDUIT_THROTTLE_H */
