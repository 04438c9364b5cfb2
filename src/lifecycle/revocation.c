/*-------------------------------------------------------------------------
 *
 * revocation.c
 *	  Grants that are to be revoked at their providers.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/revocation.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "base/clock.h"
#include "lifecycle/commit.h"
#include "lifecycle/event.h"
#include "lifecycle/store.h"
#include "shared/roster.h"

void
conduit_revocation_destroy_credential(const pg_uuid_t *connection)
{
	static StoreQuery lock = {
		"SELECT generation FROM conduit.credential WHERE connection_id = $1 FOR UPDATE", 1, {UUIDOID}
	};
	static StoreQuery queue = {
		"INSERT INTO conduit.revocation (connection_id, generation, tenant, owner, connector, origin,"
		" account, client_id, params, access, refresh, queued_at, next_attempt_at)"
		" SELECT c.connection_id, c.generation, c.tenant, c.owner, c.connector, c.origin,"
		" n.account, n.client_id, n.params, c.access, c.refresh, $2, $2"
		" FROM conduit.credential c JOIN conduit.connection n ON n.id = c.connection_id"
		" JOIN conduit.connector k ON k.slug = c.connector"
		" WHERE c.connection_id = $1 AND c.kind = 'OAUTH2' AND k.resolved ->> 'revoke_url' IS NOT NULL",
		2, {UUIDOID, TIMESTAMPTZOID}
	};
	static StoreQuery remember = {
		"UPDATE conduit.connection SET last_generation = $2 WHERE id = $1", 2, {UUIDOID, INT8OID}
	};
	static StoreQuery delete = {
		"DELETE FROM conduit.credential WHERE connection_id = $1", 1, {UUIDOID}
	};
	StoreArgs	key = {0};
	StoreArgs	queue_args = {0};
	StoreArgs	remember_args = {0};
	int64		generation;

	conduit_arg_uuid(&key, connection);
	if (conduit_store_run(&lock, &key) == 0)
		return;
	generation = conduit_row_int64(0, 1);

	conduit_arg_uuid(&queue_args, connection);
	conduit_arg_time(&queue_args, conduit_now());
	if (conduit_store_run(&queue, &queue_args) > 0)
		conduit_at_commit(NUDGE_QUEUES, DT_NOEND);
	conduit_arg_uuid(&remember_args, connection);
	conduit_arg(&remember_args, Int64GetDatum(generation));
	conduit_store_run(&remember, &remember_args);
	conduit_store_run(&delete, &key);
}

void
conduit_revocation_queue_flight(const pg_uuid_t *connection, int64 generation,
								const char *tenant, const char *owner,
								const char *connector, const char *origin,
								const char *account, const char *client_id,
								const char *params,
								const bytea *access, const bytea *refresh)
{
	static StoreQuery queue = {
		"INSERT INTO conduit.revocation (connection_id, generation, tenant, owner, connector, origin,"
		" account, client_id, params, access, refresh, queued_at, next_attempt_at)"
		" SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9::pg_catalog.jsonb, $10, $11, $12, $12"
		" FROM conduit.connector k WHERE k.slug = $5 AND k.resolved ->> 'revoke_url' IS NOT NULL",
		12, {UUIDOID, INT8OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID,
		BYTEAOID, BYTEAOID, TIMESTAMPTZOID}
	};
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, connection);
	conduit_arg(&args, Int64GetDatum(generation));
	conduit_arg_text(&args, tenant);
	conduit_arg_text(&args, owner);
	conduit_arg_text(&args, connector);
	conduit_arg_text(&args, origin);
	conduit_arg_text(&args, account);
	conduit_arg_text(&args, client_id);
	conduit_arg_text(&args, params);
	conduit_arg_bytea(&args, access);
	conduit_arg_bytea(&args, refresh);
	conduit_arg_time(&args, conduit_now());
	if (conduit_store_run(&queue, &args) > 0)
		conduit_at_commit(NUDGE_QUEUES, DT_NOEND);
}

void
conduit_revocation_warn_queued(const char *connector, const char *client_id, const char *tenant)
{
	static StoreQuery select = {
		"SELECT pg_catalog.count(*) FROM conduit.revocation WHERE connector = $1"
		" AND ($2 IS NULL OR client_id = $2 AND ($3 = '' OR tenant = $3))",
		3, {TEXTOID, TEXTOID, TEXTOID}
	};
	StoreArgs	args = {0};

	conduit_arg_text(&args, connector);
	conduit_arg_text(&args, client_id);
	conduit_arg_text(&args, tenant);
	conduit_store_run(&select, &args);
	if (conduit_row_int64(0, 1) > 0)
		ereport(WARNING,
				(errmsg("revocations at the provider are still queued"),
				 errdetail("queued " INT64_FORMAT, conduit_row_int64(0, 1)),
				 errhint("They cannot be sent any more, unless it is set again within a week."),
				 errhidestmt(true), errhidecontext(true)));
}

/* ---- for the worker ---- */

