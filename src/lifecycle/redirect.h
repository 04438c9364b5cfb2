/*-------------------------------------------------------------------------
 *
 * redirect.h
 *	  What a provider's redirect says beside the code.
 *
 * The redirect is a JSON object of its parameters, in UTF-8, or NULL.  Results
 * are of the current memory context.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_REDIRECT_H
#define CONDUIT_REDIRECT_H

#include "base/compat.h"
#include "provider/connector.h"

/* A parameter's text; NULL where there is none. */
extern const char *conduit_redirect_text(const ConduitJson *redirect, const char *name);

/*
 * conduit_redirect_issuer_matches: the response comes from the server that was
 * asked (RFC 9207).  Its issuer is the connector's where that names one, else
 * it is known by its origin, that of authorize_url or token_url.  A response
 * that does not say is let pass unless the connector says that it must.
 */
extern bool conduit_redirect_issuer_matches(const ConduitConnector *connector, const ConduitJson *params,
											const ConduitJson *redirect);

/*
 * conduit_redirect_params makes an object of what the redirect says for the
 * connection's params (callback_params), NULL where nothing; false if a value
 * does not match the pattern of its variable.
 */
extern bool conduit_redirect_params(const ConduitConnector *connector, const ConduitJson *redirect,
									ConduitJson **params);

/* conduit_redirect_missing returns the parameter that the redirect should have brought and has not, or NULL. */
extern const char *conduit_redirect_missing(const ConduitConnector *connector, const ConduitJson *params);

/* The same for its metadata (callback_metadata). */
extern ConduitJson *conduit_redirect_metadata(const ConduitConnector *connector, const ConduitJson *redirect);

/* conduit_redirect_merge puts the members of one object over those of another, which it changes; either may be NULL. */
extern ConduitJson *conduit_redirect_merge(ConduitJson *under, const ConduitJson *over);

#endif							/* CONDUIT_REDIRECT_H */
