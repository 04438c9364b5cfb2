/*-------------------------------------------------------------------------
 *
 * token_object.h
 *	  A token object while a grant is made of it; for token_*.c.
 *
 * Wording:
 *	   - The home is the object that the access token is in: there the fields
 *		 that no path leads to have their usual names.
 *	   - A value is taken when it became a field of the grant.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_TOKEN_OBJECT_H
#define CONDUIT_TOKEN_OBJECT_H

#include "base/compat.h"
#include "provider/token_response.h"

#define CONDUIT_MAX_TAKEN 12

typedef struct TokenObject
{
	const ConduitConnector *connector;
	const ConduitJson *root;
	const ConduitJson *home;
	bool		response;		/* a provider's, just received; else an application's, perhaps old */
	bool		paths;			/* the connector's paths count */
	const ConduitJson *taken[CONDUIT_MAX_TAKEN];
	int			ntaken;
} TokenObject;

/* conduit_token_object_open finds the home. */
extern void conduit_token_object_open(TokenObject *object, const ConduitConnector *connector,
									  const ConduitJson *root, bool response);

/*
 * conduit_token_take takes the value that a path leads to.  Where that is NULL,
 * or leads nowhere, it takes the one of that name; but a token is only ever what
 * the path says, as another one may be at hand under the usual name.
 */
extern const ConduitJson *conduit_token_take(TokenObject *object, const char *path, const char *name);
extern const ConduitJson *conduit_token_take_secret(TokenObject *object, const char *path, const char *name);

/* token_expiry.c: when the tokens of the grant die; after they have been read. */
extern void conduit_token_read_expiry(TokenObject *object, TimestampTz received_at, TokenGrant *grant);

/* token_extra.c: what else the object says; after everything else has been read. */
extern void conduit_token_read_extra(TokenObject *object, TokenGrant *grant);

#endif							/* CONDUIT_TOKEN_OBJECT_H */
