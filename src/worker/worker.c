/*-------------------------------------------------------------------------
 *
 * worker.c
 *	  The worker of one database: its loop.
 *
 * A round takes what was asked for and what is due, claims it, sends it, takes
 * what has been answered, settles it, and tells.  It holds a transaction only
 * for as long as that takes, never while it waits: then it sleeps on its latch
 * and on libcurl's descriptor.
 *
 * An error ends the step it happens in, not the worker: the transaction is
 * aborted, what had been received is kept and settled again.
 *
 *-------------------------------------------------------------------------
 */
#include "worker/worker.h"

#include <sys/resource.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include "access/xact.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/clock.h"
#include "base/settings.h"
#include "lifecycle/adoption.h"
#include "lifecycle/catalogue.h"
#include "lifecycle/due.h"
#include "lifecycle/event.h"
#include "lifecycle/key.h"
#include "lifecycle/refresh.h"
#include "lifecycle/store.h"
#include "provider/exchange.h"
#include "provider/http.h"
#include "shared/flight.h"
#include "shared/roster.h"
#include "shared/stats.h"
#include "worker/queue.h"
#include "worker/round.h"

/* Milliseconds. */
#define HOUSEKEEPING_EVERY 60000
#define MAX_SLEEP 60000

WorkerRound conduit_round;

static volatile sig_atomic_t in_transaction = false;
MemoryContext conduit_round_context;

/*
 * SIGTERM asks for an orderly end.  It also cancels a statement that hangs, in
 * a wait for a synchronous standby above all; what that interrupts is done
 * again.
 */
static void
handle_sigterm(SIGNAL_ARGS)
{
	int			save_errno = errno;

	ShutdownRequestPending = true;
	if (in_transaction)
	{
		QueryCancelPending = true;
		InterruptPending = true;
	}
	SetLatch(MyLatch);
	errno = save_errno;
}

/* SIGINT is how PostgreSQL ends a wait that lock_timeout bounds. */
static void
handle_sigint(SIGNAL_ARGS)
{
	int			save_errno = errno;

	if (in_transaction)
	{
		QueryCancelPending = true;
		InterruptPending = true;
	}
	SetLatch(MyLatch);
	errno = save_errno;
}

void
conduit_round_begin(void)
{
	QueryCancelPending = false;
	in_transaction = true;

	/*
	 * SIGTERM comes once: a standby that does not answer must not hold up
	 * what is committed after it.
	 */
	if (ShutdownRequestPending && synchronous_commit > SYNCHRONOUS_COMMIT_LOCAL_FLUSH)
		SetConfigOption("synchronous_commit", "local", PGC_SUSET, PGC_S_OVERRIDE);
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
}

void
conduit_round_commit(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	in_transaction = false;
	QueryCancelPending = false;
	MemoryContextSwitchTo(conduit_round_context);
	pgstat_report_stat(false);
}

/* In PG_CATCH: say what happened, and be outside of any transaction again. */
void
conduit_round_recover(const char *what)
{
	HOLD_INTERRUPTS();
	errcontext("conduit worker, %s", what);
	EmitErrorReport();
	AbortCurrentTransaction();
	in_transaction = false;
	QueryCancelPending = false;
	FlushErrorState();
	MemoryContextSwitchTo(conduit_round_context);
	RESUME_INTERRUPTS();

	/* the extension may be gone */
	conduit_round.check = true;
}

TimestampTz
conduit_real_time_in(int milliseconds)
{
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), milliseconds);
}

/*
 * Pin what the worker would inherit from ALTER DATABASE, ALTER ROLE or the
 * configuration file.  Index scans alone: a due scan must not depend on
 * statistics.
 */
static void
pin_settings(void)
{
	static const char *const pins[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"lock_timeout", "1s"},
		{"deadlock_timeout", "10ms"},	/* of two, the worker is the one to give way */
		{"statement_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"},
		{"session_replication_role", "origin"},
		{"row_security", "on"},
		{"exit_on_error", "off"},
		{"TimeZone", "UTC"},
		{"log_statement", "none"},
		{"log_min_duration_statement", "-1"},
		{"enable_seqscan", "off"},
		{"enable_bitmapscan", "off"},
		{"enable_indexscan", "on"},
		{"enable_indexonlyscan", "on"},
		{"plan_cache_mode", "force_generic_plan"},
		{"jit", "off"},
		CONDUIT_VERSION_PINS
	};

	for (int i = 0; i < lengthof(pins); i++)
		SetConfigOption(pins[i][0], pins[i][1], PGC_SUSET, PGC_S_OVERRIDE);
	if (synchronous_commit == SYNCHRONOUS_COMMIT_OFF)
		SetConfigOption("synchronous_commit", "local", PGC_SUSET, PGC_S_OVERRIDE);
}

