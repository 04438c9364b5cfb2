/*-------------------------------------------------------------------------
 *
 * landing.c
 *	  What follows a provider's answer: settle it, park it, move what is parked.
 *
 *-------------------------------------------------------------------------
 */
#include "worker/round.h"

#include "utils/memutils.h"

#include "lifecycle/breaker.h"
#include "lifecycle/store.h"
#include "lifecycle/storm.h"
#include "provider/http.h"
#include "shared/stats.h"
#include "worker/api_calls.h"
#include "worker/errands.h"
#include "worker/queue.h"

/* Milliseconds. */
#define LAST_RETRY_PARKED 30000
#define RETRY_SETTLE 1000
#define LAST_RETRY_SETTLE 30000

#define PARKED_BATCH 256

/*
 * Requests that were sent together are answered together where the provider
 * takes its time, and while all of them are settled no place in flight is used.
 * A few at a time they soon come one after another.  Seconds.
 */
#define LONG_ANSWER 0.02
#define LONG_ANSWERS_BATCH 4
#define LONG_ANSWERS_PART 4			/* or such a part of them, where each commit takes long */

static void
finish_flight(RefreshFlight *flight, SettleResult result)
{
	Task	   *task = flight->owner;
	OutcomeClass outcome = flight->outcome.outcome;

	conduit_breaker_note(flight);
	conduit_stats_add(flight->place.connector, STATS_REFRESHED + outcome, 1);
	if (result == SETTLE_PARKED)
	{
		conduit_round.parked++;
		conduit_round.parked_delay = 0;
		conduit_round.parked_at = conduit_real_time_in(CONDUIT_RETRY_PARKED);
	}
	if (outcome == OUTCOME_DEAD)
		conduit_round.tell = true;
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

void
conduit_settlement_begin(Settlement *settlement)
{
	for (int i = 0; i < settlement->n; i++)
	{
		settlement->flights[i] = list_nth(conduit_round.unsettled, i);
		seal_or_raise(settlement->flights[i]);
	}
}

void
conduit_settlement_write(Settlement *settlement)
{
	conduit_refresh_settle(settlement->flights, settlement->n, settlement->results);
}

void
conduit_settlement_end(Settlement *settlement)
{
	for (int i = 0; i < settlement->n; i++)
	{
		conduit_round.unsettled = list_delete_first(conduit_round.unsettled);
		finish_flight(settlement->flights[i], settlement->results[i]);
	}
}

int
conduit_settlement_size(void)
{
	int			n = Min(CONDUIT_ROUND_BATCH, list_length(conduit_round.unsettled));

	for (int i = 0; i < n; i++)
	{
		RefreshFlight *flight = list_nth(conduit_round.unsettled, i);

		if (flight->outcome.seconds < LONG_ANSWER)
			return n;
	}
	return Min(n, Max(LONG_ANSWERS_BATCH, list_length(conduit_round.unsettled) / LONG_ANSWERS_PART));
}

/* Seal, then settle up to n flights from the head of the list in one transaction. */
static void
settle_together(int n)
{
	Settlement	settlement = {.n = n};
	StoreScope	scope;

	conduit_round_begin();
	conduit_settlement_begin(&settlement);
	conduit_store_begin(&scope);
	conduit_settlement_write(&settlement);
	conduit_store_end(&scope);
	conduit_round_commit();
	conduit_settlement_end(&settlement);
}

/* The head of the list resists: keep it at least where a crash cannot lose it. */
static void
park_head(int n)
{
	RefreshFlight *flight = linitial(conduit_round.unsettled);
	StoreScope	scope;

	conduit_round_begin();
	seal_or_raise(flight);
	conduit_store_begin(&scope);
	conduit_refresh_park(flight);
	conduit_store_end(&scope);
	conduit_round_commit();
	finish_flight(flight, SETTLE_PARKED);
	conduit_round.unsettled = list_delete_first(conduit_round.unsettled);
}

typedef void (*SettleStep) (int n);

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
		conduit_round_recover(what);
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

	if (conduit_round.unsettled == NIL || conduit_round.settle_at > GetCurrentTimestamp())
		return;
	while (conduit_round.unsettled != NIL)
	{
		int			n = alone ? 1 : Min(CONDUIT_ROUND_BATCH, list_length(conduit_round.unsettled));

		if (try_settle(settle_together, n, "settling"))
			continue;
		if (n > 1)
			alone = true;
		else if (!try_settle(park_head, 1, "parking"))
		{
			conduit_round.settle_failed = true;
			conduit_round.settle_delay = Max(RETRY_SETTLE, Min(conduit_round.settle_delay * 2, LAST_RETRY_SETTLE));
			conduit_round.settle_at = conduit_real_time_in(conduit_round.settle_delay);
			return;
		}
	}
	conduit_round.settle_failed = false;
	conduit_round.settle_delay = 0;
}

