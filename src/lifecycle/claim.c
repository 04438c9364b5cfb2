/*-------------------------------------------------------------------------
 *
 * claim.c
 *	  The beginning of a refresh: what it needs is looked up, and it is claimed.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/refresh.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/settings.h"
#include "lifecycle/argument.h"
#include "lifecycle/breaker.h"
#include "lifecycle/catalogue.h"
#include "lifecycle/commit.h"
#include "lifecycle/rows.h"
#include "lifecycle/schedule.h"
#include "lifecycle/store.h"
#include "lifecycle/throttle.h"
#include "shared/roster.h"

#define QUARANTINE_SECONDS 3600

/* The client that was looked up last, and for whom. */
typedef struct LastClient
{
	const RefreshFlight *flight;
	const char *client_id;		/* that was asked for; NULL: the current one's */
	ConduitClient *client;		/* NULL: there is none */
} LastClient;

/* Columns of the claim's look-up. */
enum
{
	C_CLAIM = 1, C_TENANT, C_OWNER, C_CONNECTOR, C_ORIGIN, C_GENERATION, C_STATUS, C_REFRESH_AT,
	C_NEXT_ATTEMPT_AT, C_LAST_ERROR, C_IN_DOUBT, C_ACCESS, C_REFRESH, C_REFRESH_EXPIRES_AT,
	C_REFRESHED_AT, C_PARAMS, C_CLIENT_ID, C_ACCOUNT, C_REVISION, C_BUILTIN, C_LAST_USED, C_SCOPE,
	C_REQUESTED_SCOPES, C_OWN_CLIENT
};

static pg_uuid_t incarnation;

void
conduit_refresh_set_incarnation(void)
{
	incarnation = conduit_new_id();
}

const pg_uuid_t *
conduit_incarnation(void)
{
	return &incarnation;
}

void
conduit_refresh_set_outcome(RefreshFlight *flight, OutcomeClass outcome, const char *code, double retry_after)
{
	memset(&flight->outcome, 0, sizeof(flight->outcome));
	flight->outcome.outcome = outcome;
	strlcpy(flight->outcome.code, code, sizeof(flight->outcome.code));
	flight->outcome.retry_after = retry_after;
	flight->reply_at = conduit_now();
}

static bool
has_outcome(const RefreshFlight *flight)
{
	return flight->outcome.code[0] != '\0';
}

/*
 * The rows of what is to be claimed, in SPI_tuptable; C_CLAIM is which one a
 * row is of, counted from 1.  LATERAL and OFFSET make one look-up by key of
 * each, whatever the planner takes the tables to be.
 */
static uint64
look_up(const RefreshClaim *claims, int n)
{
	static StoreQuery select = {
		"SELECT r.n, l.* FROM pg_catalog.unnest($1) WITH ORDINALITY r (id, n) CROSS JOIN LATERAL ("
		"SELECT c.tenant, c.owner, c.connector, c.origin, c.generation, c.status, c.refresh_at,"
		" c.next_attempt_at, c.last_error, c.in_doubt, c.access, c.refresh, c.refresh_expires_at,"
		" COALESCE(c.refreshed_at, c.issued_at), n.params::pg_catalog.text, n.client_id, n.account, k.revision, k.builtin,"
		" COALESCE(u.used_on::pg_catalog.timestamptz, n.created_at), c.scope,"
		" pg_catalog.array_to_string(n.requested_scopes, ' '), c.own_client"
		" FROM conduit.credential c JOIN conduit.connection n ON n.id = c.connection_id"
		" JOIN conduit.connector k ON k.slug = c.connector"
		" LEFT JOIN conduit.last_use u ON u.connection_id = c.connection_id"
		" WHERE c.connection_id = r.id OFFSET 0) l",
		1, {UUIDARRAYOID}
	};
	StoreRows	rows;
	StoreArgs	args = {0};

	conduit_rows_begin(&rows, &select, 1, n);
	for (int i = 0; i < n; i++)
	{
		StoreArgs	cells = {0};

		conduit_arg_uuid(&cells, &claims[i].connection);
		conduit_rows_add(&rows, &cells);
	}
	conduit_rows_args(&rows, &args);
	return conduit_store_run(&select, &args);
}

