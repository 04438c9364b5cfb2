/*-------------------------------------------------------------------------
 *
 * api_calls.h
 *	  Calls of providers' APIs on behalf of sessions that wait for them.
 *
 * A call is one HTTP request, made whole and sealed by the session, and its
 * response, sealed for it; what either means is the session's affair.  Calls
 * have places of their own, as many as refreshes have: a slow one holds up
 * neither refreshes nor other sessions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_API_CALLS_H
#define CONDUIT_API_CALLS_H

#include "base/compat.h"
#include "provider/exchange.h"
#include "worker/mail.h"

/* conduit_api_calls_take takes a request whose message has come. */
extern void conduit_api_calls_take(Mail *mail);

/* conduit_api_calls_receive answers the session whose exchange is over. */
extern void conduit_api_calls_receive(ExchangeOwner *owner);

/* Those that have been sent and are not answered yet. */
extern int	conduit_api_calls_under_way(void);

/*
 * The worker leaves.  conduit_api_calls_withdraw hands back what has not been
 * sent, for a successor; conduit_api_calls_end gives up what has.
 */
extern void conduit_api_calls_withdraw(void);
extern void conduit_api_calls_end(void);

#endif							/* CONDUIT_API_CALLS_H */
