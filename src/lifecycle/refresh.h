/*-------------------------------------------------------------------------
 *
 * refresh.h
 *	  A refresh from claim to settle; for the worker alone.
 *
 * Wording:
 *	   - Claim: the row in conduit.flight that says, committed before anything
 *		 is sent, that this generation's refresh token is about to be used.
 *	   - Exchange: the request to the provider, outside of any transaction.
 *	   - Settle: moving the outcome into the credential, in one transaction with
 *		 its event and the end of the claim.
 *	   - Park: keeping the outcome, sealed for its final place, in the flight row
 *		 while somebody's open transaction holds the credential.
 *	   - A claim is void when the worker incarnation that made it is gone: then
 *		 the flight is in doubt, for its token may have been used.
 *
 * claim.c has the beginning, send.c the middle, settle.c the end, parked.c what
 * may come before it.  All functions but the sending
 * run inside a transaction of the worker and conduit_store_begin and _end.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_REFRESH_H
#define CONDUIT_REFRESH_H

#include "base/compat.h"
#include "lifecycle/client.h"
#include "lifecycle/credential.h"
#include "provider/exchange.h"
#include "shared/flight.h"
#include "shared/limiter.h"

/* A flight that killed its worker so often is not sent again for an hour. */
#define CONDUIT_MAX_FLIGHT_ATTEMPTS 3

typedef struct RefreshFlight
{
	ExchangeOwner exchange_owner;	/* first: an exchange leads back here */
	MemoryContext context;		/* holds all of it */
	CredentialPlace place;
	int64		generation;		/* whose refresh token is used */
	int			attempt;
	bool		claimed;		/* its row is written */
	TimestampTz refresh_expires_at; /* of the token that is used; DT_NOEND: not known */
	bool		in_doubt;		/* the token may have been used before */
	char	   *account;
	char	   *client_id;
	char	   *params;			/* JSON object text: where the request went */
	char	   *scope;			/* granted; NULL: not said */
	char	   *requested_scopes;	/* separated by blanks; NULL: not known */
	char	   *own_client;		/* id of the client that is the credential's own; NULL: none */
	const ConduitJson *variables;	/* the same, parsed; NULL: of a parked flight */
	const ConduitConnector *connector;	/* NULL: of a parked flight, not looked up yet */
	int64		revision;		/* of the connector */
	bool		builtin;		/* the connector is */
	char	   *endpoint;
	ConduitClient *client;		/* NULL: none needed or none found */
	int			secret;			/* which of the client's secrets is tried */
	LimiterKey	bucket;			/* that it draws on at the token endpoint */
	bool		limiter_probe;	/* let through to see whether a block still stands */
	bool		breaker_probe;	/* or whether the client is still refused */
	bytea	   *access;			/* sealed: of the generation, then of the next */
	bytea	   *refresh;
	OpenedSecret opened;		/* the refresh part, while the exchange lasts */
	ConduitSecret refresh_part;
	bool		is_open;
	Exchange   *exchange;
	TimestampTz reply_at;
	TokenOutcome outcome;
	bool		sealed;			/* access and refresh are those of the reply */
	bool		parked;			/* the outcome stands in the flight row */
	void	   *owner;			/* the worker's */
} RefreshFlight;

typedef enum SettleResult
{
	SETTLED,					/* in its place, or dropped for good reason */
	SETTLE_PARKED				/* row held: kept in the flight row */
} SettleResult;

/* Say which worker this is; before the first claim. */
extern void conduit_refresh_set_incarnation(void);
extern const pg_uuid_t *conduit_incarnation(void);

/* A refresh that is wanted, and what its claim has come to. */
typedef struct RefreshClaim
{
	pg_uuid_t	connection;
	int64		generation;		/* -1: any */
	bool		forced;
	bool		unasked;
	RequestAnswer answer;		/* for those who asked; ANSWER_NONE where there is a flight */
	RefreshFlight *flight;		/* may be sent, or has its outcome already, for want of a client, say */
} RefreshClaim;

/* conduit_refresh_claim claims refreshes of n connections, each of another one. */
extern void conduit_refresh_claim(RefreshClaim *claims, int n);

/* conduit_refresh_set_outcome gives a flight an outcome of our own. */
extern void conduit_refresh_set_outcome(RefreshFlight *flight, OutcomeClass outcome, const char *code,
										double retry_after);

/*
 * conduit_refresh_put_off writes down that a refresh that is about to be claimed
 * is not sent now: so many seconds later and a bit, for this reason.  It counts
 * as no attempt.
 */
extern void conduit_refresh_put_off(const RefreshFlight *flight, OutcomeClass outcome, const char *code,
									double seconds);

/*
 * conduit_refresh_send starts the exchange; not in a transaction.  False if the
 * flight has its outcome without one.
 */
extern bool conduit_refresh_send(RefreshFlight *flight);

/*
 * conduit_refresh_receive reads the finished exchange.  False if the flight
 * has been sent again, with another secret of the client.
 */
extern bool conduit_refresh_receive(RefreshFlight *flight);

/*
 * conduit_refresh_give_up gives a flight that could not be sent or read an
 * outcome: in doubt if anything of it may have left.
 */
extern void conduit_refresh_give_up(RefreshFlight *flight);

/*
 * conduit_refresh_withdraw ends a flight whose request has not left: nothing
 * is sent any more, and the claim is removed.
 */
extern void conduit_refresh_withdraw(RefreshFlight *flight);

/* conduit_refresh_seal seals the reply for its final place; before conduit_store_begin. */
extern SealStatus conduit_refresh_seal(RefreshFlight *flight);

/* conduit_refresh_settle settles n flights, each of another connection. */
extern void conduit_refresh_settle(RefreshFlight **flights, int n, SettleResult *results);

/* conduit_refresh_park commits the outcome to the flight row alone. */
extern void conduit_refresh_park(RefreshFlight *flight);

/* conduit_refresh_answer is what those who waited for a settled flight are told. */
extern RequestAnswer conduit_refresh_answer(const RefreshFlight *flight, SettleResult result);

/*
 * conduit_refresh_load_parked reads up to max parked flights of connections
 * after this one, in the order of their ids, into context.
 */
extern List *conduit_refresh_load_parked(const pg_uuid_t *after, int max, MemoryContext context);

/* Void claims of former incarnations: those that nothing can come of are removed, the rest listed. */
extern int	conduit_refresh_void_claims(pg_uuid_t **connections, int64 **generations);

extern void conduit_refresh_free(RefreshFlight *flight);

#endif							/* CONDUIT_REFRESH_H */