/*
 * A connection that nobody has used for conduit.refresh_idle is refreshed on
 * read only, and to keep its refresh token alive.  Returns whether it was put
 * off.
 */
static bool
put_off_if_idle(const RefreshClaim *claim, uint64 row, TimestampTz now)
{
	static StoreQuery update = {
		"UPDATE conduit.credential SET refresh_at = $2 WHERE connection_id = ("
		" SELECT connection_id FROM conduit.credential WHERE connection_id = $1"
		" FOR NO KEY UPDATE SKIP LOCKED)",
		2, {UUIDOID, TIMESTAMPTZOID}
	};
	TimestampTz keep_alive;
	StoreArgs	args = {0};

	if (conduit_refresh_idle <= 0 ||
		conduit_seconds_between(conduit_row_time(row, C_LAST_USED), now) < conduit_refresh_idle)
		return false;
	keep_alive = conduit_schedule_keep_alive(&claim->connection, conduit_row_int64(row, C_GENERATION),
											 conduit_row_time(row, C_REFRESHED_AT),
											 conduit_row_time(row, C_REFRESH_EXPIRES_AT));
	if (keep_alive <= now)
		return false;
	conduit_arg_uuid(&args, &claim->connection);
	conduit_arg_time(&args, keep_alive);
	conduit_store_run(&update, &args);
	return true;
}

/* Whether a row that was looked up may be refreshed now; ANSWER_NONE if so. */
static RequestAnswer
check_row(const RefreshClaim *claim, uint64 row, TimestampTz now)
{
	char	   *status = conduit_row_text(row, C_STATUS, CurrentMemoryContext);
	char	   *last_error = conduit_row_text(row, C_LAST_ERROR, CurrentMemoryContext);
	TimestampTz next_attempt_at = conduit_row_time(row, C_NEXT_ATTEMPT_AT);

	if (strcmp(status, "ACTIVE") != 0)
		return ANSWER_DONE;
	if (claim->generation >= 0 && conduit_row_int64(row, C_GENERATION) != claim->generation)
		return ANSWER_NEWER;
	if (conduit_row_isnull(row, C_REFRESH))
		return ANSWER_NOT_REFRESHABLE;

	/*
	 * A token that may have been used already, one that was called dead, and a
	 * provider that asks for time, are not to be hurried by anybody.
	 */
	if (!TIMESTAMP_IS_NOEND(next_attempt_at) && next_attempt_at > now &&
		(!claim->forced || conduit_row_bool(row, C_IN_DOUBT) ||
		 (last_error && (strcmp(last_error, "throttled") == 0 || strcmp(last_error, "dead") == 0))))
		return ANSWER_DEFERRED;
	if (claim->unasked && conduit_row_time(row, C_REFRESH_AT) > now)
		return ANSWER_DEFERRED;
	if (claim->unasked && put_off_if_idle(claim, row, now))
		return ANSWER_DEFERRED;
	return ANSWER_NONE;
}

static RefreshFlight *
make_flight(const RefreshClaim *claim, uint64 row)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "conduit flight", ALLOCSET_SMALL_SIZES);
	RefreshFlight *flight = MemoryContextAllocZero(context, sizeof(RefreshFlight));

	flight->context = context;
	flight->place.connection = claim->connection;
	flight->place.tenant = conduit_row_text(row, C_TENANT, context);
	flight->place.owner = conduit_row_text(row, C_OWNER, context);
	flight->place.connector = conduit_row_text(row, C_CONNECTOR, context);
	flight->place.origin = conduit_row_text(row, C_ORIGIN, context);
	flight->generation = conduit_row_int64(row, C_GENERATION);
	flight->refresh_expires_at = conduit_row_time(row, C_REFRESH_EXPIRES_AT);
	flight->in_doubt = conduit_row_bool(row, C_IN_DOUBT);
	flight->account = conduit_row_text(row, C_ACCOUNT, context);
	flight->client_id = conduit_row_text(row, C_CLIENT_ID, context);
	flight->params = conduit_row_text(row, C_PARAMS, context);
	flight->scope = conduit_row_text(row, C_SCOPE, context);
	flight->requested_scopes = conduit_row_text(row, C_REQUESTED_SCOPES, context);
	flight->own_client = conduit_row_text(row, C_OWN_CLIENT, context);
	flight->access = conduit_row_bytea(row, C_ACCESS, context);
	flight->refresh = conduit_row_bytea(row, C_REFRESH, context);
	flight->revision = conduit_row_int64(row, C_REVISION);
	flight->builtin = conduit_row_bool(row, C_BUILTIN);
	return flight;
}

