/*-------------------------------------------------------------------------
 *
 * credential.c
 *	  The sealed secret of a connection: reading it on the hot path.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/credential.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/tuptable.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "lifecycle/key.h"
#include "lifecycle/store.h"

/* Columns of conduit.credential that a vend reads, by name. */
typedef enum CredentialColumn
{
	COLUMN_GENERATION,
	COLUMN_EXPIRES_AT,
	COLUMN_DUE_AT,
	COLUMN_NEXT_ATTEMPT_AT,
	COLUMN_REFRESHED_AT,
	COLUMN_STATUS,
	COLUMN_TENANT,
	COLUMN_OWNER,
	COLUMN_CONNECTOR,
	COLUMN_ORIGIN,
	COLUMN_TOKEN_TYPE,
	COLUMN_SCOPE,
	COLUMN_LAST_ERROR,
	COLUMN_LAST_ERROR_CODE,
	COLUMN_ACCESS,
	COLUMN_REFRESH,
	NUM_COLUMNS
} CredentialColumn;

static const char *const column_names[NUM_COLUMNS] = {
	"generation", "expires_at", "due_at", "next_attempt_at", "refreshed_at", "status",
	"tenant", "owner", "connector", "origin", "token_type", "scope",
	"last_error", "last_error_code", "access", "refresh"
};

/* Where the table and its columns are; forgotten when the relation changes. */
static struct
{
	Oid			table;
	AttrNumber	columns[NUM_COLUMNS];
} layout = {InvalidOid, {0}};

static void
on_relation_change(Datum arg, Oid relation)
{
	if (relation == InvalidOid || relation == layout.table)
		layout.table = InvalidOid;
}

static void
find_layout(void)
{
	static bool watching = false;
	Oid			table;
	AttrNumber	columns[NUM_COLUMNS];

	if (!watching)
		CacheRegisterRelcacheCallback(on_relation_change, (Datum) 0);
	watching = true;

	table = conduit_table("credential");
	for (int i = 0; i < NUM_COLUMNS; i++)
	{
		columns[i] = get_attnum(table, column_names[i]);
		if (columns[i] == InvalidAttrNumber)
			elog(ERROR, "column \"%s\" of conduit.credential is missing", column_names[i]);
	}
	memcpy(layout.columns, columns, sizeof(columns));
	layout.table = table;
}

static Datum
column(TupleTableSlot *slot, CredentialColumn which, bool *isnull)
{
	return slot_getattr(slot, layout.columns[which], isnull);
}