void
conduit_add_unsettled(RefreshFlight *flight)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	conduit_round.unsettled = lappend(conduit_round.unsettled, flight);
	MemoryContextSwitchTo(old);
	conduit_queue_land(flight->owner);
}

/*
 * Send or receive; what fails for want of memory, say, must not leave a flight
 * behind that nobody looks after: it is in doubt, or was never sent.
 */
bool
conduit_try_flight(bool (*step) (RefreshFlight *), RefreshFlight *flight, const char *what)
{
	volatile bool result = false;

	PG_TRY();
	{
		result = step(flight);
	}
	PG_CATCH();
	{
		conduit_round_recover(what);
		conduit_refresh_give_up(flight);
		result = step == conduit_refresh_receive;
	}
	PG_END_TRY();
	return result;
}

void
conduit_receive_answers(void)
{
	Exchange   *exchange;

	conduit_http_pump();
	while ((exchange = conduit_exchange_next_finished()) != NULL)
	{
		ExchangeOwner *owner = conduit_exchange_owner(exchange);
		RefreshFlight *flight = (RefreshFlight *) owner;

		if (owner->call)
			conduit_api_calls_receive(owner);
		else if (owner->errand)
			conduit_errands_receive((Errand *) owner);
		else if (conduit_try_flight(conduit_refresh_receive, flight, "reading a reply"))
		{
			conduit_add_unsettled(flight);
			conduit_storm_note(flight->place.connector, flight->outcome.outcome == OUTCOME_DEAD);
		}
	}
}

void
conduit_settle_answers(void)
{
	settle();
	conduit_errands_settle();
}

void
conduit_take_answers(void)
{
	conduit_receive_answers();
	conduit_settle_answers();
}

/* The parked flight that is being moved, for a step without argument. */
static RefreshFlight *parked_flight;
static bool parked_tried;
static int	parked_moved;

static void
move_one_parked(void)
{
	StoreScope	scope;
	SettleResult result;

	conduit_round_begin();
	conduit_store_begin(&scope);
	conduit_refresh_settle(&parked_flight, 1, &result);
	conduit_store_end(&scope);
	conduit_round_commit();
	parked_tried = true;
	if (result == SETTLED)
		parked_moved++;
	conduit_round.tell |= parked_flight->outcome.outcome == OUTCOME_DEAD;
}

/*
 * A page of the parked flights, each in a transaction of its own: one that
 * cannot be settled keeps no other.  But it makes the next look come later, for
 * each leaves an error in the log.
 */
void
conduit_move_parked(void)
{
	static pg_uuid_t page = {{0}};
	static bool first_page = true;
	MemoryContext context = conduit_round_context;
	List	   *flights;
	ListCell   *cell;
	StoreScope	scope;
	bool		last_page;
	bool		failed = false;

	conduit_round.parked_at = conduit_real_time_in(LAST_RETRY_PARKED);	/* if this one fails */
	conduit_round_begin();
	conduit_store_begin(&scope);
	flights = conduit_refresh_load_parked(&page, PARKED_BATCH, context);
	conduit_store_end(&scope);
	conduit_round_commit();

	parked_moved = 0;
	last_page = list_length(flights) < PARKED_BATCH;
	memset(&page, 0, sizeof(page));
	foreach(cell, flights)
	{
		parked_flight = lfirst(cell);
		if (!last_page)
			page = parked_flight->place.connection;
		parked_tried = false;
		conduit_guarded(move_one_parked, "moving a parked reply");
		failed |= !parked_tried;
	}
	conduit_round.parked_delay = failed ? Min(conduit_round.parked_delay * 2, LAST_RETRY_PARKED) : 0;
	conduit_round.parked_delay = Max(conduit_round.parked_delay, CONDUIT_RETRY_PARKED);
	conduit_round.parked_at = conduit_real_time_in(conduit_round.parked_delay);

	/* The count is a hint, but for what a whole look has found. */
	if (first_page && last_page)
		conduit_round.parked = list_length(flights) - parked_moved;
	else
		conduit_round.parked = Max(conduit_round.parked - parked_moved, 1);
	first_page = last_page;
}