/* Where the request goes: nowhere but to the origin that the token is bound to. */
static void
find_endpoint(RefreshFlight *flight)
{
	MemoryContext old = MemoryContextSwitchTo(flight->context);
	const char *problem;
	const char *variable;

	flight->variables = conduit_parse_object(flight->params, "invalid params");
	flight->endpoint = conduit_connector_refresh_endpoint(flight->connector, flight->variables, &problem, &variable);
	if (flight->endpoint == NULL)
		conduit_refresh_set_outcome(flight, OUTCOME_CONFIG, "endpoint_invalid", -1);
	else if (strcmp(conduit_connector_token_origin(flight->connector, flight->variables), flight->place.origin) != 0)
		conduit_refresh_set_outcome(flight, OUTCOME_CONFIG, "origin_changed", -1);
	MemoryContextSwitchTo(old);
}

/*
 * The client of a connection, as conduit_client_find.  Of flights that are
 * claimed together most have the same: *last is the one before.
 */
static ConduitClient *
find_stored_client(const RefreshFlight *flight, LastClient *last)
{
	if (last->flight == NULL || !conduit_same_text(last->client_id, flight->client_id) ||
		strcmp(last->flight->place.tenant, flight->place.tenant) != 0 ||
		strcmp(last->flight->place.connector, flight->place.connector) != 0)
		last->client = conduit_client_find(flight->place.tenant, flight->place.connector,
										   flight->client_id, CurrentMemoryContext);
	last->flight = flight;
	last->client_id = flight->client_id;
	return last->client ? conduit_client_copy(last->client, flight->context) : NULL;
}

/*
 * The client by which the request is made: the one that the refresh token was
 * issued to; what mints has its own, or takes that of today.
 */
static void
find_client(RefreshFlight *flight, LastClient *last)
{
	MemoryContext old;

	if (!conduit_connector_binds_client(flight->connector))
		flight->client_id = flight->own_client;
	if (flight->own_client != NULL || !conduit_connector_takes_client(flight->connector))
		return;
	flight->client = find_stored_client(flight, last);
	old = MemoryContextSwitchTo(flight->context);
	if (flight->client == NULL)
		flight->client = conduit_client_from_environment(flight->place.tenant, flight->connector,
														 flight->builtin, flight->client_id);
	if (flight->client == NULL ||
		(flight->client->nsecrets == 0 && conduit_connector_needs_secret(flight->connector)))
		conduit_refresh_set_outcome(flight, OUTCOME_CONFIG, "client_missing", -1);
	else if (flight->client_id == NULL)
		flight->client_id = flight->client->client_id;
	MemoryContextSwitchTo(old);
}

/* A row that somebody holds is left as it is: the next full scan meets it again. */
void
conduit_refresh_put_off(const RefreshFlight *flight, OutcomeClass outcome, const char *code, double seconds)
{
	static StoreQuery update = {
		"UPDATE conduit.credential SET refresh_at = CASE WHEN " CONDUIT_NEVER_MINTED " THEN NULL ELSE $2 END,"
		" next_attempt_at = $2, last_error = $3, last_error_code = $4, last_error_at = $5 WHERE connection_id = ("
		" SELECT connection_id FROM conduit.credential WHERE connection_id = $1 AND generation = $6"
		" FOR NO KEY UPDATE SKIP LOCKED)",
		6, {UUIDOID, TIMESTAMPTZOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, INT8OID}
	};
	TimestampTz now = conduit_now();
	TimestampTz next = conduit_schedule_retry(flight->connector, OUTCOME_THROTTLED, 1, false, seconds, now);
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, &flight->place.connection);
	conduit_arg_time(&args, next);
	conduit_arg_text(&args, conduit_outcome_name(outcome));
	conduit_arg_text(&args, code);
	conduit_arg_time(&args, now);
	conduit_arg(&args, Int64GetDatum(flight->generation));
	conduit_store_run(&update, &args);
	conduit_at_commit(NUDGE_DUE, next);
}