/* Secrets in this process's memory are not for core files or other processes. */
static void
protect_memory(void)
{
	struct rlimit none = {0, 0};

	(void) setrlimit(RLIMIT_CORE, &none);
#ifdef __linux__
	(void) prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
#endif
}

/* Set where the launcher need not start another worker soon. */
static bool not_wanted = false;

static void
clean_up(int code, Datum arg)
{
	conduit_http_shut_down();
	conduit_roster_leave(code != 0);
	if (!not_wanted)
		conduit_roster_message(MyDatabaseId);
}

/* There is nothing to do here, until somebody sends a message. */
pg_noreturn static void
leave_for_good(void)
{
	not_wanted = true;
	proc_exit(0);
}

/*
 * Whether there is work for this worker here: the extension, in a version that
 * the library serves.  An older or newer one is left alone until it is updated.
 */
static bool
extension_present(void)
{
	const ExtensionInfo *extension;
	bool		present;

	conduit_round_begin();
	extension = conduit_extension(true);
	present = OidIsValid(extension->oid);
	if (present && !conduit_version_served(extension->version))
	{
		ereport(LOG,
				(errmsg("conduit: library version %s does not serve extension version %s",
						CONDUIT_VERSION, extension->version),
				 errhint("Restart PostgreSQL to load the new library, or run ALTER EXTENSION conduit UPDATE.")));
		present = false;
	}
	conduit_round_commit();
	return present;
}

static RosterPause
find_pause(void)
{
	RosterPause pause = PAUSE_NONE;
	StoreScope	scope;

	if (!conduit_refresh_enabled)
		return PAUSE_DISABLED;
	if (conduit_keyring_get() == NULL)
		return PAUSE_VAULT_LOCKED;
	conduit_round_begin();
	conduit_key_extend_check_values();
	conduit_round_commit();
	conduit_round_begin();
	if (!conduit_key_trusted())
		pause = PAUSE_VAULT_LOCKED;
	conduit_store_begin(&scope);
	if (pause == PAUSE_NONE && !conduit_adoption_settled())
		pause = PAUSE_NOT_ADOPTED;
	conduit_store_end(&scope);
	conduit_round_commit();
	return pause;
}

static void
check_pause(void)
{
	static const char *const reasons[] = {
		[PAUSE_DISABLED] = "conduit.refresh_enabled is off",
		[PAUSE_NOT_ADOPTED] = "this database is a copy of another one, or was moved; run conduit_adopt() if it is to take over",
		[PAUSE_VAULT_LOCKED] = "the keyring cannot be used"
	};
	RosterPause pause = find_pause();

	conduit_round.check = false;
	/* a restore brings parked replies that this worker has not counted */
	conduit_round.parked = Max(conduit_round.parked, 1);
	if (pause == conduit_round.pause)
		return;
	conduit_round.pause = pause;
	if (pause == PAUSE_NONE)
	{
		ereport(LOG, (errmsg("conduit: refreshing")));
		conduit_round.full_scan_at = 0;
	}
	else
		ereport(LOG, (errmsg("conduit: refresh is paused: %s", reasons[pause])));
}

static RequestAnswer
pause_answer(void)
{
	return conduit_round.pause == PAUSE_VAULT_LOCKED ? ANSWER_VAULT : ANSWER_PAUSED;
}

/* Run a step; an error ends it alone. */
void
conduit_guarded(WorkerStep step, const char *what)
{
	PG_TRY();
	{
		step();
	}
	PG_CATCH();
	{
		conduit_round_recover(what);
	}
	PG_END_TRY();
}

/* ---- requests ---- */

