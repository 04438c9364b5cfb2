/*-------------------------------------------------------------------------
 *
 * exchange.h
 *	  One conversation with a token endpoint.
 *
 * No table, no lock: results are taken by the worker's loop.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_EXCHANGE_H
#define CONDUIT_EXCHANGE_H

#include "base/compat.h"
#include "provider/token_response.h"

typedef struct RefreshRequest
{
	const ConduitConnector *connector;	/* outlives the exchange */
	const char *endpoint;
	const char *client_id;		/* NULL: none */
	SecretText	client_secret;	/* data NULL: none */
	SecretText	refresh_token;
	int			timeout_ms;
} RefreshRequest;

typedef struct Exchange Exchange;

/* conduit_exchange_refresh sends a refresh request (RFC 6749 section 6). */
extern Exchange *conduit_exchange_refresh(const RefreshRequest *request, void *owner);

/* The next finished exchange or NULL; read it, then free it. */
extern Exchange *conduit_exchange_next_finished(void);
extern void *conduit_exchange_owner(Exchange *exchange);
extern void conduit_exchange_read(Exchange *exchange, TokenOutcome *outcome);
extern bool conduit_exchange_sent(Exchange *exchange);	/* as conduit_http_sent */
extern void conduit_exchange_free(Exchange *exchange);

#endif							/* CONDUIT_EXCHANGE_H */
