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

/* Claims and settles that share a transaction, at most. */
#define BATCH 64

/* Due tasks in memory, at most, and of one connector. */
#define MAX_QUEUED 10000
#define MAX_QUEUED_OF_LANE 2000
#define SCAN_BATCH 1000

/* Milliseconds. */
#define LEAST_BETWEEN_SCANS 50
#define RETRY_SETTLE 1000
#define LAST_RETRY_SETTLE 30000
#define RETRY_CLAIM 30000
#define RETRY_PARKED 250
#define HOUSEKEEPING_EVERY 60000
#define FULL_SCAN_EVERY 600000
#define MAX_SLEEP 60000

#define PARKED_BATCH 256

static struct
{
	bool		restart;		/* settings of the database have changed */
	RosterPause pause;
	bool		check;			/* the extension or its identity may have changed */
	bool		tell;			/* there may be events without a number */
	List	   *unsettled;		/* RefreshFlight *: answered, not settled yet */
	bool		settle_failed;	/* the last settle could not commit */
	int			settle_delay;	/* until the next try */
	int			parked;
	TimestampTz settle_at;		/* real time: when to try again */
	TimestampTz parked_at;
	TimestampTz housekeeping_at;
	TimestampTz full_scan_at;
	TimestampTz scan_at;
	DueMark		scanned_to;		/* everything before is in memory */
	TimestampTz skipped_from;	/* but for full lanes, from here on */
	TimestampTz next_due;
	RosterReport report;
} worker;

static volatile sig_atomic_t in_transaction = false;
static MemoryContext round_context;

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

static void
begin_transaction(void)
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

static void
commit_transaction(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	in_transaction = false;
	QueryCancelPending = false;
	MemoryContextSwitchTo(round_context);
	pgstat_report_stat(false);
}

/* In PG_CATCH: say what happened, and be outside of any transaction again. */
static void
recover_from_error(const char *what)
{
	HOLD_INTERRUPTS();
	errcontext("conduit worker, %s", what);
	EmitErrorReport();
	AbortCurrentTransaction();
	in_transaction = false;
	QueryCancelPending = false;
	FlushErrorState();
	MemoryContextSwitchTo(round_context);
	RESUME_INTERRUPTS();

	/* the extension may be gone */
	worker.check = true;
}

static TimestampTz
real_time_in(int milliseconds)
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

	begin_transaction();
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
	commit_transaction();
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
	begin_transaction();
	conduit_key_extend_check_values();
	commit_transaction();
	begin_transaction();
	if (!conduit_key_trusted())
		pause = PAUSE_VAULT_LOCKED;
	conduit_store_begin(&scope);
	if (pause == PAUSE_NONE && !conduit_adoption_settled())
		pause = PAUSE_NOT_ADOPTED;
	conduit_store_end(&scope);
	commit_transaction();
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

	worker.check = false;
	/* a restore brings parked replies that this worker has not counted */
	worker.parked = Max(worker.parked, 1);
	if (pause == worker.pause)
		return;
	worker.pause = pause;
	if (pause == PAUSE_NONE)
	{
		ereport(LOG, (errmsg("conduit: refreshing")));
		worker.full_scan_at = 0;
	}
	else
		ereport(LOG, (errmsg("conduit: refresh is paused: %s", reasons[pause])));
}

static RequestAnswer
pause_answer(void)
{
	return worker.pause == PAUSE_VAULT_LOCKED ? ANSWER_VAULT : ANSWER_PAUSED;
}

typedef void (*Step) (void);

/* Run a step; an error ends it alone. */
static void
guarded(Step step, const char *what)
{
	PG_TRY();
	{
		step();
	}
	PG_CATCH();
	{
		recover_from_error(what);
	}
	PG_END_TRY();
}

/* ---- requests ---- */

