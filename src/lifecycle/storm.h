/*-------------------------------------------------------------------------
 *
 * storm.h
 *	  When a provider calls many refresh tokens dead at once; for the worker.
 *
 * Wording:
 *	   - A storm: of the refreshes of one connector in the last ten minutes, 20
 *		 at least, more than a fifth came back DEAD.  People do not withdraw
 *		 their consent together, so the provider is doubted: nobody is sent to
 *		 authorize again, and the tokens are tried again later.
 *	   - It is over when the share is no longer that large, or after an hour:
 *		 what a provider says so long is believed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_STORM_H
#define CONDUIT_STORM_H

#include "base/compat.h"
#include "datatype/timestamp.h"

/* conduit_storm_note counts a refresh that was answered; raises nothing but out of memory. */
extern void conduit_storm_note(const char *connector, bool dead);

/* Whether there is a storm, so that DEAD is not believed now. */
extern bool conduit_storm_doubts(const char *connector);

/* Go on with a storm that a former worker has seen begin. */
extern void conduit_storm_resume(const char *connector, TimestampTz since);

/* End storms whose time is over; to be called now and then. */
extern void conduit_storm_watch(void);

#endif							/* CONDUIT_STORM_H */
