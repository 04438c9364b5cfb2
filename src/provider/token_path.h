/*-------------------------------------------------------------------------
 *
 * token_path.h
 *	  Finding values in a provider's answer: by path, by name, in a JWT.
 *
 * Wording:
 *	   - A plain name is a key in lower case without '_', '-', ' ' and '.': the
 *		 form in which access_token and accessToken are the same.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_TOKEN_PATH_H
#define CONDUIT_TOKEN_PATH_H

#include "base/compat.h"
#include "base/json.h"

#define CONDUIT_PLAIN_NAME_MAX 64

/* conduit_plain_name writes the plain name of key, cut off at its size. */
extern void conduit_plain_name(const char *key, char plain[CONDUIT_PLAIN_NAME_MAX + 1]);

/*
 * conduit_find_member returns the member of that very name, else the first of
 * the same plain name; a null one is none.
 */
extern const ConduitJson *conduit_find_member(const ConduitJson *object, const char *name);

/*
 * conduit_find_path follows a path of a connector's definition: through
 * objects, arrays ("0" is the first element) and the claims of a string that is
 * a JWT.  NULL if it leads nowhere or to null.
 */
extern const ConduitJson *conduit_find_path(const ConduitJson *root, const char *path);

/* conduit_find_parent does so for a path without its last step. */
extern const ConduitJson *conduit_find_parent(const ConduitJson *root, const char *path);

/*
 * conduit_jwt_claims returns the claims of a text that is a JWT (RFC 7519), or
 * NULL.  Nothing is verified.  The result points into *buffer, of *size bytes
 * in the current context, for a caller who wants to wipe it.
 */
extern ConduitJson *conduit_jwt_claims(const char *text, int length, char **buffer, int *size);

#endif							/* CONDUIT_TOKEN_PATH_H */
