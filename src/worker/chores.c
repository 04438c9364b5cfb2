/*-------------------------------------------------------------------------
 *
 * chores.c
 *	  What a worker does beside refreshing: it numbers and announces events, and
 *	  keeps house.
 *
 *-------------------------------------------------------------------------
 */

#include "worker/round.h"

#include "postmaster/interrupt.h"
#include "utils/timestamp.h"

#include "base/clock.h"
#include "base/settings.h"
#include "door/api_key.h"
#include "door/deprovision.h"
#include "door/session.h"
#include "lifecycle/catalogue.h"
#include "lifecycle/authorize.h"
#include "lifecycle/due.h"
#include "lifecycle/event.h"
#include "lifecycle/key.h"
#include "worker/errands.h"
#include "worker/queue.h"

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
void
conduit_tell(void)
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

/*
 * Batches of a chore, each in a transaction of its own, until there is nothing
 * left; how many in all.  One that fails, for the sake of a locked table, say,
 * keeps no other.
 */
static int
do_in_batches(int (*chore) (void), const char *what)
{
	volatile int all = 0;

	PG_TRY();
	{
		int			n;

		do
		{
			conduit_round_begin();
			n = chore();
			conduit_round_commit();
			all += n;
		} while (n > 0 && !ShutdownRequestPending);
	}
	PG_CATCH();
	{
		conduit_round_recover(what);
	}
	PG_END_TRY();
	return all;
}

static int
flush_wraps(void)
{
	conduit_key_flush_wraps();
	return 0;
}

void
conduit_keep_house(void)
{
	conduit_round.housekeeping_at = conduit_real_time_in(CONDUIT_HOUSEKEEPING_EVERY);
	conduit_round.check = true;
	conduit_round.tell = true;
	conduit_round.next_due = Min(conduit_round.next_due, conduit_now());

	(void) do_in_batches(flush_wraps, "counting wraps");
	if (do_in_batches(conduit_due_write_last_use, "writing uses") > 0 && conduit_refresh_idle > 0)
		conduit_round.full_scan_at = 0; /* some may be due again */
	(void) do_in_batches(conduit_api_key_write_uses, "writing uses of API keys");
	(void) do_in_batches(conduit_session_write_uses, "writing uses of sessions");
	(void) do_in_batches(conduit_session_purge, "removing sessions");
	(void) do_in_batches(conduit_deprovision, "destroying a tenant");
	(void) do_in_batches(conduit_event_purge, "removing events");
	(void) do_in_batches(conduit_authorize_purge, "removing authorizations");
	if (conduit_queue_flying() == 0 && conduit_errands_under_way() == 0)
		conduit_catalogue_release();
}
