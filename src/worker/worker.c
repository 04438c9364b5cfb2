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
#include "utils/timestamp.h"

#include "base/clock.h"
#include "base/settings.h"
#include "lifecycle/refresh.h"
#include "lifecycle/store.h"
#include "provider/http.h"
#include "shared/roster.h"
#include "shared/stats.h"
#include "worker/authorizing.h"
#include "worker/errands.h"
#include "worker/queue.h"
#include "worker/revoking.h"
#include "worker/round.h"

/* Milliseconds. */
#define MAX_SLEEP 60000
#define RETRY_WAIT 1000

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
	if (nudges & NUDGE_QUEUES)
		conduit_round.queues_at = 0;
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

/* Who is next takes the places of what was answered, which is settled with it, or else by itself. */
static void
settle_and_claim(void)
{
	if (conduit_round.pause == PAUSE_NONE)
		conduit_guarded(conduit_claim_and_send, "claiming");
	else
		conduit_queue_finish_waiting(conduit_pause_answer());
	conduit_guarded(conduit_settle_answers, "settling");
}

/* Whether it is time to look for what may be moved or is due. */
static bool
look_wanted(void)
{
	TimestampTz now = GetCurrentTimestamp();

	return (conduit_round.parked > 0 && conduit_round.parked_at <= now) ||
		conduit_round.errands_parked_at <= now || conduit_scan_wanted(now);
}

/* What was answered goes first: that is neither to wait for a look nor to be lost to its error. */
static void
look(void)
{
	conduit_guarded(conduit_settle_answers, "settling");
	if (conduit_round.parked > 0 && conduit_round.parked_at <= GetCurrentTimestamp())
		conduit_guarded(conduit_move_parked, "moving parked replies");
	if (conduit_round.errands_parked_at <= GetCurrentTimestamp())
		conduit_guarded(conduit_authorizing_settle_parked, "moving parked authorizations");
	if (conduit_scan_wanted(GetCurrentTimestamp()))
		conduit_guarded(conduit_scan_due, "looking for due credentials");
}

static void
play_round(void)
{
	conduit_take_requests();
	conduit_guarded(conduit_receive_answers, "reading replies");
	if (look_wanted())
		look();
	settle_and_claim();
	if (conduit_revoking_next() <= GetCurrentTimestamp())
		conduit_guarded(conduit_revoking_look, "looking for revocations");
	conduit_guarded(conduit_errands_start, "starting errands");
	conduit_guarded(conduit_tend_alerts, "telling of connectors");
	if (conduit_round.tell)
		conduit_guarded(conduit_tell, "numbering events");
	if (conduit_round.housekeeping_at <= GetCurrentTimestamp())
		conduit_guarded(conduit_keep_house, "keeping house");
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
	if (conduit_round.check)
		sleep = least(sleep, conduit_round.check_at);
	if (conduit_round.settle_failed)
		sleep = least(sleep, conduit_round.settle_at);
	sleep = least(sleep, conduit_errands_next());
	sleep = least(sleep, conduit_revoking_next());
	sleep = least(sleep, conduit_round.errands_parked_at);
	if (conduit_round.pause == PAUSE_NONE && !conduit_round.settle_failed &&
		conduit_queue_waiting_unasked() < CONDUIT_MAX_QUEUED)
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

/*
 * A descriptor or memory may be wanting just to wait: that must not end a
 * worker that has replies in its memory.
 */
void
conduit_round_wait(long timeout)
{
	static uint32 wait_event = 0;

	PG_TRY();
	{
		(void) WaitLatchOrSocket(MyLatch,
								 WL_LATCH_SET | WL_SOCKET_READABLE | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
								 conduit_http_descriptor(), timeout,
								 conduit_wait_event(&wait_event, "ConduitWorkerMain"));
	}
	PG_CATCH();
	{
		conduit_round_recover("waiting");
		pg_usleep(RETRY_WAIT * 1000L);
	}
	PG_END_TRY();
}

/* Refreshes and calls have conduit.max_in_flight places each, errands theirs beside them. */
static void
expect_transfers(void)
{
	conduit_http_expect(2 * conduit_max_in_flight + conduit_errands_places());
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
	expect_transfers();
}

/* ---- the start ---- */

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
	conduit_round_start_up();
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(MyBgworkerEntry->bgw_main_arg), InvalidOid, 0);
	pin_settings();

	before_shmem_exit(clean_up, (Datum) 0);
	if (!conduit_roster_arrive(MyDatabaseId, ticket))
		leave_for_good();

	protect_memory();
	conduit_guarded(conduit_check, "checking");
	if (conduit_round.absent)
		leave_for_good();
	pgstat_report_appname("conduit worker");
	conduit_stats_clear_in_flight();
	conduit_http_start_up();
	expect_transfers();
	conduit_queue_start();
	conduit_refresh_set_incarnation();
	conduit_round.housekeeping_at = conduit_real_time_in(CONDUIT_HOUSEKEEPING_EVERY);
	conduit_take_up_alerts();
	find_work_left_behind();
	conduit_authorizing_start();
}

void
conduit_worker_main(Datum arg)
{
	uint64		ticket;

	memcpy(&ticket, MyBgworkerEntry->bgw_extra, sizeof(ticket));
	start_up(ticket);

	while (!conduit_should_leave())
	{
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
			reload();

		MemoryContextSwitchTo(conduit_round_context);
		take_nudges();
		if (conduit_round.check && conduit_round.check_at <= GetCurrentTimestamp())
			conduit_guarded(conduit_check, "checking");
		if (conduit_round.absent)
			leave_for_good();
		play_round();
		MemoryContextReset(conduit_round_context);

		if (!conduit_should_leave())
			conduit_round_wait(sleep_time());
	}
	conduit_drain();
	proc_exit(0);
}
