/*-------------------------------------------------------------------------
 *
 * flight.c
 *	  Requests for refreshes and the backends that wait for them.
 *
 *-------------------------------------------------------------------------
 */
#include "shared/flight.h"

#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"

#include "shared/area.h"
#include "shared/roster.h"

typedef enum SlotState
{
	SLOT_IDLE,
	SLOT_POSTED,
	SLOT_TAKEN,
	SLOT_ANSWERED
} SlotState;

typedef struct FlightSlot
{
	SlotState	state;
	uint32		serial;
	Oid			database;
	FlightRequest request;
	int			flights;		/* of a batch, not over yet */
	int			refreshed;
	RequestAnswer answer;
} FlightSlot;

static FlightSlot *slots = NULL;
static bool posted = false;

Size
conduit_flight_size(void)
{
	return mul_size(MaxBackends, sizeof(FlightSlot));
}

void
conduit_flight_attach(void *memory, bool initialise)
{
	slots = memory;
	posted = false;
	if (initialise)
		memset(memory, 0, conduit_flight_size());
}

static void
lock_slots(void)
{
	LWLockAcquire(conduit_area_lock(CONDUIT_LOCK_ROSTER), LW_EXCLUSIVE);
}

static void
unlock_slots(void)
{
	LWLockRelease(conduit_area_lock(CONDUIT_LOCK_ROSTER));
}

void
conduit_flight_post(const FlightRequest *request)
{
	FlightSlot *slot = &slots[conduit_my_proc_number()];
	bool		has_worker;

	lock_slots();
	slot->state = SLOT_POSTED;
	slot->serial++;
	slot->database = MyDatabaseId;
	slot->request = *request;
	slot->flights = 0;
	slot->refreshed = 0;
	slot->answer = ANSWER_NONE;
	has_worker = conduit_roster_nudge_locked(MyDatabaseId, NUDGE_REQUEST);
	unlock_slots();
	posted = true;

	/* A worker that comes now finds the slot: the caller just waits longer. */
	if (!has_worker)
		conduit_roster_message(MyDatabaseId);
}

RequestAnswer
conduit_flight_answer(int *count)
{
	FlightSlot *slot = &slots[conduit_my_proc_number()];
	RequestAnswer answer;

	lock_slots();
	answer = slot->state == SLOT_ANSWERED ? slot->answer : ANSWER_NONE;
	*count = slot->refreshed;
	unlock_slots();
	return answer;
}

void
conduit_flight_give_up(void)
{
	if (!posted)
		return;
	lock_slots();
	slots[conduit_my_proc_number()].state = SLOT_IDLE;
	slots[conduit_my_proc_number()].serial++;
	unlock_slots();
	posted = false;
}

bool
conduit_flight_take(Oid database, FlightRequest *request, FlightWaiter *waiter)
{
	bool		found = false;

	lock_slots();
	for (int i = 0; i < MaxBackends && !found; i++)
	{
		FlightSlot *slot = &slots[i];

		if (slot->state != SLOT_POSTED || slot->database != database)
			continue;
		slot->state = SLOT_TAKEN;
		*request = slot->request;
		waiter->procno = i;
		waiter->serial = slot->serial;
		found = true;
	}
	unlock_slots();
	return found;
}

/* The waiter's slot if its request is still the one that was taken, else NULL. */
static FlightSlot *
waiting_slot(FlightWaiter waiter)
{
	FlightSlot *slot = &slots[waiter.procno];

	return slot->state == SLOT_TAKEN && slot->serial == waiter.serial ? slot : NULL;
}

static void
answer_slot(FlightSlot *slot, RequestAnswer answer)
{
	slot->state = SLOT_ANSWERED;
	slot->answer = answer;
	SetLatch(&GetPGProcByNumber(slot - slots)->procLatch);
}

void
conduit_flight_reply(FlightWaiter waiter, RequestAnswer answer)
{
	FlightSlot *slot;

	lock_slots();
	slot = waiting_slot(waiter);
	if (slot != NULL)
		answer_slot(slot, answer);
	unlock_slots();
}

/* conduit_flight_begin_batch answers at once when there is nothing to do. */
void
conduit_flight_begin_batch(FlightWaiter waiter, int flights)
{
	FlightSlot *slot;

	lock_slots();
	slot = waiting_slot(waiter);
	if (slot != NULL)
	{
		slot->flights = flights;
		if (flights == 0)
			answer_slot(slot, ANSWER_DONE);
	}
	unlock_slots();
}

void
conduit_flight_count_down(FlightWaiter waiter, bool refreshed)
{
	FlightSlot *slot;

	lock_slots();
	slot = waiting_slot(waiter);
	if (slot != NULL)
	{
		if (refreshed)
			slot->refreshed++;
		if (--slot->flights == 0)
			answer_slot(slot, ANSWER_DONE);
	}
	unlock_slots();
}

bool
conduit_flight_still_waiting(FlightWaiter waiter)
{
	bool		waiting;

	lock_slots();
	waiting = waiting_slot(waiter) != NULL;
	unlock_slots();
	return waiting;
}

/* What a call was taken for may have been done; all else is told from the tables. */
static RequestAnswer
gone_answer(const FlightSlot *slot)
{
	return slot->state == SLOT_TAKEN && slot->request.kind == REQUEST_CALL ? ANSWER_LOST : ANSWER_GONE;
}

void
conduit_flight_worker_gone_locked(Oid database)
{
	for (int i = 0; i < MaxBackends; i++)
	{
		FlightSlot *slot = &slots[i];

		if (slot->database == database &&
			(slot->state == SLOT_POSTED || slot->state == SLOT_TAKEN))
			answer_slot(slot, gone_answer(slot));
	}
}
