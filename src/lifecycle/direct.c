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
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "storage/lmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
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
	DirectTable *table;
	MemoryContext context;		/* of all of it */
	MemoryContextCallback on_delete;
	bool		in_use;
	EState	   *estate;
	ResultRelInfo *result;
	TupleTableSlot *slot;
	Oid		   *indexes;
} DirectWriter;

static DirectTable *used = NULL;


/* ---- where things are ---- */

/*
 * An index alone may change, too: from when on one that is built CONCURRENTLY is
 * to have new rows need not be told of the table.
 */
static bool
writes_index(const DirectWriter *writer, Oid relation)
{
	for (int i = 0; writer != NULL && i < writer->result->ri_NumIndices; i++)
		if (writer->indexes[i] == relation)
			return true;
	return false;
}

/* Only marks: what is being used is not taken away under its user. */
static void
on_relation_change(Datum arg, Oid relation)
{
	for (DirectTable *table = used; table != NULL; table = table->next)
		if (relation == InvalidOid || relation == table->oid || relation == table->index_oid ||
			writes_index(table->writer, relation))
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

/* One that is in use is left to its user. */
static void
forget_writer(DirectTable *table)
{
	DirectWriter *writer = table->writer;

	table->writer = NULL;
	if (writer != NULL && !writer->in_use)
		MemoryContextDelete(writer->context);
}

static AttrNumber
find_column(Relation relation, const char *name)
{
	TupleDesc	shape = RelationGetDescr(relation);

	for (int i = 0; i < shape->natts; i++)
		if (!TupleDescAttr(shape, i)->attisdropped && strcmp(NameStr(TupleDescAttr(shape, i)->attname), name) == 0)
			return i + 1;
	elog(ERROR, "column \"%s\" of conduit.%s is missing", name, RelationGetRelationName(relation));
}

/* The table is open: nothing of it changes its place until it is closed. */
static void
look_at(DirectTable *table, Relation relation)
{
	forget_writer(table);
	table->by_statement = false;
	table->index_oid = table->index ? conduit_table(table->index) : InvalidOid;
	for (int i = 0; i < table->ncolumns; i++)
		table->numbers[i] = find_column(relation, table->columns[i]);
	table->oid = RelationGetRelid(relation);
}

/* Open the table.  To open it may be to learn that it has changed. */
static Relation
open_table(DirectTable *table, LOCKMODE mode)
{
	Relation	relation;

	(void) conduit_extension(false);	/* another version of it may not be served */
	watch(table);
	do
	{
		Oid			oid = OidIsValid(table->oid) ? table->oid : conduit_table(table->name);

		relation = try_table_open(oid, mode);
		if (relation == NULL)
			table->oid = InvalidOid;	/* dropped, and made again perhaps */
	} while (relation == NULL);
	if (unlikely(!OidIsValid(table->oid)))
		look_at(table, relation);
	return relation;
}


/* ---- reading ---- */

void
conduit_direct_open(DirectRow *row, DirectTable *table, int nkeys)
{
	row->table = table;
	row->relation = open_table(table, AccessShareLock);
	row->index = index_open(table->index ? table->index_oid : conduit_primary_key_index(row->relation), AccessShareLock);
	row->snapshot = RegisterSnapshot(GetLatestSnapshot());
	row->slot = table_slot_create(row->relation, NULL);
	row->scan = conduit_index_beginscan(row->relation, row->index, row->snapshot, nkeys);
}

bool
conduit_direct_next(DirectRow *row)
{
	return index_getnext_slot(row->scan, ForwardScanDirection, row->slot);
}

static bool
fetch(DirectRow *row, DirectTable *table, ScanKey keys, int nkeys)
{
	conduit_direct_open(row, table, nkeys);
	index_rescan(row->scan, keys, nkeys, NULL, 0);
	return conduit_direct_next(row);
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

/* With its memory: an error has ended what it was used for. */
static void
on_delete(void *arg)
{
	DirectWriter *writer = arg;

	if (writer->table->writer == writer)
		writer->table->writer = NULL;
}

static DirectWriter *
make_writer(DirectTable *table, Relation relation)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "conduit direct writer", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	DirectWriter *writer = palloc0(sizeof(DirectWriter));
	TupleDesc	shape = CreateTupleDescCopyConstr(RelationGetDescr(relation));
	Oid			primary = conduit_primary_key_index(relation);

	writer->table = table;
	writer->context = context;
	writer->estate = CreateExecutorState();
	writer->result = makeNode(ResultRelInfo);
	writer->slot = MakeSingleTupleTableSlot(shape, &TTSOpsVirtual);
	MemoryContextSwitchTo(writer->estate->es_query_cxt);
	InitResultRelInfo(writer->result, relation, 0, NULL, 0);
	ExecOpenIndices(writer->result, false);
	writer->indexes = palloc(sizeof(Oid) * Max(writer->result->ri_NumIndices, 1));
	for (int i = 0; i < writer->result->ri_NumIndices; i++)
	{
		IndexInfo  *info = writer->result->ri_IndexRelationInfo[i];
		Relation	index = writer->result->ri_IndexRelationDescs[i];

		writer->indexes[i] = RelationGetRelid(index);
		if (index->rd_rel->relam != BTREE_AM_OID)
			table->by_statement = true;

		/* A hint, which the executor takes from the statement's range table. */
		info->ii_CheckedUnchanged = true;
		info->ii_IndexUnchanged = writer->indexes[i] == primary;
	}
	MemoryContextSwitchTo(old);
	if (table->by_statement)
	{
		ExecCloseIndices(writer->result);
		MemoryContextDelete(context);
		return NULL;
	}
	writer->on_delete.func = on_delete;
	writer->on_delete.arg = writer;
	MemoryContextRegisterResetCallback(context, &writer->on_delete);
	table->writer = writer;
	return writer;
}

/*
 * The table's writer, its relations open; NULL where a statement is to write:
 * where there are triggers, which may want more of a statement than a writer has
 * to offer, or indexes of kinds that keep things of an open relation in what a
 * writer keeps, or where the writer is in use by who called what got us here.
 */
static DirectWriter *
begin_write(DirectTable *table, Relation relation)
{
	DirectWriter *writer = table->writer;

	if (relation->trigdesc != NULL || table->by_statement || (writer != NULL && writer->in_use))
		return NULL;
	if (writer == NULL)
	{
		writer = make_writer(table, relation);
		if (writer == NULL)
			return NULL;
	}
	else
	{
		/* While it is in use an error must free it: it may be half of something. */
		MemoryContextSetParent(writer->context, CurrentMemoryContext);
		writer->result->ri_RelationDesc = relation;
		for (int i = 0; i < writer->result->ri_NumIndices; i++)
			writer->result->ri_IndexRelationDescs[i] = index_open(writer->indexes[i], RowExclusiveLock);
	}
	writer->in_use = true;
	writer->estate->es_output_cid = GetCurrentCommandId(true);
	PushActiveSnapshot(GetLatestSnapshot());
	writer->estate->es_snapshot = GetActiveSnapshot();
	return writer;
}

static void
end_write(DirectWriter *writer)
{
	PopActiveSnapshot();
	ExecClearTuple(writer->slot);
	ResetPerTupleExprContext(writer->estate);
	writer->estate->es_snapshot = InvalidSnapshot;
	ExecCloseIndices(writer->result);
	writer->in_use = false;
	if (writer->table->writer == writer)
		MemoryContextSetParent(writer->context, TopMemoryContext);
	else
		MemoryContextDelete(writer->context);
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

/* A new row, or where tid is given a new version of that one.  Leaves SPI's results alone. */
static void
write_by_statement(const DirectTable *table, Relation relation, ItemPointer tid, const StoreArgs *cells)
{
	MemoryContext context = CurrentMemoryContext;
	SPITupleTable *rows = SPI_tuptable;
	uint64		nrows = SPI_processed;
	StoreArgs	args = *cells;
	Oid			types[CONDUIT_MAX_QUERY_ARGS];
	StringInfoData sql;
	StringInfoData values;
	SPIPlanPtr	plan;

	initStringInfo(&sql);
	initStringInfo(&values);
	appendStringInfo(&sql, tid ? "UPDATE conduit.%s SET (" : "INSERT INTO conduit.%s (", table->name);
	for (int i = 0; i < table->ncolumns; i++)
	{
		types[i] = TupleDescAttr(RelationGetDescr(relation), table->numbers[i] - 1)->atttypid;
		appendStringInfo(&sql, "%s%s", i > 0 ? ", " : "", quote_identifier(table->columns[i]));
		appendStringInfo(&values, "%s$%d", i > 0 ? ", " : "", i + 1);
	}
	appendStringInfo(&sql, tid ? ") = ROW (%s)" : ") VALUES (%s)", values.data);
	if (tid != NULL)
	{
		types[args.n] = TIDOID;
		conduit_arg(&args, PointerGetDatum(tid));
		appendStringInfo(&sql, " WHERE ctid = $%d", args.n);
	}

	plan = SPI_prepare(sql.data, args.n, types);
	if (plan == NULL)
		elog(ERROR, "could not prepare a statement: %s", SPI_result_code_string(SPI_result));
	if (SPI_execute_snapshot(plan, args.values, args.nulls, GetLatestSnapshot(), InvalidSnapshot, false, true, 0) < 0)
		elog(ERROR, "could not execute a statement: %s", SPI_result_code_string(SPI_result));
	SPI_freeplan(plan);
	SPI_tuptable = rows;
	SPI_processed = nrows;
	MemoryContextSwitchTo(context);
}

void
conduit_direct_insert(DirectTable *table, const StoreArgs *cells)
{
	Relation	relation;
	DirectWriter *writer;

	PreventCommandIfReadOnly("INSERT");
	relation = open_table(table, RowExclusiveLock);
	writer = begin_write(table, relation);
	if (writer == NULL)
		write_by_statement(table, relation, NULL, cells);
	else
	{
		ExecClearTuple(writer->slot);
		memset(writer->slot->tts_isnull, true, sizeof(bool) * writer->slot->tts_tupleDescriptor->natts);
		set_columns(table, writer->slot, cells);
		ExecSimpleRelationInsert(writer->result, writer->estate, writer->slot);
		end_write(writer);
	}
	table_close(relation, NoLock);
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
	if (writer == NULL)
		write_by_statement(row->table, relation, &row->slot->tts_tid, cells);
	else
	{
		ExecClearTuple(writer->slot);
		slot_getallattrs(row->slot);
		memcpy(writer->slot->tts_values, row->slot->tts_values, sizeof(Datum) * natts);
		memcpy(writer->slot->tts_isnull, row->slot->tts_isnull, sizeof(bool) * natts);
		set_columns(row->table, writer->slot, cells);
		ExecSimpleRelationUpdate(writer->result, writer->estate, &no_recheck, row->slot, writer->slot);
		end_write(writer);
	}
	table_close(relation, NoLock);
}
