/*-------------------------------------------------------------------------
 *
 * due.c
 *	  Which credentials are due.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/due.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/date.h"

#include "base/clock.h"
#include "base/settings.h"
#include "lifecycle/credential.h"
#include "lifecycle/store.h"
#include "shared/last_use.h"

#define LAST_USE_BATCH 1000

/*
 * How far to look for what comes next, in seconds: nobody sleeps longer.  What
 * was refreshed early lies dead in the index ahead, and while somebody's old
 * snapshot keeps it, going past it costs.
 */
#define LOOK_AHEAD 60

static int
copy_rows(uint64 n, MemoryContext context, DueRow **rows)
{
	*rows = MemoryContextAlloc(context, sizeof(DueRow) * (n + 1));
	for (uint64 i = 0; i < n; i++)
	{
		(*rows)[i].connection = conduit_row_uuid(i, 1);
		(*rows)[i].connector = conduit_row_text(i, 2, context);
		(*rows)[i].refresh_at = conduit_row_time(i, 3);
	}
	return (int) n;
}

static Datum
text_array(List *texts)
{
	Datum	   *values = palloc(sizeof(Datum) * (list_length(texts) + 1));
	ListCell   *cell;

	foreach(cell, texts)
		values[foreach_current_index(cell)] = CStringGetTextDatum(lfirst(cell));
	return PointerGetDatum(construct_array(values, list_length(texts), TEXTOID, -1, false, TYPALIGN_INT));
}

int
conduit_due_scan(const DueMark *mark, TimestampTz to, List *excluded, int max, DueRow **rows)
{
	static StoreQuery select = {
		"SELECT connection_id, connector, refresh_at FROM conduit.credential"
		" WHERE (refresh_at, connection_id) > ($1, $2) AND refresh_at <= $3 AND connector <> ALL ($4)"
		" ORDER BY refresh_at, connection_id LIMIT $5",
		5, {TIMESTAMPTZOID, UUIDOID, TIMESTAMPTZOID, TEXTARRAYOID, INT4OID}
	};
	MemoryContext context = CurrentMemoryContext;
	StoreArgs	args = {0};
	StoreScope	scope;
	int			n;

	conduit_store_begin(&scope);
	conduit_arg(&args, TimestampTzGetDatum(mark->refresh_at));
	conduit_arg_uuid(&args, &mark->connection);
	conduit_arg(&args, TimestampTzGetDatum(to));
	conduit_arg(&args, text_array(excluded));
	conduit_arg(&args, Int32GetDatum(max));
	n = copy_rows(conduit_store_run(&select, &args), context, rows);
	conduit_store_end(&scope);
	return n;
}

TimestampTz
conduit_due_next(TimestampTz after)
{
	static StoreQuery select = {
		"SELECT refresh_at FROM conduit.credential WHERE refresh_at > $1 AND refresh_at < $2 ORDER BY refresh_at LIMIT 1",
		2, {TIMESTAMPTZOID, TIMESTAMPTZOID}
	};
	StoreArgs	args = {0};
	StoreScope	scope;
	TimestampTz next = conduit_time_add(after, LOOK_AHEAD);

	conduit_store_begin(&scope);
	conduit_arg(&args, TimestampTzGetDatum(after));
	conduit_arg(&args, TimestampTzGetDatum(next));
	if (conduit_store_run(&select, &args) > 0)
		next = conduit_row_time(0, 1);
	conduit_store_end(&scope);
	return next;
}

int
conduit_due_batch(const char *tenant, TimestampTz now, int max, DueRow **rows)
{
	static StoreQuery select = {
		"SELECT connection_id, connector, refresh_at FROM conduit.credential"
		" WHERE refresh_at <= $1 AND tenant = $2 AND status = 'ACTIVE'"
		" ORDER BY expires_at NULLS FIRST, connection_id LIMIT $3",
		3, {TIMESTAMPTZOID, TEXTOID, INT4OID}
	};
	MemoryContext context = CurrentMemoryContext;
	StoreArgs	args = {0};
	StoreScope	scope;
	int			n;

	conduit_store_begin(&scope);
	conduit_arg(&args, TimestampTzGetDatum(now));
	conduit_arg_text(&args, tenant);
	conduit_arg(&args, Int32GetDatum(max));
	n = copy_rows(conduit_store_run(&select, &args), context, rows);
	conduit_store_end(&scope);
	return n;
}

