/*-------------------------------------------------------------------------
 *
 * rewrap.c
 *	  conduit_rewrap: data keys to the primary key.
 *
 * Works in batches, beside everything else: rows that somebody holds are left
 * for the next call.  Within a session a call goes on where the last one
 * stopped, and a pass that began in the middle is followed by one from the
 * start, so that 0 means: no more to do.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "base/report.h"
#include "lifecycle/argument.h"
#include "lifecycle/credential.h"
#include "lifecycle/key.h"
#include "lifecycle/store.h"
#include "vault/seal.h"

#define STANDARD_COUNT 10000
#define BATCH 500

PG_FUNCTION_INFO_V1(conduit_rewrap);

/* One sealed column pair of a table, and how to say where its blobs belong. */
typedef struct RewrapTable
{
	StoreQuery	select;			/* $1: after this id, $2: padded id of the primary, $3: max;
								 * gives id, id of the row sealed for, tenant, owner, connector, origin,
								 * generation, first blob, second blob */
	StoreQuery	update;			/* $1: id, $2, $3: blobs */
	const char *purpose;
	const char *fields[2];
	pg_uuid_t	cursor;
} RewrapTable;

#define NOT_PRIMARY(column) \
	"(" column " IS NOT NULL AND pg_catalog.substring(" column ", 7, 16) <> $2)"

static RewrapTable tables[] = {
	{
		{"SELECT connection_id, connection_id, tenant, owner, connector, origin, generation, access, refresh"
			" FROM conduit.credential WHERE connection_id > $1"
			" AND (" NOT_PRIMARY("access") " OR " NOT_PRIMARY("refresh") ")"
			" ORDER BY connection_id LIMIT $3 FOR NO KEY UPDATE SKIP LOCKED",
		3, {UUIDOID, BYTEAOID, INT4OID}},
		{"UPDATE conduit.credential SET access = COALESCE($2, access), refresh = COALESCE($3, refresh)"
		" WHERE connection_id = $1", 3, {UUIDOID, BYTEAOID, BYTEAOID}},
		"credential", {"access", "refresh"}, {{0}}
	},
	{
		{"SELECT s.id, s.id, c.tenant, '', c.connector, s.origin, 0::pg_catalog.int8, s.secret, NULL::pg_catalog.bytea"
			" FROM conduit.client_secret s JOIN conduit.client c ON c.id = s.client WHERE s.id > $1"
			" AND " NOT_PRIMARY("s.secret")
			" ORDER BY s.id LIMIT $3 FOR NO KEY UPDATE OF s SKIP LOCKED",
		3, {UUIDOID, BYTEAOID, INT4OID}},
		{"UPDATE conduit.client_secret SET secret = COALESCE($2, secret) WHERE id = $1 AND $3 IS NULL",
		3, {UUIDOID, BYTEAOID, BYTEAOID}},
		"client", {"secret", NULL}, {{0}}
	},
	{
		{"SELECT id, connection_id, tenant, owner, connector, origin, generation, access, refresh"
			" FROM conduit.revocation WHERE id > $1"
			" AND (" NOT_PRIMARY("access") " OR " NOT_PRIMARY("refresh") ")"
			" ORDER BY id LIMIT $3 FOR NO KEY UPDATE SKIP LOCKED",
		3, {UUIDOID, BYTEAOID, INT4OID}},
		{"UPDATE conduit.revocation SET access = COALESCE($2, access), refresh = COALESCE($3, refresh)"
		" WHERE id = $1", 3, {UUIDOID, BYTEAOID, BYTEAOID}},
		"credential", {"access", "refresh"}, {{0}}
	},
	{
		{"SELECT id, id, '', '', '', '', 0::pg_catalog.int8, secret, NULL::pg_catalog.bytea"
			" FROM conduit.mac_key WHERE id > $1 AND " NOT_PRIMARY("secret")
			" ORDER BY id LIMIT $3 FOR NO KEY UPDATE SKIP LOCKED",
		3, {UUIDOID, BYTEAOID, INT4OID}},
		{"UPDATE conduit.mac_key SET secret = COALESCE($2, secret) WHERE id = $1 AND $3 IS NULL",
		3, {UUIDOID, BYTEAOID, BYTEAOID}},
		"mac", {"secret", NULL}, {{0}}
	},
	{
		{"SELECT k.id, k.id, f.tenant, '', '', '', 0::pg_catalog.int8, k.jwk, NULL::pg_catalog.bytea"
			" FROM conduit.jwt_key k JOIN conduit.facade f ON f.schema_name = k.schema_name WHERE k.id > $1"
			" AND " NOT_PRIMARY("k.jwk")
			" ORDER BY k.id LIMIT $3 FOR NO KEY UPDATE OF k SKIP LOCKED",
		3, {UUIDOID, BYTEAOID, INT4OID}},
		{"UPDATE conduit.jwt_key SET jwk = COALESCE($2, jwk) WHERE id = $1 AND $3 IS NULL",
		3, {UUIDOID, BYTEAOID, BYTEAOID}},
		"jwt_key", {"secret", NULL}, {{0}}
	},
	{
		/* A claimed one is the worker's, which must not wait for us. */
		{"SELECT id, id, tenant, owner, connector, origin, 0::pg_catalog.int8, verifier, granted"
			" FROM conduit.authorize_state WHERE id > $1 AND status IN ('open', 'parked')"
			" AND (" NOT_PRIMARY("verifier") " OR " NOT_PRIMARY("granted") ")"
			" ORDER BY id LIMIT $3 FOR NO KEY UPDATE SKIP LOCKED",
		3, {UUIDOID, BYTEAOID, INT4OID}},
		{"UPDATE conduit.authorize_state SET verifier = COALESCE($2, verifier), granted = COALESCE($3, granted)"
		" WHERE id = $1", 3, {UUIDOID, BYTEAOID, BYTEAOID}},
		"authorize", {"verifier", "granted"}, {{0}}
	},
};

