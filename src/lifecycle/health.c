/*-------------------------------------------------------------------------
 *
 * health.c
 *	  conduit_health, conduit_stats and conduit_doctor: what an administrator
 *	  looks at.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/tuplestore.h"

#include "base/clock.h"
#include "base/settings.h"
#include "lifecycle/adoption.h"
#include "lifecycle/alert.h"
#include "lifecycle/key.h"
#include "lifecycle/store.h"
#include "lifecycle/wait.h"
#include "provider/token_response.h"
#include "shared/area.h"
#include "shared/roster.h"
#include "shared/stats.h"
#include "vault/keyring.h"

PG_FUNCTION_INFO_V1(conduit_health);
PG_FUNCTION_INFO_V1(conduit_stats);
PG_FUNCTION_INFO_V1(conduit_doctor);

/* NIST SP 800-38D allows 2^32 random nonces a key; derived keys push it far away. */
#define MANY_WRAPS (INT64CONST(1) << 31)

/* Due for so long (seconds) means that refreshing does not keep up. */
#define OVERDUE 120

static const char *
worker_state(RosterView *view)
{
	memset(view, 0, sizeof(*view));
	if (!conduit_area_attached())
		return "not preloaded";
	if (RecoveryInProgress())
		return "standby";
	if (conduit_roster_view(MyDatabaseId, view))
		return view->state == ROSTER_RUNNING ? "running" : "starting";
	if (!conduit_roster_launcher_running())
		return "no launcher";
	return conduit_roster_no_slot(MyDatabaseId) ? "no slot" : "none";
}

static const char *
pause_name(RosterPause pause)
{
	switch (pause)
	{
		case PAUSE_DISABLED:
			return "disabled";
		case PAUSE_NOT_ADOPTED:
			return "not adopted";
		case PAUSE_VAULT_LOCKED:
			return "vault locked";
		default:
			return NULL;
	}
}

static const char *
vault_state(void)
{
	if (conduit_keyring_primary() != NULL)
		return "open";
	return conduit_keyring_problem_code() ? conduit_keyring_problem_code() : "locked";
}

enum
{
	HEALTH_OK, HEALTH_VERSION, HEALTH_LIBRARY, HEALTH_WORKER, HEALTH_PAUSED, HEALTH_VAULT,
	HEALTH_NEEDS_REAUTH, HEALTH_OVERDUE, HEALTH_IN_FLIGHT, HEALTH_QUEUED, HEALTH_PARKED,
	HEALTH_UNNUMBERED, HEALTH_REVOCATIONS, HEALTH_LAST_ROUND, HEALTH_NUM_COLUMNS
};