/*
 * The first use of a connection.  The lock keeps it from being deleted until
 * this is committed, for nobody would remove the row then.
 */
static bool
insert_use(const StoreArgs *key, const StoreArgs *args)
{
	static StoreQuery insert = {
		"INSERT INTO conduit.last_use (connection_id, used_on)"
		" SELECT n.id, $2 FROM conduit.connection n WHERE n.id = $1 FOR KEY SHARE SKIP LOCKED",
		2, {UUIDOID, DATEOID}
	};
	static StoreQuery exists = {
		"SELECT FROM conduit.connection WHERE id = $1", 1, {UUIDOID}
	};

	return conduit_store_run(&insert, args) > 0 || conduit_store_run(&exists, key) == 0;
}

/*
 * Write down one use.  Nobody but the worker inserts here.  Nothing waits:
 * returns false if a user's open transaction holds the connection, to be tried
 * again later.
 */
static bool
write_use(const pg_uuid_t *connection, DateADT day)
{
	static StoreQuery exists = {
		"SELECT FROM conduit.last_use WHERE connection_id = $1", 1, {UUIDOID}
	};
	static StoreQuery update = {
		"UPDATE conduit.last_use SET used_on = $2 WHERE connection_id = ("
		" SELECT connection_id FROM conduit.last_use WHERE connection_id = $1 AND used_on < $2"
		" FOR NO KEY UPDATE SKIP LOCKED)",
		2, {UUIDOID, DATEOID}
	};
	StoreArgs	key = {0};
	StoreArgs	args = {0};

	conduit_arg_uuid(&key, connection);
	conduit_arg_uuid(&args, connection);
	conduit_arg(&args, DateADTGetDatum(day));
	if (conduit_store_run(&exists, &key) == 0)
		return insert_use(&key, &args);
	conduit_store_run(&update, &args);
	return true;
}

/* Who makes an idle connection live again by a vend wants it kept fresh. */
static void
end_idleness(const pg_uuid_t *connection)
{
	static StoreQuery wake = {
		"UPDATE conduit.credential SET refresh_at = due_at WHERE connection_id = ("
		" SELECT connection_id FROM conduit.credential WHERE connection_id = $1"
		" AND refresh IS NOT NULL AND status = 'ACTIVE' AND next_attempt_at IS NULL"
		" AND due_at IS NOT NULL AND (refresh_at IS NULL OR refresh_at > due_at) AND NOT (" CONDUIT_NEVER_MINTED ")"
		" FOR NO KEY UPDATE SKIP LOCKED)",
		1, {UUIDOID}
	};
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, connection);
	conduit_store_run(&wake, &args);
}

int
conduit_due_write_last_use(void)
{
	pg_uuid_t	connections[LAST_USE_BATCH];
	int64		days[LAST_USE_BATCH];
	StoreScope	scope;
	int			n = conduit_last_use_take(USE_CONNECTION, connections, days, LAST_USE_BATCH);
	int			written = 0;

	if (n == 0)
		return 0;
	PG_TRY();
	{
		conduit_store_begin(&scope);
		for (int i = 0; i < n; i++)
		{
			if (write_use(&connections[i], (DateADT) days[i]))
				written++;
			else
				conduit_last_use_put_back(USE_CONNECTION, &connections[i], days[i]);
			if (conduit_refresh_idle > 0)
				end_idleness(&connections[i]);
		}
		conduit_store_end(&scope);
	}
	PG_CATCH();
	{
		for (int i = 0; i < n; i++)
			conduit_last_use_put_back(USE_CONNECTION, &connections[i], days[i]);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return written;
}
