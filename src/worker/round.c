/*-------------------------------------------------------------------------
 *
 * round.c
 *	  A worker's transactions, the signals that may interrupt them, and how an
 *	  error ends a step but not the worker.
 *
 *-------------------------------------------------------------------------
 */

#include "worker/round.h"

#include "access/xact.h"
#include "libpq/pqsignal.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

WorkerRound conduit_round;
MemoryContext conduit_round_context;

static volatile sig_atomic_t in_transaction = false;
static volatile sig_atomic_t cut_short = false;	/* the last one, by a signal */

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
		cut_short = true;
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
		cut_short = true;
		QueryCancelPending = true;
		InterruptPending = true;
	}
	SetLatch(MyLatch);
	errno = save_errno;
}

void
conduit_round_start_up(void)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, handle_sigterm);
	pqsignal(SIGINT, handle_sigint);
	conduit_round_context = AllocSetContextCreate(TopMemoryContext, "conduit round", ALLOCSET_DEFAULT_SIZES);
	conduit_round.check = conduit_round.tell = true;
	conduit_round.next_due = conduit_round.scanned_to.refresh_at = DT_NOBEGIN;
}

void
conduit_round_begin(void)
{
	QueryCancelPending = false;
	cut_short = false;
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

/*
 * What a commit waits for is that a synchronous standby has it, where there is
 * one.  A signal ends that wait, and a worker that is to stop has none.
 */
bool
conduit_round_waited(void)
{
	return !cut_short && !ShutdownRequestPending;
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

TimestampTz
conduit_real_time_in(int milliseconds)
{
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), milliseconds);
}
