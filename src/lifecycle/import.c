/*-------------------------------------------------------------------------
 *
 * import.c
 *	  conduit_import: many connections with their credentials at once.
 *
 * Everything is sealed here, before the first tuple is formed, and written by
 * few statements for many rows.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/import.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/report.h"
#include "lifecycle/adoption.h"
#include "lifecycle/catalogue.h"
#include "lifecycle/client.h"
#include "lifecycle/event.h"
#include "lifecycle/handover.h"
#include "lifecycle/key.h"
#include "lifecycle/rows.h"
#include "lifecycle/schedule.h"
#include "lifecycle/storing.h"

#define MAX_IMPORT_LEN (64 * 1024 * 1024)

/* What is written by one statement: so many records, and not many more bytes. */
#define CHUNK_ROWS 1000
#define CHUNK_LEN (8 * 1024 * 1024)

/* How often to look for connections that others make or remove meanwhile. */
#define MAX_ROUNDS 3

PG_FUNCTION_INFO_V1(conduit_import);

/* ---- new connections ---- */

/* Without params a record is good for a connector whose URLs need none. */
static bool
needs_params(const Import *import)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool needed = true;

	PG_TRY();
	{
		conduit_connector_check_params(import->connector, NULL);
		needed = false;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		if (geterrcode() != ERRCODE_INVALID_PARAMETER_VALUE)
			PG_RE_THROW();
		FlushErrorState();
	}
	PG_END_TRY();
	return needed;
}

/* Insert connections; those whose account somebody else has just taken stay without. */
static void
insert_connections(const Import *import, ImportRecord **records, int n)
{
	static StoreQuery insert = {
		"INSERT INTO conduit.connection (id, tenant, owner, connector, account, client_id, params, metadata,"
		" created_at, updated_at)"
		" SELECT r.i, $7, r.o, $8, r.a, r.c, COALESCE(r.p, '{}'), COALESCE(r.m, '{}'), $9, $9"
		" FROM unnest($1, $2, $3, $4, $5, $6) r (i, o, a, c, p, m)"
		" ON CONFLICT DO NOTHING RETURNING id",
		9, {UUIDARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, JSONBARRAYOID, JSONBARRAYOID,
		TEXTOID, TEXTOID, TIMESTAMPTZOID}
	};
	StoreRows	rows;
	StoreArgs	args = {0};
	uint64		inserted;
	int			at = 0;

	conduit_rows_begin(&rows, &insert, 6, n);
	for (int i = 0; i < n; i++)
	{
		ImportRecord *record = records[i];
		StoreArgs	cells = {0};

		record->connection = conduit_new_id();
		conduit_arg_uuid(&cells, &record->connection);
		conduit_arg_text(&cells, record->owner);
		conduit_arg_text(&cells, record->account);
		conduit_arg_text(&cells, record->client_id);
		conduit_arg_jsonb(&cells, record->params);
		conduit_arg_jsonb(&cells, record->metadata);
		conduit_rows_add(&rows, &cells);
	}
	conduit_rows_args(&rows, &args);
	conduit_arg_text(&args, import->tenant);
	conduit_arg_text(&args, import->slug);
	conduit_arg_time(&args, import->now);
	inserted = conduit_store_run(&insert, &args);

	for (uint64 i = 0; i < inserted; i++)
	{
		pg_uuid_t	id = conduit_row_uuid(i, 1);

		while (at < n && memcmp(&records[at]->connection, &id, sizeof(id)) != 0)
			at++;
		if (at < n)
			records[at]->has_connection = records[at]->is_new = true;
	}
}

/* Insert the connections that are not there; returns whether all are there now. */
static bool
insert_missing(const Import *import, bool params_needed)
{
	ImportRecord **records = palloc(sizeof(ImportRecord *) * CHUNK_ROWS);
	bool		complete = true;

	for (int i = 0; i < import->nsorted;)
	{
		int			n = 0;

		CHECK_FOR_INTERRUPTS();
		for (; i < import->nsorted && n < CHUNK_ROWS; i++)
		{
			ImportRecord *record = import->sorted[i];

			if (record->error == NULL && !record->has_connection && record->params == NULL && params_needed)
				record->error = "params missing";
			if (record->error == NULL && !record->has_connection)
				records[n++] = record;
		}
		if (n > 0)
			insert_connections(import, records, n);
		for (int k = 0; k < n; k++)
			complete &= records[k]->has_connection;
	}
	return complete;
}

