/*-------------------------------------------------------------------------
 *
 * roster.c
 *	  Which database has a worker, and how to reach it.
 *
 *-------------------------------------------------------------------------
 */
#include "shared/roster.h"

#include "postmaster/bgworker_internals.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"

#include "shared/area.h"
#include "shared/flight.h"

/*
 * Messages beyond this many wait as one bit: look at all databases.
 */
#define MAX_MESSAGES 64

/* Some databases, at most so many: others are treated as the common case. */
#define MAX_SOME 32

typedef struct SomeDatabases
{
	int			n;
	Oid			oids[MAX_SOME];
} SomeDatabases;

typedef struct RosterEntry
{
	RosterState state;
	Oid			database;
	uint64		ticket;
	pid_t		pid;
	int			procno;
	RosterLeave leave;
	uint32		nudges;
	TimestampTz earliest_due;	/* DT_NOEND: none */
	RosterReport report;
} RosterEntry;

typedef struct Roster
{
	pid_t		launcher_pid;
	int			launcher_procno;
	uint64		next_ticket;
	int			nmessages;
	bool		look_at_all;
	Oid			messages[MAX_MESSAGES];
	SomeDatabases no_slot;		/* no worker could be started */
	SomeDatabases failed;		/* the worker ended by an error */
	int			nentries;
	int			nholds;
	RosterEntry entries[FLEXIBLE_ARRAY_MEMBER];
} Roster;

/* One per process, indexed by proc number, behind the entries. */
typedef struct RosterHold
{
	Oid			database;
} RosterHold;

static Roster *roster = NULL;
static RosterHold *holds = NULL;
static RosterEntry *my_entry = NULL;	/* in a worker */

/* A worker needs one of these slots, so there are never more entries. */
static int
entry_count(void)
{
	return max_worker_processes;
}

static Size
entries_size(void)
{
	return MAXALIGN(add_size(offsetof(Roster, entries),
							 mul_size(entry_count(), sizeof(RosterEntry))));
}

Size
conduit_roster_size(void)
{
	return add_size(entries_size(), mul_size(MaxBackends, sizeof(RosterHold)));
}

void
conduit_roster_attach(void *memory, bool initialise)
{
	roster = memory;
	holds = (RosterHold *) ((char *) memory + entries_size());
	my_entry = NULL;
	if (!initialise)
		return;

	memset(memory, 0, conduit_roster_size());
	roster->nentries = entry_count();
	roster->nholds = MaxBackends;
	roster->next_ticket = 1;
	roster->look_at_all = true;
}

static void
lock_roster(void)
{
	LWLockAcquire(conduit_area_lock(CONDUIT_LOCK_ROSTER), LW_EXCLUSIVE);
}

static void
unlock_roster(void)
{
	LWLockRelease(conduit_area_lock(CONDUIT_LOCK_ROSTER));
}

static RosterEntry *
find_entry(Oid database)
{
	for (int i = 0; i < roster->nentries; i++)
		if (roster->entries[i].state != ROSTER_FREE &&
			roster->entries[i].database == database)
			return &roster->entries[i];
	return NULL;
}

static bool
is_one_of(const SomeDatabases *some, Oid database)
{
	for (int i = 0; i < some->n; i++)
		if (some->oids[i] == database)
			return true;
	return false;
}

static void
make_one_of(SomeDatabases *some, Oid database, bool one)
{
	int			i = 0;

	while (i < some->n && some->oids[i] != database)
		i++;
	if (one && i == some->n && i < MAX_SOME)
		some->oids[some->n++] = database;
	else if (!one && i < some->n)
		some->oids[i] = some->oids[--some->n];
}

static bool
is_held(Oid database)
{
	for (int i = 0; i < roster->nholds; i++)
		if (holds[i].database == database)
			return true;
	return false;
}

/* A latch of a process that has exited since is set in vain: harmless. */
static void
wake(int procno)
{
	SetLatch(&GetPGProcByNumber(procno)->procLatch);
}

static void
wake_launcher(void)
{
	if (roster->launcher_pid != 0)
		wake(roster->launcher_procno);
}

static void
wake_holders(Oid database)
{
	for (int i = 0; i < roster->nholds; i++)
		if (holds[i].database == database)
			wake(i);
}