/* What the row of a claim comes to: a flight that may be sent, or the answer. */
static void
prepare(RefreshClaim *claim, uint64 row, LastClient *last)
{
	RefreshFlight *flight;

	claim->answer = check_row(claim, row, conduit_now());
	if (claim->answer != ANSWER_NONE)
		return;
	flight = make_flight(claim, row);
	flight->connector = conduit_catalogue_get(flight->place.connector, flight->revision);
	find_endpoint(flight);
	if (!has_outcome(flight))
		find_client(flight, last);
	if (!has_outcome(flight) &&
		!(conduit_breaker_admit(flight, claim->forced) && conduit_throttle_admit(flight, claim->unasked)))
	{
		claim->answer = ANSWER_DEFERRED;
		last->flight = NULL;
		conduit_refresh_free(flight);
	}
	else
		claim->flight = flight;
}

static void
add_claim(StoreRows *rows, const RefreshFlight *flight)
{
	StoreArgs	cells = {0};

	conduit_arg_uuid(&cells, &flight->place.connection);
	conduit_arg(&cells, Int64GetDatum(flight->generation));
	conduit_arg(&cells, BoolGetDatum(flight->in_doubt));
	conduit_arg_text(&cells, flight->place.tenant);
	conduit_arg_text(&cells, flight->place.owner);
	conduit_arg_text(&cells, flight->place.connector);
	conduit_arg_text(&cells, flight->place.origin);
	conduit_arg_text(&cells, flight->account);
	conduit_arg_text(&cells, flight->client_id);
	conduit_arg(&cells, BoolGetDatum(flight->connector->refresh_rotates));
	conduit_arg_text(&cells, flight->params);
	conduit_rows_add(rows, &cells);
}

/* The claim of a flight is written. */
static void
take_claim(RefreshFlight *flight, uint64 row)
{
	flight->attempt = conduit_row_int32(row, 2);
	flight->in_doubt = conduit_row_bool(row, 3);
	flight->claimed = true;
	if (flight->attempt > CONDUIT_MAX_FLIGHT_ATTEMPTS)
		conduit_refresh_set_outcome(flight, OUTCOME_TRANSIENT, "quarantined", QUARANTINE_SECONDS);
}

/*
 * Insert the flight rows, or take over those whose worker is gone.  Not claimed
 * are those that are this worker's own or hold a parked reply.
 */
