/*-------------------------------------------------------------------------
 *
 * exchange.h
 *	  One conversation with a provider: a request and what came back.
 *
 * No table, no lock: results are taken by the worker's loop.  What is wrong
 * with a request comes back as a finished exchange, too; the only error that
 * starting one raises is out of memory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_EXCHANGE_H
#define CONDUIT_EXCHANGE_H

#include "base/compat.h"
#include "provider/get_request.h"
#include "provider/revoke_request.h"
#include "provider/token_request.h"
#include "provider/token_response.h"

/* Whose an exchange is; the first member of what owns it. */
typedef struct ExchangeOwner
{
	bool		errand;			/* else a RefreshFlight, or */
	bool		call;			/* an ApiCall */
} ExchangeOwner;

typedef struct Exchange Exchange;

extern Exchange *conduit_exchange_token(const TokenRequest *request, ExchangeOwner *owner);
extern Exchange *conduit_exchange_revoke(const RevokeRequest *request, ExchangeOwner *owner);
extern Exchange *conduit_exchange_get(const GetRequest *request, ExchangeOwner *owner);

/* conduit_exchange_call sends a request that somebody else has made whole. */
extern Exchange *conduit_exchange_call(const HttpRequest *request, ExchangeOwner *owner);

/* What a call has brought; lives as long as the exchange. */
extern const HttpResponse *conduit_exchange_response(Exchange *exchange);

/* The next finished exchange or NULL; read it, then free it. */
extern Exchange *conduit_exchange_next_finished(void);
extern ExchangeOwner *conduit_exchange_owner(Exchange *exchange);

/* conduit_exchange_read tells what became of a token request. */
extern void conduit_exchange_read(Exchange *exchange, TokenOutcome *outcome);

/*
 * conduit_exchange_read_revocation does so for a revocation: REFRESHED when the
 * token is revoked, or was not known any more.
 */
extern void conduit_exchange_read_revocation(Exchange *exchange, TokenOutcome *outcome);

/*
 * conduit_exchange_read_json returns the object or array that a GET has brought, in
 * memory of the exchange and the current context; else NULL and the outcome,
 * which is none of DEAD and UNKNOWN: nothing is consumed.
 */
extern const ConduitJson *conduit_exchange_read_json(Exchange *exchange, TokenOutcome *outcome);

extern bool conduit_exchange_sent(Exchange *exchange);	/* as conduit_http_sent */
extern void conduit_exchange_free(Exchange *exchange);

#endif							/* CONDUIT_EXCHANGE_H */