static void
take_batch_request(const FlightRequest *request, FlightWaiter waiter)
{
	DueRow	   *rows;
	int			n;

	begin_transaction();
	n = conduit_due_batch(request->tenant, conduit_now(), request->max_count, &rows);
	conduit_flight_begin_batch(waiter, n);
	for (int i = 0; i < n; i++)
		conduit_queue_add_waiter(conduit_queue_add(&rows[i].connection, rows[i].connector, -1, true, false, true),
								 waiter, true);
	commit_transaction();
}

static void
take_keys_request(FlightWaiter waiter)
{
	if (conduit_keyring_get() == NULL)
	{
		conduit_flight_reply(waiter, ANSWER_VAULT);
		return;
	}
	begin_transaction();
	conduit_key_commit_check_values();
	commit_transaction();
	conduit_flight_reply(waiter, ANSWER_DONE);
}

static void
take_request(const FlightRequest *request, FlightWaiter waiter)
{
	if (request->kind == REQUEST_KEYS)
		take_keys_request(waiter);
	else if (worker.pause != PAUSE_NONE)
		conduit_flight_reply(waiter, pause_answer());
	else if (request->kind == REQUEST_DUE_BATCH)
		take_batch_request(request, waiter);
	else
		conduit_queue_add_waiter(conduit_queue_add(&request->connection, request->connector,
												   request->generation, true, request->forced, false),
								 waiter, false);
}

static void
take_requests(void)
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
			recover_from_error("taking a request");
			conduit_flight_reply(waiter, ANSWER_FAILED);
		}
		PG_END_TRY();
	}
}

/* ---- settle ---- */

static void
finish_flight(RefreshFlight *flight, SettleResult result)
{
	Task	   *task = flight->owner;
	OutcomeClass outcome = flight->outcome.outcome;

	conduit_stats_add(flight->place.connector, STATS_REFRESHED + outcome, 1);
	if (result == SETTLE_PARKED)
	{
		worker.parked++;
		worker.parked_at = real_time_in(RETRY_PARKED);
	}
	if (outcome == OUTCOME_DEAD)
		worker.tell = true;
	conduit_queue_finish(task, conduit_refresh_answer(flight, result), outcome == OUTCOME_REFRESHED);
	conduit_refresh_free(flight);
}

static void
seal_or_raise(RefreshFlight *flight)
{
	if (conduit_refresh_seal(flight) != SEAL_OK)
		ereport(ERROR,
				(errmsg("a refreshed token waits in memory to be sealed"),
				 errhint("Restore the keyring, then reload.")));
}

/* Seal, then settle up to n flights from the head of the list in one transaction. */
static void
settle_together(int n)
{
	SettleResult results[BATCH];
	StoreScope	scope;

	begin_transaction();
	for (int i = 0; i < n; i++)
		seal_or_raise(list_nth(worker.unsettled, i));
	conduit_store_begin(&scope);
	for (int i = 0; i < n; i++)
		results[i] = conduit_refresh_settle(list_nth(worker.unsettled, i));
	conduit_store_end(&scope);
	commit_transaction();

	for (int i = 0; i < n; i++)
	{
		finish_flight(linitial(worker.unsettled), results[i]);
		worker.unsettled = list_delete_first(worker.unsettled);
	}
}

/* The head of the list resists: keep it at least where a crash cannot lose it. */
static void
park_head(void)
{
	RefreshFlight *flight = linitial(worker.unsettled);
	StoreScope	scope;

	begin_transaction();
	seal_or_raise(flight);
	conduit_store_begin(&scope);
	conduit_refresh_park(flight);
	conduit_store_end(&scope);
	commit_transaction();
	finish_flight(flight, SETTLE_PARKED);
	worker.unsettled = list_delete_first(worker.unsettled);
}

typedef void (*SettleStep) (int n);

static void
park_step(int n)
{
	park_head();
}

static bool
try_settle(SettleStep step, int n, const char *what)
{
	volatile bool done = false;

	PG_TRY();
	{
		step(n);
		done = true;
	}
	PG_CATCH();
	{
		recover_from_error(what);
	}
	PG_END_TRY();
	return done;
}

