/*-------------------------------------------------------------------------
 *
 * import_match.c
 *	  Which connections the records of an import are for.
 *
 * A record with an account is for the connection of this owner, connector and
 * account.  One without is for the owner's connection without an account; or
 * for the one into which it was imported before, which may have learned its
 * account since.  It is never for another account's: whose tokens these are is
 * not known.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/import.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "lifecycle/rows.h"

static int
compare_keys(const void *a, const void *b)
{
	const ImportRecord *left = *(ImportRecord *const *) a;
	const ImportRecord *right = *(ImportRecord *const *) b;
	int			order = strcmp(left->owner, right->owner);

	if (order == 0 && left->account != NULL && right->account != NULL)
		order = strcmp(left->account, right->account);
	else if (order == 0)
		order = (left->account == NULL) - (right->account == NULL);
	return order != 0 ? order : left->ordinal - right->ordinal;
}

static bool
same_key(const ImportRecord *a, const ImportRecord *b)
{
	return strcmp(a->owner, b->owner) == 0 && (a->account == NULL) == (b->account == NULL) &&
		(a->account == NULL || strcmp(a->account, b->account) == 0);
}

void
conduit_import_sort(Import *import)
{
	ImportRecord *first = NULL;

	import->sorted = palloc(sizeof(ImportRecord *) * (import->n + 1));
	import->nsorted = 0;
	for (int i = 0; i < import->n; i++)
		if (import->records[i].error == NULL)
			import->sorted[import->nsorted++] = &import->records[i];
	qsort(import->sorted, import->nsorted, sizeof(ImportRecord *), compare_keys);

	for (int i = 0; i < import->nsorted; i++)
	{
		ImportRecord *record = import->sorted[i];

		if (first != NULL && same_key(first, record))
			record->error = "duplicate";
		else
			first = record;
	}
}

static bool
wanted(const ImportRecord *record, bool with_account)
{
	return record->error == NULL && !record->has_connection && (record->account != NULL) == with_account;
}

/*
 * Run a look-up for all records that want one, by owner and account, or by
 * owner and digest; its rows have the record's place in sorted, from 1.
 */
static uint64
look_up(const Import *import, StoreQuery *query, bool with_account, ImportRecord ***looked_up)
{
	ImportRecord **list = palloc(sizeof(ImportRecord *) * (import->nsorted + 1));
	StoreRows	rows;
	StoreArgs	args = {0};

	conduit_rows_begin(&rows, query, 2, import->nsorted);
	for (int i = 0; i < import->nsorted; i++)
	{
		ImportRecord *record = import->sorted[i];
		StoreArgs	cells = {0};

		if (!wanted(record, with_account))
			continue;
		conduit_arg_text(&cells, record->owner);
		if (with_account)
			conduit_arg_text(&cells, record->account);
		else
			conduit_arg_bytea(&cells, record->digest);
		list[rows.n] = record;
		conduit_rows_add(&rows, &cells);
	}
	*looked_up = list;
	if (rows.n == 0)
		return 0;
	conduit_rows_args(&rows, &args);
	conduit_arg_text(&args, import->tenant);
	conduit_arg_text(&args, import->slug);
	return conduit_store_run(query, &args);
}

/* One look-up in an index for each record, whatever the planner knows of the table. */
#define FOR_EACH_RECORD(columns, condition, rest) \
	"SELECT r.n::pg_catalog.int4, c.* FROM unnest($1, $2) WITH ORDINALITY r (o, v, n)," \
	" LATERAL (SELECT " columns " FROM conduit.connection c LEFT JOIN conduit.credential k ON k.connection_id = c.id" \
	" WHERE c.tenant = $3 AND c.owner = r.o AND c.connector = $4 AND " condition " " rest ") c"

static void
match_accounts(const Import *import)
{
	static StoreQuery live = {
		FOR_EACH_RECORD("c.id", "c.account = r.v AND c.status <> 'REVOKED'", "LIMIT 1"),
		4, {TEXTARRAYOID, TEXTARRAYOID, TEXTOID, TEXTOID}
	};
	static StoreQuery revoked = {
		FOR_EACH_RECORD("c.id", "c.account = r.v AND c.status = 'REVOKED'", "LIMIT 1"),
		4, {TEXTARRAYOID, TEXTARRAYOID, TEXTOID, TEXTOID}
	};
	ImportRecord **records;
	uint64		n = look_up(import, &live, true, &records);

	for (uint64 i = 0; i < n; i++)
	{
		ImportRecord *record = records[conduit_row_int32(i, 1) - 1];

		record->connection = conduit_row_uuid(i, 2);
		record->has_connection = true;
	}

	/* Its owner has ended it: an import does not make it again. */
	n = look_up(import, &revoked, true, &records);
	for (uint64 i = 0; i < n; i++)
		records[conduit_row_int32(i, 1) - 1]->error = "revoked";
}