static void
free_entry(RosterEntry *entry)
{
	Oid			database = entry->database;

	memset(entry, 0, sizeof(*entry));
	wake_holders(database);
	wake_launcher();
}

void
conduit_roster_launcher_arrived(void)
{
	lock_roster();
	roster->launcher_pid = MyProcPid;
	roster->launcher_procno = conduit_my_proc_number();
	roster->look_at_all = true;
	roster->no_slot.n = roster->failed.n = 0;

	/*
	 * A former launcher's starts are nobody's now: without their entry the
	 * workers leave, should they still come.
	 */
	for (int i = 0; i < roster->nentries; i++)
		if (roster->entries[i].state == ROSTER_STARTING)
			free_entry(&roster->entries[i]);
	unlock_roster();
}

void
conduit_roster_launcher_left(void)
{
	lock_roster();
	if (roster->launcher_pid == MyProcPid)
		roster->launcher_pid = 0;
	unlock_roster();
}

bool
conduit_roster_launcher_running(void)
{
	bool		running;

	lock_roster();
	running = roster->launcher_pid != 0;
	unlock_roster();
	return running;
}

/*
 * conduit_roster_take_messages copies the databases that somebody asked to
 * look at and returns true if all of them should be.
 */
bool
conduit_roster_take_messages(Oid *databases, int capacity, int *count)
{
	bool		look_at_all;

	lock_roster();
	*count = Min(roster->nmessages, capacity);
	memcpy(databases, roster->messages, *count * sizeof(Oid));
	look_at_all = roster->look_at_all || roster->nmessages > capacity;
	roster->nmessages = 0;
	roster->look_at_all = false;
	unlock_roster();
	return look_at_all;
}

/*
 * conduit_roster_begin_start makes an entry for a worker about to be started.
 * False if the database has one, is held, or no entry is free.
 */
bool
conduit_roster_begin_start(Oid database, uint64 *ticket)
{
	bool		made = false;

	lock_roster();
	if (find_entry(database) == NULL && !is_held(database))
	{
		for (int i = 0; i < roster->nentries && !made; i++)
		{
			RosterEntry *entry = &roster->entries[i];

			if (entry->state != ROSTER_FREE)
				continue;
			entry->state = ROSTER_STARTING;
			entry->database = database;
			entry->ticket = *ticket = roster->next_ticket++;
			entry->earliest_due = DT_NOEND;
			made = true;
		}
	}
	unlock_roster();
	return made;
}

/* conduit_roster_start_failed frees the entry of a worker that never came. */
void
conduit_roster_start_failed(Oid database, uint64 ticket)
{
	RosterEntry *entry;

	lock_roster();
	entry = find_entry(database);
	if (entry != NULL && entry->state == ROSTER_STARTING && entry->ticket == ticket)
	{
		make_one_of(&roster->failed, database, true);
		free_entry(entry);
	}
	unlock_roster();
}

/* conduit_roster_set_no_slot remembers whether a slot was wanting when a worker was to be started. */
void
conduit_roster_set_no_slot(Oid database, bool no_slot)
{
	lock_roster();
	make_one_of(&roster->no_slot, database, no_slot);
	if (no_slot)
		conduit_flight_worker_gone_locked(database);
	unlock_roster();
}

bool
conduit_roster_no_slot(Oid database)
{
	bool		found;

	lock_roster();
	found = is_one_of(&roster->no_slot, database);
	unlock_roster();
	return found;
}

/* conduit_roster_take_failure tells, once, whether the database's last worker ended by an error. */
bool
conduit_roster_take_failure(Oid database)
{
	bool		found;

	lock_roster();
	found = is_one_of(&roster->failed, database);
	make_one_of(&roster->failed, database, false);
	unlock_roster();
	return found;
}

/* conduit_roster_known tells whether the database has an entry or is held. */
bool
conduit_roster_known(Oid database)
{
	bool		known;

	lock_roster();
	known = find_entry(database) != NULL || is_held(database);
	unlock_roster();
	return known;
}

/*
 * conduit_roster_arrive takes the entry made for this worker; false if it is
 * not there any more: then the worker has to go.
 */