static void
take_batch_request(const FlightRequest *request, FlightWaiter waiter)
{
	DueRow	   *rows;
	int			n;

	conduit_round_begin();
	n = conduit_due_batch(request->tenant, conduit_now(), request->max_count, &rows);
	conduit_flight_begin_batch(waiter, n);
	for (int i = 0; i < n; i++)
		conduit_queue_add_waiter(conduit_queue_add(&rows[i].connection, rows[i].connector, -1, true, false, true),
								 waiter, true);
	conduit_round_commit();
}

static void
take_keys_request(FlightWaiter waiter)
{
	if (conduit_keyring_get() == NULL)
	{
		conduit_flight_reply(waiter, ANSWER_VAULT);
		return;
	}
	conduit_round_begin();
	conduit_key_commit_check_values();
	conduit_round_commit();
	conduit_flight_reply(waiter, ANSWER_DONE);
}

static void
take_request(const FlightRequest *request, FlightWaiter waiter)
{
	if (request->kind == REQUEST_KEYS)
		take_keys_request(waiter);
	else if (conduit_round.pause != PAUSE_NONE)
		conduit_flight_reply(waiter, pause_answer());
	else if (request->kind == REQUEST_DUE_BATCH)
		take_batch_request(request, waiter);
	else
		conduit_queue_add_waiter(conduit_queue_add(&request->connection, request->connector,
												   request->generation, true, request->forced, false),
								 waiter, false);
}

void
conduit_take_requests(void)
{
	FlightRequest request;
	FlightWaiter waiter;

	while (conduit_flight_take(MyDatabaseId, &request, &waiter))
	{
		PG_TRY();
		{
			take_request(&request, waiter);
		}
		PG_CATCH();
		{
			conduit_round_recover("taking a request");
			conduit_flight_reply(waiter, ANSWER_FAILED);
		}
		PG_END_TRY();
	}
}

/* ---- tell, housekeeping ---- */

static void
tell_batch(bool notify)
{
	int			n;

	do
	{
		conduit_round_begin();
		n = conduit_event_tell(notify);
		conduit_round_commit();
	} while (n > 0);
}

/* Numbers matter more than notifications, whose queue anybody can fill. */
static void
tell(void)
{
	volatile bool told = false;

	conduit_round.tell = false;
	PG_TRY();
	{
		tell_batch(true);
		told = true;
	}
	PG_CATCH();
	{
		conduit_round_recover("notifying");
	}
	PG_END_TRY();
	if (!told)
		tell_batch(false);
}

static void
keep_house(void)
{
	int			n;

	conduit_round.housekeeping_at = conduit_real_time_in(HOUSEKEEPING_EVERY);
	conduit_round.check = true;
	conduit_round.tell = true;
	conduit_round.next_due = Min(conduit_round.next_due, conduit_now());

	conduit_round_begin();
	conduit_key_flush_wraps();
	conduit_round_commit();
	do
	{
		conduit_round_begin();
		n = conduit_due_write_last_use();
		conduit_round_commit();
		if (n > 0 && conduit_refresh_idle > 0)
			conduit_round.full_scan_at = 0;	/* some may be due again */
	} while (n > 0);
	do
	{
		conduit_round_begin();
		n = conduit_event_purge();
		conduit_round_commit();
	} while (n > 0 && !ShutdownRequestPending);
	if (conduit_queue_flying() == 0)
		conduit_catalogue_release();
}

/* ---- the round ---- */

static void
take_nudges(void)
{
	TimestampTz earliest_due;
	uint32		nudges = conduit_roster_take_nudges(&earliest_due);

	if (nudges & NUDGE_RESTART)
		conduit_round.restart = true;
	if (nudges & NUDGE_CHECK)
		conduit_round.check = true;
	if (nudges & NUDGE_EVENTS)
		conduit_round.tell = true;
	if (nudges & NUDGE_DUE)
	{
		conduit_scan_from(earliest_due);
		conduit_round.next_due = Min(conduit_round.next_due, earliest_due);
	}
}

