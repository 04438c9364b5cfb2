/*-------------------------------------------------------------------------
 *
 * vend_many.c
 *	  conduit_vend_many: many at once, in one wait.
 *
 * What is due goes to the worker in one request.  Nothing about a single
 * connection is raised: it is a row with the error that conduit_vend() would
 * have raised.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "base/clock.h"
#include "base/report.h"
#include "base/settings.h"
#include "lifecycle/argument.h"
#include "lifecycle/key.h"
#include "lifecycle/renewal.h"
#include "lifecycle/vend.h"
#include "lifecycle/wait.h"

PG_FUNCTION_INFO_V1(conduit_vend_many);

/* Columns behind those of a vend. */
enum
{
	MANY_CONNECTION_ID = VEND_NUM_COLUMNS,
	MANY_SQLSTATE,
	MANY_ERROR,
	MANY_NUM_COLUMNS
};

typedef struct VendEntry
{
	pg_uuid_t	connection;
	bool		is_null;		/* of the id */
	bool		waits;			/* for the worker */
	bool		usable;			/* before that */
	CredentialView view;
	Renewal		renewal;
	ConduitProblem problem;
} VendEntry;

static VendEntry *
entries_argument(FunctionCallInfo fcinfo, int n, int *count)
{
	Datum	   *ids;
	bool	   *nulls;
	VendEntry  *entries;

	if (PG_ARGISNULL(n))
		conduit_bad_argument("invalid connection_ids", "null", "Pass an array of ids.");
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(n), UUIDOID, UUID_LEN, false, TYPALIGN_CHAR, &ids, &nulls, count);
	if (*count > CONDUIT_MAX_FLIGHT_ITEMS)
		conduit_bad_argument("invalid connection_ids", psprintf("too_many %d", CONDUIT_MAX_FLIGHT_ITEMS),
							 "The number is the most there may be in a call.");
	entries = palloc0(sizeof(VendEntry) * (*count + 1));
	for (int i = 0; i < *count; i++)
	{
		entries[i].is_null = nulls[i];
		if (!nulls[i])
			entries[i].connection = *DatumGetUUIDP(ids[i]);
	}
	return entries;
}

static void
look_up(VendEntry *entry, const char *owner, const char *tenant, int64 min_ttl)
{
	if (entry->is_null || !conduit_credential_look_up(&entry->connection, owner, tenant, &entry->view, &entry->problem))
		return;
	if (!conduit_credential_due(&entry->view, conduit_now(), min_ttl))
		return;
	entry->usable = conduit_credential_usable(&entry->view, conduit_now());
	entry->waits = conduit_renewal_begin(&entry->renewal, &entry->view, false);
	if (!entry->waits)
		entry->problem = entry->renewal.problem;
}

/* Ask for all that wait, or for those among them that are of no use as they are. */
static RequestAnswer
wait_for(const VendEntry *entries, int n, bool unusable_only, int timeout)
{
	FlightRequest request = {.kind = REQUEST_REFRESH_MANY};
	FlightItem *items = palloc0(sizeof(FlightItem) * (n + 1));
	WaitMail	mail = {.message = items};
	RequestAnswer answer;
	int			count = 0;

	for (int i = 0; i < n; i++)
	{
		if (!entries[i].waits || (unusable_only && entries[i].usable))
			continue;
		items[count].connection = entries[i].connection;
		items[count].generation = entries[i].renewal.generation;
		strlcpy(items[count].connector, entries[i].view.place.connector, sizeof(items[count].connector));
		count++;
	}
	mail.length = sizeof(FlightItem) * count;
	answer = conduit_wait_with_mail(&request, &mail, timeout, NULL);
	pfree(items);
	return answer;
}

/*
 * Have all that is due refreshed, within one conduit.vend_timeout.  For what is
 * usable nobody waits longer than conduit.vend_patience.
 */