bool
conduit_roster_arrive(Oid database, uint64 ticket)
{
	RosterEntry *entry;

	lock_roster();
	entry = find_entry(database);
	if (entry != NULL && entry->state == ROSTER_STARTING && entry->ticket == ticket)
	{
		entry->state = ROSTER_RUNNING;
		entry->pid = MyProcPid;
		entry->procno = conduit_my_proc_number();
		entry->nudges |= NUDGE_REQUEST | NUDGE_EVENTS | NUDGE_DUE | NUDGE_CHECK;
		if (is_held(database) && entry->leave == ROSTER_STAY)
			entry->leave = ROSTER_LEAVE_NOW;
		my_entry = entry;
	}
	unlock_roster();
	return my_entry != NULL;
}

/* conduit_roster_leave clears the worker's entry and answers who still waits. */
void
conduit_roster_leave(bool failed)
{
	if (my_entry == NULL)
		return;
	lock_roster();
	make_one_of(&roster->failed, my_entry->database, failed);
	conduit_flight_worker_gone_locked(my_entry->database);
	free_entry(my_entry);
	my_entry = NULL;
	unlock_roster();
}

RosterLeave
conduit_roster_told_to_leave(void)
{
	RosterLeave leave;

	lock_roster();
	leave = my_entry->leave;
	unlock_roster();
	return leave;
}

uint32
conduit_roster_take_nudges(TimestampTz *earliest_due)
{
	uint32		nudges;

	lock_roster();
	nudges = my_entry->nudges;
	*earliest_due = my_entry->earliest_due;
	my_entry->nudges = 0;
	my_entry->earliest_due = DT_NOEND;
	unlock_roster();
	return nudges;
}

void
conduit_roster_report(const RosterReport *report)
{
	lock_roster();
	my_entry->report = *report;
	unlock_roster();
}

/* conduit_roster_view copies what is known of a database's worker; false if nothing. */
bool
conduit_roster_view(Oid database, RosterView *view)
{
	RosterEntry *entry;

	memset(view, 0, sizeof(*view));
	lock_roster();
	entry = find_entry(database);
	if (entry != NULL)
	{
		view->state = entry->state;
		view->pid = entry->pid;
		view->report = entry->report;
	}
	unlock_roster();
	return view->state != ROSTER_FREE;
}

bool
conduit_roster_nudge_locked(Oid database, uint32 what)
{
	RosterEntry *entry = find_entry(database);

	if (entry == NULL)
		return false;
	entry->nudges |= what;
	if (entry->state == ROSTER_RUNNING)
		wake(entry->procno);
	return true;
}

/*
 * conduit_roster_nudge wakes the database's worker; earliest_due goes with
 * NUDGE_DUE.  False if there is none: then a message would help.
 */
bool
conduit_roster_nudge(Oid database, uint32 what, TimestampTz earliest_due)
{
	bool		found;

	lock_roster();
	found = conduit_roster_nudge_locked(database, what);
	if (found && (what & NUDGE_DUE))
	{
		RosterEntry *entry = find_entry(database);

		entry->earliest_due = Min(entry->earliest_due, earliest_due);
	}
	unlock_roster();
	return found;
}

/* conduit_roster_message asks the launcher to look at a database now. */
void
conduit_roster_message(Oid database)
{
	bool		known = false;

	lock_roster();
	for (int i = 0; i < roster->nmessages; i++)
		known |= roster->messages[i] == database;
	if (!known)
	{
		if (roster->nmessages < MAX_MESSAGES)
			roster->messages[roster->nmessages++] = database;
		else
			roster->look_at_all = true;
	}
	wake_launcher();
	unlock_roster();
}

/*
 * conduit_roster_hold keeps the database free of a worker until
 * conduit_roster_release_hold.  The caller waits for the running one to leave
 * by watching conduit_roster_view; its latch is set when that happens.
 */
void
conduit_roster_hold(Oid database, RosterLeave how)
{
	RosterEntry *entry;

	lock_roster();
	holds[conduit_my_proc_number()].database = database;
	entry = find_entry(database);
	if (entry != NULL)
	{
		entry->leave = Max(entry->leave, how);
		if (entry->state == ROSTER_RUNNING)
			wake(entry->procno);
	}
	unlock_roster();
}

/* conduit_roster_release_hold lets the launcher look at the database again. */
void
conduit_roster_release_hold(void)
{
	RosterHold *hold = &holds[conduit_my_proc_number()];
	Oid			database = hold->database;

	if (!OidIsValid(database))
		return;
	lock_roster();
	hold->database = InvalidOid;
	unlock_roster();
	conduit_roster_message(database);
}
