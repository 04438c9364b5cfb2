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
#include "provider/token_response.h"

typedef struct TokenRequest
{
	TokenRequestKind kind;
	const ConduitConnector *connector;	/* outlives the exchange */
	const ConduitJson *params;	/* of the connection, for variables; NULL: none */
	const char *endpoint;		/* expanded */
	const char *client_id;		/* NULL: none */
	SecretText	client_secret;	/* data NULL: none; a PEM key where the connector signs */
	bool		own_client;		/* the connection's, not the connector's; with JWT_BEARER: no
								 * other client takes part */
	SecretText	code;			/* CODE */
	SecretText	code_verifier;	/* CODE; data NULL: none */
	const char *redirect_uri;	/* CODE; NULL: not sent */
	SecretText	refresh_token;	/* REFRESH, BEARER_RENEW; the access token for EXCHANGE and
								 * where that is the refresh credential */
	SecretText	private_key;	/* JWT_BEARER: PEM */
	const char *issuer;			/* JWT_BEARER */
	const char *subject;		/* JWT_BEARER; NULL: no such claim */
	const char *key_id;			/* JWT_BEARER; NULL: no such header */
	const char *audience;		/* JWT_BEARER; NULL: what the connector says */
	const char *scope;			/* NULL: not sent */
	int			timeout_ms;
} TokenRequest;

/* Revocation of what a connection had (RFC 7009 and what providers make of it). */
typedef struct RevokeRequest
{
	const ConduitConnector *connector;	/* outlives the exchange */
	const ConduitJson *params;
	const char *endpoint;		/* as conduit_connector_revoke_endpoint makes it */
	const char *client_id;		/* NULL: none */
	SecretText	client_secret;	/* as in TokenRequest */
	SecretText	refresh_token;	/* data NULL: none; which of the two is sent, the */
	SecretText	access_token;	/* connector says */
	int			timeout_ms;
} RevokeRequest;

/* A document: account_url's with an access token, metadata of a server without. */
typedef struct GetRequest
{
	const ConduitConnector *connector;	/* says how a token is carried; NULL where there is none */
	const ConduitJson *params;
	const char *endpoint;		/* expanded */
	const char *client_id;		/* some want it beside the token; NULL: none */
	SecretText	access_token;	/* data NULL: none */
	int			timeout_ms;
} GetRequest;

/* Whose an exchange is; the first member of what owns it. */
typedef struct ExchangeOwner
{
	bool		errand;			/* else a RefreshFlight */
} ExchangeOwner;

typedef struct Exchange Exchange;

extern Exchange *conduit_exchange_token(const TokenRequest *request, ExchangeOwner *owner);
extern Exchange *conduit_exchange_revoke(const RevokeRequest *request, ExchangeOwner *owner);
extern Exchange *conduit_exchange_get(const GetRequest *request, ExchangeOwner *owner);

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
 * conduit_exchange_read_json returns the object that a GET has brought, in
 * memory of the exchange and the current context; else NULL and the outcome.
 */
extern const ConduitJson *conduit_exchange_read_json(Exchange *exchange, TokenOutcome *outcome);

extern bool conduit_exchange_sent(Exchange *exchange);	/* as conduit_http_sent */
extern void conduit_exchange_free(Exchange *exchange);

#endif							/* CONDUIT_EXCHANGE_H */