static void
renew(VendEntry *entries, int n, const char *owner, const char *tenant)
{
	TimestampTz started_at = GetCurrentTimestamp();
	bool		any_usable = false;
	bool		any_unusable = false;
	RequestAnswer first;
	RequestAnswer second;
	int			timeout = conduit_vend_timeout;

	for (int i = 0; i < n; i++)
	{
		any_usable |= entries[i].waits && entries[i].usable;
		any_unusable |= entries[i].waits && !entries[i].usable;
	}
	if (!any_usable && !any_unusable)
		return;
	if (any_usable)
		timeout = Min(timeout, conduit_vend_patience);
	first = second = wait_for(entries, n, false, timeout);
	if (first == ANSWER_NONE && any_unusable && timeout < conduit_vend_timeout)
	{
		int			spent = TimestampDifferenceMilliseconds(started_at, GetCurrentTimestamp());

		second = wait_for(entries, n, true, Max(conduit_vend_timeout - spent, 0));
	}
	for (int i = 0; i < n; i++)
	{
		if (!entries[i].waits)
			continue;
		conduit_renewal_end(&entries[i].renewal, owner, tenant, entries[i].usable ? first : second);
		entries[i].problem = entries[i].renewal.problem;
	}
}

/* One WARNING of a kind is enough for a call. */
static void
warn_once(const ConduitProblem *problem, Bitmapset **warned)
{
	if (bms_is_member(problem->error, *warned))
		return;
	conduit_report_problem(problem);
	*warned = bms_add_member(*warned, problem->error);
}

/* Fill the columns of a vend; false with the problem set if there is nothing to hand out. */
static bool
fill(VendEntry *entry, Datum *values, bool *nulls)
{
	SealStatus	status;

	if (entry->problem.level == PROBLEM_ERROR)
		return false;
	if (!conduit_credential_usable(&entry->view, conduit_now()))
	{
		entry->problem.error = CONDUIT_ERR_NEEDS_REAUTH;
		return false;
	}
	status = conduit_vend_fill(&entry->view, values, nulls, NULL);
	if (status == SEAL_OK)
		return true;
	entry->problem.error = conduit_key_error(status);
	return false;
}

static void
put_row(ReturnSetInfo *rsinfo, VendEntry *entry, Bitmapset **warned)
{
	Datum		values[MANY_NUM_COLUMNS] = {0};
	bool		nulls[MANY_NUM_COLUMNS];

	memset(nulls, true, sizeof(nulls));
	nulls[MANY_CONNECTION_ID] = entry->is_null;
	values[MANY_CONNECTION_ID] = UUIDPGetDatum(&entry->connection);
	if (entry->is_null)
	{
		values[MANY_SQLSTATE] = CStringGetTextDatum("22023");
		values[MANY_ERROR] = CStringGetTextDatum("invalid connection_id");
		nulls[MANY_SQLSTATE] = nulls[MANY_ERROR] = false;
	}
	else if (fill(entry, values, nulls))
	{
		conduit_vend_note(&entry->view, conduit_now());
		if (entry->problem.level == PROBLEM_WARNING)
			warn_once(&entry->problem, warned);
	}
	else
	{
		values[MANY_SQLSTATE] = CStringGetTextDatum(conduit_error_state(entry->problem.error));
		values[MANY_ERROR] = CStringGetTextDatum(conduit_error_message(entry->problem.error));
		nulls[MANY_SQLSTATE] = nulls[MANY_ERROR] = false;
	}
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* Secrets are kept in memory, however many: a tuplestore beyond work_mem is a file. */
static void
begin_result(FunctionCallInfo fcinfo)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext old;

	InitMaterializedSRF(fcinfo, 0);
	tuplestore_end(rsinfo->setResult);
	old = MemoryContextSwitchTo(rsinfo->econtext->ecxt_per_query_memory);
	rsinfo->setResult = tuplestore_begin_heap((rsinfo->allowedModes & SFRM_Materialize_Random) != 0,
											  false, MAX_KILOBYTES);
	MemoryContextSwitchTo(old);
}

/* conduit_vend_many(owner, connection_ids, min_ttl, tenant) */
Datum
conduit_vend_many(PG_FUNCTION_ARGS)
{
	char	   *owner = conduit_owner_argument(fcinfo, 0);
	int64		min_ttl = conduit_interval_argument(fcinfo, 2, "invalid min_ttl",
													"It is how long the tokens must live at least.");
	char	   *tenant = conduit_tenant_argument(fcinfo, 3);
	Bitmapset  *warned = NULL;
	int			n;
	VendEntry  *entries = entries_argument(fcinfo, 1, &n);

	begin_result(fcinfo);
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		look_up(&entries[i], owner, tenant, min_ttl);
	}
	renew(entries, n, owner, tenant);
	for (int i = 0; i < n; i++)
		put_row((ReturnSetInfo *) fcinfo->resultinfo, &entries[i], &warned);
	return (Datum) 0;
}
