/*-------------------------------------------------------------------------
 *
 * rows.c
 *	  Many rows as the arguments of one statement.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/rows.h"

#include "utils/array.h"
#include "utils/lsyscache.h"

void
conduit_rows_begin(StoreRows *rows, const StoreQuery *query, int ncolumns, int max)
{
	rows->ncolumns = ncolumns;
	rows->n = 0;
	rows->max = max;
	for (int i = 0; i < ncolumns; i++)
	{
		rows->types[i] = get_element_type(query->types[i]);
		rows->values[i] = palloc(sizeof(Datum) * Max(max, 1));
		rows->nulls[i] = palloc(sizeof(bool) * Max(max, 1));
	}
}

void
conduit_rows_add(StoreRows *rows, const StoreArgs *row)
{
	Assert(row->n == rows->ncolumns);
	Assert(rows->n < rows->max);
	for (int i = 0; i < rows->ncolumns; i++)
	{
		rows->values[i][rows->n] = row->values[i];
		rows->nulls[i][rows->n] = row->nulls[i] == 'n';
	}
	rows->n++;
}

void
conduit_rows_args(const StoreRows *rows, StoreArgs *args)
{
	for (int i = 0; i < rows->ncolumns; i++)
	{
		int16		length;
		bool		by_value;
		char		alignment;
		int			first = 1;
		int			count = rows->n;

		get_typlenbyvalalign(rows->types[i], &length, &by_value, &alignment);
		conduit_arg(args, PointerGetDatum(construct_md_array(rows->values[i], rows->nulls[i], 1, &count, &first,
															 rows->types[i], length, by_value, alignment)));
	}
}
