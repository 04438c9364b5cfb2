/*-------------------------------------------------------------------------
 *
 * breaker.h
 *	  A client that its provider refuses is not tried by all of its connections;
 *	  for the worker.
 *
 * Wording:
 *	   - The breaker of a client opens when the provider has refused it twice
 *		 with no success between, be it for one connection or two.  While it is
 *		 open, refreshes under this client are put off as if they had failed like
 *		 the last one.
 *	   - A probe is one that is sent all the same: after 5 minutes, then 10, then
 *		 every 15; at once, when the client has a new secret or the connector a
 *		 new definition.  If the provider lets it in, the breaker closes, and
 *		 those that were kept back are due again.
 *
 * Breakers are in the worker's memory; that one is open is told by an alert.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_BREAKER_H
#define CONDUIT_BREAKER_H

#include "base/compat.h"
#include "lifecycle/refresh.h"

/*
 * conduit_breaker_admit tells whether a refresh that is about to be claimed may
 * be sent; if not, its next attempt is written down.  forced: somebody wants to
 * know now, which makes a probe come sooner.
 */
extern bool conduit_breaker_admit(RefreshFlight *flight, bool forced);

/* conduit_breaker_note learns from a flight that is over; raises nothing but out of memory. */
extern void conduit_breaker_note(const RefreshFlight *flight);

/*
 * conduit_breaker_release makes connections due again whose client is let in
 * again, a batch of them; how many.  Within conduit_store_begin and _end.
 */
extern bool conduit_breaker_has_released(void);
extern int	conduit_breaker_release(void);
extern void conduit_breaker_released(void);

#endif							/* CONDUIT_BREAKER_H */
