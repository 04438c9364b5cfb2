/*-------------------------------------------------------------------------
 *
 * connector.h
 *	  Definitions of providers: parsing, validation, URL templates.
 *
 * Wording:
 *	   - A definition is a JSON object whose fields are named in the docs
 *		 (docs/connectors.md); one that extends another is resolved (merged)
 *		 before it comes here.
 *	   - A template is a URL with {name} variables, filled from a connection's
 *		 params, each by its pattern.
 *	   - A path leads to a value in a provider's answer: "data.access_token",
 *		 "authed_user.0.id".  Where it leads through a string that is a JWT, it
 *		 goes on in the claims ("id_token.sub").
 *	   - Parameters have canonical names, those of RFC 6749; a renaming says how
 *		 the provider calls them, null that it wants none of it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_CONNECTOR_H
#define CONDUIT_CONNECTOR_H

#include "base/compat.h"
#include "base/json.h"
#include "nodes/pg_list.h"

typedef enum AuthType
{
	AUTH_OAUTH2_CODE,
	AUTH_CLIENT_CREDENTIALS,	/* RFC 6749, 4.4: minted anew instead of refreshed */
	AUTH_JWT_BEARER,			/* RFC 7523, 2.1, and app installations: likewise */
	AUTH_BEARER_RENEW,			/* the refresh token goes into the Authorization header */
	AUTH_API_KEY,
	AUTH_BASIC
} AuthType;

/* Whether credentials of this type come from a token endpoint. */
#define conduit_auth_has_endpoint(type) ((type) < AUTH_API_KEY)

/* Whether they renew themselves: minted anew, without a refresh token. */
#define conduit_auth_mints(type) ((type) == AUTH_CLIENT_CREDENTIALS || (type) == AUTH_JWT_BEARER)

typedef enum ClientAuth
{
	CLIENT_AUTH_POST,			/* client_id and client_secret among the parameters */
	CLIENT_AUTH_BASIC,			/* RFC 6749, 2.3.1 */
	CLIENT_AUTH_NONE,			/* client_id alone */
	CLIENT_AUTH_PRIVATE_KEY_JWT,	/* RFC 7523, 2.2: the client's secret is a PEM key */
	CLIENT_AUTH_SECRET_AS_USER	/* Basic with the secret as user, no password */
} ClientAuth;

typedef enum BodyFormat
{
	BODY_FORM,
	BODY_JSON,
	BODY_QUERY					/* parameters in the URL, no body */
} BodyFormat;

/* Values of error_codes and error_phrases, and of our own tables. */
typedef enum OutcomeClass
{
	OUTCOME_REFRESHED,
	OUTCOME_DEAD,				/* the refresh token that was sent is dead */
	OUTCOME_CONFIG,				/* our client or connector is at fault */
	OUTCOME_THROTTLED,
	OUTCOME_TRANSIENT,			/* the token was not consumed */
	OUTCOME_UNKNOWN				/* it may have been: in doubt */
} OutcomeClass;

/* A code or phrase of the provider's and what it means. */
typedef struct ErrorMeaning
{
	const char *text;
	OutcomeClass outcome;		/* DEAD, CONFIG, THROTTLED or TRANSIENT */
} ErrorMeaning;

/* How one kind of token request is put. */
typedef struct RequestForm
{
	const char *method;			/* "POST" or "GET" */
	BodyFormat	body_format;
	const char *grant_type;		/* NULL: the parameter is left out */
	const ConduitJson *param_names; /* canonical name -> theirs or null; or NULL */
	const ConduitJson *extra_params;	/* object of strings, may have variables; or NULL */
} RequestForm;

/* How many requests in how long; requests 0: unknown. */
typedef struct RateLimit
{
	int			requests;
	int			window_s;
	int			burst;			/* capacity; 0: requests */
} RateLimit;

