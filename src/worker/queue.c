/*-------------------------------------------------------------------------
 *
 * queue.c
 *	  What the worker has to refresh, in memory.
 *
 *-------------------------------------------------------------------------
 */
#include "worker/queue.h"

#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* The part of the places in flight that one connector may take from others. */
#define LANE_PART 4

/* Of fewer places none is kept free. */
#define RESERVE_OF_AT_LEAST 8

/* Milliseconds without any answer after which a provider counts as silent. */
#define ANSWERS_WITHIN 1000

typedef struct Lane
{
	char		connector[CONDUIT_MAX_SLUG_LEN + 1];	/* hash key */
	dlist_head	urgent;
	dlist_head	ordinary;
	int			waiting;
	int			flying;
	TimestampTz last_finish;	/* of a flight: when it landed */
	TimestampTz passed_over;	/* due ones from here on are not all in memory */
	dlist_node	node;			/* in the round */
} Lane;

static HTAB *tasks = NULL;
static HTAB *lanes = NULL;
static dlist_head round_of_lanes;	/* the lane served last is at its end */
static int	flying = 0;
static int	landed = 0;
static int	waiting = 0;
static int	waiting_unasked = 0;

void
conduit_queue_start(void)
{
	HASHCTL		task_control = {.keysize = sizeof(pg_uuid_t),.entrysize = sizeof(Task)};
	HASHCTL		lane_control = {.keysize = CONDUIT_MAX_SLUG_LEN + 1,.entrysize = sizeof(Lane)};

	tasks = hash_create("conduit tasks", 256, &task_control, HASH_ELEM | HASH_BLOBS);
	lanes = hash_create("conduit lanes", 32, &lane_control, HASH_ELEM | HASH_STRINGS);
	dlist_init(&round_of_lanes);
}

static Lane *
get_lane(const char *connector)
{
	bool		found;
	Lane	   *lane = hash_search(lanes, connector, HASH_ENTER, &found);

	if (!found)
	{
		dlist_init(&lane->urgent);
		dlist_init(&lane->ordinary);
		lane->waiting = lane->flying = 0;
		lane->last_finish = 0;
		lane->passed_over = DT_NOEND;
		dlist_push_tail(&round_of_lanes, &lane->node);
	}
	return lane;
}

static void
enqueue(Task *task)
{
	dlist_push_tail(task->urgent ? &task->lane->urgent : &task->lane->ordinary, &task->node);
	task->lane->waiting++;
	waiting++;
	if (task->unasked)
		waiting_unasked++;
}

static void
dequeue(Task *task)
{
	dlist_delete(&task->node);
	memset(&task->node, 0, sizeof(task->node));
	task->lane->waiting--;
	waiting--;
	if (task->unasked)
		waiting_unasked--;
}

static bool
is_waiting(const Task *task)
{
	return task->node.next != NULL;
}

Task *
conduit_queue_add(const pg_uuid_t *connection, const char *connector, int64 generation,
				  bool urgent, bool forced, bool unasked)
{
	bool		found;
	Task	   *task = hash_search(tasks, connection, HASH_ENTER, &found);

	if (!found)
	{
		memset((char *) task + sizeof(pg_uuid_t), 0, sizeof(Task) - sizeof(pg_uuid_t));
		task->lane = get_lane(connector);
		task->urgent = urgent;
		task->forced = forced;
		task->unasked = task->due = unasked;
		task->generation = generation;
		enqueue(task);
		return task;
	}

	if (is_waiting(task))
	{
		bool		move = (urgent && !task->urgent) || (task->unasked && !unasked);

		if (move)
			dequeue(task);
		task->urgent |= urgent;
		task->forced |= forced;
		task->unasked &= unasked;
		task->due |= unasked;
		if (!unasked)
			task->generation = Max(task->generation, generation);
		if (move)
			enqueue(task);
	}
	return task;
}

void
conduit_queue_add_waiter(Task *task, FlightWaiter waiter, bool batch)
{
	if (task->nwaiters == task->max_waiters)
	{
		int			max = Max(4, task->max_waiters * 2);
		Size		size = sizeof(TaskWaiter) * max;

		task->waiters = task->waiters ? repalloc(task->waiters, size) :
			MemoryContextAlloc(TopMemoryContext, size);
		task->max_waiters = max;
	}
	task->waiters[task->nwaiters].waiter = waiter;
	task->waiters[task->nwaiters].batch = batch;
	task->nwaiters++;
}

static void
forget(Task *task)
{
	if (task->waiters != NULL)
		pfree(task->waiters);
	hash_search(tasks, &task->connection, HASH_REMOVE, NULL);
}

/* Whether a lane other than this one has tasks waiting. */
static bool
others_wait(const Lane *lane)
{
	return waiting > lane->waiting;
}

/* Whether the connector's provider has answered anything of late. */
static bool
answers(const Lane *lane)
{
	return !TimestampDifferenceExceeds(lane->last_finish, GetCurrentTimestamp(), ANSWERS_WITHIN);
}

