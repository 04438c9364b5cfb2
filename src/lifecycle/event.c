/*-------------------------------------------------------------------------
 *
 * event.c
 *	  The durable event log.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/event.h"

#include "catalog/pg_type.h"
#include "commands/async.h"
#include "commands/sequence.h"
#include "utils/builtins.h"

#include "base/clock.h"
#include "base/settings.h"
#include "lifecycle/argument.h"
#include "lifecycle/commit.h"
#include "lifecycle/direct.h"
#include "lifecycle/store.h"
#include "shared/roster.h"

#define TELL_BATCH 250		/* callers wait for the worker while it numbers them */
#define PURGE_BATCH 1000
#define EVENTS_CHANNEL "conduit_events"
#define NEEDS_REAUTH_CHANNEL "conduit_needs_reauth"

PG_FUNCTION_INFO_V1(conduit_events_after);

static int64
next_id(void)
{
	return DatumGetInt64(DirectFunctionCall1(nextval_oid, ObjectIdGetDatum(conduit_table("event_id_seq"))));
}

void
conduit_event_write_many(const ConduitEvent *events, int n)
{
	static DirectTable table = {
		"event", NULL, 11,
		{"id", "at", "kind", "tenant", "connection_id", "owner", "connector", "account", "old_status", "new_status", "reason"}
	};
	TimestampTz now = conduit_now();

	for (int i = 0; i < n; i++)
	{
		const ConduitEvent *event = &events[i];
		StoreArgs	cells = {0};

		conduit_arg(&cells, Int64GetDatum(next_id()));
		conduit_arg_time(&cells, now);
		conduit_arg_text(&cells, event->kind);
		conduit_arg_text(&cells, event->tenant);
		conduit_arg_uuid(&cells, event->connection);
		conduit_arg_text(&cells, event->owner);
		conduit_arg_text(&cells, event->connector);
		conduit_arg_text(&cells, event->account);
		conduit_arg_text(&cells, event->old_status);
		conduit_arg_text(&cells, event->new_status);
		conduit_arg_text(&cells, event->reason);
		conduit_direct_insert(&table, &cells);
	}
	if (n > 0)
		conduit_at_commit(NUDGE_EVENTS, DT_NOEND);
}

void
conduit_event_write(const ConduitEvent *event)
{
	conduit_event_write_many(event, 1);
}

/* Anybody may LISTEN: ids and the kind, never an owner. */
static void
notify(uint64 row)
{
	MemoryContext context = CurrentMemoryContext;
	char	   *kind = conduit_row_text(row, 2, context);
	pg_uuid_t	connection = conduit_row_uuid(row, 3);
	char	   *id = conduit_row_isnull(row, 3) ? NULL :
		DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&connection)));
	char	   *payload;

	payload = psprintf("{\"seq\":" INT64_FORMAT ",\"event\":\"%s\",\"connection_id\":%s%s%s}",
					   conduit_row_int64(row, 1), kind,
					   id ? "\"" : "", id ? id : "null", id ? "\"" : "");
	Async_Notify(EVENTS_CHANNEL, payload);
	if (strcmp(kind, "needs_reauth") == 0)
		Async_Notify(NEEDS_REAUTH_CHANNEL, payload);
}

int
conduit_event_tell(bool notify_too)
{
	/*
	 * The sequence is advanced in the order of the ids: the subquery with its
	 * LIMIT is not flattened, so that nextval is called on sorted rows.
	 */
	static StoreQuery number = {
		"WITH fresh AS MATERIALIZED ("
		"  SELECT s.id, pg_catalog.nextval('conduit.event_seq') AS seq"
		"  FROM (SELECT id FROM conduit.event WHERE seq IS NULL ORDER BY id LIMIT $1) s),"
		" numbered AS ("
		"  UPDATE conduit.event e SET seq = fresh.seq FROM fresh"
		"  WHERE e.id OPERATOR(pg_catalog.=) fresh.id"
		"  RETURNING e.seq, e.kind, e.connection_id)"
		" SELECT seq, kind, connection_id FROM numbered ORDER BY seq",
		1, {INT4OID}
	};
	StoreArgs	args = {0};
	StoreScope	scope;
	int			n;

	conduit_store_begin(&scope);
	conduit_arg(&args, Int32GetDatum(TELL_BATCH));
	n = conduit_store_run(&number, &args);
	if (notify_too)
		for (int i = 0; i < n; i++)
			notify(i);
	conduit_store_end(&scope);
	return n;
}

int
conduit_event_purge(void)
{
	static StoreQuery purge = {
		"DELETE FROM conduit.event WHERE id IN ("
		" SELECT id FROM conduit.event"
		" WHERE at OPERATOR(pg_catalog.<) $1 AND seq IS NOT NULL ORDER BY at LIMIT $2)",
		2, {TIMESTAMPTZOID, INT4OID}
	};
	StoreArgs	args = {0};
	StoreScope	scope;
	int			n;

	conduit_store_begin(&scope);
	conduit_arg_time(&args, conduit_time_add(conduit_now(), -(double) conduit_event_retention));
	conduit_arg(&args, Int32GetDatum(PURGE_BATCH));
	n = conduit_store_run(&purge, &args);
	conduit_store_end(&scope);
	return n;
}

/* conduit_events_after(seq, max_count, tenant) */
Datum
conduit_events_after(PG_FUNCTION_ARGS)
{
	static StoreQuery select = {
		"SELECT seq, at, kind, tenant, connection_id, owner, connector, account,"
		" old_status, new_status, reason FROM conduit.event"
		" WHERE seq OPERATOR(pg_catalog.>) $1 AND tenant OPERATOR(pg_catalog.=) $2"
		" ORDER BY seq LIMIT $3",
		3, {INT8OID, TEXTOID, INT4OID}
	};
	StoreArgs	args = {0};

	conduit_arg(&args, Int64GetDatum(PG_ARGISNULL(0) ? 0 : PG_GETARG_INT64(0)));
	conduit_arg_text(&args, conduit_tenant_argument(fcinfo, 2));
	conduit_arg(&args, Int32GetDatum(conduit_count_argument(fcinfo, 1, 100, 1, 10000,
															"invalid max_count")));
	conduit_store_return_rows(fcinfo, &select, &args);
	return (Datum) 0;
}