/* conduit_health() */
Datum
conduit_health(PG_FUNCTION_ARGS)
{
	/* All of these are index probes or over small sets: health is asked often. */
	static StoreQuery counts = {
		"SELECT (SELECT pg_catalog.count(*) FROM conduit.connection WHERE status = 'NEEDS_REAUTH'),"
		" (SELECT pg_catalog.count(*) FROM conduit.credential WHERE refresh_at < $1),"
		" (SELECT pg_catalog.count(*) FROM conduit.event WHERE seq IS NULL),"
		" (SELECT pg_catalog.count(*) FROM conduit.revocation),"
		" (SELECT pg_catalog.count(*) FROM conduit.flight WHERE outcome IS NOT NULL)",
		1, {TIMESTAMPTZOID}
	};
	RosterView	view;
	const char *worker = worker_state(&view);
	const char *vault = vault_state();
	const char *paused = pause_name(view.report.pause);
	StoreArgs	args = {0};
	StoreScope	scope;
	TupleDesc	shape;
	Datum		values[HEALTH_NUM_COLUMNS];
	bool		nulls[HEALTH_NUM_COLUMNS] = {false};
	int64		overdue;

	if (get_call_result_type(fcinfo, NULL, &shape) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	conduit_arg_time(&args, conduit_time_add(conduit_now(), -OVERDUE));
	conduit_store_begin(&scope);
	conduit_store_run(&counts, &args);
	overdue = conduit_row_int64(0, 2);
	values[HEALTH_NEEDS_REAUTH] = Int64GetDatum(conduit_row_int64(0, 1));
	values[HEALTH_OVERDUE] = Int64GetDatum(overdue);
	values[HEALTH_UNNUMBERED] = Int64GetDatum(conduit_row_int64(0, 3));
	values[HEALTH_REVOCATIONS] = Int64GetDatum(conduit_row_int64(0, 4));
	values[HEALTH_PARKED] = Int64GetDatum(conduit_row_int64(0, 5));
	conduit_store_end(&scope);

	values[HEALTH_OK] = BoolGetDatum((strcmp(worker, "running") == 0 || strcmp(worker, "standby") == 0) &&
									 paused == NULL && strcmp(vault, "open") == 0 && overdue == 0);
	values[HEALTH_VERSION] = CStringGetTextDatum(conduit_extension(false)->version);
	values[HEALTH_LIBRARY] = CStringGetTextDatum(CONDUIT_VERSION);
	values[HEALTH_WORKER] = CStringGetTextDatum(worker);
	nulls[HEALTH_PAUSED] = paused == NULL;
	values[HEALTH_PAUSED] = paused ? CStringGetTextDatum(paused) : (Datum) 0;
	values[HEALTH_VAULT] = CStringGetTextDatum(vault);
	values[HEALTH_IN_FLIGHT] = Int32GetDatum(view.report.in_flight);
	values[HEALTH_QUEUED] = Int32GetDatum(view.report.queued);
	nulls[HEALTH_LAST_ROUND] = view.report.last_round == 0;
	values[HEALTH_LAST_ROUND] = TimestampTzGetDatum(view.report.last_round);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(shape), values, nulls)));
}