/* A row that is to be rewrapped, copied out of SPI's table. */
typedef struct RewrapRow
{
	pg_uuid_t	id;
	pg_uuid_t	connection;
	char	   *tenant;
	char	   *owner;
	char	   *connector;
	char	   *origin;
	int64		generation;
	bytea	   *blobs[2];
} RewrapRow;

static void
copy_row(uint64 i, MemoryContext context, RewrapRow *row)
{
	row->id = conduit_row_uuid(i, 1);
	row->connection = conduit_row_uuid(i, 2);
	row->tenant = conduit_row_text(i, 3, context);
	row->owner = conduit_row_text(i, 4, context);
	row->connector = conduit_row_text(i, 5, context);
	row->origin = conduit_row_text(i, 6, context);
	row->generation = conduit_row_int64(i, 7);
	row->blobs[0] = conduit_row_bytea(i, 8, context);
	row->blobs[1] = conduit_row_bytea(i, 9, context);
}

/* Rewrap the blobs of a row; false if one of them cannot be. */
static bool
rewrap_row(RewrapTable *table, const RewrapRow *row)
{
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, &row->id);
	for (int i = 0; i < 2; i++)
	{
		SealPlace	place = {
			.purpose = table->purpose,.row = &row->connection,.connection = &row->connection,
			.tenant = conduit_place_text(row->tenant),.owner = conduit_place_text(row->owner),
			.connector = row->connector,.field = table->fields[i],.generation = row->generation,
			.origin = row->origin
		};
		bytea	   *rewrapped = NULL;

		if (row->blobs[i] != NULL && conduit_rewrap_blob(&place, row->blobs[i], &rewrapped) != SEAL_OK)
			return false;
		conduit_arg_bytea(&args, rewrapped);
	}
	conduit_store_run(&table->update, &args);
	return true;
}

/*
 * Look at up to max rows of a table after its cursor; returns how many there
 * were, and adds to the two counts.
 */
static int
rewrap_some(RewrapTable *table, const bytea *primary, int max, int *rewrapped, int *resisting)
{
	StoreArgs	args = {0};
	RewrapRow	rows[BATCH];
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "conduit rewrap", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	int			n;

	conduit_arg_uuid(&args, &table->cursor);
	conduit_arg_bytea(&args, primary);
	conduit_arg(&args, Int32GetDatum(Min(max, BATCH)));
	n = (int) conduit_store_run(&table->select, &args);
	for (int i = 0; i < n; i++)
		copy_row(i, context, &rows[i]);
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (rewrap_row(table, &rows[i]))
			(*rewrapped)++;
		else
			(*resisting)++;
	}
	if (n > 0)
		table->cursor = rows[n - 1].id;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return n;
}

static bytea *
padded_id(const ConduitKey *key)
{
	bytea	   *id = palloc0(VARHDRSZ + CONDUIT_KEY_ID_LEN);

	SET_VARSIZE(id, VARHDRSZ + CONDUIT_KEY_ID_LEN);
	memcpy(VARDATA(id), key->id, strlen(key->id));
	return id;
}

/* Rewrap up to max rows of a table, going round once past its end. */
static void
rewrap_table(RewrapTable *table, const bytea *primary, int max, int *rewrapped, int *resisting)
{
	static const pg_uuid_t start = {{0}};
	bool		from_start = memcmp(&table->cursor, &start, sizeof(start)) == 0;

	while (*rewrapped < max)
	{
		if (rewrap_some(table, primary, max - *rewrapped, rewrapped, resisting) > 0)
			continue;
		table->cursor = start;
		if (from_start)
			break;
		from_start = true;
	}
}

/* conduit_rewrap(max_count) */
Datum
conduit_rewrap(PG_FUNCTION_ARGS)
{
	int			max = conduit_count_argument(fcinfo, 0, STANDARD_COUNT, 1, INT_MAX, "invalid max_count");
	ConduitKey *primary;
	bytea	   *id;
	StoreScope	scope;
	int			rewrapped = 0;
	int			resisting = 0;

	conduit_key_prepare_to_seal();
	primary = conduit_keyring_primary();
	id = padded_id(primary);
	conduit_store_begin(&scope);
	for (int i = 0; i < lengthof(tables) && rewrapped < max; i++)
		rewrap_table(&tables[i], id, max, &rewrapped, &resisting);
	conduit_store_end(&scope);
	conduit_key_seal_done();

	/* They must not keep the others from the new key, nor go unnoticed. */
	if (resisting > 0)
		ereport(WARNING,
				(errmsg("some rows cannot be opened and stay under the key they name"),
				 errdetail("cannot_open %d", resisting),
				 errhint("conduit_keyring() shows which keys are missing or wrong; store the damaged credentials again.")));
	PG_RETURN_INT32(rewrapped);
}
