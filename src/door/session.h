/*-------------------------------------------------------------------------
 *
 * session.h
 *	  Opaque handles for a cookie.
 *
 * Wording:
 *	   - A session key is 256 random bits, base64url; the table has its SHA-256,
 *		 whose first 16 bytes are the row's id.
 *	   - A session ends when conduit.session_ttl has gone by since its last use,
 *		 and in any case at its end.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_SESSION_H
#define CONDUIT_SESSION_H

#include "base/compat.h"
#include "datatype/timestamp.h"
#include "utils/uuid.h"

typedef struct ConduitSession
{
	char	   *owner;
	bool		bound;			/* to one connection */
	pg_uuid_t	connection;
	TimestampTz expires_at;
} ConduitSession;

/*
 * conduit_session_verify finds a tenant's session by its key and notes the use;
 * false, alike, if it is malformed, unknown, another tenant's, over or closed.
 * Within conduit_store_begin and _end.
 */
extern bool conduit_session_verify(const char *key, const char *tenant, ConduitSession *session);

/* For the worker: write down noted uses, and remove what has ended; a batch, how many. */
extern int	conduit_session_write_uses(void);
extern int	conduit_session_purge(void);

#endif							/* CONDUIT_SESSION_H */
