/*-------------------------------------------------------------------------
 *
 * authorize_url.h
 *	  Where a browser is sent to authorize a connection (RFC 6749, 4.1.1, with
 *	  the code challenge of RFC 7636).
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_AUTHORIZE_URL_H
#define CONDUIT_AUTHORIZE_URL_H

#include "base/compat.h"
#include "nodes/pg_list.h"
#include "provider/connector.h"

/* A URL that is longer does not get through every browser and server. */
#define CONDUIT_AUTHORIZE_URL_MAX	8000

/* Texts are UTF-8. */
typedef struct AuthorizeRequest
{
	const char *client_id;
	const char *redirect_uri;	/* NULL: not sent */
	const char *state;
	List	   *scopes;			/* char *; NIL: not sent */
	const char *code_challenge; /* S256; NULL: without PKCE */
	const ConduitJson *params;	/* of the connection, for variables; NULL: none */
} AuthorizeRequest;

/*
 * conduit_authorize_url builds the URL.  Returns NULL with *problem a constant
 * text and *variable the name of the offending variable (or NULL) where a
 * variable has no value that fits, egress rules forbid the host, or the URL is
 * too long.
 */
extern char *conduit_authorize_url(const ConduitConnector *connector, const AuthorizeRequest *request,
								   const char **problem, const char **variable);

/*
 * conduit_scope_join joins scopes (List of char *) as the connector's token
 * requests have them; NULL for none.
 */
extern char *conduit_scope_join(const ConduitConnector *connector, const List *scopes);

#endif							/* CONDUIT_AUTHORIZE_URL_H */