static void
find_or_make_connections(const Import *import)
{
	bool		params_needed = needs_params(import);

	for (int round = 0; round < MAX_ROUNDS; round++)
	{
		conduit_import_match(import);
		if (insert_missing(import, params_needed))
			return;
	}
	for (int i = 0; i < import->nsorted; i++)
		if (import->sorted[i]->error == NULL && !import->sorted[i]->has_connection)
			import->sorted[i]->error = "concurrent";
}

/* ---- credentials ---- */

/* The same record once more, of a connection that has not lost what came of it. */
static bool
is_unchanged(const ImportRecord *record)
{
	return !record->is_new && record->generation > 0 && strcmp(record->status, "ACTIVE") == 0 &&
		conduit_import_same(record->digest, record->imported);
}

/*
 * What the credential is bound to.  A connection's params may be out of its
 * connector's patterns by now; that error is of this record alone.
 */
static char *
find_origin(const Import *import, ImportRecord *record)
{
	MemoryContext context = CurrentMemoryContext;
	char	   *volatile origin = NULL;

	PG_TRY();
	{
		const ConduitJson *params = record->param_values;

		if (params == NULL && record->known_params != NULL)
			params = conduit_parse_object(record->known_params, "invalid params");
		origin = conduit_connector_token_origin(import->connector, params);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		if (geterrcode() != ERRCODE_INVALID_PARAMETER_VALUE)
			PG_RE_THROW();
		FlushErrorState();
		record->error = "params bad_value";
	}
	PG_END_TRY();
	return origin;
}

/* Seal what a record brings; false if it cannot be stored. */
static bool
seal_record(const Import *import, ImportRecord *record, CredentialPlace *place, StoredGrant *stored)
{
	int64		generation = Max(record->generation, record->last_generation) + 1;
	TokenGrant	grant;
	const char *hint;

	place->connection = record->connection;
	place->tenant = unconstify(char *, import->tenant);
	place->owner = record->owner;
	place->connector = unconstify(char *, import->slug);
	place->origin = find_origin(import, record);
	if (place->origin == NULL)
		return false;
	if (conduit_handover_read(import->connector, record->secret, import->now, &grant, &hint) != NULL)
		elog(ERROR, "a secret that was good has changed");

	PG_TRY();
	{
		conduit_storing_seal(place, import->connector, &grant, generation, import->now, stored);
	}
	PG_FINALLY();
	{
		conduit_token_grant_wipe(&grant);
	}
	PG_END_TRY();

	stored->imported = record->digest;
	stored->refresh_at = conduit_schedule_spread(stored->refresh_at,
												 conduit_time_add(stored->issued_at, stored->lifetime / 2),
												 stored->access ? stored->expires_at : DT_NOBEGIN,
												 stored->refresh_expires_at, import->spread, import->now);
	return true;
}

/*
 * Write what records say of connections that were there before.  The client that
 * one without a credential was begun under has issued it nothing.
 */
static void
update_connections(const Import *import, ImportRecord **records, int n)
{
	static StoreQuery update = {
		"UPDATE conduit.connection c SET params = COALESCE(r.p, c.params), metadata = COALESCE(r.m, c.metadata),"
		" client_id = CASE WHEN r.c IS NULL AND r.k THEN c.client_id ELSE r.c END,"
		" status = 'ACTIVE', status_reason = NULL,"
		" updated_at = $6 FROM unnest($1, $2, $3, $4, $5) r (i, p, m, c, k) WHERE c.id = r.i",
		6, {UUIDARRAYOID, JSONBARRAYOID, JSONBARRAYOID, TEXTARRAYOID, BOOLARRAYOID, TIMESTAMPTZOID}
	};
	StoreRows	rows;
	StoreArgs	args = {0};

	conduit_rows_begin(&rows, &update, 5, n);
	for (int i = 0; i < n; i++)
	{
		StoreArgs	cells = {0};

		if (records[i]->is_new)
			continue;
		conduit_arg_uuid(&cells, &records[i]->connection);
		conduit_arg_jsonb(&cells, records[i]->params);
		conduit_arg_jsonb(&cells, records[i]->metadata);
		conduit_arg_text(&cells, records[i]->client_id);
		conduit_arg(&cells, BoolGetDatum(records[i]->generation > 0));
		conduit_rows_add(&rows, &cells);
	}
	if (rows.n == 0)
		return;
	conduit_rows_args(&rows, &args);
	conduit_arg_time(&args, import->now);
	conduit_store_run(&update, &args);
}