static void
match_owners(const Import *import)
{
	static StoreQuery live = {
		FOR_EACH_RECORD("c.id, COALESCE(k.imported = r.v, false) AS same",
						"(c.account IS NULL OR k.imported = r.v) AND c.status <> 'REVOKED'",
						"ORDER BY 2 DESC, 1 LIMIT 2"),
		4, {TEXTARRAYOID, BYTEAARRAYOID, TEXTOID, TEXTOID}
	};
	static StoreQuery revoked = {
		FOR_EACH_RECORD("c.id", "c.account IS NULL AND c.status = 'REVOKED'", "LIMIT 1"),
		4, {TEXTARRAYOID, BYTEAARRAYOID, TEXTOID, TEXTOID}
	};
	ImportRecord **records;
	uint64		n = look_up(import, &live, false, &records);

	for (uint64 i = 0; i < n; i++)
	{
		ImportRecord *record = records[conduit_row_int32(i, 1) - 1];

		if (!record->has_connection)
		{
			record->connection = conduit_row_uuid(i, 2);
			record->has_connection = true;
			record->is_certain = conduit_row_bool(i, 3);
		}
		else if (!record->is_certain)
			record->error = "several";
	}
	n = look_up(import, &revoked, false, &records);
	for (uint64 i = 0; i < n; i++)
		records[conduit_row_int32(i, 1) - 1]->error = "revoked";
}

/* By connection; of two records for one, that with an account comes first. */
static int
compare_connections(const void *a, const void *b)
{
	const ImportRecord *left = *(ImportRecord *const *) a;
	const ImportRecord *right = *(ImportRecord *const *) b;
	int			order = memcmp(&left->connection, &right->connection, sizeof(pg_uuid_t));

	return order != 0 ? order : compare_keys(a, b);
}

/* What was looked up may have changed until it was locked. */
static void
take_locked(ImportRecord *record, uint64 row, MemoryContext context)
{
	record->known_account = conduit_row_text(row, 2, context);
	record->status = conduit_row_text(row, 3, context);
	record->known_params = conduit_row_utf8(row, 4, context);
	record->last_generation = conduit_row_int64(row, 5);
	record->is_locked = true;
	if (strcmp(record->status, "REVOKED") == 0)
		record->error = "revoked";
	else if (record->account != NULL &&
			 (record->known_account == NULL || strcmp(record->known_account, record->account) != 0))
		record->is_locked = false;
}

/* Lock connections of records, in the order of their ids, and read them. */
static void
lock_connections(ImportRecord **records, int n, Datum ids)
{
	static StoreQuery lock = {
		"SELECT id, account, status, params::pg_catalog.text, last_generation FROM conduit.connection"
		" WHERE id = ANY ($1) ORDER BY id FOR UPDATE",
		1, {UUIDARRAYOID}
	};
	MemoryContext context = CurrentMemoryContext;
	StoreArgs	args = {0};
	uint64		found;
	int			at = 0;

	conduit_arg(&args, ids);
	found = conduit_store_run(&lock, &args);
	for (uint64 i = 0; i < found; i++)
	{
		pg_uuid_t	id = conduit_row_uuid(i, 1);

		while (at < n && memcmp(&records[at]->connection, &id, sizeof(id)) != 0)
			at++;
		if (at < n)
			take_locked(records[at], i, context);
	}
	for (int i = 0; i < n; i++)
		records[i]->has_connection = records[i]->is_locked;
}

static void
lock_credentials(ImportRecord **records, int n, Datum ids)
{
	static StoreQuery lock = {
		"SELECT connection_id, generation, imported FROM conduit.credential"
		" WHERE connection_id = ANY ($1) ORDER BY connection_id FOR UPDATE",
		1, {UUIDARRAYOID}
	};
	MemoryContext context = CurrentMemoryContext;
	StoreArgs	args = {0};
	uint64		found;
	int			at = 0;

	conduit_arg(&args, ids);
	found = conduit_store_run(&lock, &args);
	for (uint64 i = 0; i < found; i++)
	{
		pg_uuid_t	id = conduit_row_uuid(i, 1);

		while (at < n && memcmp(&records[at]->connection, &id, sizeof(id)) != 0)
			at++;
		if (at < n)
		{
			records[at]->generation = conduit_row_int64(i, 2);
			records[at]->imported = conduit_row_bytea(i, 3, context);
		}
	}
}

/*
 * Sort the records whose connections have just been found by connection; one
 * that shares its connection with another is passed over.
 */
static int
found_records(const Import *import, ImportRecord **records)
{
	int			n = 0;
	int			kept = 0;

	for (int i = 0; i < import->nsorted; i++)
	{
		ImportRecord *record = import->sorted[i];

		if (record->error == NULL && record->has_connection && !record->is_locked && !record->is_new)
			records[n++] = record;
	}
	qsort(records, n, sizeof(ImportRecord *), compare_connections);
	for (int i = 0; i < n; i++)
	{
		if (kept > 0 && memcmp(&records[kept - 1]->connection, &records[i]->connection, sizeof(pg_uuid_t)) == 0)
			records[i]->error = "duplicate";
		else
			records[kept++] = records[i];
	}
	return kept;
}

void
conduit_import_match(const Import *import)
{
	ImportRecord **records = palloc(sizeof(ImportRecord *) * (import->nsorted + 1));
	Datum	   *ids;
	Datum		array;
	int			n;

	match_accounts(import);
	match_owners(import);
	n = found_records(import, records);
	if (n == 0)
		return;
	ids = palloc(sizeof(Datum) * n);
	for (int i = 0; i < n; i++)
		ids[i] = UUIDPGetDatum(&records[i]->connection);
	array = PointerGetDatum(construct_array(ids, n, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR));
	lock_connections(records, n, array);
	lock_credentials(records, n, array);
}
