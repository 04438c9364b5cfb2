/*-------------------------------------------------------------------------
 *
 * errands.c
 *	  The worker's errands: which wait, which are under way, which are over.
 *
 *-------------------------------------------------------------------------
 */
#include "worker/errands.h"

#include "postmaster/interrupt.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/settings.h"
#include "lifecycle/store.h"
#include "worker/round.h"

#define LEAST_PLACES 2

/* Milliseconds. */
#define RETRY_HELD 250
#define RETRY_SETTLE 1000
#define LAST_RETRY_SETTLE 30000

static dlist_head waiting = DLIST_STATIC_INIT(waiting);	/* those that people wait for first */
static dlist_head flying = DLIST_STATIC_INIT(flying);
static dlist_head answered = DLIST_STATIC_INIT(answered);

/* An outcome could not be committed: nothing new is claimed meanwhile. */
static bool settle_failed = false;

/* The errand and the step of its kind that is run, for what runs it. */
typedef enum Step
{
	STEP_CLAIM,
	STEP_KEEP,
	STEP_SETTLE,
	STEP_PARK,
	STEP_WITHDRAW
} Step;

int
conduit_errands_places(void)
{
	return Max(LEAST_PLACES, conduit_max_in_flight / 4);
}

/* ---- who waits ---- */

/* Who has left must not keep a mailbox here, for there can be any number of them. */
static void
forget_left(dlist_head *list)
{
	dlist_iter	iter;

	dlist_foreach(iter, list)
	{
		Errand	   *errand = dlist_container(Errand, node, iter.cur);
		ListCell   *cell;

		foreach(cell, errand->waiters)
		{
			Mail	   *mail = lfirst(cell);

			if (conduit_flight_still_waiting(mail->waiter))
				continue;
			errand->waiters = foreach_delete_current(errand->waiters, cell);
			conduit_mail_close(mail);
		}
	}
}

void
conduit_errands_join(Errand *errand, Mail *mail)
{
	MemoryContext old = MemoryContextSwitchTo(errand->context);

	errand->waiters = lappend(errand->waiters, mail);
	MemoryContextSwitchTo(old);
	forget_left(&waiting);
	forget_left(&flying);
	forget_left(&answered);
}

static void
answer_waiters(Errand *errand)
{
	ListCell   *cell;

	foreach(cell, errand->waiters)
	{
		if (errand->answer == ANSWER_DONE && errand->reply != NULL)
			conduit_mail_reply(lfirst(cell), errand->reply, errand->reply_length);
		else
			conduit_mail_answer(lfirst(cell), errand->answer);
	}
	list_free(errand->waiters);
	errand->waiters = NIL;
}

/* The errand, in none of the lists any more, is over. */
static void
finish(Errand *errand)
{
	if (errand->answer == ANSWER_PARKED)
		conduit_round.errands_parked_at = conduit_real_time_in(CONDUIT_RETRY_PARKED);
	/* There may be more where it came from; what could not be claimed is not tried again at once. */
	if (!errand->kind->asked)
		conduit_round.queues_at = errand->answer == ANSWER_DONE ? 0 : conduit_real_time_in(LAST_RETRY_SETTLE);
	answer_waiters(errand);
	errand->kind->free(errand);
}

/* ---- the lists ---- */

/* Behind those that people wait for, before the others. */
static void
enqueue(Errand *errand)
{
	dlist_iter	iter;

	if (errand->kind->asked)
		dlist_foreach(iter, &waiting)
		{
			if (!dlist_container(Errand, node, iter.cur)->kind->asked)
			{
				dlist_insert_before(iter.cur, &errand->node);
				return;
			}
		}
	dlist_push_tail(&waiting, &errand->node);
}

void
conduit_errands_add(Errand *errand, Mail *mail)
{
	errand->base.errand = true;
	if (mail != NULL)
		conduit_errands_join(errand, mail);
	enqueue(errand);
}

static void
add_answered(Errand *errand)
{
	errand->retry_at = 0;
	errand->delay = 0;
	dlist_push_tail(&answered, &errand->node);
}

static int
count(dlist_head *list)
{
	dlist_iter	iter;
	int			n = 0;

	dlist_foreach(iter, list)
		n++;
	return n;
}

int
conduit_errands_under_way(void)
{
	return count(&flying) + count(&answered);
}

bool
conduit_errands_unsettled(void)
{
	return !dlist_is_empty(&answered);
}

