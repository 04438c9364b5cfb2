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
#include "lifecycle/store.h"

void
conduit_revocation_destroy_credential(const pg_uuid_t *connection)
{
	static StoreQuery lock = {
		"SELECT generation FROM conduit.credential WHERE connection_id = $1 FOR UPDATE", 1, {UUIDOID}
	};
	static StoreQuery queue = {
		"INSERT INTO conduit.revocation (connection_id, generation, tenant, owner, connector, origin,"
		" account, client_id, params, access, refresh, queued_at)"
		" SELECT c.connection_id, c.generation, c.tenant, c.owner, c.connector, c.origin,"
		" n.account, n.client_id, n.params, c.access, c.refresh, $2"
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
	conduit_store_run(&queue, &queue_args);
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
		" account, client_id, params, access, refresh, queued_at)"
		" SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9::pg_catalog.jsonb, $10, $11, $12"
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
	conduit_store_run(&queue, &args);
}
