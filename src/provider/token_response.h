/*-------------------------------------------------------------------------
 *
 * token_response.h
 *	  What a provider answered: parsing and classification (RFC 6749 5.1, 5.2
 *	  and what providers make of it).
 *
 * Untrusted input: nothing in it raises an error, and no text of it goes
 * anywhere but into the sealed secret, except error codes cut down to
 * [a-zA-Z0-9_.-], 64 characters at most.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_TOKEN_RESPONSE_H
#define CONDUIT_TOKEN_RESPONSE_H

#include "base/compat.h"
#include "datatype/timestamp.h"
#include "provider/connector.h"
#include "provider/http.h"
#include "vault/secret.h"

#define OUTCOME_CODE_LEN 64

typedef enum TokenRequestKind
{
	TOKEN_REQUEST_CODE,			/* RFC 6749, 4.1.3 */
	TOKEN_REQUEST_REFRESH,		/* RFC 6749, 6 */
	TOKEN_REQUEST_EXCHANGE,		/* an access token for another one */
	TOKEN_REQUEST_CLIENT_CREDENTIALS,	/* RFC 6749, 4.4 */
	TOKEN_REQUEST_JWT_BEARER,	/* RFC 7523, 2.1; app installations */
	TOKEN_REQUEST_BEARER_RENEW	/* the refresh token in the Authorization header */
} TokenRequestKind;

/*
 * What is mapped is copied; see conduit_token_grant_wipe.
 */
typedef struct TokenGrant
{
	ConduitSecret secret;		/* access_token, refresh_token, extra; points into memory of
								 * the context it was parsed in */
	char	   *token_type;		/* "Bearer" where none was given; NULL: as it was, with
								 * keeps_access_token */
	char	   *scope;			/* as given, NULL: not given */
	TimestampTz issued_at;		/* now, or what the answer says where it is plausible */
	TimestampTz expires_at;		/* DT_NOEND: none */
	double		lifetime;		/* seconds, 0: not known */
	TimestampTz refresh_expires_at; /* DT_NOEND: not known */
	bool		keeps_access_token; /* no access token came: the stored one lives on */

	/* What belongs to the connection, in UTF-8; NULL where nothing was said. */
	const char *account;
	const char *account_label;
	const ConduitJson *new_params;	/* object of strings, each fit for its variable's pattern */
	const ConduitJson *new_metadata;	/* object */
} TokenGrant;

typedef struct TokenOutcome
{
	OutcomeClass outcome;
	char		code[OUTCOME_CODE_LEN + 1]; /* stable: "invalid_grant", "http_503",
											 * "timeout", "tls", "bad_json", ... */
	double		retry_after;	/* seconds, -1: not said; clamped to 1 s .. 1 h */
	int			status;			/* HTTP status, 0: none */
	double		seconds;		/* the provider took */
	TokenGrant	grant;			/* OUTCOME_REFRESHED only */
} TokenOutcome;

extern const char *conduit_outcome_name(OutcomeClass outcome);	/* "refreshed", "dead", ... */

/*
 * conduit_token_response_read classifies a finished transfer to a token
 * endpoint.  own_client: the client that asked is the connection's own, not the
 * connector's, so that its refusal is proof that what is stored is dead.
 * Memory of the grant is of the current context.
 */
extern void conduit_token_response_read(const ConduitConnector *connector, TokenRequestKind kind,
										bool own_client, HttpResponse *response,
										TimestampTz started_at, TokenOutcome *outcome);

/*
 * conduit_token_grant_from_json maps a token object (a provider's response or
 * the camelCase form) to a grant; store_credential uses it too.  Returns NULL
 * or a constant text that says what is wrong.  require_access: an access token
 * must be there (a response), not just one of the two (a stored secret).
 */
extern const char *conduit_token_grant_from_json(const ConduitConnector *connector, const ConduitJson *object,
												 TimestampTz received_at, bool require_access, TokenGrant *grant);

/*
 * conduit_token_grant_extended makes a grant of an answer without an access
 * token, where that means that the stored one lives on.
 */
extern void conduit_token_grant_extended(const ConduitConnector *connector, const ConduitJson *object,
										 TimestampTz received_at, TokenGrant *grant);

/*
 * conduit_token_expiry_from_json sets the grant's expires_at and lifetime from
 * expires_at / expiresAt (ISO 8601 or epoch) of an object, nothing where it has
 * none.  Returns NULL or a constant text.
 */
extern const char *conduit_token_expiry_from_json(const ConduitJson *object, TimestampTz received_at, TokenGrant *grant);

/* conduit_token_grant_drop_refresh takes a refresh token away that is no use. */
extern void conduit_token_grant_drop_refresh(TokenGrant *grant);

/* conduit_token_grant_wipe clears the copies of secrets that a grant holds. */
extern void conduit_token_grant_wipe(TokenGrant *grant);

#endif							/* CONDUIT_TOKEN_RESPONSE_H */
