/*-------------------------------------------------------------------------
 *
 * stats.c
 *	  Counters per database and connector.
 *
 * Rows are only ever added, so that a process may keep a pointer to one.
 *
 *-------------------------------------------------------------------------
 */
#include "shared/stats.h"

#include "port/atomics.h"
#include "storage/lwlock.h"

#include "shared/area.h"

#define MAX_ROWS 2048

typedef struct SharedRow
{
	Oid			database;
	char		connector[CONDUIT_MAX_SLUG_LEN + 1];
	pg_atomic_uint64 counters[STATS_NUM_COUNTERS];
} SharedRow;

typedef struct SharedStats
{
	int			nrows;
	SharedRow	rows[MAX_ROWS];
} SharedStats;

static SharedStats *stats = NULL;
static SharedRow *last_row = NULL;	/* a connector is mostly followed by itself */

Size
conduit_stats_size(void)
{
	return sizeof(SharedStats);
}

void
conduit_stats_attach(void *memory, bool initialise)
{
	stats = memory;
	last_row = NULL;
	if (!initialise)
		return;
	stats->nrows = 0;
	for (int i = 0; i < MAX_ROWS; i++)
		for (int j = 0; j < STATS_NUM_COUNTERS; j++)
			pg_atomic_init_u64(&stats->rows[i].counters[j], 0);
}

static SharedRow *
find_row(const char *connector)
{
	for (int i = 0; i < stats->nrows; i++)
		if (stats->rows[i].database == MyDatabaseId &&
			strcmp(stats->rows[i].connector, connector) == 0)
			return &stats->rows[i];
	return NULL;
}

static SharedRow *
add_row(const char *connector)
{
	SharedRow  *row = find_row(connector);

	/* The last row is shared by all that come too late for one of their own. */
	if (row == NULL && stats->nrows < MAX_ROWS)
	{
		row = &stats->rows[stats->nrows];
		row->database = MyDatabaseId;
		strlcpy(row->connector, stats->nrows < MAX_ROWS - 1 ? connector : "",
				sizeof(row->connector));
		stats->nrows++;
	}
	return row != NULL ? row : &stats->rows[MAX_ROWS - 1];
}

static SharedRow *
get_row(const char *connector)
{
	SharedRow  *row;

	if (last_row != NULL && last_row->database == MyDatabaseId &&
		strcmp(last_row->connector, connector) == 0)
		return last_row;

	LWLockAcquire(conduit_area_lock(CONDUIT_LOCK_STATS), LW_SHARED);
	row = find_row(connector);
	LWLockRelease(conduit_area_lock(CONDUIT_LOCK_STATS));
	if (row == NULL)
	{
		LWLockAcquire(conduit_area_lock(CONDUIT_LOCK_STATS), LW_EXCLUSIVE);
		row = add_row(connector);
		LWLockRelease(conduit_area_lock(CONDUIT_LOCK_STATS));
	}
	last_row = row;
	return row;
}

void
conduit_stats_add(const char *connector, StatsCounter counter, int64 amount)
{
	if (stats != NULL)
		pg_atomic_fetch_add_u64(&get_row(connector)->counters[counter], amount);
}

void
conduit_stats_clear_in_flight(void)
{
	if (stats == NULL)
		return;
	LWLockAcquire(conduit_area_lock(CONDUIT_LOCK_STATS), LW_SHARED);
	for (int i = 0; i < stats->nrows; i++)
		if (stats->rows[i].database == MyDatabaseId)
			pg_atomic_write_u64(&stats->rows[i].counters[STATS_IN_FLIGHT], 0);
	LWLockRelease(conduit_area_lock(CONDUIT_LOCK_STATS));
}

int
conduit_stats_read(StatsRow **rows)
{
	int			n = 0;

	*rows = palloc0(sizeof(StatsRow) * MAX_ROWS);
	if (stats == NULL)
		return 0;
	LWLockAcquire(conduit_area_lock(CONDUIT_LOCK_STATS), LW_SHARED);
	for (int i = 0; i < stats->nrows; i++)
	{
		SharedRow  *row = &stats->rows[i];

		if (row->database != MyDatabaseId)
			continue;
		strlcpy((*rows)[n].connector, row->connector, sizeof((*rows)[n].connector));
		for (int j = 0; j < STATS_NUM_COUNTERS; j++)
			(*rows)[n].counters[j] = pg_atomic_read_u64(&row->counters[j]);
		n++;
	}
	LWLockRelease(conduit_area_lock(CONDUIT_LOCK_STATS));
	return n;
}