static void
write_claims(RefreshClaim *claims, int n)
{
	static StoreQuery claim = {
		"INSERT INTO conduit.flight AS f (connection_id, generation, attempt, in_doubt, incarnation, claimed_at,"
		" tenant, owner, connector, origin, account, client_id, params)"
		" SELECT r.id, r.generation, 1, r.in_doubt, $12, $13,"
		" r.tenant, r.owner, r.connector, r.origin, r.account, r.client_id, r.params::pg_catalog.jsonb"
		" FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
		" r (id, generation, in_doubt, tenant, owner, connector, origin, account, client_id, rotates, params)"
		" ON CONFLICT (connection_id) DO UPDATE SET generation = EXCLUDED.generation,"
		" attempt = CASE WHEN f.generation = EXCLUDED.generation THEN f.attempt + 1 ELSE 1 END,"
		" in_doubt = EXCLUDED.in_doubt OR (f.generation = EXCLUDED.generation"
		"  AND ($10)[pg_catalog.array_position($1, EXCLUDED.connection_id)]),"
		" incarnation = EXCLUDED.incarnation, claimed_at = EXCLUDED.claimed_at,"
		" account = EXCLUDED.account, client_id = EXCLUDED.client_id, origin = EXCLUDED.origin,"
		" params = EXCLUDED.params"
		" WHERE f.incarnation <> EXCLUDED.incarnation AND f.outcome IS NULL"
		" RETURNING connection_id, attempt, in_doubt",
		13, {UUIDARRAYOID, INT8ARRAYOID, BOOLARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID,
		TEXTARRAYOID, TEXTARRAYOID, BOOLARRAYOID, TEXTARRAYOID, UUIDOID, TIMESTAMPTZOID}
	};
	StoreRows	rows;
	StoreArgs	args = {0};
	uint64		written;
	int			at = 0;

	conduit_rows_begin(&rows, &claim, 11, n);
	for (int i = 0; i < n; i++)
		if (claims[i].flight != NULL)
			add_claim(&rows, claims[i].flight);
	if (rows.n == 0)
		return;
	conduit_rows_args(&rows, &args);
	conduit_arg_uuid(&args, &incarnation);
	conduit_arg_time(&args, conduit_now());
	written = conduit_store_run(&claim, &args);

	/* In the order in which they were given. */
	for (uint64 i = 0; i < written; i++)
	{
		pg_uuid_t	id = conduit_row_uuid(i, 1);

		while (at < n && (claims[at].flight == NULL || memcmp(&claims[at].connection, &id, sizeof(id)) != 0))
			at++;
		if (at == n)
			elog(ERROR, "claims were written in another order than they were given");
		take_claim(claims[at++].flight, i);
	}
}

void
conduit_refresh_claim(RefreshClaim *claims, int n)
{
	LastClient	last = {0};
	SPITupleTable *found;
	uint64		nfound;

	for (int i = 0; i < n; i++)
	{
		claims[i].answer = ANSWER_NOT_REFRESHABLE;
		claims[i].flight = NULL;
	}
	nfound = look_up(claims, n);
	found = SPI_tuptable;
	for (uint64 i = 0; i < nfound; i++)
	{
		SPI_tuptable = found;	/* other statements have been run since */
		prepare(&claims[conduit_row_int64(i, C_CLAIM) - 1], i, &last);
	}
	write_claims(claims, n);

	/* Until here an error frees them with the transaction: nobody else may know them. */
	for (int i = 0; i < n; i++)
	{
		RefreshFlight *flight = claims[i].flight;

		if (flight == NULL)
			continue;
		if (flight->claimed)
			MemoryContextSetParent(flight->context, TopMemoryContext);
		else
		{
			conduit_refresh_free(flight);
			claims[i].flight = NULL;
			claims[i].answer = ANSWER_PARKED;
		}
	}
}

int
conduit_refresh_void_claims(pg_uuid_t **connections, int64 **generations)
{
	static StoreQuery clean = {
		"DELETE FROM conduit.flight f WHERE f.outcome IS NULL AND f.incarnation <> $1 AND NOT EXISTS ("
		" SELECT FROM conduit.credential c WHERE c.connection_id = f.connection_id"
		" AND c.generation = f.generation AND c.status = 'ACTIVE' AND c.refresh IS NOT NULL)"
		" OR NOT EXISTS (SELECT FROM conduit.connector k WHERE k.slug = f.connector)",
		1, {UUIDOID}
	};
	static StoreQuery select = {
		"SELECT connection_id, generation FROM conduit.flight WHERE outcome IS NULL AND incarnation <> $1",
		1, {UUIDOID}
	};
	MemoryContext context = CurrentMemoryContext;
	StoreArgs	args = {0};
	int			n;

	conduit_arg_uuid(&args, &incarnation);
	conduit_store_run(&clean, &args);
	n = (int) conduit_store_run(&select, &args);
	*connections = MemoryContextAlloc(context, sizeof(pg_uuid_t) * (n + 1));
	*generations = MemoryContextAlloc(context, sizeof(int64) * (n + 1));
	for (int i = 0; i < n; i++)
	{
		(*connections)[i] = conduit_row_uuid(i, 1);
		(*generations)[i] = conduit_row_int64(i, 2);
	}
	return n;
}
