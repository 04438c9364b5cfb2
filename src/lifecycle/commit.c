/*-------------------------------------------------------------------------
 *
 * commit.c
 *	  Telling the worker, when the transaction commits, what there is to do.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/commit.h"

#include "access/xact.h"
#include "utils/timestamp.h"

#include "shared/area.h"
#include "shared/roster.h"

PG_FUNCTION_INFO_V1(conduit_announce);

static uint32 pending = 0;
static TimestampTz pending_due;
static bool pending_announcement = false;
static Oid	pending_restart = InvalidOid;	/* of the database altered last */

static void
on_transaction_end(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			if (pending != 0 &&
				!conduit_roster_nudge(MyDatabaseId, pending, pending_due))
				pending_announcement = true;
			if (pending_announcement)
				conduit_roster_message(MyDatabaseId);
			if (OidIsValid(pending_restart))
				(void) conduit_roster_nudge(pending_restart, NUDGE_RESTART, DT_NOEND);
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			break;
		default:
			return;
	}
	pending = 0;
	pending_announcement = false;
	pending_restart = InvalidOid;
}

/* Registered once a process: callbacks are never many. */
static void
watch_transactions(void)
{
	static bool watching = false;

	if (!watching)
		RegisterXactCallback(on_transaction_end, NULL);
	watching = true;
}

void
conduit_at_commit(uint32 what, TimestampTz earliest_due)
{
	if (!conduit_area_attached())
		return;
	watch_transactions();
	if (pending == 0)
		pending_due = DT_NOEND;
	pending |= what;
	pending_due = Min(pending_due, earliest_due);
}

void
conduit_restart_at_commit(Oid database)
{
	if (!conduit_area_attached())
		return;
	watch_transactions();
	pending_restart = database;
}

void
conduit_announce_at_commit(void)
{
	if (!conduit_area_attached())
		return;
	watch_transactions();
	pending_announcement = true;
}

/* conduit.announce(): for the extension script. */
Datum
conduit_announce(PG_FUNCTION_ARGS)
{
	conduit_announce_at_commit();
	PG_RETURN_VOID();
}
