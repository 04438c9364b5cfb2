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

/* Batches of a chore, each in a transaction of its own, until there is nothing left; how many in all. */
static int
do_in_batches(int (*chore) (void))
{
	int			all = 0;
	int			n;

	do
	{
		conduit_round_begin();
		n = chore();
		conduit_round_commit();
		all += n;
	} while (n > 0 && !ShutdownRequestPending);
	return all;
}

void
conduit_keep_house(void)
{
	conduit_round.housekeeping_at = conduit_real_time_in(CONDUIT_HOUSEKEEPING_EVERY);
	conduit_round.check = true;
	conduit_round.tell = true;
	conduit_round.next_due = Min(conduit_round.next_due, conduit_now());

	conduit_round_begin();
	conduit_key_flush_wraps();
	conduit_round_commit();
	if (do_in_batches(conduit_due_write_last_use) > 0 && conduit_refresh_idle > 0)
		conduit_round.full_scan_at = 0; /* some may be due again */
	(void) do_in_batches(conduit_api_key_write_uses);
	(void) do_in_batches(conduit_session_write_uses);
	(void) do_in_batches(conduit_session_purge);
	(void) do_in_batches(conduit_deprovision);
	(void) do_in_batches(conduit_event_purge);
	(void) do_in_batches(conduit_authorize_purge);
	if (conduit_queue_flying() == 0 && conduit_errands_under_way() == 0)
		conduit_catalogue_release();
}
