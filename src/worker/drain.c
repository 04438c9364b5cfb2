/*-------------------------------------------------------------------------
 *
 * drain.c
 *	  Makes a database's worker leave before commands that need it empty.
 *
 * DROP DATABASE, RENAME, SET TABLESPACE and CREATE DATABASE ... TEMPLATE fail
 * while anybody is connected.  So, once it is clear that the caller may do it,
 * the worker is asked to leave, and the launcher is kept from starting another
 * until the command is over.
 *
 *-------------------------------------------------------------------------
 */
#include "worker/worker.h"

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "nodes/parsenodes.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "base/settings.h"
#include "lifecycle/commit.h"
#include "shared/area.h"
#include "shared/roster.h"

/* Milliseconds to wait for a worker beyond its grace; then the command finds it there. */
#define LEAVE_TIMEOUT 4000

static ProcessUtility_hook_type previous_hook = NULL;

static bool
may_create_database(void)
{
	HeapTuple	tuple;
	bool		may = superuser();

	if (may)
		return true;
	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	if (HeapTupleIsValid(tuple))
	{
		may = ((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;
		ReleaseSysCache(tuple);
	}
	return may;
}

static bool
owns(Oid database)
{
	return OidIsValid(database) && conduit_database_ownercheck(database, GetUserId());
}

/* The template of CREATE DATABASE, if the caller may copy it. */
static Oid
template_of(CreatedbStmt *stmt)
{
	const char *name = "template1";
	ListCell   *cell;
	Oid			database;
	HeapTuple	tuple;
	bool		is_template = false;

	foreach(cell, stmt->options)
	{
		DefElem    *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, "template") == 0 && option->arg != NULL)
			name = defGetString(option);
	}
	database = get_database_oid(name, true);
	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	if (HeapTupleIsValid(tuple))
	{
		is_template = ((Form_pg_database) GETSTRUCT(tuple))->datistemplate;
		ReleaseSysCache(tuple);
	}
	return may_create_database() && (is_template || owns(database)) ? database : InvalidOid;
}

static bool
sets_tablespace(AlterDatabaseStmt *stmt)
{
	ListCell   *cell;

	foreach(cell, stmt->options)
		if (strcmp(lfirst_node(DefElem, cell)->defname, "tablespace") == 0)
			return true;
	return false;
}

/*
 * Whether others than the worker use the database.  As DROP DATABASE does, wait
 * for those that are about to leave, and do not count autovacuum.
 */
static bool
others_stay(Oid database)
{
	for (int tries = 0; tries < 20; tries++)
	{
		int			n = 0;

		CHECK_FOR_INTERRUPTS();
		for (uint32 i = 0; i < ProcGlobal->allProcCount; i++)
		{
			PGPROC	   *proc = &ProcGlobal->allProcs[i];

			/* who has left may still have its entry, but is not found by its pid */
			if (proc->databaseId == database && !(proc->statusFlags & PROC_IS_AUTOVACUUM) &&
				BackendPidGetProc(proc->pid) == proc)
				n++;
		}
		if (n <= 1)
			return false;
		pg_usleep(100 * 1000L);
	}
	return true;
}

/*
 * Requests that are out must not be left in doubt for a DROP DATABASE that
 * fails anyway, because it names the current database or others use it.
 */
static bool
may_be_dropped(DropdbStmt *stmt, Oid database)
{
	ListCell   *cell;

	if (database == MyDatabaseId)
		return false;
	foreach(cell, stmt->options)
		if (strcmp(lfirst_node(DefElem, cell)->defname, "force") == 0)
			return true;
	return !others_stay(database);
}

/* The database that the statement needs empty, and how its worker is to leave. */
static Oid
database_to_empty(Node *stmt, RosterLeave *how)
{
	Oid			database = InvalidOid;

	*how = ROSTER_DRAIN;
	switch (nodeTag(stmt))
	{
		case T_DropdbStmt:
			*how = ROSTER_LEAVE_NOW;
			database = get_database_oid(((DropdbStmt *) stmt)->dbname, true);
			return owns(database) && may_be_dropped((DropdbStmt *) stmt, database) ? database : InvalidOid;
		case T_CreatedbStmt:
			return template_of((CreatedbStmt *) stmt);
		case T_AlterDatabaseStmt:
			if (!sets_tablespace((AlterDatabaseStmt *) stmt))
				return InvalidOid;
			database = get_database_oid(((AlterDatabaseStmt *) stmt)->dbname, true);
			return owns(database) ? database : InvalidOid;
		case T_RenameStmt:
			if (((RenameStmt *) stmt)->renameType != OBJECT_DATABASE)
				return InvalidOid;
			database = get_database_oid(((RenameStmt *) stmt)->subname, true);
			return owns(database) && may_create_database() ? database : InvalidOid;
		default:
			return InvalidOid;
	}
}