static void
update_metadata(const Import *import, ImportRecord **records, int n)
{
	static StoreQuery update = {
		"UPDATE conduit.connection c SET metadata = r.m, updated_at = $3 FROM unnest($1, $2) r (i, m)"
		" WHERE c.id = r.i AND r.m IS NOT NULL AND c.metadata <> r.m",
		3, {UUIDARRAYOID, JSONBARRAYOID, TIMESTAMPTZOID}
	};
	StoreRows	rows;
	StoreArgs	args = {0};

	conduit_rows_begin(&rows, &update, 2, n);
	for (int i = 0; i < n; i++)
	{
		StoreArgs	cells = {0};

		conduit_arg_uuid(&cells, &records[i]->connection);
		conduit_arg_jsonb(&cells, records[i]->metadata);
		conduit_rows_add(&rows, &cells);
	}
	if (rows.n == 0)
		return;
	conduit_rows_args(&rows, &args);
	conduit_arg_time(&args, import->now);
	conduit_store_run(&update, &args);
}

/* The same events as of calls one by one. */
static void
write_events(const Import *import, ImportRecord **records, int n)
{
	ConduitEvent *events = palloc0(sizeof(ConduitEvent) * n * 2);
	int			count = 0;

	for (int i = 0; i < n; i++)
	{
		const ImportRecord *record = records[i];
		const char *old_status = record->is_new ? "ACTIVE" : record->status;
		ConduitEvent event = {
			.tenant = import->tenant,.connection = &record->connection,.owner = record->owner,
			.connector = import->slug,.account = record->is_new ? record->account : record->known_account,
			.new_status = "ACTIVE"
		};

		if (record->is_new)
		{
			event.kind = "created";
			events[count++] = event;
		}
		event.old_status = old_status;
		event.kind = strcmp(old_status, "NEEDS_REAUTH") == 0 ? "recovered" : "authorized";
		if (record->generation == 0 || strcmp(old_status, "NEEDS_REAUTH") == 0)
			events[count++] = event;
	}
	conduit_event_write_many(events, count);
}

static void
write_chunk(const Import *import, ImportRecord **records, int n)
{
	ImportRecord **changed = palloc(sizeof(ImportRecord *) * n);
	ImportRecord **unchanged = palloc(sizeof(ImportRecord *) * n);
	CredentialPlace *places = palloc(sizeof(CredentialPlace) * n);
	StoredGrant *stored = palloc(sizeof(StoredGrant) * n);
	int			nchanged = 0;
	int			nunchanged = 0;

	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (is_unchanged(records[i]))
			unchanged[nunchanged++] = records[i];
		else if (seal_record(import, records[i], &places[nchanged], &stored[nchanged]))
			changed[nchanged++] = records[i];
	}
	if (nchanged > 0)
	{
		update_connections(import, changed, nchanged);
		conduit_storing_write(stored, nchanged);
		write_events(import, changed, nchanged);
	}
	if (nunchanged > 0)
		update_metadata(import, unchanged, nunchanged);
}

