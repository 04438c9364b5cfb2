/*-------------------------------------------------------------------------
 *
 * roster.h
 *	  Which database has a worker, and how to reach it.
 *
 * Wording:
 *	   - An entry belongs to one database.  The launcher makes it (STARTING)
 *		 with a ticket; the worker that shows this ticket takes it (RUNNING)
 *		 and clears it when it exits.  So no database ever has two workers.
 *	   - A hold, placed by a backend for the time of a utility command, keeps
 *		 the launcher from starting a worker for a database and makes the
 *		 running one leave.
 *	   - A message asks the launcher to look at a database now.
 *	   - A nudge tells a worker that there is something to look for.  Messages
 *		 and nudges are hints: work is found without them, only later.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_ROSTER_H
#define CONDUIT_ROSTER_H

#include "base/compat.h"
#include "datatype/timestamp.h"

typedef enum RosterState
{
	ROSTER_FREE,
	ROSTER_STARTING,
	ROSTER_RUNNING
} RosterState;

typedef enum RosterLeave
{
	ROSTER_STAY,
	ROSTER_DRAIN,				/* give requests already sent the usual grace */
	ROSTER_LEAVE_NOW
} RosterLeave;

/* Why the worker does not refresh, as its callers and conduit_health() see it. */
typedef enum RosterPause
{
	PAUSE_NONE,
	PAUSE_DISABLED,				/* conduit.refresh_enabled is off */
	PAUSE_NOT_ADOPTED,			/* identity unknown or another one */
	PAUSE_VAULT_LOCKED
} RosterPause;

/* What a nudge asks the worker to look for. */
#define NUDGE_REQUEST	0x01	/* a request slot was filled */
#define NUDGE_EVENTS	0x02	/* events without a number */
#define NUDGE_DUE		0x04	/* an earlier refresh_at was committed */
#define NUDGE_CHECK		0x08	/* the extension, its settings or identity may have changed */
#define NUDGE_QUEUES	0x20	/* work was queued in a table */
#define NUDGE_RESTART	0x10	/* settings that a process reads at its start did */

/* What a worker says of itself, and what others may read of it. */
typedef struct RosterReport
{
	RosterPause pause;
	int			in_flight;
	int			queued;
	int			parked;
	TimestampTz last_round;
	TimestampTz last_full_scan;
} RosterReport;

typedef struct RosterView
{
	RosterState state;
	pid_t		pid;
	RosterReport report;
} RosterView;

extern Size conduit_roster_size(void);
extern void conduit_roster_attach(void *memory, bool initialise);

/* For the launcher. */
extern void conduit_roster_launcher_arrived(void);
extern void conduit_roster_launcher_left(void);
extern bool conduit_roster_take_messages(Oid *databases, int capacity, int *count);
extern bool conduit_roster_begin_start(Oid database, uint64 *ticket);
extern void conduit_roster_start_failed(Oid database, uint64 ticket);
extern void conduit_roster_set_no_slot(Oid database, bool no_slot);
extern bool conduit_roster_known(Oid database);

/* For a worker. */
extern bool conduit_roster_arrive(Oid database, uint64 ticket);
extern void conduit_roster_leave(bool failed);
extern RosterLeave conduit_roster_told_to_leave(void);
extern uint32 conduit_roster_take_nudges(TimestampTz *earliest_due);
extern void conduit_roster_report(const RosterReport *report);

/* For everybody. */
extern bool conduit_roster_launcher_running(void);
extern bool conduit_roster_view(Oid database, RosterView *view);
extern bool conduit_roster_no_slot(Oid database);
extern bool conduit_roster_take_failure(Oid database);
extern bool conduit_roster_nudge(Oid database, uint32 what, TimestampTz earliest_due);
extern void conduit_roster_message(Oid database);
extern void conduit_roster_hold(Oid database, RosterLeave how);
extern void conduit_roster_release_hold(void);

/* With CONDUIT_LOCK_ROSTER held: nudge the database's worker if it has one. */
extern bool conduit_roster_nudge_locked(Oid database, uint32 what);

#endif							/* CONDUIT_ROSTER_H */
