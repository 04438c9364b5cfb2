/*-------------------------------------------------------------------------
 *
 * revocation.h
 *	  Grants that are to be revoked at their providers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_REVOCATION_H
#define CONDUIT_REVOCATION_H

#include "base/compat.h"
#include "utils/uuid.h"

/*
 * conduit_revocation_destroy_credential removes the credential of a locked
 * connection, remembers its generation, and queues the revocation of what it
 * held where the connector has a revocation endpoint.  The sealed tokens are
 * moved as they are: they stay bound to the place they had.
 */
extern void conduit_revocation_destroy_credential(const pg_uuid_t *connection);

/*
 * conduit_revocation_queue_flight queues what a flight brought, parked or
 * about to be, whose connection is gone; for the worker.
 */
extern void conduit_revocation_queue_flight(const pg_uuid_t *connection, int64 generation,
											const char *tenant, const char *owner,
											const char *connector, const char *origin,
											const char *account, const char *client_id,
											const char *params,
											const bytea *access, const bytea *refresh);

#endif							/* CONDUIT_REVOCATION_H */
