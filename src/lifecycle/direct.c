/*-------------------------------------------------------------------------
 *
 * direct.c
 *	  Single rows of Conduit's tables, by key and without a plan.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/direct.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "storage/lmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "tcop/utility.h"

/*
 * What the executor needs to write a row of one table: its compiled checks, its
 * indexes' predicates.  The relations are open while it is in use only.
 */
typedef struct DirectWriter
{
	MemoryContext context;		/* of all of it */
	EState	   *estate;
	ResultRelInfo *result;
	TupleTableSlot *slot;
	Oid		   *indexes;
} DirectWriter;

static DirectTable *used = NULL;


/* ---- where things are ---- */

/* Only marks: what is being used is not taken away under its user. */
static void
on_relation_change(Datum arg, Oid relation)
{
	for (DirectTable *table = used; table != NULL; table = table->next)
		if (relation == InvalidOid || relation == table->oid || relation == table->index_oid)
			table->oid = InvalidOid;
}

static void
watch(DirectTable *table)
{
	if (table->used)
		return;
	if (used == NULL)
		CacheRegisterRelcacheCallback(on_relation_change, (Datum) 0);
	table->next = used;
	used = table;
	table->used = true;
}

static void
find_columns(DirectTable *table, Oid oid)
{
	for (int i = 0; i < table->ncolumns; i++)
	{
		table->numbers[i] = get_attnum(oid, table->columns[i]);
		if (table->numbers[i] == InvalidAttrNumber)
			elog(ERROR, "column \"%s\" of conduit.%s is missing", table->columns[i], table->name);
	}
}

/*
 * Open the table.  To open it may be to learn that it has changed: then it is
 * looked up again.
 */
static Relation
open_table(DirectTable *table, LOCKMODE mode)
{
	Relation	relation;

	(void) conduit_extension(false);	/* another version of it may not be served */
	watch(table);
	for (;;)
	{
		if (!OidIsValid(table->oid))
		{
			Oid			oid = conduit_table(table->name);

			find_columns(table, oid);
			table->index_oid = table->index ? conduit_table(table->index) : InvalidOid;
			if (table->writer != NULL)
				MemoryContextDelete(table->writer->context);
			table->writer = NULL;
			table->oid = oid;
		}
		relation = table_open(table->oid, mode);
		if (likely(OidIsValid(table->oid)))
			return relation;
		table_close(relation, mode);
	}
}


/* ---- reading ---- */

static bool
fetch(DirectRow *row, DirectTable *table, const ScanKeyData *keys, int nkeys)
{
	row->table = table;
	row->relation = open_table(table, AccessShareLock);
	row->index = index_open(table->index ? table->index_oid : conduit_primary_key_index(row->relation), AccessShareLock);
	row->snapshot = RegisterSnapshot(GetLatestSnapshot());
	row->slot = table_slot_create(row->relation, NULL);
	row->scan = conduit_index_beginscan(row->relation, row->index, row->snapshot, nkeys);
	index_rescan(row->scan, unconstify(ScanKeyData *, keys), nkeys, NULL, 0);
	return index_getnext_slot(row->scan, ForwardScanDirection, row->slot);
}

bool
conduit_direct_open_uuid(DirectRow *row, DirectTable *table, const pg_uuid_t *key)
{
	ScanKeyData keys[1];

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(key));
	return fetch(row, table, keys, lengthof(keys));
}

bool
conduit_direct_open_texts(DirectRow *row, DirectTable *table, const char *first, const char *second)
{
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_TEXTEQ, CStringGetTextDatum(first));
	if (second != NULL)
		ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_TEXTEQ, CStringGetTextDatum(second));
	return fetch(row, table, keys, second ? 2 : 1);
}

void
conduit_direct_close(DirectRow *row)
{
	index_endscan(row->scan);
	ExecDropSingleTupleTableSlot(row->slot);
	UnregisterSnapshot(row->snapshot);
	index_close(row->index, AccessShareLock);
	table_close(row->relation, AccessShareLock);
}

pg_noreturn static void
raise_changed_meanwhile(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access due to concurrent update")));
}

bool
conduit_direct_lock(DirectRow *row, LockTupleMode mode)
{
	uint8		flags = TUPLE_LOCK_FLAG_LOCK_UPDATE_IN_PROGRESS;
	TM_FailureData failure;

	PreventCommandIfReadOnly("SELECT FOR UPDATE");
	LockRelationOid(RelationGetRelid(row->relation), RowShareLock);
	if (!IsolationUsesXactSnapshot())
		flags |= TUPLE_LOCK_FLAG_FIND_LAST_VERSION;
	switch (table_tuple_lock(row->relation, &row->slot->tts_tid, row->snapshot, row->slot,
							 GetCurrentCommandId(false), mode, LockWaitBlock, flags, &failure))
	{
		case TM_Ok:
			return true;
		case TM_Updated:
		case TM_Deleted:
			if (IsolationUsesXactSnapshot())
				raise_changed_meanwhile();
			return false;
		default:
			elog(ERROR, "could not lock a row of conduit.%s", row->table->name);
	}
}

Datum
conduit_direct_column(const DirectRow *row, int column, bool *isnull)
{
	return slot_getattr(row->slot, row->table->numbers[column], isnull);
}