int
conduit_revocation_due(TimestampTz now, int of_each, int max, MemoryContext context, RevocationDue **rows)
{
	/* From connector to connector by the index, and of each the first ones. */
	static StoreQuery select = {
		"WITH RECURSIVE lane (connector) AS ("
		"  (SELECT r.connector FROM conduit.revocation r ORDER BY r.connector LIMIT 1)"
		" UNION ALL"
		"  SELECT (SELECT r.connector FROM conduit.revocation r WHERE r.connector > lane.connector"
		"   ORDER BY r.connector LIMIT 1) FROM lane WHERE lane.connector IS NOT NULL)"
		" SELECT due.id, due.connector FROM lane, LATERAL ("
		"  SELECT r.id, r.connector, r.next_attempt_at FROM conduit.revocation r"
		"  WHERE r.connector = lane.connector AND r.next_attempt_at <= $1"
		"  ORDER BY r.next_attempt_at LIMIT $2) due"
		" ORDER BY due.next_attempt_at LIMIT $3",
		3, {TIMESTAMPTZOID, INT4OID, INT4OID}
	};
	StoreArgs	args = {0};
	int			n;

	conduit_arg_time(&args, now);
	conduit_arg(&args, Int32GetDatum(of_each));
	conduit_arg(&args, Int32GetDatum(max));
	n = (int) conduit_store_run(&select, &args);
	*rows = MemoryContextAlloc(context, sizeof(RevocationDue) * (n + 1));
	for (int i = 0; i < n; i++)
	{
		(*rows)[i].id = conduit_row_uuid(i, 1);
		(*rows)[i].connector = conduit_row_text(i, 2, context);
	}
	return n;
}

TimestampTz
conduit_revocation_next(TimestampTz now)
{
	static StoreQuery select = {
		"SELECT next_attempt_at FROM conduit.revocation WHERE next_attempt_at > $1 ORDER BY next_attempt_at LIMIT 1",
		1, {TIMESTAMPTZOID}
	};
	StoreArgs	args = {0};

	conduit_arg_time(&args, now);
	return conduit_store_run(&select, &args) == 0 ? DT_NOEND : conduit_row_time(0, 1);
}

/* Columns of a row's look-up. */
enum
{
	R_CONNECTION = 1, R_GENERATION, R_TENANT, R_OWNER, R_CONNECTOR, R_ORIGIN, R_ACCOUNT, R_CLIENT_ID, R_PARAMS,
	R_ACCESS, R_REFRESH, R_QUEUED_AT, R_ATTEMPTS, R_CONNECTOR_THERE, R_BUILTIN
};

RevocationLock
conduit_revocation_lock(const pg_uuid_t *id, MemoryContext context, Revocation *row)
{
	static StoreQuery lock = {
		"SELECT r.connection_id, r.generation, r.tenant, r.owner, r.connector, r.origin, r.account, r.client_id,"
		" r.params::pg_catalog.text, r.access, r.refresh, r.queued_at, r.attempts, k.slug IS NOT NULL,"
		" COALESCE(k.builtin, false)"
		" FROM conduit.revocation r LEFT JOIN conduit.connector k ON k.slug = r.connector"
		" WHERE r.id = $1 FOR UPDATE OF r SKIP LOCKED",
		1, {UUIDOID}
	};
	static StoreQuery select = {"SELECT FROM conduit.revocation WHERE id = $1", 1, {UUIDOID}};
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, id);
	if (conduit_store_run(&lock, &args) == 0)
		return conduit_store_run(&select, &args) > 0 ? REVOCATION_HELD : REVOCATION_GONE;
	row->id = *id;
	row->place.connection = conduit_row_uuid(0, R_CONNECTION);
	row->generation = conduit_row_int64(0, R_GENERATION);
	row->place.tenant = conduit_row_text(0, R_TENANT, context);
	row->place.owner = conduit_row_text(0, R_OWNER, context);
	row->place.connector = conduit_row_text(0, R_CONNECTOR, context);
	row->place.origin = conduit_row_text(0, R_ORIGIN, context);
	row->account = conduit_row_text(0, R_ACCOUNT, context);
	row->client_id = conduit_row_text(0, R_CLIENT_ID, context);
	row->params = conduit_row_text(0, R_PARAMS, context);
	row->access = conduit_row_bytea(0, R_ACCESS, context);
	row->refresh = conduit_row_bytea(0, R_REFRESH, context);
	row->queued_at = conduit_row_time(0, R_QUEUED_AT);
	row->attempts = conduit_row_int32(0, R_ATTEMPTS);
	row->connector_there = conduit_row_bool(0, R_CONNECTOR_THERE);
	row->builtin = conduit_row_bool(0, R_BUILTIN);
	return REVOCATION_LOCKED;
}

/* A connection that is not revoked, with a credential of a user's grant. */
#define LIVE 	"SELECT FROM conduit.connection n JOIN conduit.credential c ON c.connection_id = n.id" 	" WHERE n.status <> 'REVOKED' AND c.kind = 'OAUTH2' AND "

/* The provider is the same where the connector is, or the token endpoint's origin. */
#define SAME_PROVIDER "(n.connector = $1 OR c.origin = $4)"