static char *
text_column(TupleTableSlot *slot, CredentialColumn which)
{
	bool		isnull;
	Datum		value = column(slot, which, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

static TimestampTz
time_column(TupleTableSlot *slot, CredentialColumn which)
{
	bool		isnull;
	Datum		value = column(slot, which, &isnull);

	return isnull ? DT_NOEND : DatumGetTimestampTz(value);
}

static void
copy_view(TupleTableSlot *slot, CredentialView *view)
{
	bool		isnull;
	Datum		xmin = slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isnull);
	Datum		value;

	view->own = TransactionIdIsCurrentTransactionId(DatumGetTransactionId(xmin));
	view->generation = DatumGetInt64(column(slot, COLUMN_GENERATION, &isnull));
	view->expires_at = time_column(slot, COLUMN_EXPIRES_AT);
	view->due_at = time_column(slot, COLUMN_DUE_AT);
	view->next_attempt_at = time_column(slot, COLUMN_NEXT_ATTEMPT_AT);
	view->refreshed_at = time_column(slot, COLUMN_REFRESHED_AT);
	view->status = text_column(slot, COLUMN_STATUS);
	view->place.tenant = text_column(slot, COLUMN_TENANT);
	view->place.owner = text_column(slot, COLUMN_OWNER);
	view->place.connector = text_column(slot, COLUMN_CONNECTOR);
	view->place.origin = text_column(slot, COLUMN_ORIGIN);
	view->token_type = text_column(slot, COLUMN_TOKEN_TYPE);
	view->scope = text_column(slot, COLUMN_SCOPE);
	view->last_error = text_column(slot, COLUMN_LAST_ERROR);
	view->last_error_code = text_column(slot, COLUMN_LAST_ERROR_CODE);
	(void) column(slot, COLUMN_REFRESH, &isnull);
	view->refreshable = !isnull;
	value = column(slot, COLUMN_ACCESS, &isnull);
	view->access = isnull ? NULL : DatumGetByteaPCopy(value);
}

/* Compared before anything else is read: the row may be somebody else's. */
static bool
column_equals(TupleTableSlot *slot, CredentialColumn which, const char *expected)
{
	bool		isnull;
	text	   *value = DatumGetTextPP(column(slot, which, &isnull));

	return VARSIZE_ANY_EXHDR(value) == strlen(expected) &&
		memcmp(VARDATA_ANY(value), expected, VARSIZE_ANY_EXHDR(value)) == 0;
}

bool
conduit_credential_read(const pg_uuid_t *connection, const char *owner, const char *tenant, CredentialView *view)
{
	Relation	table;
	Relation	index;
	Snapshot	snapshot;
	IndexScanDesc scan;
	ScanKeyData key;
	TupleTableSlot *slot;
	bool		found;

	(void) conduit_extension(false);	/* another version of it may not be served */
	if (!OidIsValid(layout.table))
		find_layout();
	table = table_open(layout.table, AccessShareLock);

	/* Opening it may have processed an invalidation of the layout. */
	if (!OidIsValid(layout.table))
		find_layout();
	index = index_open(conduit_primary_key_index(table), AccessShareLock);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	slot = table_slot_create(table, NULL);

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(connection));
	scan = conduit_index_beginscan(table, index, snapshot, 1);
	index_rescan(scan, &key, 1, NULL, 0);
	found = index_getnext_slot(scan, ForwardScanDirection, slot) &&
		column_equals(slot, COLUMN_OWNER, owner) && column_equals(slot, COLUMN_TENANT, tenant);
	if (found)
	{
		view->place.connection = *connection;
		copy_view(slot, view);
	}

	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	index_close(index, AccessShareLock);
	table_close(table, AccessShareLock);
	return found;
}

const char *
conduit_place_text(const char *text)
{
	return pg_server_to_any(text, strlen(text), PG_UTF8);
}

SealPlace
conduit_credential_seal_place(const CredentialPlace *place, const char *field, int64 generation)
{
	SealPlace	seal_place = {
		.purpose = "credential",.row = &place->connection,.connection = &place->connection,
		.tenant = conduit_place_text(place->tenant),.owner = conduit_place_text(place->owner),
		.connector = place->connector,
		.field = field,.generation = generation,.origin = place->origin
	};

	return seal_place;
}

SealStatus
conduit_credential_seal_grant(const CredentialPlace *place, int64 generation, const ConduitSecret *secret,
							  bytea **access, bytea **refresh)
{
	SealPlace	access_place = conduit_credential_seal_place(place, "access", generation);
	SealPlace	refresh_place = conduit_credential_seal_place(place, "refresh", generation);
	ConduitSecret access_part = {{0}};
	ConduitSecret refresh_part = {{0}};
	SealStatus	status = SEAL_OK;

	conduit_secret_take_access_part(&access_part, secret);
	conduit_secret_take_refresh_part(&refresh_part, secret);
	*access = *refresh = NULL;
	if (access_part.access_token.data || access_part.api_key.data || access_part.username.data)
		status = conduit_secret_seal(&access_place, &access_part, access);
	if (status == SEAL_OK && conduit_secret_has_refresh_part(&refresh_part))
		status = conduit_secret_seal(&refresh_place, &refresh_part, refresh);
	conduit_key_seal_done();
	return status;
}
