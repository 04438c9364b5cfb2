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

#include "lifecycle/connection_index.h"
#include "lifecycle/store.h"

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

static void
match_accounts(const Import *import)
{
	ConnectionLookup *live = conduit_lookup_open(INDEX_LIVE_ACCOUNT, import->tenant, import->slug);
	ConnectionLookup *revoked = conduit_lookup_open(INDEX_REVOKED_ACCOUNT, import->tenant, import->slug);
	ConnectionFound found;

	for (int i = 0; i < import->nsorted; i++)
	{
		ImportRecord *record = import->sorted[i];

		CHECK_FOR_INTERRUPTS();
		if (!wanted(record, true))
			continue;
		conduit_lookup_begin(live, record->owner, record->account);
		if (conduit_lookup_next(live, &found))
		{
			record->connection = found.id;
			record->has_connection = true;
			continue;
		}

		/* Its owner has ended it: an import does not make it again. */
		conduit_lookup_begin(revoked, record->owner, record->account);
		if (conduit_lookup_next(revoked, &found))
			record->error = "revoked";
	}
	conduit_lookup_close(revoked);
	conduit_lookup_close(live);
}

/* Whether what a record brings was imported into the connection last. */
static bool
was_imported(const ImportRecord *record, const pg_uuid_t *connection)
{
	static StoreQuery select = {
		"SELECT FROM conduit.credential WHERE connection_id = $1 AND imported = $2", 2, {UUIDOID, BYTEAOID}
	};
	StoreArgs	args = {0};

	if (record->digest == NULL)
		return false;
	conduit_arg_uuid(&args, connection);
	conduit_arg_bytea(&args, record->digest);
	return conduit_store_run(&select, &args) > 0;
}

/* The one connection of its owner that a record without an account is for. */
static void
match_owner(const Import *import, ConnectionLookup *lookup, ImportRecord *record)
{
	ConnectionFound found;
	int			without = 0;
	bool		revoked = false;

	conduit_lookup_begin(lookup, record->owner, NULL);
	while (conduit_lookup_next(lookup, &found))
	{
		CHECK_FOR_INTERRUPTS();
		if (strcmp(found.connector, import->slug) != 0)
			continue;
		if (found.revoked)
		{
			revoked |= found.account == NULL;
			continue;
		}
		if (was_imported(record, &found.id))
		{
			record->connection = found.id;
			record->has_connection = true;
			return;
		}
		if (found.account == NULL)
		{
			record->connection = found.id;
			without++;
		}
	}
	record->has_connection = without == 1;
	if (without > 1)
		record->error = "several";
	else if (without == 0 && revoked)
		record->error = "revoked";
}

static void
match_owners(const Import *import)
{
	ConnectionLookup *lookup = conduit_lookup_open(INDEX_OWNER, import->tenant, import->slug);

	for (int i = 0; i < import->nsorted; i++)
		if (wanted(import->sorted[i], false))
			match_owner(import, lookup, import->sorted[i]);
	conduit_lookup_close(lookup);
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
