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
	AUTH_API_KEY,
	AUTH_BASIC
} AuthType;

typedef enum ClientAuth
{
	CLIENT_AUTH_POST,
	CLIENT_AUTH_BASIC,
	CLIENT_AUTH_NONE
} ClientAuth;

typedef struct ConduitConnector
{
	char	   *slug;
	char	   *name;
	AuthType	auth_type;
	char	   *authorize_url;	/* templates; NULL where not given */
	char	   *token_url;
	char	   *refresh_url;	/* NULL: token_url */
	char	   *revoke_url;
	char	   *api_base_url;
	char	   *api_auth;		/* how a request carries the credential */
	ClientAuth	client_auth;
	bool		pkce;
	char	   *scope_separator;	/* " ", ",", "+" */
	const ConduitJson *extra_authorize_params;	/* object of strings or NULL */
	const ConduitJson *extra_token_params;	/* object of strings or NULL: sent with each token request */
	const ConduitJson *params;	/* object: variable -> {pattern, default?, description?} or NULL */
	bool		refresh_rotates;	/* true unless known not to: the careful guess */
	int			access_token_lifetime_s;	/* 0: none; used where a reply has no expiry */
	int			refresh_token_lifetime_s;	/* 0: unknown */
	int			refresh_lead_s; /* -1: conduit.refresh_lead */
	List	   *dead_errors;	/* char *: further error codes that mean a dead refresh token */
	List	   *dead_statuses;	/* int: HTTP statuses that mean so, also with an empty body */
	int			rate_limit_requests;	/* 0: unknown */
	int			rate_limit_window_s;
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
 * conduit_connector_check_params verifies that params holds declared names
 * only, that each matches its pattern and none that a URL needs is missing;
 * raises 22023 "invalid params" naming the variable.
 */
extern void conduit_connector_check_params(const ConduitConnector *connector, const ConduitJson *params);

/* The endpoint refresh requests go to, expanded; NULL as for expand. */
extern char *conduit_connector_refresh_endpoint(const ConduitConnector *connector, const ConduitJson *params,
												const char **problem, const char **variable);

/*
 * conduit_connector_token_origin returns what secrets of this connection are
 * bound to: "scheme://host:port" of the refresh endpoint, lower-case, port
 * always written; '' for connectors without one.  No setting plays a part in
 * it.  Raises 22023 "invalid params" where a variable of the URL has no value,
 * which conduit_connector_check_params rules out.
 */
extern char *conduit_connector_token_origin(const ConduitConnector *connector, const ConduitJson *params);

#endif							/* CONDUIT_CONNECTOR_H */
