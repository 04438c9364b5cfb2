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
 * Whose the buckets of a connection (n) are, in SQL: the tenant of the client
 * that it is used under, '' where tenants share one, else its own tenant.  An
 * account's name and a client_id are whatever a tenant says they are: it must
 * not slow another one's by naming them.
 */
#define CONDUIT_RATE_TENANT \
	"COALESCE((SELECT a.tenant FROM conduit.client a" \
	" WHERE a.connector = n.connector AND a.client_id = n.client_id AND a.tenant IN (n.tenant, '')" \
	" ORDER BY a.tenant DESC LIMIT 1), n.tenant)"

/*
 * The bucket of a connection at its provider's API: that of the account, which
 * all connections of the tenant (CONDUIT_RATE_TENANT) to it share; where account
 * is NULL, the connection's own.
 */
extern LimiterKey conduit_rate_api_key(const char *tenant, const char *connector, const char *account,
									   const pg_uuid_t *connection);

/*
 * The bucket at the token endpoint: that of the tenant's client; where client_id
 * is NULL, the connection's own.
 */
extern LimiterKey conduit_rate_token_key(const char *tenant, const char *connector, const char *client_id,
										 const pg_uuid_t *connection);

/*
 * conduit_rate_charge_client counts a request to the token endpoint that is
 * sent in any case: the bucket owes it.  Raises nothing.
 */
extern void conduit_rate_charge_client(const ConduitConnector *connector, const char *tenant, const char *client_id);

#endif							/* CONDUIT_RATE_H */