/*
 * All that has been answered, before anything else is done with it.  A batch
 * that fails is taken apart; what fails alone is parked; if that fails too, the
 * disk is full or worse, and everything is kept and tried again later.
 */
static void
settle(void)
{
	bool		alone = false;

	if (worker.unsettled == NIL || worker.settle_at > GetCurrentTimestamp())
		return;
	while (worker.unsettled != NIL)
	{
		int			n = alone ? 1 : Min(BATCH, list_length(worker.unsettled));

		if (try_settle(settle_together, n, "settling"))
			continue;
		if (n > 1)
			alone = true;
		else if (!try_settle(park_step, 1, "parking"))
		{
			worker.settle_failed = true;
			worker.settle_delay = Max(RETRY_SETTLE, Min(worker.settle_delay * 2, LAST_RETRY_SETTLE));
			worker.settle_at = real_time_in(worker.settle_delay);
			return;
		}
	}
	worker.settle_failed = false;
	worker.settle_delay = 0;
}

static void
add_unsettled(RefreshFlight *flight)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	worker.unsettled = lappend(worker.unsettled, flight);
	MemoryContextSwitchTo(old);
}

/*
 * Send or receive; what fails for want of memory, say, must not leave a flight
 * behind that nobody looks after: it is in doubt, or was never sent.
 */
static bool
try_flight(bool (*step) (RefreshFlight *), RefreshFlight *flight, const char *what)
{
	volatile bool result = false;

	PG_TRY();
	{
		result = step(flight);
	}
	PG_CATCH();
	{
		recover_from_error(what);
		conduit_refresh_give_up(flight);
		result = step == conduit_refresh_receive;
	}
	PG_END_TRY();
	return result;
}

static void
take_answers(void)
{
	Exchange   *exchange;

	conduit_http_pump();
	while ((exchange = conduit_exchange_next_finished()) != NULL)
	{
		RefreshFlight *flight = conduit_exchange_owner(exchange);

		if (try_flight(conduit_refresh_receive, flight, "reading a reply"))
			add_unsettled(flight);
	}
	settle();
}

/* ---- parked ---- */

/* The parked flight that is being moved, for a step without argument. */
static RefreshFlight *parked_flight;
static int	parked_moved;

static void
move_one_parked(void)
{
	StoreScope	scope;

	begin_transaction();
	conduit_store_begin(&scope);
	if (conduit_refresh_settle(parked_flight) == SETTLED)
		parked_moved++;
	conduit_store_end(&scope);
	commit_transaction();
	worker.tell |= parked_flight->outcome.outcome == OUTCOME_DEAD;
}

/*
 * A page of the parked flights, each in a transaction of its own: one that
 * cannot be settled keeps no other.
 */
static void
move_parked(void)
{
	static pg_uuid_t page = {{0}};
	static bool first_page = true;
	MemoryContext context = round_context;
	List	   *flights;
	ListCell   *cell;
	StoreScope	scope;
	bool		last_page;

	begin_transaction();
	conduit_store_begin(&scope);
	flights = conduit_refresh_load_parked(&page, PARKED_BATCH, context);
	conduit_store_end(&scope);
	commit_transaction();

	parked_moved = 0;
	last_page = list_length(flights) < PARKED_BATCH;
	memset(&page, 0, sizeof(page));
	foreach(cell, flights)
	{
		parked_flight = lfirst(cell);
		if (!last_page)
			page = parked_flight->place.connection;
		guarded(move_one_parked, "moving a parked reply");
	}

	/* The count is a hint, but for what a whole look has found. */
	if (first_page && last_page)
		worker.parked = list_length(flights) - parked_moved;
	else
		worker.parked = Max(worker.parked - parked_moved, 1);
	first_page = last_page;
}

/* ---- due ---- */