static void
report(void)
{
	static char former[80] = "unknown";
	char		activity[80] = "";

	conduit_round.report.pause = conduit_round.pause;
	conduit_round.report.in_flight = conduit_queue_flying();
	conduit_round.report.queued = conduit_queue_waiting();
	conduit_round.report.parked = conduit_round.parked;
	conduit_round.report.last_round = GetCurrentTimestamp();
	conduit_roster_report(&conduit_round.report);

	if (conduit_round.pause != PAUSE_NONE)
		strlcpy(activity, "refresh is paused", sizeof(activity));
	else if (conduit_queue_flying() > 0)
		snprintf(activity, sizeof(activity), "refreshing %d connections, %d waiting",
				 conduit_queue_flying(), conduit_queue_waiting());
	if (strcmp(activity, former) != 0)
		pgstat_report_activity(activity[0] ? STATE_RUNNING : STATE_IDLE, activity[0] ? activity : NULL);
	strlcpy(former, activity, sizeof(former));
}

static void
play_round(void)
{
	if (conduit_round.check)
		conduit_guarded(check_pause, "checking");
	conduit_take_requests();
	conduit_guarded(conduit_take_answers, "settling");
	if (conduit_round.parked > 0 && conduit_round.parked_at <= GetCurrentTimestamp())
	{
		conduit_round.parked_at = conduit_real_time_in(CONDUIT_RETRY_PARKED);
		conduit_guarded(conduit_move_parked, "moving parked replies");
	}
	if (conduit_scan_wanted(GetCurrentTimestamp()))
		conduit_guarded(conduit_scan_due, "looking for due credentials");
	if (conduit_round.pause == PAUSE_NONE)
		conduit_guarded(conduit_claim_and_send, "claiming");
	else
		conduit_queue_finish_waiting(pause_answer());
	if (conduit_round.tell)
		conduit_guarded(tell, "numbering events");
	if (conduit_round.housekeeping_at <= GetCurrentTimestamp())
		conduit_guarded(keep_house, "keeping house");
	report();
}

static long
least(long a, TimestampTz at)
{
	long		b = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), at);

	return Min(a, b);
}

static long
sleep_time(void)
{
	long		sleep = MAX_SLEEP;
	long		deadline = conduit_http_deadline();

	sleep = least(sleep, conduit_round.housekeeping_at);
	if (conduit_round.parked > 0)
		sleep = least(sleep, conduit_round.parked_at);
	if (conduit_round.settle_failed)
		sleep = least(sleep, conduit_round.settle_at);
	if (conduit_round.pause == PAUSE_NONE && conduit_queue_waiting_unasked() < CONDUIT_MAX_QUEUED)
	{
		double		left = TIMESTAMP_IS_NOEND(conduit_round.next_due) ? MAX_SLEEP / 1000.0 :
			TIMESTAMP_IS_NOBEGIN(conduit_round.next_due) ? 0 :
			conduit_seconds_between(conduit_now(), conduit_round.next_due);
		long		until_scan = least(MAX_SLEEP, conduit_round.scan_at);

		left = Max(0, Min(left, MAX_SLEEP / 1000.0));
		sleep = Min(sleep, Max(until_scan, (long) (left * 1000) + 1));
	}
	if (deadline >= 0)
		sleep = Min(sleep, deadline);
	return Max(sleep, 0);
}

static void
wait_for_something(long timeout)
{
	static uint32 wait_event = 0;

	(void) WaitLatchOrSocket(MyLatch,
							 WL_LATCH_SET | WL_SOCKET_READABLE | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 conduit_http_descriptor(), timeout,
							 conduit_wait_event(&wait_event, "ConduitWorkerMain"));
}

static void
reload(void)
{
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	pin_settings();
	conduit_round.check = true;
	conduit_round.full_scan_at = conduit_round.housekeeping_at = 0;	/* the clock may have been set */
	conduit_round.settle_at = 0;		/* the keyring may be there again */
}

/* ---- the end ---- */

/* Flights whose request has not left yet hold a claim for nothing. */
static void
withdraw_unsent(void)
{
	List	   *unsent = NIL;
	List	   *flights = conduit_queue_flights();
	ListCell   *cell;
	StoreScope	scope;

	foreach(cell, flights)
	{
		RefreshFlight *flight = lfirst(cell);

		if (flight->exchange != NULL && !conduit_exchange_sent(flight->exchange))
			unsent = lappend(unsent, flight);
	}
	conduit_round_begin();
	conduit_store_begin(&scope);
	foreach(cell, unsent)
		conduit_refresh_withdraw(lfirst(cell));
	conduit_store_end(&scope);
	conduit_round_commit();
	foreach(cell, unsent)
	{
		RefreshFlight *flight = lfirst(cell);

		conduit_queue_finish(flight->owner, ANSWER_GONE, false);
		conduit_refresh_free(flight);
	}
}

