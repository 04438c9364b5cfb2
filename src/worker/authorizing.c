/*-------------------------------------------------------------------------
 *
 * authorizing.c
 *	  The worker's part of authorizations beside their errands.
 *
 *-------------------------------------------------------------------------
 */
#include "worker/authorizing.h"

#include "postmaster/interrupt.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "lifecycle/adoption.h"
#include "lifecycle/authorize.h"
#include "lifecycle/key.h"
#include "lifecycle/store.h"
#include "worker/errands.h"
#include "worker/round.h"

#define PARKED_BATCH 64

/* Milliseconds from one look at those that cannot be settled to the next, at most. */
#define LAST_RETRY_PARKED 30000

/* Callbacks that wait for a place, at most: more come again. */
#define MAX_WAITING 1000

static const pg_uuid_t first_id = {{0}};

static int	parked_delay = CONDUIT_RETRY_PARKED;

/* ---- requests ---- */

static void
take(Mail *mail)
{
	RequestAnswer answer;
	Errand	   *errand = conduit_authorize_errand_make(&mail->request.connection, mail->data, mail->length, &answer);
	Errand	   *same;

	if (errand == NULL)
	{
		conduit_mail_answer(mail, answer);
		return;
	}

	/* Who comes again while the first is under way waits for it too. */
	same = conduit_errands_find(&conduit_authorize_errand, conduit_authorize_errand_same, errand);
	if (same != NULL)
	{
		errand->kind->free(errand);
		conduit_errands_join(same, mail);
	}
	else if (conduit_errands_waiting(&conduit_authorize_errand) >= MAX_WAITING)
	{
		errand->kind->free(errand);
		conduit_mail_answer(mail, ANSWER_DEFERRED);
	}
	else
	{
		/* What its caller says, which is for a fair share of places alone: the claim will tell. */
		errand->connector = MemoryContextStrdup(errand->context, mail->request.connector);
		conduit_errands_add(errand, mail);
	}
}

void
conduit_authorizing_take(Mail *mail)
{
	PG_TRY();
	{
		take(mail);
	}
	PG_CATCH();
	{
		conduit_round_recover("taking a callback");
		conduit_mail_answer(mail, ANSWER_FAILED);
	}
	PG_END_TRY();
}

/* ---- what a former worker has left ---- */

static void
void_claims(void)
{
	StoreScope	scope;
	int			n;

	conduit_round_begin();
	conduit_store_begin(&scope);
	n = conduit_authorize_void_claims();
	conduit_store_end(&scope);
	conduit_round_commit();
	if (n > 0)
		ereport(LOG, (errmsg("conduit: %d authorizations of a former worker are lost", n)));
}

/* The row that was looked at last, and the errand that was made of it. */
static pg_uuid_t resumed_to;
static Errand *resumed;
static bool more_to_resume;

/*
 * The next row whose worker is gone before its last request: its errand, or,
 * where there can be none, the row is parked as it is.
 */
static void
resume_one(void)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "conduit authorization", ALLOCSET_SMALL_SIZES);
	StoreScope	scope;
	List	   *loaded;

	conduit_round_begin();
	conduit_store_begin(&scope);
	loaded = conduit_authorize_load(AUTHORIZE_RECEIVED, &resumed_to, 1, context);
	if (loaded != NIL)
	{
		AuthorizeLoaded *row = linitial(loaded);

		resumed_to = row->state->id;
		more_to_resume = true;
		resumed = conduit_adoption_settled() ? conduit_authorize_errand_resume(row, context) : NULL;
		if (resumed == NULL)
			conduit_authorize_park(row->state);
	}
	conduit_store_end(&scope);
	conduit_round_commit();
	if (resumed == NULL)
		MemoryContextDelete(context);
}

void
conduit_authorizing_start(void)
{
	conduit_guarded(void_claims, "looking for authorizations of a former worker");
	resumed_to = first_id;
	do
	{
		resumed = NULL;
		more_to_resume = false;
		conduit_guarded(resume_one, "taking up an authorization of a former worker");
		if (resumed != NULL)
			conduit_errands_resume(resumed);
	} while (more_to_resume);
}

/* ---- what is parked ---- */

/* The row that is being settled, for a step without argument, and what became of it. */
static AuthorizeLoaded *parked;
static enum
{
	PARKED_FAILED,
	PARKED_HELD,
	PARKED_SETTLED
}			parked_outcome;

static void
settle_one(void)
{
	StoreScope	scope;
	bool		gone;
	bool		settled;

	conduit_round_begin();
	conduit_store_begin(&scope);
	if (conduit_authorize_relock(parked->state, &gone))
	{
		SealStatus	status = conduit_authorize_unseal(parked);

		if (status != SEAL_OK)
			conduit_key_raise(status, NULL);
		settled = conduit_authorize_settle(parked->state, &parked->grant) == AUTHORIZE_SETTLED;
	}
	else
		settled = gone;
	conduit_store_end(&scope);
	conduit_round_commit();
	parked_outcome = settled ? PARKED_SETTLED : PARKED_HELD;
	conduit_round.tell |= settled;
}

static List *
load_parked(const pg_uuid_t *after)
{
	List	   *rows;
	StoreScope	scope;

	conduit_round_begin();
	conduit_store_begin(&scope);
	rows = conduit_authorize_load(AUTHORIZE_PARKED, after, PARKED_BATCH, conduit_round_context);
	conduit_store_end(&scope);
	conduit_round_commit();
	return rows;
}

/*
 * Each in a transaction of its own: one that cannot be settled keeps no other.
 * What somebody holds is looked at again soon, what fails ever later.
 */
void
conduit_authorizing_settle_parked(void)
{
	pg_uuid_t	after = first_id;
	bool		held = false;
	bool		failed = false;
	int			n;

	conduit_round.errands_parked_at = conduit_real_time_in(LAST_RETRY_PARKED);
	do
	{
		List	   *rows = load_parked(&after);
		ListCell   *cell;

		n = list_length(rows);
		foreach(cell, rows)
		{
			parked = lfirst(cell);
			after = parked->state->id;
			parked_outcome = PARKED_FAILED;
			conduit_guarded(settle_one, "moving a parked authorization");
			conduit_authorize_free_grant(&parked->grant);
			held |= parked_outcome == PARKED_HELD;
			failed |= parked_outcome == PARKED_FAILED;
		}
	} while (n == PARKED_BATCH && !ShutdownRequestPending);

	parked_delay = failed ? Min(parked_delay * 2, LAST_RETRY_PARKED) : CONDUIT_RETRY_PARKED;
	conduit_round.errands_parked_at = !held && !failed ? DT_NOEND : conduit_real_time_in(parked_delay);
}
