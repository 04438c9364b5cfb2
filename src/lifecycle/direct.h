/*-------------------------------------------------------------------------
 *
 * direct.h
 *	  Single rows of Conduit's tables, by key and without a plan.
 *
 * Where one call handles one row, starting the executor costs several times
 * what the row does.  So rows on the paths that are called most are read by
 * their unique index and written by the executor's own functions for single
 * rows, which check constraints and enter the row into all indexes, while what
 * those functions compile is kept for the process.  A table that somebody has
 * given triggers, or indexes other than B-trees, is written by statements.
 *
 * Like statements (store.h), these see the latest committed state and, once it
 * is written, the transaction's own.  They ask for no right: EXECUTE on the
 * function that gets here is the guard.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_DIRECT_H
#define CONDUIT_DIRECT_H

#include "base/compat.h"
#include "access/genam.h"
#include "executor/tuptable.h"
#include "nodes/execnodes.h"
#include "nodes/lockoptions.h"
#include "utils/uuid.h"

#include "lifecycle/store.h"

/* A table of schema conduit, and which of its columns are used, by name. */
typedef struct DirectTable
{
	const char *name;
	const char *index;			/* that it is read by; NULL: the primary key's */
	int			ncolumns;
	const char *columns[CONDUIT_MAX_QUERY_ARGS];

	/* Found at first use, and again after the table changed. */
	Oid			oid;			/* InvalidOid: not known, or not any more */
	Oid			index_oid;
	AttrNumber	numbers[CONDUIT_MAX_QUERY_ARGS];
	bool		by_statement;	/* rows are written by statements after all */
	struct DirectWriter *writer;
	struct DirectTable *next;	/* of those that have been used */
	bool		used;
} DirectTable;

/* A row that was read; no lock is kept once it is closed, unless it was locked. */
typedef struct DirectRow
{
	DirectTable *table;
	Relation	relation;
	Relation	index;
	Snapshot	snapshot;
	IndexScanDesc scan;
	TupleTableSlot *slot;
} DirectRow;

/*
 * conduit_direct_open_uuid, conduit_direct_open_texts read the row with this
 * key; false if there is none.  The row is to be closed in either case.  The
 * index of texts must be in collation C.
 */
extern bool conduit_direct_open_uuid(DirectRow *row, DirectTable *table, const pg_uuid_t *key);
extern bool conduit_direct_open_texts(DirectRow *row, DirectTable *table, const char *first, const char *second);	/* NULL: no second */
extern void conduit_direct_close(DirectRow *row);

/*
 * conduit_direct_open opens the table for rows that are looked for by nkeys
 * columns of its index, with index_rescan() on the scan, as often as one likes;
 * conduit_direct_next gives one after the other.
 */
extern void conduit_direct_open(DirectRow *row, DirectTable *table, int nkeys);
extern bool conduit_direct_next(DirectRow *row);

/*
 * conduit_direct_lock locks the row that was read until the transaction ends,
 * waiting for others who hold it, and has its latest version from then on.
 * False if it has been deleted; under REPEATABLE READ, whoever has changed it
 * meanwhile makes this an error, 40001.
 */
extern bool conduit_direct_lock(DirectRow *row, LockTupleMode mode);

/* A column of the row, by its place in the table's list; valid until the row is closed. */
extern Datum conduit_direct_column(const DirectRow *row, int column, bool *isnull);

/* The same, copied; null comes back as NULL. */
extern char *conduit_direct_text(const DirectRow *row, int column);

/* conduit_direct_equals tells whether a text that is not null is just this one. */
extern bool conduit_direct_equals(const DirectRow *row, int column, const char *expected);

/*
 * conduit_direct_insert writes a new row: a cell for each column of the list;
 * the table's other columns are null.  conduit_direct_update writes a new
 * version of a row that is locked; the other columns stay.  What is written can
 * be seen from then on.  Both within conduit_store_begin and _end.
 */
extern void conduit_direct_insert(DirectTable *table, const StoreArgs *cells);
extern void conduit_direct_update(const DirectRow *row, const StoreArgs *cells);

#endif							/* CONDUIT_DIRECT_H */