/*
 * Give requests that are out the grace to be answered; what has not been by
 * then stays claimed, and so is in doubt for the next worker.
 */
static void
drain(void)
{
	TimestampTz until = conduit_real_time_in(conduit_shutdown_grace);

	pgstat_report_activity(STATE_RUNNING, "leaving");
	conduit_round.settle_at = 0;
	conduit_guarded(withdraw_unsent, "leaving");
	conduit_queue_finish_waiting(ANSWER_GONE);
	for (;;)
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);
		long		deadline = conduit_http_deadline();

		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if ((conduit_http_in_flight() == 0 && conduit_round.unsettled == NIL) ||
			left <= 0 || conduit_roster_told_to_leave() == ROSTER_LEAVE_NOW)
			break;
		wait_for_something(deadline >= 0 ? Min(left, deadline) : left);
		conduit_guarded(conduit_take_answers, "settling");
	}
	if (conduit_round.tell)
		conduit_guarded(tell, "numbering events");
}

static bool
should_leave(void)
{
	RosterLeave leave = conduit_roster_told_to_leave();

	if (leave == ROSTER_LEAVE_NOW)
	{
		conduit_guarded(conduit_take_answers, "leaving");
		proc_exit(0);
	}
	return ShutdownRequestPending || leave == ROSTER_DRAIN ||
		(conduit_round.restart && conduit_queue_flying() == 0);
}

static void
find_work_left_behind(void)
{
	static const pg_uuid_t start = {{0}};
	pg_uuid_t  *connections;
	int64	   *generations;
	List	   *parked;
	StoreScope	scope;
	int			n;

	conduit_round_begin();
	conduit_store_begin(&scope);
	n = conduit_refresh_void_claims(&connections, &generations);
	parked = conduit_refresh_load_parked(&start, 1, CurrentMemoryContext);
	conduit_round.parked = list_length(parked);
	for (int i = 0; i < n; i++)
		(void) conduit_queue_add(&connections[i], "", generations[i], true, true, false);
	conduit_store_end(&scope);
	conduit_round_commit();
	if (n > 0)
		ereport(LOG, (errmsg("conduit: %d refreshes of a former worker are in doubt and are tried again", n)));
}

static void
start_up(uint64 ticket)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, handle_sigterm);
	pqsignal(SIGINT, handle_sigint);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(MyBgworkerEntry->bgw_main_arg), InvalidOid, 0);
	pin_settings();

	before_shmem_exit(clean_up, (Datum) 0);
	if (!conduit_roster_arrive(MyDatabaseId, ticket))
		leave_for_good();
	if (!extension_present())
		leave_for_good();

	protect_memory();
	pgstat_report_appname("conduit worker");
	conduit_stats_clear_in_flight();
	conduit_http_start_up();
	conduit_queue_start();
	conduit_refresh_set_incarnation();
	conduit_round.check = conduit_round.tell = true;
	conduit_round.next_due = conduit_round.scanned_to.refresh_at = DT_NOBEGIN;
	conduit_round.skipped_from = DT_NOEND;
	conduit_round.housekeeping_at = conduit_real_time_in(HOUSEKEEPING_EVERY);
	find_work_left_behind();
}

void
conduit_worker_main(Datum arg)
{
	uint64		ticket;

	memcpy(&ticket, MyBgworkerEntry->bgw_extra, sizeof(ticket));
	conduit_round_context = AllocSetContextCreate(TopMemoryContext, "conduit round", ALLOCSET_DEFAULT_SIZES);
	start_up(ticket);

	while (!should_leave())
	{
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
			reload();

		MemoryContextSwitchTo(conduit_round_context);
		take_nudges();
		if (conduit_round.check && !extension_present())
			leave_for_good();
		play_round();
		MemoryContextReset(conduit_round_context);

		if (!should_leave())
			wait_for_something(sleep_time());
	}
	drain();
	proc_exit(0);
}