static Errand *
find_in(dlist_head *list, const ErrandKind *kind, bool (*match) (const Errand *errand, const void *key), const void *key)
{
	dlist_iter	iter;

	dlist_foreach(iter, list)
	{
		Errand	   *errand = dlist_container(Errand, node, iter.cur);

		if (errand->kind == kind && match(errand, key))
			return errand;
	}
	return NULL;
}

Errand *
conduit_errands_find(const ErrandKind *kind, bool (*match) (const Errand *errand, const void *key), const void *key)
{
	Errand	   *errand = find_in(&waiting, kind, match, key);

	if (errand == NULL)
		errand = find_in(&flying, kind, match, key);
	if (errand == NULL)
		errand = find_in(&answered, kind, match, key);
	return errand;
}

static int
count_kind(dlist_head *list, const ErrandKind *kind)
{
	dlist_iter	iter;
	int			n = 0;

	dlist_foreach(iter, list)
		n += dlist_container(Errand, node, iter.cur)->kind == kind;
	return n;
}

static int
count_of_connector(dlist_head *list, const ErrandKind *kind, const char *connector)
{
	dlist_iter	iter;
	int			n = 0;

	dlist_foreach(iter, list)
	{
		Errand	   *errand = dlist_container(Errand, node, iter.cur);

		n += errand->kind == kind && strcmp(errand->connector, connector) == 0;
	}
	return n;
}

int
conduit_errands_of_connector(const ErrandKind *kind, const char *connector)
{
	return count_of_connector(&waiting, kind, connector) + count_of_connector(&flying, kind, connector) +
		count_of_connector(&answered, kind, connector);
}

int
conduit_errands_waiting(const ErrandKind *kind)
{
	return count_kind(&waiting, kind);
}

int
conduit_errands_room(const ErrandKind *kind)
{
	if (settle_failed)
		return 0;
	return Max(0, conduit_errands_places() - count_kind(&waiting, kind) - count_kind(&flying, kind) - count_kind(&answered, kind));
}

/* ---- steps ---- */

static bool
run_in_transaction(Errand *errand, Step step)
{
	bool		result = true;
	StoreScope	scope;

	conduit_round_begin();
	conduit_store_begin(&scope);
	switch (step)
	{
		case STEP_CLAIM:
			errand->answer = errand->kind->claim(errand);
			break;
		case STEP_KEEP:
			errand->kind->keep(errand);
			break;
		case STEP_SETTLE:
			result = errand->kind->settle(errand);
			break;
		case STEP_PARK:
			errand->kind->park(errand);
			break;
		case STEP_WITHDRAW:
			errand->kind->withdraw(errand);
			break;
	}
	conduit_store_end(&scope);
	conduit_round_commit();
	return result;
}

/* *result is what the step said; false if it ended in an error, which is reported. */
static bool
try_in_transaction(Errand *errand, Step step, bool *result)
{
	volatile bool done = false;

	PG_TRY();
	{
		*result = run_in_transaction(errand, step);
		done = true;
	}
	PG_CATCH();
	{
		conduit_round_recover(errand->kind->what);
	}
	PG_END_TRY();
	return done;
}

/*
 * Send or receive; what fails for want of memory, say, has its outcome from
 * give_up.  Returns what the step said, false after an error.
 */
static bool
try_step(Errand *errand, bool (*step) (Errand *errand))
{
	volatile bool result = false;

	PG_TRY();
	{
		result = step(errand);
	}
	PG_CATCH();
	{
		conduit_round_recover(errand->kind->what);
		errand->kind->give_up(errand);
		result = false;
	}
	PG_END_TRY();
	return result;
}

/* Send the errand's next request; the errand is in none of the lists. */
static void
send_next(Errand *errand)
{
	if (try_step(errand, errand->kind->send))
		dlist_push_tail(&flying, &errand->node);
	else
		add_answered(errand);
}

void
conduit_errands_resume(Errand *errand)
{
	errand->base.errand = true;
	send_next(errand);
}

void
conduit_errands_receive(Errand *errand)
{
	bool		result;

	dlist_delete(&errand->node);
	if (!try_step(errand, errand->kind->receive))
	{
		add_answered(errand);
		return;
	}
	if (errand->kind->keep != NULL)
		(void) try_in_transaction(errand, STEP_KEEP, &result);
	send_next(errand);
}

/* ---- those that wait ---- */

/* How many are under way of a connector, and of those that nobody waits for. */
static void
count_flying(const char *connector, int *of_connector, int *unasked)
{
	dlist_iter	iter;

	*of_connector = *unasked = 0;
	dlist_foreach(iter, &flying)
	{
		Errand	   *errand = dlist_container(Errand, node, iter.cur);

		*of_connector += strcmp(errand->connector, connector) == 0;
		*unasked += !errand->kind->asked;
	}
}