/* Look again from a time on. */
static void
scan_from(TimestampTz from)
{
	if (from > worker.scanned_to.refresh_at)
		return;
	memset(&worker.scanned_to, 0, sizeof(worker.scanned_to));
	worker.scanned_to.refresh_at = from;
}

static void
scan_due(void)
{
	TimestampTz now = conduit_now();
	List	   *full = conduit_queue_full_lanes(MAX_QUEUED_OF_LANE);
	DueRow	   *rows;
	int			n;

	/* Lanes with room again: go back to where they were skipped. */
	if (full == NIL && !TIMESTAMP_IS_NOEND(worker.skipped_from))
	{
		scan_from(worker.skipped_from);
		worker.skipped_from = DT_NOEND;
	}
	if (full != NIL)
		worker.skipped_from = Min(worker.skipped_from, worker.scanned_to.refresh_at);
	scan_from(now);				/* a clock that was set back */

	begin_transaction();
	n = conduit_due_scan(&worker.scanned_to, now, full, SCAN_BATCH, &rows);
	for (int i = 0; i < n; i++)
		(void) conduit_queue_add(&rows[i].connection, rows[i].connector, -1, false, false, true);
	memset(&worker.scanned_to, 0, sizeof(worker.scanned_to));
	if (n == SCAN_BATCH)
	{
		worker.scanned_to.refresh_at = rows[n - 1].refresh_at;
		worker.scanned_to.connection = rows[n - 1].connection;
		worker.next_due = now;
	}
	else
	{
		worker.scanned_to.refresh_at = now;
		worker.next_due = conduit_due_next(now);
	}
	commit_transaction();
	worker.scan_at = real_time_in(LEAST_BETWEEN_SCANS);
}

static bool
scan_wanted(TimestampTz real_now)
{
	if (worker.pause != PAUSE_NONE || worker.settle_failed)
		return false;
	if (worker.full_scan_at <= real_now)
	{
		scan_from(DT_NOBEGIN);
		worker.skipped_from = DT_NOEND;
		worker.next_due = DT_NOBEGIN;
		worker.full_scan_at = real_time_in(FULL_SCAN_EVERY);
		worker.report.last_full_scan = real_now;
	}

	/* A lane that was skipped has room again. */
	if (!TIMESTAMP_IS_NOEND(worker.skipped_from) && conduit_queue_full_lanes(MAX_QUEUED_OF_LANE / 2) == NIL)
		worker.next_due = DT_NOBEGIN;
	return worker.scan_at <= real_now && conduit_queue_waiting_unasked() < MAX_QUEUED &&
		worker.next_due <= conduit_now();
}

/* ---- claim and send ---- */

typedef struct ClaimedTask
{
	Task	   *task;
	RequestAnswer answer;
	RefreshFlight *flight;
} ClaimedTask;

static void
claim_together(ClaimedTask *claimed, int n)
{
	StoreScope	scope;
	bool		adopted;

	begin_transaction();
	conduit_store_begin(&scope);

	/* Here, too: a restore fills the tables after the worker has looked. */
	adopted = conduit_adoption_settled();
	worker.check |= !adopted;
	for (int i = 0; i < n; i++)
	{
		Task	   *task = claimed[i].task;

		claimed[i].answer = !adopted ? ANSWER_PAUSED : conduit_refresh_claim(&task->connection, task->generation, task->forced,
												  task->unasked, &claimed[i].flight);
	}
	conduit_store_end(&scope);
	commit_transaction();
}

static bool
try_claim(ClaimedTask *claimed, int n)
{
	volatile bool done = false;

	PG_TRY();
	{
		claim_together(claimed, n);
		done = true;
	}
	PG_CATCH();
	{
		recover_from_error("claiming");
		for (int i = 0; i < n; i++)
		{
			if (claimed[i].flight != NULL)
				conduit_refresh_free(claimed[i].flight);
			claimed[i].flight = NULL;
		}
	}
	PG_END_TRY();
	return done;
}

