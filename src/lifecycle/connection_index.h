/*-------------------------------------------------------------------------
 *
 * connection_index.h
 *	  Looking up many connections by owner and account.
 *
 * By the one index that is meant for it, whatever the planner takes the table
 * to be: before it has been analyzed, a new connector's rows count as one, and
 * any index that begins with the connector as good as another.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_CONNECTION_INDEX_H
#define CONDUIT_CONNECTION_INDEX_H

#include "base/compat.h"
#include "utils/uuid.h"

typedef enum ConnectionIndex
{
	INDEX_LIVE_ACCOUNT,			/* connections that are not revoked, by their accounts */
	INDEX_REVOKED_ACCOUNT,		/* revoked ones */
	INDEX_OWNER					/* all of an owner's; account NULL */
} ConnectionIndex;

/* What is found: its id, connector, account (NULL: not known) and status. */
typedef struct ConnectionFound
{
	pg_uuid_t	id;
	const char *connector;
	const char *account;
	bool		revoked;
} ConnectionFound;

typedef struct ConnectionLookup ConnectionLookup;

/*
 * A look-up sees the newest committed rows and those of the current
 * transaction.  It keeps no lock, and is to be closed in the same statement's
 * course; an error closes it, too.
 */
extern ConnectionLookup *conduit_lookup_open(ConnectionIndex which, const char *tenant, const char *connector);

/* conduit_lookup_begin starts looking for an owner's connections, conduit_lookup_next gives one after the other. */
extern void conduit_lookup_begin(ConnectionLookup *lookup, const char *owner, const char *account);
extern bool conduit_lookup_next(ConnectionLookup *lookup, ConnectionFound *found);
extern void conduit_lookup_close(ConnectionLookup *lookup);

#endif							/* CONDUIT_CONNECTION_INDEX_H */