/*
 * A refresh that was only asked for, by callers who have all gone, is not made
 * any more; one that is due as well is made as if they had never asked.
 * Forgets the task if so.
 */
static bool
given_up(Task *task)
{
	if (task->unasked || task->nwaiters == 0)
		return false;
	for (int i = 0; i < task->nwaiters; i++)
		if (conduit_flight_still_waiting(task->waiters[i].waiter))
			return false;
	if (task->due)
	{
		task->generation = -1;
		task->forced = false;
		task->unasked = true;
		return false;
	}
	forget(task);
	return true;
}

static Task *
take_from_lanes(bool urgent, int share, int max_in_flight)
{
	int			reserve = max_in_flight >= RESERVE_OF_AT_LEAST ? share : 0;
	dlist_iter	iter;

	dlist_foreach(iter, &round_of_lanes)
	{
		Lane	   *lane = dlist_container(Lane, node, iter.cur);
		dlist_head *list = urgent ? &lane->urgent : &lane->ordinary;
		Task	   *task;

		if (dlist_is_empty(list) ||
			(lane->flying >= share &&
			 (others_wait(lane) || (flying >= max_in_flight - reserve && !answers(lane)))))
			continue;
		task = dlist_container(Task, node, dlist_head_node(list));
		dequeue(task);
		dlist_delete(&lane->node);
		dlist_push_tail(&round_of_lanes, &lane->node);
		return task;
	}
	return NULL;
}

Task *
conduit_queue_next(int max_in_flight, int kept)
{
	int			share = Max(1, max_in_flight / LANE_PART);
	Task	   *task;

	if (flying + kept >= max_in_flight || waiting == 0)
		return NULL;
	do
	{
		task = take_from_lanes(true, share, max_in_flight);
		if (task == NULL)
			task = take_from_lanes(false, share, max_in_flight);
	} while (task != NULL && given_up(task));
	if (task != NULL)
	{
		task->lane->flying++;
		flying++;
	}
	return task;
}

static void
answer_waiters(Task *task, RequestAnswer answer, bool refreshed)
{
	for (int i = 0; i < task->nwaiters; i++)
	{
		if (task->waiters[i].batch)
			conduit_flight_count_down(task->waiters[i].waiter, refreshed);
		else
			conduit_flight_reply(task->waiters[i].waiter, answer);
	}
}

void
conduit_queue_land(Task *task)
{
	task->landed = true;
	landed++;
	task->lane->flying--;
	task->lane->last_finish = GetCurrentTimestamp();
	flying--;
}

void
conduit_queue_finish(Task *task, RequestAnswer answer, bool refreshed)
{
	if (is_waiting(task))
		dequeue(task);
	else
	{
		if (!task->landed)
			conduit_queue_land(task);
		landed--;
	}
	answer_waiters(task, answer, refreshed);
	forget(task);
}

void
conduit_queue_finish_waiting(RequestAnswer answer)
{
	HASH_SEQ_STATUS scan;
	Task	   *task;

	hash_seq_init(&scan, tasks);
	while ((task = hash_seq_search(&scan)) != NULL)
		if (is_waiting(task))
			conduit_queue_finish(task, answer, false);
}

List *
conduit_queue_flights(void)
{
	List	   *flights = NIL;
	HASH_SEQ_STATUS scan;
	Task	   *task;

	hash_seq_init(&scan, tasks);
	while ((task = hash_seq_search(&scan)) != NULL)
		if (task->flight != NULL)
			flights = lappend(flights, task->flight);
	return flights;
}

int
conduit_queue_flying(void)
{
	return flying + landed;
}

int
conduit_queue_waiting(void)
{
	return waiting;
}

int
conduit_queue_waiting_unasked(void)
{
	return waiting_unasked;
}

List *
conduit_queue_pass_over(int max, TimestampTz from)
{
	List	   *full = NIL;
	dlist_iter	iter;

	dlist_foreach(iter, &round_of_lanes)
	{
		Lane	   *lane = dlist_container(Lane, node, iter.cur);

		if (lane->waiting < max)
			continue;
		lane->passed_over = Min(lane->passed_over, from);
		full = lappend(full, lane->connector);
	}
	return full;
}

TimestampTz
conduit_queue_room_again(int max, bool take)
{
	TimestampTz from = DT_NOEND;
	dlist_iter	iter;

	dlist_foreach(iter, &round_of_lanes)
	{
		Lane	   *lane = dlist_container(Lane, node, iter.cur);

		if (lane->waiting >= max)
			continue;
		from = Min(from, lane->passed_over);
		if (take)
			lane->passed_over = DT_NOEND;
	}
	return from;
}

void
conduit_queue_forget_passed_over(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &round_of_lanes)
	{
		dlist_container(Lane, node, iter.cur)->passed_over = DT_NOEND;
	}
}