static void
write_credentials(const Import *import)
{
	ImportRecord **records = palloc(sizeof(ImportRecord *) * CHUNK_ROWS);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "conduit import", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);

	for (int i = 0; i < import->nsorted;)
	{
		int			n = 0;
		int			length = 0;

		for (; i < import->nsorted && n < CHUNK_ROWS && length < CHUNK_LEN; i++)
		{
			ImportRecord *record = import->sorted[i];

			if (record->error != NULL)
				continue;
			length += record->length;
			records[n++] = record;
		}
		if (n > 0)
			write_chunk(import, records, n);
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* ---- the call ---- */

/*
 * No index keeps two connections without an account apart: imports that may
 * make some wait for each other, and others for nobody.
 */
static void
lock_for_unknown_accounts(const Import *import)
{
	static StoreQuery lock = {
		"SELECT FROM conduit.connector WHERE slug = $1 FOR NO KEY UPDATE", 1, {TEXTOID}
	};
	StoreArgs	args = {0};

	for (int i = 0; i < import->nsorted; i++)
		if (import->sorted[i]->error == NULL && import->sorted[i]->account == NULL)
		{
			conduit_arg_text(&args, import->slug);
			conduit_store_run(&lock, &args);
			return;
		}
}

static void
import_records(Import *import, ConduitJsonPart *parts)
{
	import->connector = conduit_catalogue_require(import->slug, true);
	if (conduit_connector_binds_client(import->connector))
		import->current_client = conduit_client_current_id(import->tenant, import->slug);
	for (int i = 0; i < import->n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		conduit_import_read(import, &parts[i], &import->records[i]);
	}
	conduit_import_sort(import);
	lock_for_unknown_accounts(import);
	conduit_import_check_clients(import);
	conduit_adoption_note_use(true);
	find_or_make_connections(import);
	write_credentials(import);
}

static void
return_records(FunctionCallInfo fcinfo, const Import *import)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	for (int i = 0; i < import->n; i++)
	{
		const ImportRecord *record = &import->records[i];
		Datum		values[3];
		bool		nulls[3] = {false, record->error != NULL, record->error == NULL};

		values[0] = Int32GetDatum(record->ordinal);
		values[1] = UUIDPGetDatum(&record->connection);
		values[2] = record->error ? CStringGetTextDatum(record->error) : (Datum) 0;
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

/* The caller's text as UTF-8 in a buffer of our own, with a byte to spare. */
pg_noinline static char *
import_buffer(text *records, int *length)
{
	int			size = VARSIZE_ANY_EXHDR(records);
	char	   *utf8;
	char	   *buffer;

	if (size > MAX_IMPORT_LEN)
		conduit_bad_argument("invalid records", psprintf("too_long %d", MAX_IMPORT_LEN),
							 "The number is the most bytes they may have; import in several calls.");
	utf8 = pg_server_to_any(VARDATA_ANY(records), size, PG_UTF8);
	*length = utf8 == VARDATA_ANY(records) ? size : (int) strlen(utf8);
	buffer = palloc(*length + 1);
	memcpy(buffer, utf8, *length);
	buffer[*length] = '\0';
	if (utf8 != VARDATA_ANY(records))
		conduit_wipe(utf8, *length);
	return buffer;
}

static void
split_records(char *buffer, int length, Import *import, ConduitJsonPart *parts)
{
	import->n = conduit_json_split(buffer, length, parts, CONDUIT_MAX_IMPORT);
	if (import->n < 0)
		conduit_bad_argument("invalid records", "json", "Pass a JSON array of objects.");
	if (import->n > CONDUIT_MAX_IMPORT)
		conduit_bad_argument("invalid records", psprintf("too_many %d", CONDUIT_MAX_IMPORT),
							 "The number is the most there may be in a call; import in several calls.");
	import->records = palloc0(sizeof(ImportRecord) * (import->n + 1));
	for (int i = 0; i < import->n; i++)
		import->records[i].ordinal = i + 1;
}

/* conduit_import(connector, records, spread, tenant) */
Datum
conduit_import(PG_FUNCTION_ARGS)
{
	Import		import = {.slug = conduit_slug_argument(fcinfo, 0)};
	ConduitJsonPart *parts = palloc(sizeof(ConduitJsonPart) * CONDUIT_MAX_IMPORT);
	MemoryContext context;
	char	   *buffer;
	int			length;
	StoreScope	scope;

	if (PG_ARGISNULL(1))
		conduit_bad_argument("invalid records", "null", "Pass them as JSON text, in a bound parameter.");
	import.spread = conduit_interval_argument(fcinfo, 2, "invalid spread",
											  "It is how long refreshes are spread over.") / (double) USECS_PER_SEC;
	import.tenant = conduit_tenant_argument(fcinfo, 3);
	import.now = conduit_now();
	InitMaterializedSRF(fcinfo, 0);
	conduit_key_prepare_to_seal();
	buffer = import_buffer(PG_GETARG_TEXT_PP(1), &length);

	/* Not in the store's scope: what the records say outlives it. */
	context = AllocSetContextCreate(CurrentMemoryContext, "conduit import records", ALLOCSET_DEFAULT_SIZES);
	PG_TRY();
	{
		split_records(buffer, length, &import, parts);
		conduit_store_begin(&scope);
		MemoryContextSwitchTo(context);
		import_records(&import, parts);
		conduit_store_end(&scope);
	}
	PG_FINALLY();
	{
		conduit_wipe(buffer, length);
	}
	PG_END_TRY();
	return_records(fcinfo, &import);
	MemoryContextDelete(context);
	return (Datum) 0;
}
