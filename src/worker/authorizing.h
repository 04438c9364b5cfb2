/*-------------------------------------------------------------------------
 *
 * authorizing.h
 *	  The worker's part of authorizations beside their errands.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_AUTHORIZING_H
#define CONDUIT_AUTHORIZING_H

#include "base/compat.h"
#include "datatype/timestamp.h"
#include "worker/mail.h"

/* conduit_authorizing_take takes a callback request whose message has come. */
extern void conduit_authorizing_take(Mail *mail);

/*
 * conduit_authorizing_start, when a worker starts: codes that a former worker
 * may have sent are lost; where it had the answer already, its next request is
 * made, or, if this database may not speak to providers, what there is is
 * settled.
 */
extern void conduit_authorizing_start(void);

/* conduit_authorizing_settle_parked moves what is parked; a step of the round. */
extern void conduit_authorizing_settle_parked(void);

#endif							/* CONDUIT_AUTHORIZING_H */
