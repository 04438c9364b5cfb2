/*-------------------------------------------------------------------------
 *
 * api_key.h
 *	  Server-to-server keys.
 *
 * Wording:
 *	   - A key is "cdt_", its id (22 characters), a secret (43) and a checksum
 *		 (6), all base64url.  The checksum tells a mistyped or cut key from a
 *		 wrong one before anything is looked up.
 *	   - At rest there is a MAC of the secret under a key that is itself sealed:
 *		 who has the table alone can neither use a key nor make one.
 *	   - A scope is an action ("vend"), an action on a connector
 *		 ("vend:github"), or either with "*".
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_API_KEY_H
#define CONDUIT_API_KEY_H

#include "base/compat.h"
#include "utils/array.h"
#include "utils/uuid.h"

typedef struct ApiKey
{
	pg_uuid_t	id;
	char	   *tenant;
	char	   *owner;			/* NULL: a backend for any owner of the tenant */
	TimestampTz expires_at;		/* DT_NOEND: never */
	int			nscopes;
	char	  **scopes;
} ApiKey;

/*
 * conduit_api_key_verify proves a key of the tenant and fills *key; false,
 * alike, if it is mistyped, unknown, another tenant's, expired or revoked.
 * Notes the use.  Within conduit_store_begin and _end.
 */
extern bool conduit_api_key_verify(const char *text, const char *tenant, ApiKey *key);

/* True if the key may do action on a connector; object NULL: on any at all. */
extern bool conduit_api_key_allows(const ApiKey *key, const char *action, const char *object);

/* For the worker: write down noted uses, a batch; returns how many. */
extern int	conduit_api_key_write_uses(void);

#endif							/* CONDUIT_API_KEY_H */
