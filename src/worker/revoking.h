/*-------------------------------------------------------------------------
 *
 * revoking.h
 *	  The worker takes up queued revocations.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_REVOKING_H
#define CONDUIT_REVOKING_H

#include "base/compat.h"
#include "datatype/timestamp.h"

/* When to look at the queue, in real time; DT_NOEND: when something happens. */
extern TimestampTz conduit_revoking_next(void);

/* conduit_revoking_look makes errands of what is due; a step of the round. */
extern void conduit_revoking_look(void);

#endif							/* CONDUIT_REVOKING_H */
