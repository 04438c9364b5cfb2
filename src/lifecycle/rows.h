/*-------------------------------------------------------------------------
 *
 * rows.h
 *	  Many rows as the arguments of one statement.
 *
 * A statement takes them as arrays, one a column, and reads them by
 * unnest($1, $2, ...).  Arrays of 10000 elements and a hundred megabytes are
 * as much as one statement should be given.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_ROWS_H
#define CONDUIT_ROWS_H

#include "lifecycle/store.h"

typedef struct StoreRows
{
	int			ncolumns;
	int			n;
	int			max;
	Oid			types[CONDUIT_MAX_QUERY_ARGS];	/* of the elements */
	Datum	   *values[CONDUIT_MAX_QUERY_ARGS];
	bool	   *nulls[CONDUIT_MAX_QUERY_ARGS];
} StoreRows;

/* Begin a set of at most max rows for a statement whose first arguments are arrays. */
extern void conduit_rows_begin(StoreRows *rows, const StoreQuery *query, int ncolumns, int max);

/* Add a row; values are not copied. */
extern void conduit_rows_add(StoreRows *rows, const StoreArgs *row);

/* Append the columns to the arguments of a statement. */
extern void conduit_rows_args(const StoreRows *rows, StoreArgs *args);

#endif							/* CONDUIT_ROWS_H */
