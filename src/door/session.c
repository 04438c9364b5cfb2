/*-------------------------------------------------------------------------
 *
 * session.c
 *	  Opaque handles for a cookie.
 *
 *-------------------------------------------------------------------------
 */
#include "door/session.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/base64url.h"
#include "base/clock.h"
#include "base/report.h"
#include "base/settings.h"
#include "lifecycle/argument.h"
#include "lifecycle/connection.h"
#include "lifecycle/store.h"
#include "shared/last_use.h"
#include "vault/digest.h"
#include "vault/seal.h"

PG_FUNCTION_INFO_V1(conduit_open_session);
PG_FUNCTION_INFO_V1(conduit_session);
PG_FUNCTION_INFO_V1(conduit_close_session);

#define KEY_BYTES		32
#define KEY_LENGTH		conduit_base64url_encoded_length(KEY_BYTES)
/* Uses are written down once a minute: what ends sooner could end in between. */
#define LEAST_TTL		300
#define BATCH			1000

/* SHA-256 of a key's text; false if it has not the form of one. */
static bool
hash_of(const char *key, uint8 *hash)
{
	uint8		bytes[KEY_BYTES + 3];
	bool		well_formed = strlen(key) == KEY_LENGTH &&
		conduit_base64url_decode(key, KEY_LENGTH, bytes) == KEY_BYTES;

	if (!well_formed)
		return false;
	conduit_sha256(bytes, KEY_BYTES, hash);
	conduit_wipe(bytes, sizeof(bytes));
	return true;
}

static pg_uuid_t
id_of(const uint8 *hash)
{
	pg_uuid_t	id = {{0}};

	memcpy(id.data, hash, UUID_LEN);
	return id;
}

/*
 * The time to live that holds for a row: its own where conduit_open_session()
 * was given one.
 */
static double
ttl_of(double own)
{
	return own > 0 ? own : conduit_session_ttl;
}

bool
conduit_session_verify(const char *key, const char *tenant, ConduitSession *session)
{
	static StoreQuery select = {
		"SELECT hash, owner, connection_id, expires_at, ends_at, ttl FROM conduit.session"
		" WHERE id = $1 AND tenant = $2",
		2, {UUIDOID, TEXTOID}
	};
	TimestampTz now = conduit_now();
	uint8		hash[CONDUIT_DIGEST_LEN];
	pg_uuid_t	id;
	bytea	   *stored;
	TimestampTz ends_at;
	StoreArgs	args = {0};

	memset(session, 0, sizeof(*session));
	if (!hash_of(key, hash))
		return false;
	id = id_of(hash);
	conduit_arg_uuid(&args, &id);
	conduit_arg_text(&args, tenant);
	if (conduit_store_run(&select, &args) == 0)
		return false;
	stored = conduit_row_bytea(0, 1, CurrentMemoryContext);
	if (VARSIZE_ANY_EXHDR(stored) != sizeof(hash) || !conduit_digests_equal(VARDATA_ANY(stored), hash, sizeof(hash)))
		return false;
	ends_at = conduit_row_time(0, 5);
	if (conduit_row_time(0, 4) <= now || ends_at <= now)
		return false;

	session->owner = conduit_row_text(0, 2, CurrentMemoryContext);
	session->bound = !conduit_row_isnull(0, 3);
	session->connection = conduit_row_uuid(0, 3);
	session->expires_at = Min(conduit_time_add(now, ttl_of(conduit_row_float(0, 6))), ends_at);
	conduit_last_use_note(USE_SESSION, &id, conduit_last_use_minute(now));
	return true;
}

static double
ttl_argument(FunctionCallInfo fcinfo, int n)
{
	Interval   *span;
	double		seconds;

	if (PG_ARGISNULL(n))
		return 0;
	span = PG_GETARG_INTERVAL_P(n);
	seconds = span->time / (double) USECS_PER_SEC + (span->day + span->month * (double) DAYS_PER_MONTH) * SECS_PER_DAY;
	if (seconds < LEAST_TTL || seconds > conduit_session_max_ttl)
		conduit_bad_argument("invalid ttl", psprintf("range %d %d", LEAST_TTL, conduit_session_max_ttl),
							 "The numbers are seconds; the most is conduit.session_max_ttl.");
	return seconds;
}

