/*-------------------------------------------------------------------------
 *
 * launcher.c
 *	  Sees to it that every database with the extension has a worker.
 *
 * The launcher reads shared catalogs only, so it cannot tell which databases
 * have the extension: it starts a worker, and one that finds no extension
 * leaves at once.  It looks at all databases when the server starts or is
 * promoted, at one when a message asks it to, and once a minute at those that
 * have no worker: CREATE DATABASE ... TEMPLATE and COMMIT PREPARED send no
 * message.
 *
 *-------------------------------------------------------------------------
 */
#include "worker/worker.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "shared/roster.h"

/* Milliseconds. */
#define LOOK_EVERY 60000
#define START_TIMEOUT 30000
#define LAST_BACKOFF 300000
#define RETRY_NO_SLOT 1000

/* Databases without a worker that a look starts one in again, at most. */
#define PROBES_A_LOOK 10

#define MAX_MESSAGES_TAKEN 64

typedef struct KnownDatabase
{
	Oid			oid;			/* hash key */
	TimestampTz started_at;		/* the last worker; 0: none yet */
	int			failures;		/* workers in a row that failed soon */
	bool		wanted;			/* a message asked to look */
	bool		no_slot;		/* wanted, but none could be registered */
	bool		seen;			/* in the last look */
	uint64		ticket;			/* of a worker that has not come yet */
	BackgroundWorkerHandle *handle;
} KnownDatabase;

static HTAB *databases = NULL;
static TimestampTz look_at = 0;
static bool told_no_slot = false;

static void
clean_up(int code, Datum arg)
{
	conduit_roster_launcher_left();
}

static void
note_database(Oid oid)
{
	bool		found;
	KnownDatabase *database = hash_search(databases, &oid, HASH_ENTER, &found);

	if (!found)
		memset((char *) database + sizeof(Oid), 0, sizeof(KnownDatabase) - sizeof(Oid));
	database->seen = true;
}

/* Databases that can have a worker: no templates, and none that forbid connections. */
static void
read_databases(void)
{
	Relation	relation;
	TableScanDesc scan;
	HeapTuple	tuple;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	relation = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(relation, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		if (form->datallowconn && !form->datistemplate)
			note_database(form->oid);
	}
	table_endscan(scan);
	table_close(relation, AccessShareLock);
	CommitTransactionCommand();
}

static void
look_at_databases(void)
{
	HASH_SEQ_STATUS scan;
	KnownDatabase *database;

	hash_seq_init(&scan, databases);
	while ((database = hash_seq_search(&scan)) != NULL)
		database->seen = false;
	read_databases();
	hash_seq_init(&scan, databases);
	while ((database = hash_seq_search(&scan)) != NULL)
		if (!database->seen)
		{
			conduit_roster_set_no_slot(database->oid, false);
			hash_search(databases, &database->oid, HASH_REMOVE, NULL);
		}
	look_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LOOK_EVERY);
}

static void
take_messages(void)
{
	Oid			wanted[MAX_MESSAGES_TAKEN];
	int			n;
	bool		all = conduit_roster_take_messages(wanted, MAX_MESSAGES_TAKEN, &n);

	if (all || n > 0 || look_at <= GetCurrentTimestamp())
		look_at_databases();
	for (int i = 0; i < n; i++)
	{
		KnownDatabase *database = hash_search(databases, &wanted[i], HASH_FIND, NULL);

		if (database != NULL)
			database->wanted = true;
	}
	if (all)
	{
		HASH_SEQ_STATUS scan;
		KnownDatabase *database;

		hash_seq_init(&scan, databases);
		while ((database = hash_seq_search(&scan)) != NULL)
			database->wanted = true;
	}
}

/* Forget the entry of a worker that was registered and never came. */
static void
check_start(KnownDatabase *database)
{
	pid_t		pid;

	if (database->handle == NULL)
		return;
	if (GetBackgroundWorkerPid(database->handle, &pid) == BGWH_STOPPED ||
		TimestampDifferenceExceeds(database->started_at, GetCurrentTimestamp(), START_TIMEOUT))
	{
		conduit_roster_start_failed(database->oid, database->ticket);
		pfree(database->handle);
		database->handle = NULL;
	}
}

static int
backoff(const KnownDatabase *database)
{
	if (database->no_slot)
		return RETRY_NO_SLOT;
	return database->failures == 0 ? 0 : Min(1000 << Min(database->failures - 1, 20), LAST_BACKOFF);
}

