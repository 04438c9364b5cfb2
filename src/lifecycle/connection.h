/*-------------------------------------------------------------------------
 *
 * connection.h
 *	  Connections: rows, states, and who may see them.
 *
 * Lock order everywhere: connection, then credential.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_CONNECTION_H
#define CONDUIT_CONNECTION_H

#include "base/compat.h"
#include "utils/uuid.h"

typedef struct ConnectionRow
{
	pg_uuid_t	id;
	char	   *tenant;
	char	   *owner;
	char	   *connector;
	char	   *account;		/* NULL: not known */
	char	   *status;
	char	   *client_id;		/* NULL: not known */
	char	   *params;			/* JSON object text */
	int64		last_generation;
} ConnectionRow;

/*
 * conduit_connection_lock locks the connection for update and reads it; owner
 * NULL: any.  Raises PT404 when it is not there for this owner and tenant.
 * Within conduit_store_begin and _end.
 */
extern ConnectionRow *conduit_connection_lock(const pg_uuid_t *id, const char *owner, const char *tenant);

/*
 * conduit_connection_status reads the status of a connection of this owner
 * (NULL: any) and tenant without locking it; NULL where there is none.
 */
extern char *conduit_connection_status(const pg_uuid_t *id, const char *owner, const char *tenant);

/* conduit_connection_set_status writes the status to connection and credential. */
extern void conduit_connection_set_status(const pg_uuid_t *id, const char *status, const char *reason);

/*
 * conduit_connection_merge takes over what a provider's answer said of the
 * connection, JSON objects' texts in UTF-8 or NULL: their keys replace those of
 * params and metadata.  Where secrets go does not change by it, for a variable
 * that an answer fills stands in no URL that they are sent to.  The caller has
 * locked the row.
 */
extern void conduit_connection_merge(const pg_uuid_t *id, const char *params, const char *metadata);

/* conduit_connection_event writes an event about the connection. */
extern void conduit_connection_event(const ConnectionRow *row, const char *kind,
									 const char *new_status, const char *reason);

#endif							/* CONDUIT_CONNECTION_H */