/* conduit_open_session(owner, connection_id, ttl, tenant) */
Datum
conduit_open_session(PG_FUNCTION_ARGS)
{
	static StoreQuery insert = {
		"INSERT INTO conduit.session (id, hash, tenant, owner, connection_id, ttl, created_at, expires_at, ends_at)"
		" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
		9, {UUIDOID, BYTEAOID, TEXTOID, TEXTOID, UUIDOID, FLOAT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID}
	};
	char	   *owner = conduit_owner_argument(fcinfo, 0);
	const pg_uuid_t *connection = PG_ARGISNULL(1) ? NULL : PG_GETARG_UUID_P(1);
	double		ttl = ttl_argument(fcinfo, 2);
	char	   *tenant = conduit_tenant_argument(fcinfo, 3);
	TimestampTz now = conduit_now();
	TimestampTz ends_at = conduit_time_add(now, conduit_session_max_ttl);
	uint8		bytes[KEY_BYTES];
	char		key[KEY_LENGTH + 1];
	bytea	   *hash = palloc(VARHDRSZ + CONDUIT_DIGEST_LEN);
	pg_uuid_t	id;
	text	   *result;
	StoreArgs	args = {0};
	StoreScope	scope;

	conduit_random(bytes, sizeof(bytes));
	(void) conduit_base64url_encode(bytes, sizeof(bytes), key);
	(void) hash_of(key, (uint8 *) VARDATA(hash));
	SET_VARSIZE(hash, VARHDRSZ + CONDUIT_DIGEST_LEN);
	id = id_of((uint8 *) VARDATA(hash));

	conduit_arg_uuid(&args, &id);
	conduit_arg_bytea(&args, hash);
	conduit_arg_text(&args, tenant);
	conduit_arg_text(&args, owner);
	if (connection != NULL)
		conduit_arg_uuid(&args, connection);
	else
		conduit_arg_null(&args);
	conduit_arg(&args, Float8GetDatum(ttl));
	conduit_arg_time(&args, now);
	conduit_arg_time(&args, Min(conduit_time_add(now, ttl_of(ttl)), ends_at));
	conduit_arg_time(&args, ends_at);
	conduit_store_begin(&scope);
	if (connection != NULL)
	{
		char	   *status = conduit_connection_status(connection, owner, tenant);

		if (status == NULL)
			conduit_raise(CONDUIT_ERR_CONNECTION_NOT_FOUND, NULL);
	}
	conduit_store_run(&insert, &args);
	conduit_store_end(&scope);

	result = cstring_to_text(key);
	conduit_wipe(bytes, sizeof(bytes));
	conduit_wipe(key, sizeof(key));
	PG_RETURN_TEXT_P(result);
}

/* conduit_session(session_key, tenant) */
Datum
conduit_session(PG_FUNCTION_ARGS)
{
	char	   *key = PG_ARGISNULL(0) ? "" : text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *tenant = conduit_tenant_argument(fcinfo, 1);
	ConduitSession session;
	TupleDesc	shape;
	Datum		values[3];
	bool		nulls[3] = {false, false, false};
	StoreScope	scope;

	if (get_call_result_type(fcinfo, NULL, &shape) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	conduit_store_begin(&scope);
	if (!conduit_session_verify(key, tenant, &session))
		conduit_raise(CONDUIT_ERR_UNAUTHORIZED, NULL);
	MemoryContextSwitchTo(scope.caller_context);
	values[0] = CStringGetTextDatum(session.owner);
	conduit_store_end(&scope);
	values[1] = UUIDPGetDatum(&session.connection);
	nulls[1] = !session.bound;
	values[2] = TimestampTzGetDatum(session.expires_at);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(shape), values, nulls)));
}

/* conduit_close_session(session_key, tenant) */
Datum
conduit_close_session(PG_FUNCTION_ARGS)
{
	static StoreQuery delete = {
		"DELETE FROM conduit.session WHERE id = $1 AND tenant = $2 AND hash = $3", 3, {UUIDOID, TEXTOID, BYTEAOID}
	};
	char	   *key = PG_ARGISNULL(0) ? "" : text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *tenant = conduit_tenant_argument(fcinfo, 1);
	bytea	   *hash = palloc(VARHDRSZ + CONDUIT_DIGEST_LEN);
	pg_uuid_t	id;
	StoreArgs	args = {0};
	StoreScope	scope;

	if (!hash_of(key, (uint8 *) VARDATA(hash)))
		PG_RETURN_VOID();
	SET_VARSIZE(hash, VARHDRSZ + CONDUIT_DIGEST_LEN);
	id = id_of((uint8 *) VARDATA(hash));
	conduit_arg_uuid(&args, &id);
	conduit_arg_text(&args, tenant);
	conduit_arg_bytea(&args, hash);
	conduit_store_begin(&scope);
	conduit_store_run(&delete, &args);
	conduit_store_end(&scope);
	PG_RETURN_VOID();
}

/* ---- for the worker ---- */

int
conduit_session_write_uses(void)
{
	static StoreQuery update = {
		"UPDATE conduit.session SET last_used_at = $2, expires_at = LEAST(ends_at, GREATEST(expires_at,"
		" $2 + pg_catalog.make_interval(secs => CASE WHEN ttl > 0 THEN ttl ELSE $3 END))) WHERE id = ("
		" SELECT id FROM conduit.session WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $2)"
		" FOR NO KEY UPDATE SKIP LOCKED)",
		3, {UUIDOID, TIMESTAMPTZOID, FLOAT8OID}
	};
	pg_uuid_t	ids[BATCH];
	int64		minutes[BATCH];
	StoreScope	scope;
	int			n = conduit_last_use_take(USE_SESSION, ids, minutes, BATCH);

	if (n == 0)
		return 0;
	conduit_store_begin(&scope);
	for (int i = 0; i < n; i++)
	{
		StoreArgs	args = {0};

		conduit_arg_uuid(&args, &ids[i]);
		conduit_arg_time(&args, conduit_last_use_minute_start(minutes[i]));
		conduit_arg(&args, Float8GetDatum(conduit_session_ttl));
		conduit_store_run(&update, &args);
	}
	conduit_store_end(&scope);
	return n;
}

int
conduit_session_purge(void)
{
	static StoreQuery delete = {
		"DELETE FROM conduit.session WHERE id IN ("
		" SELECT id FROM conduit.session WHERE expires_at < $1 ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
		2, {TIMESTAMPTZOID, INT4OID}
	};
	StoreArgs	args = {0};
	StoreScope	scope;
	int			n;

	/* A while after its end: a use that is noted and not written may prolong it. */
	conduit_arg_time(&args, conduit_time_add(conduit_now(), -3600));
	conduit_arg(&args, Int32GetDatum(BATCH));
	conduit_store_begin(&scope);
	n = (int) conduit_store_run(&delete, &args);
	conduit_store_end(&scope);
	return n;
}