typedef struct ConduitConnector
{
	char	   *slug;
	char	   *name;
	AuthType	auth_type;

	/* endpoints: templates; NULL where not given */
	char	   *issuer;			/* RFC 8414, 9207 */
	char	   *authorize_url;
	char	   *token_url;
	char	   *refresh_url;	/* NULL: token_url */
	char	   *exchange_url;	/* NULL: the refresh endpoint */
	char	   *revoke_url;		/* may have {token} and {client_id} behind the host */
	char	   *account_url;
	char	   *api_base_url;
	char	   *api_auth;		/* how a request carries the credential */
	List	   *preview_hosts;	/* char *: hosts of presigned URLs, or "*." and one */

	/* the client */
	ClientAuth	client_auth;
	char	   *client_assertion_audience;	/* text with variables; NULL: the endpoint */
	char	   *client_assertion_issuer;	/* the same; NULL: client_id */
	char	   *signing_algorithm;	/* RS256, RS384, RS512, PS256, ES256, ES384, EdDSA; of both kinds
									 * of assertion */

	/* requests */
	RequestForm code_request;
	RequestForm refresh_request;	/* also of self-renewing credentials, by their own grant_type */
	char	   *exchange_grant_type;	/* a token from a code is exchanged once more; NULL: no */
	bool		refresh_by_access_token;	/* the access token is the refresh credential */
	bool		refresh_sends_scope;
	const ConduitJson *token_headers;	/* object of strings: params, {client_id},
										 * {client_secret}, {uuid}; or NULL */

	/* authorize */
	bool		pkce;
	char	   *scope_separator;	/* " ", ",", "+" */
	List	   *default_scopes; /* char * */
	const ConduitJson *authorize_param_names;	/* as in RequestForm */
	const ConduitJson *extra_authorize_params;	/* object of strings, may have variables; or NULL */
	char	   *callback_code_param;	/* name of the code in the redirect; "code" */
	const ConduitJson *callback_params; /* redirect parameter -> variable of params; or NULL */
	List	   *callback_metadata;	/* char *: redirect parameters kept in metadata */
	bool		callback_iss_required;	/* the server says that it always sends iss */

	/* answers: paths; NULL: the usual names */
	char	   *access_token_path;
	char	   *refresh_token_path;
	char	   *token_type_path;
	char	   *scope_path;
	char	   *expires_path;
	bool		expires_is_time;	/* a point in time, not a lifetime */
	bool		expires_in_ms;	/* lifetimes are in milliseconds */
	char	   *refresh_expires_path;
	char	   *error_path;
	char	   *error_description_path;
	char	   *success_path;
	const ConduitJson *success_value;	/* scalar; a reply without it is a refusal */
	bool		refresh_extends;	/* a success without access token: the same one lives on */
	const ConduitJson *response_params; /* variable of params -> path; or NULL */
	const ConduitJson *response_metadata;	/* key of metadata -> path; or NULL */
	char	   *account_path;	/* in account_url's answer if there is one, else in the token response */
	char	   *account_label_path;

	/* how tokens live */
	bool		refresh_rotates;	/* true unless known not to: the careful guess */
	bool		refresh_kills_access_token;
	int			reuse_window_s; /* a consumed refresh token is good for so long; 0: not */
	int			access_token_lifetime_s;	/* 0: none; used where a reply has no expiry */
	int			refresh_token_lifetime_s;	/* 0: unknown */
	int			refresh_idle_limit_s;	/* an unused refresh token dies after; 0: unknown */
	int			refresh_lead_s; /* -1: conduit.refresh_lead */

	/* what errors mean; the connector's go before our own */
	ErrorMeaning *error_codes;	/* dead_errors among them */
	int			nerror_codes;
	ErrorMeaning *error_phrases;	/* lower-case */
	int			nerror_phrases;
	List	   *dead_statuses;	/* int: HTTP statuses that mean so, also with an empty body */

	/* revocation */
	const char *revoke_method;	/* "POST", "DELETE", "GET" */
	BodyFormat	revoke_body_format;
	bool		revoke_by_access_token; /* the access token is sent, not the refresh token */
	char	   *revoke_param;	/* its parameter; "token"; NULL: none */
	enum
	{
		REVOKE_AUTH_CLIENT,		/* as in token requests */
		REVOKE_AUTH_BASIC,		/* client_id and secret as Basic, whatever client_auth says */
		REVOKE_AUTH_TOKEN,		/* Bearer, the access token */
		REVOKE_AUTH_NONE
	}			revoke_auth;
	bool		revokes_token;	/* the one token; else all the grant of user and client */

	/* assertions (jwt_bearer) */
	char	   *jwt_audience;	/* template; NULL: the endpoint */
	int			jwt_lifetime_s;
	bool		jwt_in_header;	/* as Bearer, without a grant (app installations) */
	bool		jwt_scope_claim;	/* scope is a claim, not a parameter */
	const ConduitJson *jwt_claims;	/* object of strings, may have variables; or NULL */

	const ConduitJson *params;	/* object: variable -> {pattern, default?, description?} or NULL */
	RateLimit	api_limit;
	RateLimit	token_limit;	/* of the token endpoint, for each client */
} ConduitConnector;