static void
wait_until_gone(Oid database)
{
	static uint32 wait_event = 0;
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													conduit_shutdown_grace + LEAVE_TIMEOUT);
	RosterView	view;

	while (conduit_roster_view(database, &view))
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);

		if (left <= 0)
			return;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(left, 1000), conduit_wait_event(&wait_event, "ConduitWorkerLeave"));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

static void
release_hold(int code, Datum arg)
{
	conduit_roster_release_hold();
}

/* What ends or changes the extension: its worker looks when it is committed. */
static bool
may_change_extension(Node *stmt)
{
	switch (nodeTag(stmt))
	{
		case T_DropStmt:
			return ((DropStmt *) stmt)->removeType == OBJECT_EXTENSION ||
				((DropStmt *) stmt)->removeType == OBJECT_SCHEMA;
		case T_AlterExtensionStmt:
		case T_DropOwnedStmt:
			return true;
		default:
			return false;
	}
}

/* Other settings of a database are pinned by its worker. */
static bool
concerns_worker(VariableSetStmt *stmt)
{
	return stmt->name == NULL || pg_strncasecmp(stmt->name, "conduit.", strlen("conduit.")) == 0;
}

/* What the worker of this or another database is to be told at commit. */
static void
note_consequences(Node *stmt)
{
	if (may_change_extension(stmt) && conduit_roster_known(MyDatabaseId))
		conduit_at_commit(NUDGE_CHECK, DT_NOEND);
	else if (IsA(stmt, AlterDatabaseSetStmt) && concerns_worker(((AlterDatabaseSetStmt *) stmt)->setstmt))
		conduit_restart_at_commit(get_database_oid(((AlterDatabaseSetStmt *) stmt)->dbname, true));
}

static void
run_utility(PlannedStmt *pstmt, const char *query, bool read_only, ProcessUtilityContext context,
			ParamListInfo params, QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *completion)
{
	if (previous_hook)
		previous_hook(pstmt, query, read_only, context, params, environment, dest, completion);
	else
		standard_ProcessUtility(pstmt, query, read_only, context, params, environment, dest, completion);
}

/* The statement that is to be run, and all that goes with it. */
#define UTILITY_ARGUMENTS pstmt, query, read_only, context, params, environment, dest, completion

static void
run_with_hold(Oid database, RosterLeave how, PlannedStmt *pstmt, const char *query, bool read_only,
			  ProcessUtilityContext context, ParamListInfo params, QueryEnvironment *environment,
			  DestReceiver *dest, QueryCompletion *completion)
{
	conduit_roster_hold(database, how);
	PG_ENSURE_ERROR_CLEANUP(release_hold, (Datum) 0);
	{
		wait_until_gone(database);
		run_utility(UTILITY_ARGUMENTS);
	}
	PG_END_ENSURE_ERROR_CLEANUP(release_hold, (Datum) 0);
	conduit_roster_release_hold();
}

static void
conduit_process_utility(PlannedStmt *pstmt, const char *query, bool read_only, ProcessUtilityContext context,
						ParamListInfo params, QueryEnvironment *environment, DestReceiver *dest,
						QueryCompletion *completion)
{
	Oid			database = InvalidOid;
	RosterLeave how = ROSTER_STAY;

	/* In a transaction block these commands fail; then nobody need leave. */
	if (conduit_area_attached() && context == PROCESS_UTILITY_TOPLEVEL && !IsTransactionBlock())
		database = database_to_empty(pstmt->utilityStmt, &how);
	if (OidIsValid(database))
	{
		run_with_hold(database, how, UTILITY_ARGUMENTS);
		return;
	}
	run_utility(UTILITY_ARGUMENTS);

	/* Only now: what was not allowed has no consequences. */
	if (conduit_area_attached())
		note_consequences(pstmt->utilityStmt);
}

void
conduit_drain_install_hook(void)
{
	previous_hook = ProcessUtility_hook;
	ProcessUtility_hook = conduit_process_utility;
}