/*
 * Whether another connection, of whatever tenant, may live on the grant: one
 * of the same provider, client and account, or of which one of these is not
 * known.  Connectors that find accounts in different ways call one account by
 * different names, so that these cannot be told apart.
 */
static bool
is_shared(const Revocation *row)
{
	static StoreQuery select = {
		"SELECT EXISTS (" LIVE "n.client_id = $2 AND n.account = $3 AND " SAME_PROVIDER ")"
		" OR EXISTS (" LIVE "n.client_id = $2 AND n.account IS NULL AND " SAME_PROVIDER ")"
		" OR EXISTS (" LIVE "n.client_id IS NULL AND n.connector = $1"
		"  AND (n.account = $3 OR n.account IS NULL OR $3 IS NULL))"
		" OR $3 IS NULL AND EXISTS (" LIVE "n.client_id = $2 AND " SAME_PROVIDER ")"
		" OR $2 IS NULL AND EXISTS (" LIVE "n.connector = $1 AND (n.account = $3 OR n.account IS NULL OR $3 IS NULL))"
		" OR EXISTS (SELECT FROM conduit.connector k, conduit.connector own WHERE own.slug = $1 AND k.slug <> $1"
		"  AND (k.resolved ->> 'account_path', k.resolved ->> 'account_url') IS DISTINCT FROM"
		"   (own.resolved ->> 'account_path', own.resolved ->> 'account_url')"
		"  AND EXISTS (" LIVE "n.connector = k.slug AND n.client_id = $2 AND c.origin = $4))",
		4, {TEXTOID, TEXTOID, TEXTOID, TEXTOID}
	};
	StoreArgs	args = {0};

	conduit_arg_text(&args, row->place.connector);
	conduit_arg_text(&args, row->client_id);
	conduit_arg_text(&args, row->account);
	conduit_arg_text(&args, row->place.origin);
	conduit_store_run(&select, &args);
	return conduit_row_bool(0, 1);
}

/*
 * Whether somebody is being granted something by the same client: the owner,
 * who may be on the provider's page right now, or anybody whose code has come.
 */
static bool
is_being_granted(const Revocation *row)
{
	static StoreQuery select = {
		"SELECT EXISTS (SELECT FROM conduit.authorize_state s WHERE s.status IN ('claimed', 'received', 'parked')"
		"  AND s.connector = $1 AND (s.client_id = $2 OR $2 IS NULL))"
		" OR EXISTS (SELECT FROM conduit.authorize_state s WHERE s.status = 'open' AND s.expires_at > $3"
		"  AND s.tenant = $5 AND s.owner = $4 AND s.connector = $1 AND (s.client_id = $2 OR $2 IS NULL))",
		5, {TEXTOID, TEXTOID, TIMESTAMPTZOID, TEXTOID, TEXTOID}
	};
	StoreArgs	args = {0};

	conduit_arg_text(&args, row->place.connector);
	conduit_arg_text(&args, row->client_id);
	conduit_arg_time(&args, conduit_now());
	conduit_arg_text(&args, row->place.owner);
	conduit_arg_text(&args, row->place.tenant);
	conduit_store_run(&select, &args);
	return conduit_row_bool(0, 1);
}

RevocationRule
conduit_revocation_rule(const Revocation *row)
{
	if (is_shared(row))
		return RULE_SHARED;
	return is_being_granted(row) ? RULE_WAIT : RULE_REVOKE;
}

void
conduit_revocation_delete(const pg_uuid_t *id)
{
	static StoreQuery delete = {"DELETE FROM conduit.revocation WHERE id = $1", 1, {UUIDOID}};
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, id);
	conduit_store_run(&delete, &args);
}

void
conduit_revocation_postpone(const pg_uuid_t *id, TimestampTz until, int attempts, const char *outcome, const char *code)
{
	static StoreQuery update = {
		"UPDATE conduit.revocation SET next_attempt_at = $2, attempts = $3, last_error = COALESCE($4, last_error),"
		" last_error_code = COALESCE($5, last_error_code) WHERE id = $1",
		5, {UUIDOID, TIMESTAMPTZOID, INT4OID, TEXTOID, TEXTOID}
	};
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, id);
	conduit_arg_time(&args, until);
	conduit_arg(&args, Int32GetDatum(attempts));
	conduit_arg_text(&args, outcome);
	conduit_arg_text(&args, code);
	conduit_store_run(&update, &args);
}

void
conduit_revocation_fail(const Revocation *row, const char *reason)
{
	ConduitEvent event = {
		.kind = "revocation_failed",.tenant = row->place.tenant,.connection = &row->place.connection,
		.owner = row->place.owner,.connector = row->place.connector,.account = row->account,.reason = reason
	};
	char	   *id = DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&row->place.connection)));

	conduit_event_write(&event);
	conduit_revocation_delete(&row->id);
	ereport(LOG,
			(errmsg("conduit: the grant of connection %s could not be revoked at its provider: %s, given up after %d attempts",
					id, reason, row->attempts),
			 errhidestmt(true), errhidecontext(true)));
}