static bool
has_place(const Errand *errand)
{
	int			share = conduit_errands_places() / 2;
	int			of_connector;
	int			unasked;

	count_flying(errand->connector, &of_connector, &unasked);
	return of_connector < share && (errand->kind->asked || unasked < share);
}

static Errand *
next_waiting(void)
{
	dlist_iter	iter;

	if (count(&flying) >= conduit_errands_places())
		return NULL;
	dlist_foreach(iter, &waiting)
	{
		Errand	   *errand = dlist_container(Errand, node, iter.cur);

		if (errand->retry_at <= GetCurrentTimestamp() && has_place(errand))
			return errand;
	}
	return NULL;
}

/* The worker leaves, or the claim may not be where it has to be: nothing of the request has left. */
static void
withdraw(Errand *errand)
{
	bool		result;

	if (errand->kind->withdraw != NULL)
		(void) try_in_transaction(errand, STEP_WITHDRAW, &result);
	errand->answer = ANSWER_GONE;
	finish(errand);
}

static void
start(Errand *errand)
{
	bool		result;

	dlist_delete(&errand->node);
	errand->answer = ANSWER_NONE;
	if (errand->kind->claim != NULL && !try_in_transaction(errand, STEP_CLAIM, &result))
		errand->answer = ANSWER_FAILED;

	if (errand->answer == ANSWER_DEFERRED)
	{
		errand->retry_at = conduit_real_time_in(RETRY_HELD);
		enqueue(errand);
	}
	else if (errand->answer != ANSWER_NONE)
		finish(errand);
	else if (errand->kind->claim != NULL && !conduit_round_waited())
		withdraw(errand);
	else
		send_next(errand);
}

/* Those that wait are left to a successor, where there is to be one. */
static bool
may_start(void)
{
	return !settle_failed && !conduit_round.restart && !ShutdownRequestPending &&
		conduit_roster_told_to_leave() == ROSTER_STAY;
}

void
conduit_errands_start(void)
{
	Errand	   *errand;

	while (may_start() && (errand = next_waiting()) != NULL)
		start(errand);
}

TimestampTz
conduit_errands_next(void)
{
	TimestampTz next = DT_NOEND;
	dlist_iter	iter;

	/* One without a place waits for another to end. */
	if (may_start() && count(&flying) < conduit_errands_places())
		dlist_foreach(iter, &waiting)
		{
			Errand	   *errand = dlist_container(Errand, node, iter.cur);

			if (has_place(errand))
				next = Min(next, errand->retry_at);
		}
	dlist_foreach(iter, &answered)
		next = Min(next, dlist_container(Errand, node, iter.cur)->retry_at);
	return next;
}

/* ---- those that are over ---- */

/* False if it is to be tried again later. */
static bool
settle_one(Errand *errand)
{
	bool		settled;

	if (try_in_transaction(errand, STEP_SETTLE, &settled))
	{
		errand->delay = settled ? 0 : RETRY_HELD;
		errand->retry_at = conduit_real_time_in(RETRY_HELD);
		return settled;
	}
	if (errand->kind->park != NULL && try_in_transaction(errand, STEP_PARK, &settled))
		return true;
	settle_failed = true;
	errand->delay = Max(RETRY_SETTLE, Min(errand->delay * 2, LAST_RETRY_SETTLE));
	errand->retry_at = conduit_real_time_in(errand->delay);
	return false;
}

void
conduit_errands_settle(void)
{
	dlist_mutable_iter iter;
	bool		failed_before = settle_failed;
	bool		waits = false;

	settle_failed = false;
	dlist_foreach_modify(iter, &answered)
	{
		Errand	   *errand = dlist_container(Errand, node, iter.cur);

		if (errand->retry_at > GetCurrentTimestamp())
			waits = true;
		else if (settle_one(errand))
		{
			dlist_delete(&errand->node);
			finish(errand);
		}
	}
	if (waits)
		settle_failed |= failed_before;
}

/* ---- the end ---- */

void
conduit_errands_withdraw(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &waiting)
	{
		Errand	   *errand = dlist_container(Errand, node, iter.cur);

		dlist_delete(&errand->node);
		errand->answer = ANSWER_GONE;
		finish(errand);
	}
	dlist_foreach_modify(iter, &flying)
	{
		Errand	   *errand = dlist_container(Errand, node, iter.cur);

		if (conduit_exchange_sent(errand->exchange))
			continue;
		dlist_delete(&errand->node);
		withdraw(errand);
	}
}