static void
send_claimed(ClaimedTask *claimed)
{
	RefreshFlight *flight = claimed->flight;

	if (flight == NULL)
	{
		conduit_queue_finish(claimed->task, claimed->answer, false);
		return;
	}
	flight->owner = claimed->task;
	claimed->task->flight = flight;
	if (!try_flight(conduit_refresh_send, flight, "sending"))
		add_unsettled(flight);
}

/* One task that cannot be claimed with others must not keep them. */
static void
claim_alone(ClaimedTask *claimed)
{
	if (try_claim(claimed, 1))
		send_claimed(claimed);
	else
	{
		conduit_queue_finish(claimed->task, ANSWER_FAILED, false);
		worker.full_scan_at = Min(worker.full_scan_at, real_time_in(RETRY_CLAIM));
	}
}

static void
claim_and_send(void)
{
	while (!worker.settle_failed && !worker.restart && !ShutdownRequestPending &&
		   conduit_roster_told_to_leave() == ROSTER_STAY)
	{
		ClaimedTask claimed[BATCH] = {{0}};
		int			n = 0;

		while (n < BATCH && (claimed[n].task = conduit_queue_next(conduit_max_in_flight)) != NULL)
			n++;
		if (n == 0)
			return;
		if (try_claim(claimed, n))
			for (int i = 0; i < n; i++)
				send_claimed(&claimed[i]);
		else
			for (int i = 0; i < n; i++)
				claim_alone(&claimed[i]);
		take_answers();
		take_requests();
	}
}

/* ---- tell, housekeeping ---- */

static void
tell_batch(bool notify)
{
	int			n;

	do
	{
		begin_transaction();
		n = conduit_event_tell(notify);
		commit_transaction();
	} while (n > 0);
}

/* Numbers matter more than notifications, whose queue anybody can fill. */
static void
tell(void)
{
	volatile bool told = false;

	worker.tell = false;
	PG_TRY();
	{
		tell_batch(true);
		told = true;
	}
	PG_CATCH();
	{
		recover_from_error("notifying");
	}
	PG_END_TRY();
	if (!told)
		tell_batch(false);
}

