/*-------------------------------------------------------------------------
 *
 * connection_index.c
 *	  Looking up many connections by owner and account.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/connection_index.h"

#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"

#include "lifecycle/direct.h"

#define MAX_KEYS 4

enum
{
	ID, CONNECTOR, ACCOUNT, STATUS, NUM_COLUMNS
};

struct ConnectionLookup
{
	DirectRow	row;
	Datum		tenant;
	Datum		connector;
	int			nkeys;
	MemoryContext context;		/* of the keys of one look-up, and what it found */
};

#define BY_INDEX(index) {"connection", index, NUM_COLUMNS, {"id", "connector", "account", "status"}}

static DirectTable connections[] = {
	[INDEX_LIVE_ACCOUNT] = BY_INDEX("connection_account_key"),
	[INDEX_REVOKED_ACCOUNT] = BY_INDEX("connection_revoked_idx"),
	[INDEX_OWNER] = BY_INDEX("connection_owner_idx")
};

ConnectionLookup *
conduit_lookup_open(ConnectionIndex which, const char *tenant, const char *connector)
{
	ConnectionLookup *lookup = palloc0(sizeof(ConnectionLookup));

	lookup->tenant = CStringGetTextDatum(tenant);
	lookup->connector = CStringGetTextDatum(connector);
	lookup->nkeys = which == INDEX_OWNER ? 2 : MAX_KEYS;
	lookup->context = AllocSetContextCreate(CurrentMemoryContext, "conduit look-up", ALLOCSET_SMALL_SIZES);
	conduit_direct_open(&lookup->row, &connections[which], lookup->nkeys);
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
	index_rescan(lookup->row.scan, keys, lookup->nkeys, NULL, 0);
	MemoryContextSwitchTo(old);
}

bool
conduit_lookup_next(ConnectionLookup *lookup, ConnectionFound *found)
{
	MemoryContext old;
	bool		isnull;

	if (!conduit_direct_next(&lookup->row))
		return false;
	old = MemoryContextSwitchTo(lookup->context);
	found->id = *DatumGetUUIDP(conduit_direct_column(&lookup->row, ID, &isnull));
	found->connector = conduit_direct_text(&lookup->row, CONNECTOR);
	found->account = conduit_direct_text(&lookup->row, ACCOUNT);
	found->revoked = conduit_direct_equals(&lookup->row, STATUS, "REVOKED");
	MemoryContextSwitchTo(old);
	return true;
}

void
conduit_lookup_close(ConnectionLookup *lookup)
{
	conduit_direct_close(&lookup->row);
	MemoryContextDelete(lookup->context);
	pfree(lookup);
}
