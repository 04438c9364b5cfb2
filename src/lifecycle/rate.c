/*-------------------------------------------------------------------------
 *
 * rate.c
 *	  conduit_rate_take and conduit_rate_report: a provider's rate limit, shared
 *	  by all who call its API.
 *
 * Nothing is written, so that both work in READ ONLY transactions and on a
 * standby, whose buckets are its own.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/rate.h"

#include <math.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"

#include "base/clock.h"
#include "base/report.h"
#include "lifecycle/argument.h"
#include "lifecycle/catalogue.h"
#include "lifecycle/store.h"
#include "shared/area.h"

/* Seconds, where the provider said no time. */
#define STANDARD_PAUSE 30.0

PG_FUNCTION_INFO_V1(conduit_rate_take);
PG_FUNCTION_INFO_V1(conduit_rate_report);

LimiterRate
conduit_rate_of(const RateLimit *limit)
{
	LimiterRate rate = {0, 0};

	if (limit->requests > 0)
	{
		rate.capacity = limit->burst > 0 ? limit->burst : limit->requests;
		rate.per_second = (double) limit->requests / limit->window_s;
	}
	return rate;
}

LimiterKey
conduit_rate_api_key(const char *tenant, const char *connector, const char *account, const pg_uuid_t *connection)
{
	return account != NULL ?
		conduit_limiter_key(LIMITER_API_ACCOUNT, tenant, connector, account, strlen(account)) :
		conduit_limiter_key(LIMITER_API_CONNECTION, tenant, connector, connection, sizeof(pg_uuid_t));
}

LimiterKey
conduit_rate_token_key(const char *tenant, const char *connector, const char *client_id, const pg_uuid_t *connection)
{
	return client_id != NULL ?
		conduit_limiter_key(LIMITER_TOKEN_CLIENT, tenant, connector, client_id, strlen(client_id)) :
		conduit_limiter_key(LIMITER_TOKEN_CONNECTION, tenant, connector, connection, sizeof(pg_uuid_t));
}

void
conduit_rate_charge_client(const ConduitConnector *connector, const char *tenant, const char *client_id)
{
	LimiterKey	key = conduit_rate_token_key(tenant, connector->slug, client_id, NULL);
	LimiterRate rate = conduit_rate_of(&connector->token_limit);

	conduit_limiter_charge(&key, &rate, conduit_now());
}

/* The bucket of an owner's connection, and its rate; PT404 where it is not the owner's. */
static LimiterKey
find_bucket(const pg_uuid_t *connection, const char *owner, const char *tenant, LimiterRate *rate)
{
	static StoreQuery select = {
		"SELECT n.connector, n.account, k.revision FROM conduit.connection n"
		" JOIN conduit.connector k ON k.slug = n.connector"
		" WHERE n.id = $1 AND n.tenant = $2 AND n.owner = $3",
		3, {UUIDOID, TEXTOID, TEXTOID}
	};
	MemoryContext context = CurrentMemoryContext;
	StoreArgs	args = {0};
	StoreScope	scope;
	LimiterKey	key;
	char	   *connector;

	conduit_arg_uuid(&args, connection);
	conduit_arg_text(&args, tenant);
	conduit_arg_text(&args, owner);
	conduit_store_begin(&scope);
	if (conduit_store_run(&select, &args) == 0)
		conduit_raise(CONDUIT_ERR_CONNECTION_NOT_FOUND, NULL);
	if (!conduit_area_attached())
		conduit_raise(CONDUIT_ERR_NO_WORKER, "not_preloaded");
	connector = conduit_row_text(0, 1, context);
	key = conduit_rate_api_key(tenant, connector, conduit_row_text(0, 2, context), connection);
	*rate = conduit_rate_of(&conduit_catalogue_get(connector, conduit_row_int64(0, 3))->api_limit);
	conduit_store_end(&scope);
	return key;
}

/* conduit_rate_take(owner, connection_id, cost, tenant) */
Datum
conduit_rate_take(PG_FUNCTION_ARGS)
{
	char	   *owner = conduit_owner_argument(fcinfo, 0);
	const pg_uuid_t *id = conduit_connection_argument(fcinfo, 1);
	int			cost = conduit_count_argument(fcinfo, 2, 1, 1, PG_INT32_MAX, "invalid cost");
	char	   *tenant = conduit_tenant_argument(fcinfo, 3);
	LimiterRate rate;
	LimiterKey	key = find_bucket(id, owner, tenant, &rate);
	LimiterAnswer answer = conduit_limiter_take(&key, &rate, cost, conduit_now());
	TupleDesc	shape;
	Datum		values[4];
	bool		nulls[4] = {false};

	if (answer.retry_after < 0)
		conduit_bad_argument("invalid cost", psprintf("range 1 %.0f", rate.capacity),
							 "So much is never allowed at once; the second number is the most that is.");
	if (get_call_result_type(fcinfo, NULL, &shape) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = BoolGetDatum(answer.allowed);
	values[1] = Int32GetDatum((int32) answer.remaining);
	nulls[1] = answer.remaining < 0;
	values[2] = Float8GetDatum(answer.retry_after);
	values[3] = Float8GetDatum(answer.reset_after);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(shape), values, nulls)));
}

static double
pause_argument(FunctionCallInfo fcinfo, int n)
{
	double		seconds = PG_ARGISNULL(n) ? STANDARD_PAUSE : PG_GETARG_FLOAT8(n);

	if (isnan(seconds) || seconds < 0 || seconds > CONDUIT_LONGEST_PAUSE)
		conduit_bad_argument("invalid retry_after", psprintf("range 0 %.0f", CONDUIT_LONGEST_PAUSE),
							 "It is in seconds; the numbers are the least and the most it may be.");
	return seconds;
}

/* conduit_rate_report(owner, connection_id, retry_after, tenant) */
Datum
conduit_rate_report(PG_FUNCTION_ARGS)
{
	char	   *owner = conduit_owner_argument(fcinfo, 0);
	const pg_uuid_t *id = conduit_connection_argument(fcinfo, 1);
	double		seconds = pause_argument(fcinfo, 2);
	char	   *tenant = conduit_tenant_argument(fcinfo, 3);
	LimiterRate rate;
	LimiterKey	key = find_bucket(id, owner, tenant, &rate);

	conduit_limiter_block(&key, seconds, false, conduit_now());
	PG_RETURN_VOID();
}
