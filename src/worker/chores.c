/*-------------------------------------------------------------------------
 *
 * chores.c
 *	  What a worker does beside refreshing: it numbers and announces events, tells
 *	  what is wrong with a connector, and keeps house.
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
#include "lifecycle/alert.h"
#include "lifecycle/breaker.h"
#include "lifecycle/catalogue.h"
#include "lifecycle/authorize.h"
#include "lifecycle/due.h"
#include "lifecycle/event.h"
#include "lifecycle/key.h"
#include "lifecycle/store.h"
#include "lifecycle/storm.h"
#include "worker/errands.h"
#include "worker/queue.h"

/* Milliseconds from a failure to write alerts to the next try. */
#define RETRY_ALERTS 1000

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

/* What a former worker has told of, and no worker the end of. */
void
conduit_take_up_alerts(void)
{
	OpenAlert  *alerts;
	StoreScope	scope;
	int			n;

	conduit_round_begin();
	conduit_store_begin(&scope);
	n = conduit_alert_load(&alerts);
	for (int i = 0; i < n; i++)
		if (alerts[i].kind == ALERT_STORM)
			conduit_storm_resume(alerts[i].connector, alerts[i].since);
	conduit_store_end(&scope);
	conduit_round_commit();
}

/* Alerts are written down, and who was kept back is due again: a batch a round. */
static void
write_alerts(void)
{
	bool		releasing = conduit_breaker_has_released();
	StoreScope	scope;
	int			n = 0;

	conduit_round_begin();
	conduit_store_begin(&scope);
	if (conduit_alert_pending())
		conduit_alert_write();
	if (releasing)
		n = conduit_breaker_release();
	conduit_store_end(&scope);
	conduit_round_commit();
	conduit_alert_written();
	if (releasing && n == 0)
		conduit_breaker_released();
}

void
conduit_tend_alerts(void)
{
	conduit_storm_watch();
	if (!conduit_alert_pending() && !conduit_breaker_has_released())
		return;
	if (conduit_round.alerts_at > GetCurrentTimestamp())
		return;
	conduit_round.alerts_at = conduit_real_time_in(RETRY_ALERTS);
	write_alerts();
	conduit_round.alerts_at = 0;
	conduit_round.tell = true;
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
	conduit_round.queues_at = 0;
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
