/*-------------------------------------------------------------------------
 *
 * connection_index.c
 *	  Looking up many connections by owner and account.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/connection_index.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "executor/tuptable.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "lifecycle/store.h"

#define MAX_KEYS 4

struct ConnectionLookup
{
	Relation	table;
	Relation	index;
	Snapshot	snapshot;
	IndexScanDesc scan;
	TupleTableSlot *slot;
	Datum		tenant;
	Datum		connector;
	int			nkeys;
	MemoryContext context;		/* of the keys of one look-up, and what it found */
	AttrNumber	id;
	AttrNumber	connector_column;
	AttrNumber	account_column;
	AttrNumber	status_column;
};

static const char *const index_names[] = {
	[INDEX_LIVE_ACCOUNT] = "connection_account_key",
	[INDEX_REVOKED_ACCOUNT] = "connection_revoked_idx",
	[INDEX_OWNER] = "connection_owner_idx"
};

static AttrNumber
column_number(Oid table, const char *name)
{
	AttrNumber	number = get_attnum(table, name);

	if (number == InvalidAttrNumber)
		elog(ERROR, "column \"%s\" of conduit.connection is missing", name);
	return number;
}

ConnectionLookup *
conduit_lookup_open(ConnectionIndex which, const char *tenant, const char *connector)
{
	ConnectionLookup *lookup = palloc0(sizeof(ConnectionLookup));
	Oid			table = conduit_table("connection");

	lookup->id = column_number(table, "id");
	lookup->connector_column = column_number(table, "connector");
	lookup->account_column = column_number(table, "account");
	lookup->status_column = column_number(table, "status");
	lookup->tenant = CStringGetTextDatum(tenant);
	lookup->connector = CStringGetTextDatum(connector);
	lookup->nkeys = which == INDEX_OWNER ? 2 : MAX_KEYS;
	lookup->context = AllocSetContextCreate(CurrentMemoryContext, "conduit look-up", ALLOCSET_SMALL_SIZES);

	lookup->table = table_open(table, AccessShareLock);
	lookup->index = index_open(conduit_table(index_names[which]), AccessShareLock);
	lookup->snapshot = RegisterSnapshot(GetLatestSnapshot());
	lookup->slot = table_slot_create(lookup->table, NULL);
	lookup->scan = conduit_index_beginscan(lookup->table, lookup->index, lookup->snapshot, lookup->nkeys);
	return lookup;
}

void
conduit_lookup_begin(ConnectionLookup *lookup, const char *owner, const char *account)
{
	MemoryContext old;
	ScanKeyData keys[MAX_KEYS];

	MemoryContextReset(lookup->context);
	old = MemoryContextSwitchTo(lookup->context);

	/* The columns of each index, in its order; of the owner's, the first two. */
	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_TEXTEQ, lookup->tenant);
	ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_TEXTEQ, CStringGetTextDatum(owner));
	if (lookup->nkeys == MAX_KEYS)
	{
		ScanKeyInit(&keys[2], 3, BTEqualStrategyNumber, F_TEXTEQ, lookup->connector);
		ScanKeyInit(&keys[3], 4, BTEqualStrategyNumber, F_TEXTEQ, CStringGetTextDatum(account));
	}
	index_rescan(lookup->scan, keys, lookup->nkeys, NULL, 0);
	MemoryContextSwitchTo(old);
}

static char *
text_column(const ConnectionLookup *lookup, AttrNumber column)
{
	bool		isnull;
	Datum		value = slot_getattr(lookup->slot, column, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

bool
conduit_lookup_next(ConnectionLookup *lookup, ConnectionFound *found)
{
	MemoryContext old;
	bool		isnull;

	if (!index_getnext_slot(lookup->scan, ForwardScanDirection, lookup->slot))
		return false;
	old = MemoryContextSwitchTo(lookup->context);
	found->id = *DatumGetUUIDP(slot_getattr(lookup->slot, lookup->id, &isnull));
	found->connector = text_column(lookup, lookup->connector_column);
	found->account = text_column(lookup, lookup->account_column);
	found->revoked = strcmp(text_column(lookup, lookup->status_column), "REVOKED") == 0;
	MemoryContextSwitchTo(old);
	return true;
}

void
conduit_lookup_close(ConnectionLookup *lookup)
{
	index_endscan(lookup->scan);
	ExecDropSingleTupleTableSlot(lookup->slot);
	UnregisterSnapshot(lookup->snapshot);
	index_close(lookup->index, AccessShareLock);
	table_close(lookup->table, AccessShareLock);
	MemoryContextDelete(lookup->context);
	pfree(lookup);
}
