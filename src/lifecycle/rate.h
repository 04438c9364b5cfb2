/*-------------------------------------------------------------------------
 *
 * rate.h
 *	  Whose bucket a request draws on, and how large it is.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_RATE_H
#define CONDUIT_RATE_H

#include "base/compat.h"
#include "provider/connector.h"
#include "shared/limiter.h"
#include "utils/uuid.h"

/* The longest pause that anybody is believed to ask for, in seconds. */
#define CONDUIT_LONGEST_PAUSE (31 * 86400.0)

/* What a connector publishes, as a bucket's size and refill. */
extern LimiterRate conduit_rate_of(const RateLimit *limit);

/*
 * The bucket of a connection at its provider's API: that of the account, which
 * all connections of the tenant to it share; where account is NULL, the
 * connection's own.  Other tenants have theirs, also where they share a client:
 * an account's name is whatever a tenant says it is, as is how much is taken and
 * for how long the provider asked to pause.
 */
extern LimiterKey conduit_rate_api_key(const char *tenant, const char *connector, const char *account,
									   const pg_uuid_t *connection);

/*
 * The bucket at the token endpoint: that of the client of a tenant, '' where
 * tenants share one; where client_id is NULL, the connection's own.
 */
extern LimiterKey conduit_rate_token_key(const char *tenant, const char *connector, const char *client_id,
										 const pg_uuid_t *connection);

/*
 * conduit_rate_charge_client counts a request to the token endpoint that is
 * sent in any case: the bucket owes it.  Raises nothing.
 */
extern void conduit_rate_charge_client(const ConduitConnector *connector, const char *tenant, const char *client_id);

#endif							/* CONDUIT_RATE_H */