static void
keep_house(void)
{
	int			n;

	worker.housekeeping_at = real_time_in(HOUSEKEEPING_EVERY);
	worker.check = true;
	worker.tell = true;
	worker.next_due = Min(worker.next_due, conduit_now());

	begin_transaction();
	conduit_key_flush_wraps();
	commit_transaction();
	do
	{
		begin_transaction();
		n = conduit_due_write_last_use();
		commit_transaction();
		if (n > 0 && conduit_refresh_idle > 0)
			worker.full_scan_at = 0;	/* some may be due again */
	} while (n > 0);
	do
	{
		begin_transaction();
		n = conduit_event_purge();
		commit_transaction();
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
		worker.restart = true;
	if (nudges & NUDGE_CHECK)
		worker.check = true;
	if (nudges & NUDGE_EVENTS)
		worker.tell = true;
	if (nudges & NUDGE_DUE)
	{
		scan_from(earliest_due);
		worker.next_due = Min(worker.next_due, earliest_due);
	}
}

static void
report(void)
{
	static char former[80] = "unknown";
	char		activity[80] = "";

	worker.report.pause = worker.pause;
	worker.report.in_flight = conduit_queue_flying();
	worker.report.queued = conduit_queue_waiting();
	worker.report.parked = worker.parked;
	worker.report.last_round = GetCurrentTimestamp();
	conduit_roster_report(&worker.report);

	if (worker.pause != PAUSE_NONE)
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
	if (worker.check)
		guarded(check_pause, "checking");
	take_requests();
	guarded(take_answers, "settling");
	if (worker.parked > 0 && worker.parked_at <= GetCurrentTimestamp())
	{
		worker.parked_at = real_time_in(RETRY_PARKED);
		guarded(move_parked, "moving parked replies");
	}
	if (scan_wanted(GetCurrentTimestamp()))
		guarded(scan_due, "looking for due credentials");
	if (worker.pause == PAUSE_NONE)
		guarded(claim_and_send, "claiming");
	else
		conduit_queue_finish_waiting(pause_answer());
	if (worker.tell)
		guarded(tell, "numbering events");
	if (worker.housekeeping_at <= GetCurrentTimestamp())
		guarded(keep_house, "keeping house");
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

	sleep = least(sleep, worker.housekeeping_at);
	if (worker.parked > 0)
		sleep = least(sleep, worker.parked_at);
	if (worker.settle_failed)
		sleep = least(sleep, worker.settle_at);
	if (worker.pause == PAUSE_NONE && conduit_queue_waiting_unasked() < MAX_QUEUED)
	{
		double		left = TIMESTAMP_IS_NOEND(worker.next_due) ? MAX_SLEEP / 1000.0 :
			TIMESTAMP_IS_NOBEGIN(worker.next_due) ? 0 :
			conduit_seconds_between(conduit_now(), worker.next_due);
		long		until_scan = least(MAX_SLEEP, worker.scan_at);

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
	worker.check = true;
	worker.full_scan_at = worker.housekeeping_at = 0;	/* the clock may have been set */
	worker.settle_at = 0;		/* the keyring may be there again */
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
	begin_transaction();
	conduit_store_begin(&scope);
	foreach(cell, unsent)
		conduit_refresh_withdraw(lfirst(cell));
	conduit_store_end(&scope);
	commit_transaction();
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
	TimestampTz until = real_time_in(conduit_shutdown_grace);

	pgstat_report_activity(STATE_RUNNING, "leaving");
	worker.settle_at = 0;
	guarded(withdraw_unsent, "leaving");
	conduit_queue_finish_waiting(ANSWER_GONE);
	for (;;)
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);
		long		deadline = conduit_http_deadline();

		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if ((conduit_http_in_flight() == 0 && worker.unsettled == NIL) ||
			left <= 0 || conduit_roster_told_to_leave() == ROSTER_LEAVE_NOW)
			break;
		wait_for_something(deadline >= 0 ? Min(left, deadline) : left);
		guarded(take_answers, "settling");
	}
	if (worker.tell)
		guarded(tell, "numbering events");
}

static bool
should_leave(void)
{
	RosterLeave leave = conduit_roster_told_to_leave();

	if (leave == ROSTER_LEAVE_NOW)
	{
		guarded(take_answers, "leaving");
		proc_exit(0);
	}
	return ShutdownRequestPending || leave == ROSTER_DRAIN ||
		(worker.restart && conduit_queue_flying() == 0);
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

	begin_transaction();
	conduit_store_begin(&scope);
	n = conduit_refresh_void_claims(&connections, &generations);
	parked = conduit_refresh_load_parked(&start, 1, CurrentMemoryContext);
	worker.parked = list_length(parked);
	for (int i = 0; i < n; i++)
		(void) conduit_queue_add(&connections[i], "", generations[i], true, true, false);
	conduit_store_end(&scope);
	commit_transaction();
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
	worker.check = worker.tell = true;
	worker.next_due = worker.scanned_to.refresh_at = DT_NOBEGIN;
	worker.skipped_from = DT_NOEND;
	worker.housekeeping_at = real_time_in(HOUSEKEEPING_EVERY);
	find_work_left_behind();
}

void
conduit_worker_main(Datum arg)
{
	uint64		ticket;

	memcpy(&ticket, MyBgworkerEntry->bgw_extra, sizeof(ticket));
	round_context = AllocSetContextCreate(TopMemoryContext, "conduit round", ALLOCSET_DEFAULT_SIZES);
	start_up(ticket);

	while (!should_leave())
	{
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
			reload();

		MemoryContextSwitchTo(round_context);
		take_nudges();
		if (worker.check && !extension_present())
			leave_for_good();
		play_round();
		MemoryContextReset(round_context);

		if (!should_leave())
			wait_for_something(sleep_time());
	}
	drain();
	proc_exit(0);
}