/* conduit_stats() */
Datum
conduit_stats(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	StatsRow   *rows;
	int			n;

	(void) conduit_extension(false);
	InitMaterializedSRF(fcinfo, 0);
	n = conduit_stats_read(&rows);
	for (int i = 0; i < n; i++)
	{
		Datum		values[STATS_NUM_COUNTERS + 1];
		bool		nulls[STATS_NUM_COUNTERS + 1] = {false};

		values[0] = CStringGetTextDatum(rows[i].connector);
		for (int j = 0; j < STATS_MICROSECONDS; j++)
			values[j + 1] = Int64GetDatum(rows[i].counters[j]);
		values[STATS_MICROSECONDS + 1] =
			DirectFunctionCall1(float8_numeric, Float8GetDatum(rows[i].counters[STATS_MICROSECONDS] / 1e6));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* ---- doctor ---- */

typedef struct Findings
{
	ReturnSetInfo *rsinfo;
	bool		sees_settings;	/* the caller may read conduit.keyring_file */
} Findings;

static void
finding(Findings *findings, const char *severity, const char *name, const char *what, const char *hint)
{
	Datum		values[4];
	bool		nulls[4] = {false};

	values[0] = CStringGetTextDatum(severity);
	values[1] = CStringGetTextDatum(name);
	values[2] = CStringGetTextDatum(what);
	values[3] = CStringGetTextDatum(hint);
	tuplestore_putvalues(findings->rsinfo->setResult, findings->rsinfo->setDesc, values, nulls);
}

static void
examine_worker(Findings *findings)
{
	RosterView	view;
	const char *state = worker_state(&view);

	if (strcmp(state, "not preloaded") == 0)
		finding(findings, "error", "not_preloaded", "conduit is not in shared_preload_libraries: nothing is refreshed",
				"Add conduit to shared_preload_libraries and restart PostgreSQL.");
	else if (strcmp(state, "no launcher") == 0)
		finding(findings, "error", "no_launcher", "the launcher is not running",
				"It is started again within a second; if it is not, see the server log.");
	else if (strcmp(state, "no slot") == 0)
		finding(findings, "error", "no_slot", "no background worker slot was left for this database",
				"Raise max_worker_processes and restart PostgreSQL; each database with the extension needs one.");
	else if (strcmp(state, "none") == 0)
		finding(findings, "error", "no_worker", "this database has no worker",
				"It is started within a minute; if it is not, see the server log.");

	if (view.report.pause == PAUSE_DISABLED)
		finding(findings, "warning", "disabled", "conduit.refresh_enabled is off: nothing is refreshed",
				"Set conduit.refresh_enabled to on and reload.");
	if (view.report.pause == PAUSE_NOT_ADOPTED)
		finding(findings, "error", "not_adopted",
				"this database is a copy of another one, or was moved: nothing is refreshed, so that the original's refresh tokens stay good",
				"If it is to take over, make sure that the original refreshes no more, then run SELECT conduit_adopt().");
}

static void
examine_vault(Findings *findings)
{
	static StoreQuery mismatch = {
		"SELECT check_value <> $2, wraps > $3 FROM conduit.key WHERE id = $1",
		3, {TEXTOID, BYTEAOID, INT8OID}
	};
	ConduitKeyring *ring = conduit_keyring_get();

	if (conduit_keyring_problem() != NULL)
		finding(findings, ring ? "warning" : "error",
				psprintf("keyring_%s", conduit_keyring_problem_code()),
				findings->sees_settings ? conduit_keyring_problem() : "the keyring cannot be used",
				"Write a file with a line such as k1:<base64 of 32 random bytes>, owned by the server's user, mode 0600, outside of the data directory; set conduit.keyring_file to its path and reload.");
	for (int i = 0; ring != NULL && i < ring->nkeys; i++)
	{
		ConduitKey *key = &ring->keys[i];
		bytea	   *value = palloc(VARHDRSZ + CONDUIT_KCV_LEN);
		StoreArgs	args = {0};

		SET_VARSIZE(value, VARHDRSZ + CONDUIT_KCV_LEN);
		memcpy(VARDATA(value), key->kcv, CONDUIT_KCV_LEN);
		conduit_arg_text(&args, key->id);
		conduit_arg_bytea(&args, value);
		conduit_arg(&args, Int64GetDatum(MANY_WRAPS));
		if (conduit_store_run(&mismatch, &args) == 0)
			continue;
		if (conduit_row_bool(0, 1))
			finding(findings, "error", "key_mismatch",
					psprintf("key \"%s\" of the keyring is not the key that rows were sealed under", key->id),
					"Restore the right key under this id; give a new key a new id.");
		if (conduit_row_bool(0, 2))
			finding(findings, "warning", "many_wraps",
					psprintf("key \"%s\" has wrapped more than 2^31 data keys", key->id),
					"Add a new primary key to the keyring, reload, and run conduit_rewrap().");
	}
}

static bool
setting_is(const char *name, const char *value)
{
	const char *now = GetConfigOption(name, true, false);

	return now == NULL || strcmp(now, value) == 0;
}

/* Settings under which the server itself would write down secrets that callers bind. */
static void
examine_logging(Findings *findings)
{
	if (!setting_is("log_parameter_max_length", "0"))
		finding(findings, "warning", "log_parameter_max_length",
				"bound parameters, and so secrets passed to conduit_store_credential(), are logged with statements",
				"Set log_parameter_max_length to 0.");
	if (!setting_is("log_parameter_max_length_on_error", "0"))
		finding(findings, "warning", "log_parameter_max_length_on_error",
				"bound parameters are logged with errors",
				"Set log_parameter_max_length_on_error to 0.");
	if (!setting_is("auto_explain.log_min_duration", "-1"))
		finding(findings, "warning", "auto_explain",
				"auto_explain writes plans to the log, with the values that they contain",
				"Do not load auto_explain where secrets are passed to SQL, or set auto_explain.log_min_duration to -1.");
	if (!setting_is("pgaudit.log_parameter", "off"))
		finding(findings, "warning", "pgaudit", "pgaudit logs bound parameters",
				"Set pgaudit.log_parameter to off.");
	if (!setting_is("debug_print_parse", "off") || !setting_is("debug_print_plan", "off") ||
		!setting_is("debug_print_rewritten", "off"))
		finding(findings, "warning", "debug_print", "parse trees or plans are written to the log, with literals",
				"Set debug_print_parse, debug_print_rewritten and debug_print_plan to off.");
}

static void
examine_rights(Findings *findings)
{
	static StoreQuery grants = {
		"WITH member (kind, name, acl, owner) AS ("
		"  SELECT 'function', p.oid::pg_catalog.regprocedure::pg_catalog.text, COALESCE(p.proacl, pg_catalog.acldefault('f', p.proowner)), p.proowner"
		"  FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass"
		"  AND d.objid = p.oid AND d.refobjid = $1 AND d.deptype = 'e'"
		"  UNION ALL"
		"  SELECT 'table', c.oid::pg_catalog.regclass::pg_catalog.text, COALESCE(c.relacl, pg_catalog.acldefault('r', c.relowner)), c.relowner"
		"  FROM pg_catalog.pg_class c WHERE c.relnamespace = $2 AND c.relkind IN ('r', 'S', 'v')"
		"  UNION ALL"
		"  SELECT 'schema', n.nspname, COALESCE(n.nspacl, pg_catalog.acldefault('n', n.nspowner)), n.nspowner"
		"  FROM pg_catalog.pg_namespace n WHERE n.oid = $2)"
		" SELECT m.kind, m.name, a.grantee = 0, COALESCE(r.rolname::pg_catalog.text, 'PUBLIC'), m.kind = 'function'"
		" FROM member m, pg_catalog.aclexplode(m.acl) a LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee"
		" WHERE a.grantee <> m.owner AND (a.grantee = 0 OR m.kind <> 'function') ORDER BY 1, 2",
		2, {OIDOID, OIDOID}
	};
	const ExtensionInfo *extension = conduit_extension(false);
	StoreArgs	args = {0};
	uint64		n;

	conduit_arg(&args, ObjectIdGetDatum(extension->oid));
	conduit_arg(&args, ObjectIdGetDatum(extension->private_schema));
	n = conduit_store_run(&grants, &args);
	for (uint64 i = 0; i < n; i++)
		finding(findings, "error", "rights",
				psprintf("%s has rights on %s %s",
						 conduit_row_text(i, 4, CurrentMemoryContext),
						 conduit_row_text(i, 1, CurrentMemoryContext),
						 conduit_row_text(i, 2, CurrentMemoryContext)),
				"REVOKE them; rights come from conduit_grant() alone.");
}

static void
examine_data(Findings *findings)
{
	static StoreQuery overdue = {
		"SELECT pg_catalog.count(*), COALESCE(pg_catalog.max(pg_catalog.extract('epoch', $1 - refresh_at)), 0)::pg_catalog.float8"
		" FROM conduit.credential WHERE refresh_at < $1",
		1, {TIMESTAMPTZOID}
	};
	static StoreQuery failing = {
		"SELECT connector, last_error_code, pg_catalog.count(*) FROM conduit.credential"
		" WHERE last_error = 'config' AND status = 'ACTIVE' GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 20",
		0, {0}
	};
	StoreArgs	args = {0};
	uint64		n;

	conduit_arg_time(&args, conduit_time_add(conduit_now(), -OVERDUE));
	conduit_store_run(&overdue, &args);
	if (conduit_row_int64(0, 1) > 0)
		finding(findings, "warning", "overdue",
				psprintf(INT64_FORMAT " credentials are overdue for refresh", conduit_row_int64(0, 1)),
				"See conduit_stats() for slow or failing connectors; raise conduit.max_in_flight if providers are slow.");
	n = conduit_store_run(&failing, NULL);
	for (uint64 i = 0; i < n; i++)
		finding(findings, "error", "config",
				psprintf(INT64_FORMAT " connections of connector \"%s\" cannot be refreshed: %s",
						 conduit_row_int64(i, 3), conduit_row_text(i, 1, CurrentMemoryContext),
						 conduit_row_text(i, 2, CurrentMemoryContext)),
				"Mend the client with conduit_set_client() or the definition with conduit_register_connector(); no connection was lost.");
}

/* What concerns a connector as a whole, while there are connections it keeps back. */
static void
examine_alerts(Findings *findings)
{
	static StoreQuery kept = {
		"SELECT FROM conduit.connection n JOIN conduit.credential c ON c.connection_id = n.id"
		" WHERE n.connector = $1 AND c.status = 'ACTIVE' AND c.last_error = $2 LIMIT 1",
		2, {TEXTOID, TEXTOID}
	};
	OpenAlert  *alerts;
	int			n = conduit_alert_read(&alerts);

	for (int i = 0; i < n; i++)
	{
		const OpenAlert *alert = &alerts[i];
		StoreArgs	args = {0};

		/* that has been said of its connections */
		if (strcmp(alert->reason, "client_missing") == 0)
			continue;
		conduit_arg_text(&args, alert->connector);
		conduit_arg_text(&args, conduit_outcome_name(alert->kind == ALERT_STORM ? OUTCOME_DEAD : OUTCOME_CONFIG));
		if (conduit_store_run(&kept, &args) == 0)
			continue;
		if (alert->kind == ALERT_STORM)
			finding(findings, "warning", "storm",
					psprintf("connector \"%s\" calls many refresh tokens dead at once; its connections stay ACTIVE and are tried again",
							 alert->connector),
					"See whether the provider has trouble, or whether its client was reset there; an hour after it began the refusals are believed.");
		else
			finding(findings, "error", "client_refused",
					psprintf("connector \"%s\" cannot be used under its client: %s; refreshes are kept back, but for one every 5 to 15 minutes",
							 alert->connector, alert->reason),
					"Mend the client with conduit_set_client(), the tenant's if it has one, or at the provider; no connection was lost.");
	}
}

static void
examine_settings(Findings *findings)
{
	if (conduit_egress_allow != NULL && conduit_egress_allow[0] != '\0')
		finding(findings, "notice", "egress_allow", "connectors may reach private addresses listed in conduit.egress_allow",
				"Empty it unless an internal provider needs it.");
	if (conduit_refresh_idle > 0 && !setting_is("max_wal_senders", "0"))
		finding(findings, "notice", "refresh_idle",
				"conduit.refresh_idle is on, and vends on standbys are not seen by it",
				"Set conduit.refresh_idle to 0 where standbys vend.");
	if (conduit_clock_offset != 0)
		finding(findings, "warning", "clock_offset", "conduit.clock_offset is set, which is for tests",
				"Set conduit.clock_offset to 0.");
}

static void
examine_facades(Findings *findings)
{
	static StoreQuery facades = {
		"SELECT severity, finding, detail, hint FROM conduit.facade_findings()", 0, {0}
	};
	uint64		n = conduit_store_run(&facades, NULL);

	for (uint64 i = 0; i < n; i++)
		finding(findings, conduit_row_text(i, 1, CurrentMemoryContext), conduit_row_text(i, 2, CurrentMemoryContext),
				conduit_row_text(i, 3, CurrentMemoryContext), conduit_row_text(i, 4, CurrentMemoryContext));
}

/* conduit_doctor() */
Datum
conduit_doctor(PG_FUNCTION_ARGS)
{
	Findings	findings = {
		.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo,
		.sees_settings = has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_SETTINGS)
	};
	StoreScope	scope;

	InitMaterializedSRF(fcinfo, 0);
	conduit_store_begin(&scope);
	examine_worker(&findings);
	examine_vault(&findings);
	examine_logging(&findings);
	examine_rights(&findings);
	examine_data(&findings);
	examine_alerts(&findings);
	examine_facades(&findings);
	examine_settings(&findings);
	conduit_store_end(&scope);
	return (Datum) 0;
}