char *
conduit_direct_text(const DirectRow *row, int column)
{
	bool		isnull;
	Datum		value = conduit_direct_column(row, column, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

bool
conduit_direct_equals(const DirectRow *row, int column, const char *expected)
{
	bool		isnull;
	text	   *value = DatumGetTextPP(conduit_direct_column(row, column, &isnull));

	return VARSIZE_ANY_EXHDR(value) == strlen(expected) &&
		memcmp(VARDATA_ANY(value), expected, VARSIZE_ANY_EXHDR(value)) == 0;
}


/* ---- writing ---- */

static DirectWriter *
make_writer(Relation relation)
{
	/* Under the caller's context until it is whole, so that an error frees it. */
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "conduit direct writer", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	DirectWriter *writer = palloc0(sizeof(DirectWriter));
	TupleDesc	shape = CreateTupleDescCopyConstr(RelationGetDescr(relation));
	Oid			primary = conduit_primary_key_index(relation);

	writer->context = context;
	writer->estate = CreateExecutorState();
	writer->result = makeNode(ResultRelInfo);
	writer->slot = MakeSingleTupleTableSlot(shape, &TTSOpsVirtual);
	MemoryContextSwitchTo(writer->estate->es_query_cxt);
	InitResultRelInfo(writer->result, relation, 0, NULL, 0);
	writer->estate->es_opened_result_relations = list_make1(writer->result);
	ExecOpenIndices(writer->result, false);
	writer->indexes = palloc(sizeof(Oid) * Max(writer->result->ri_NumIndices, 1));
	for (int i = 0; i < writer->result->ri_NumIndices; i++)
	{
		IndexInfo  *info = writer->result->ri_IndexRelationInfo[i];

		writer->indexes[i] = RelationGetRelid(writer->result->ri_IndexRelationDescs[i]);

		/* A hint, which the executor takes from the statement's range table. */
		info->ii_CheckedUnchanged = true;
		info->ii_IndexUnchanged = writer->indexes[i] == primary;
	}
	MemoryContextSwitchTo(old);
	MemoryContextSetParent(context, TopMemoryContext);
	return writer;
}

/*
 * The table's writer, its relations open.  One that fires triggers is not kept:
 * a trigger may get here again while it is in use.
 */
static DirectWriter *
begin_write(DirectTable *table, Relation relation)
{
	DirectWriter *writer = table->writer;

	if (writer == NULL)
	{
		writer = make_writer(relation);
		if (relation->trigdesc == NULL)
			table->writer = writer;
	}
	else
	{
		writer->result->ri_RelationDesc = relation;
		for (int i = 0; i < writer->result->ri_NumIndices; i++)
			writer->result->ri_IndexRelationDescs[i] = index_open(writer->indexes[i], RowExclusiveLock);
	}
	writer->estate->es_output_cid = GetCurrentCommandId(true);
	PushActiveSnapshot(GetLatestSnapshot());
	writer->estate->es_snapshot = GetActiveSnapshot();
	if (relation->trigdesc != NULL)
		AfterTriggerBeginQuery();
	ExecClearTuple(writer->slot);
	return writer;
}

static void
end_write(const DirectTable *table, DirectWriter *writer, Relation relation)
{
	if (relation->trigdesc != NULL)
		AfterTriggerEndQuery(writer->estate);
	PopActiveSnapshot();
	ExecClearTuple(writer->slot);
	ResetPerTupleExprContext(writer->estate);
	writer->estate->es_snapshot = InvalidSnapshot;
	ExecCloseIndices(writer->result);
	if (writer != table->writer)
		MemoryContextDelete(writer->context);
	table_close(relation, NoLock);
	CommandCounterIncrement();
}

static void
set_columns(const DirectTable *table, TupleTableSlot *slot, const StoreArgs *cells)
{
	Assert(cells->n == table->ncolumns);
	for (int i = 0; i < table->ncolumns; i++)
	{
		slot->tts_values[table->numbers[i] - 1] = cells->values[i];
		slot->tts_isnull[table->numbers[i] - 1] = cells->nulls[i] == 'n';
	}
	ExecStoreVirtualTuple(slot);
}

void
conduit_direct_insert(DirectTable *table, const StoreArgs *cells)
{
	Relation	relation;
	DirectWriter *writer;

	PreventCommandIfReadOnly("INSERT");
	relation = open_table(table, RowExclusiveLock);
	writer = begin_write(table, relation);
	memset(writer->slot->tts_isnull, true, sizeof(bool) * writer->slot->tts_tupleDescriptor->natts);
	set_columns(table, writer->slot, cells);
	ExecSimpleRelationInsert(writer->result, writer->estate, writer->slot);
	end_write(table, writer, relation);
}

void
conduit_direct_update(const DirectRow *row, const StoreArgs *cells)
{
	Relation	relation;
	DirectWriter *writer;
	EPQState	no_recheck = {0};	/* the row is locked: none is called for */
	int			natts = row->slot->tts_tupleDescriptor->natts;

	PreventCommandIfReadOnly("UPDATE");
	relation = open_table(row->table, RowExclusiveLock);
	writer = begin_write(row->table, relation);
	slot_getallattrs(row->slot);
	memcpy(writer->slot->tts_values, row->slot->tts_values, sizeof(Datum) * natts);
	memcpy(writer->slot->tts_isnull, row->slot->tts_isnull, sizeof(bool) * natts);
	set_columns(row->table, writer->slot, cells);
	ExecSimpleRelationUpdate(writer->result, writer->estate, &no_recheck, row->slot, writer->slot);
	end_write(row->table, writer, relation);
}