/*
 * conduit_connector_parse reads and validates a resolved definition into the
 * current memory context.  On bad input it raises 22023 "invalid connector
 * definition" whose DETAIL begins with the field's name and says what is wrong
 * and whose HINT says what is expected.
 */
extern ConduitConnector *conduit_connector_parse(const char *slug, const char *definition);

/*
 * conduit_connector_load reads a definition that was accepted before.  It is
 * the same but for the rules that depend on settings, so that taking a host off
 * conduit.egress_allow stops the requests to it (conduit_connector_expand says
 * why) and nothing else: what is stored can still be read, vended and deleted.
 */
extern ConduitConnector *conduit_connector_load(const char *slug, const char *definition);

/* conduit_connector_slug_valid: ^[a-z][a-z0-9-]{0,62}$ with single inner hyphens or underscores. */
extern bool conduit_connector_slug_valid(const char *slug);

/*
 * conduit_connector_expand fills a template of the connector with params (an
 * object of strings, or NULL) and checks the result as a URL that egress would
 * let through.  Returns NULL with *problem a constant text and *variable the
 * name of the offending variable (or NULL) when that is not possible.
 */
extern char *conduit_connector_expand(const ConduitConnector *connector, const char *template_url,
									  const ConduitJson *params, const char **problem, const char **variable);

/*
 * conduit_connector_expand_revoke does the same with revoke_url (which there
 * is), whose {token} and {client_id} it fills too.  The caller wipes the result.
 */
extern char *conduit_connector_expand_revoke(const ConduitConnector *connector, const ConduitJson *params,
											 const char *token, const char *client_id,
											 const char **problem, const char **variable);

/*
 * conduit_connector_origin returns "scheme://host:port" of a template, in lower
 * case, port always written, whatever settings and patterns say of it; NULL
 * where a variable of the host has no value.
 */
extern char *conduit_connector_origin(const ConduitConnector *connector, const char *template_url,
									  const ConduitJson *params);

/*
 * conduit_connector_takes_client: whether it is used under a client of
 * conduit_set_client; conduit_connector_needs_secret: whether that client has a
 * secret or a key.
 */
extern bool conduit_connector_takes_client(const ConduitConnector *connector);
extern bool conduit_connector_needs_secret(const ConduitConnector *connector);

/*
 * conduit_connector_check_params verifies that params holds declared names
 * only, that each matches its pattern and none is missing that something needs
 * and neither the redirect nor an answer of the provider will bring; raises
 * 22023 "invalid params" naming the variable.
 */
extern void conduit_connector_check_params(const ConduitConnector *connector, const ConduitJson *params);

/*
 * conduit_connector_binds_client: a refresh token is of use to the client alone
 * that it was issued to.
 */
extern bool conduit_connector_binds_client(const ConduitConnector *connector);

/* The endpoint refresh requests go to, expanded; NULL as for expand. */
extern char *conduit_connector_refresh_endpoint(const ConduitConnector *connector, const ConduitJson *params,
												const char **problem, const char **variable);

/*
 * conduit_connector_token_origin returns what secrets of this connection are
 * bound to: "scheme://host:port" of the refresh endpoint, lower-case, port
 * always written; '' for connectors without one.  No setting plays a part in
 * it.  Raises 22023 "invalid params" where a variable of the URL has no value:
 * one that the redirect fills and that has not been filled yet.
 */
extern char *conduit_connector_token_origin(const ConduitConnector *connector, const ConduitJson *params);

#endif							/* CONDUIT_CONNECTOR_H */