static void
start_worker(KnownDatabase *database)
{
	BackgroundWorker worker = {0};
	MemoryContext old;
	bool		registered;

	if (!conduit_roster_begin_start(database->oid, &database->ticket))
		return;

	/* One that failed soon after its start will do so again; who was told to leave did not fail. */
	if (conduit_roster_take_failure(database->oid) && database->started_at != 0 && !database->no_slot &&
		!TimestampDifferenceExceeds(database->started_at, GetCurrentTimestamp(), backoff(database) + 10000))
		database->failures++;
	else
		database->failures = 0;

	snprintf(worker.bgw_name, BGW_MAXLEN, "conduit worker");
	snprintf(worker.bgw_type, BGW_MAXLEN, "conduit worker");
	snprintf(worker.bgw_library_name, sizeof(worker.bgw_library_name), CONDUIT_LIBRARY);
	snprintf(worker.bgw_function_name, sizeof(worker.bgw_function_name), "conduit_worker_main");
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = ObjectIdGetDatum(database->oid);
	worker.bgw_notify_pid = MyProcPid;
	memcpy(worker.bgw_extra, &database->ticket, sizeof(database->ticket));

	old = MemoryContextSwitchTo(TopMemoryContext);
	registered = RegisterDynamicBackgroundWorker(&worker, &database->handle);
	MemoryContextSwitchTo(old);
	database->started_at = GetCurrentTimestamp();
	database->wanted = database->no_slot = !registered;
	conduit_roster_set_no_slot(database->oid, !registered);
	if (registered)
	{
		told_no_slot = false;
		return;
	}

	conduit_roster_start_failed(database->oid, database->ticket);
	if (!told_no_slot)
		ereport(LOG,
				(errmsg("conduit: no slot is left for the worker of database %u", database->oid),
				 errhint("Raise max_worker_processes; each database with the extension needs one.")));
	told_no_slot = true;
}

/*
 * Start what is missing; returns how long until the next start that is put off.
 */
static long
start_workers(void)
{
	HASH_SEQ_STATUS scan;
	KnownDatabase *database;
	TimestampTz now = GetCurrentTimestamp();
	long		next = LOOK_EVERY;
	int			probes = 0;

	hash_seq_init(&scan, databases);
	while ((database = hash_seq_search(&scan)) != NULL)
	{
		TimestampTz not_before = TimestampTzPlusMilliseconds(database->started_at, backoff(database));
		bool		probe = !database->wanted && database->started_at != 0 &&
			TimestampDifferenceExceeds(database->started_at, now, LOOK_EVERY);

		check_start(database);
		if (conduit_roster_known(database->oid))
			continue;
		if (!database->wanted && database->started_at != 0 && !(probe && probes < PROBES_A_LOOK))
			continue;
		if (not_before > now)
		{
			next = Min(next, TimestampDifferenceMilliseconds(now, not_before));
			continue;
		}
		probes += probe;
		start_worker(database);
	}
	return Max(next, 0);
}

void
conduit_launcher_main(Datum arg)
{
	HASHCTL		control = {.keysize = sizeof(Oid),.entrysize = sizeof(KnownDatabase)};
	static uint32 wait_event = 0;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	pqsignal(SIGINT, SIG_IGN);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	pgstat_report_appname("conduit launcher");

	databases = hash_create("conduit databases", 32, &control, HASH_ELEM | HASH_BLOBS);
	before_shmem_exit(clean_up, (Datum) 0);
	conduit_roster_launcher_arrived();

	while (!ShutdownRequestPending)
	{
		long		sleep;

		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		take_messages();
		sleep = Min(start_workers(), TimestampDifferenceMilliseconds(GetCurrentTimestamp(), look_at));
		pgstat_report_activity(STATE_IDLE, NULL);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Max(sleep, 100), conduit_wait_event(&wait_event, "ConduitLauncherMain"));
	}

	/* 0 would mean: never again */
	proc_exit(1);
}

void
conduit_launcher_register(void)
{
	BackgroundWorker launcher = {0};

	snprintf(launcher.bgw_name, BGW_MAXLEN, "conduit launcher");
	snprintf(launcher.bgw_type, BGW_MAXLEN, "conduit launcher");
	snprintf(launcher.bgw_library_name, sizeof(launcher.bgw_library_name), CONDUIT_LIBRARY);
	snprintf(launcher.bgw_function_name, sizeof(launcher.bgw_function_name), "conduit_launcher_main");
	launcher.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	launcher.bgw_start_time = BgWorkerStart_RecoveryFinished;
	launcher.bgw_restart_time = 1;
	RegisterBackgroundWorker(&launcher);
}
