/*-------------------------------------------------------------------------
 *
 * renewal.c
 *	  How a reader gets at an up-to-date credential.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/renewal.h"

#include <math.h>

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "base/clock.h"
#include "base/report.h"
#include "base/settings.h"
#include "lifecycle/connection.h"
#include "lifecycle/failure.h"
#include "lifecycle/store.h"
#include "lifecycle/wait.h"
#include "shared/stats.h"

static bool
fail(ConduitProblem *problem, ConduitError error, const char *detail)
{
	problem->level = PROBLEM_ERROR;
	problem->error = error;
	problem->detail = detail;
	return false;
}

/*
 * There is no credential for this owner: say what the connection is.  A
 * foreign connection takes the same look-ups as one that does not exist.
 */
static bool
find_missing(const pg_uuid_t *connection, const char *owner, const char *tenant, ConduitProblem *problem)
{
	StoreScope	scope;
	char	   *status;
	bool		there;
	bool		revoked;

	conduit_store_begin(&scope);
	status = conduit_connection_status(connection, owner, tenant);
	there = status != NULL;
	revoked = there && strcmp(status, "REVOKED") == 0;
	conduit_store_end(&scope);
	if (!there)
		return fail(problem, CONDUIT_ERR_CONNECTION_NOT_FOUND, NULL);
	if (revoked)
		return fail(problem, CONDUIT_ERR_REVOKED, "revoked");
	return fail(problem, CONDUIT_ERR_CREDENTIAL_NOT_FOUND, NULL);
}

bool
conduit_credential_look_up(const pg_uuid_t *connection, const char *owner, const char *tenant,
						   CredentialView *view, ConduitProblem *problem)
{
	problem->level = PROBLEM_NONE;
	if (!conduit_credential_read(connection, owner, tenant, view))
		return find_missing(connection, owner, tenant, problem);
	if (strcmp(view->status, "NEEDS_REAUTH") == 0)
		return fail(problem, CONDUIT_ERR_NEEDS_REAUTH, "needs_reauth");
	return true;
}

void
conduit_credential_entitled(const pg_uuid_t *connection, const char *owner, const char *tenant,
							CredentialView *view)
{
	ConduitProblem problem;

	if (!conduit_credential_look_up(connection, owner, tenant, view, &problem))
		conduit_report_problem(&problem);
}

bool
conduit_credential_usable(const CredentialView *view, TimestampTz now)
{
	return view->access != NULL && now < view->expires_at;
}

/*
 * conduit_credential_due tells whether a reader should ask for a refresh.
 * min_ttl is in microseconds, 0: none.  A token that a refresh brought less
 * than half its life ago is not refreshed again for min_ttl's sake: there is no
 * longer one to be had.
 */
bool
conduit_credential_due(const CredentialView *view, TimestampTz now, int64 min_ttl)
{
	if (!view->refreshable)
		return false;
	if (view->access == NULL || now >= view->due_at || now >= view->expires_at)
		return true;
	if (TIMESTAMP_IS_NOEND(view->expires_at) || view->expires_at - now >= min_ttl)
		return false;
	return TIMESTAMP_IS_NOEND(view->refreshed_at) ||
		now - view->refreshed_at >= view->expires_at - now;
}

/*
 * A refresh whose settle somebody's open transaction keeps from its row is
 * parked in conduit.flight, sealed for its final place.
 */
static bool
read_parked(CredentialView *view)
{
	static StoreQuery select = {
		"SELECT expires_at, token_type, scope, access FROM conduit.flight"
		" WHERE connection_id = $1 AND generation = $2 AND outcome = 'refreshed'",
		2, {UUIDOID, INT8OID}
	};
	StoreArgs	args = {0};
	StoreScope	scope;
	MemoryContext context = CurrentMemoryContext;
	bool		found;

	conduit_arg_uuid(&args, &view->place.connection);
	conduit_arg(&args, Int64GetDatum(view->generation));
	conduit_store_begin(&scope);
	found = conduit_store_run(&select, &args) > 0;
	if (found)
	{
		view->generation++;
		view->expires_at = view->due_at = conduit_row_time(0, 1);
		view->token_type = conduit_row_text(0, 2, context);
		if (!conduit_row_isnull(0, 3))
			view->scope = conduit_row_text(0, 3, context);
		view->access = conduit_row_bytea(0, 4, context);
	}
	conduit_store_end(&scope);
	return found;
}

/* The code and seconds to the next attempt, for a detail. */
static char *
failure_detail(const CredentialView *view, const char *code, TimestampTz now)
{
	double		left = TIMESTAMP_IS_NOEND(view->next_attempt_at) ? 0 :
		conduit_seconds_between(now, view->next_attempt_at);

	return left > 0 ? psprintf("%s retry_after=%.0f", code, ceil(left)) : pstrdup(code);
}

/* What the last attempt, recorded in the row, means for a caller. */
static ConduitError
recorded_error(const CredentialView *view)
{
	return conduit_failure_error(view->last_error ? view->last_error : "",
								 view->last_error_code ? view->last_error_code : "");
}

/* A failure is a warning while the token at hand is usable. */
static void
note_failure(Renewal *renewal, ConduitError error, const char *code)
{
	TimestampTz now = conduit_now();

	renewal->problem.level = conduit_credential_usable(renewal->view, now) ? PROBLEM_WARNING : PROBLEM_ERROR;
	renewal->problem.error = error;
	renewal->problem.detail = failure_detail(renewal->view, code, now);
}

static void
note_recorded_failure(Renewal *renewal)
{
	const CredentialView *view = renewal->view;

	note_failure(renewal, recorded_error(view), view->last_error_code ? view->last_error_code : "unavailable");
}

/* What somebody wants so, or cannot be helped, is no failure of a token at hand. */
static void
note_hindrance(Renewal *renewal, ConduitError error, const char *code)
{
	if (renewal->forced || !conduit_credential_usable(renewal->view, conduit_now()))
		(void) fail(&renewal->problem, error, code);
}

static void
note_answer(Renewal *renewal, RequestAnswer answer)
{
	switch (answer)
	{
		case ANSWER_NONE:
			note_failure(renewal, CONDUIT_ERR_UNAVAILABLE, "timeout");
			break;
		case ANSWER_GONE:
			note_failure(renewal, CONDUIT_ERR_NO_WORKER, "no_worker");
			break;
		case ANSWER_PAUSED:
			if (!conduit_credential_usable(renewal->view, conduit_now()))
				(void) fail(&renewal->problem, CONDUIT_ERR_PAUSED, "paused");
			break;
		case ANSWER_VAULT:
			note_failure(renewal, CONDUIT_ERR_VAULT_LOCKED, "worker_keyring");
			break;
		case ANSWER_NOT_CONFIGURED:
			note_failure(renewal, CONDUIT_ERR_NOT_CONFIGURED, "client_missing");
			break;
		case ANSWER_FAILED:
			note_failure(renewal, CONDUIT_ERR_UNAVAILABLE, "internal");
			break;
		default:
			if (renewal->view->last_error != NULL)
				note_recorded_failure(renewal);
			else
				note_failure(renewal, CONDUIT_ERR_UNAVAILABLE, "pending");
			break;
	}
}

/* What has been refreshed is vended, if it has not expired again in the meantime. */
static void
take_newer(Renewal *renewal)
{
	if (!conduit_credential_usable(renewal->view, conduit_now()))
		note_failure(renewal, CONDUIT_ERR_UNAVAILABLE, "expired_again");
	renewal->renewed = true;
}

bool
conduit_renewal_begin(Renewal *renewal, CredentialView *view, bool forced)
{
	memset(renewal, 0, sizeof(*renewal));
	renewal->view = view;
	renewal->forced = forced;
	renewal->generation = view->generation;

	/* The worker cannot see what this transaction has written. */
	if (view->own)
		note_hindrance(renewal, CONDUIT_ERR_NOT_COMMITTED, "uncommitted");
	else if (RecoveryInProgress())
		note_hindrance(renewal, CONDUIT_ERR_UNAVAILABLE, "standby");
	else if (!forced && view->next_attempt_at > conduit_now() && !TIMESTAMP_IS_NOEND(view->next_attempt_at))
	{
		if (read_parked(view))
			take_newer(renewal);
		else
			note_recorded_failure(renewal);
	}
	else
	{
		conduit_stats_add(view->place.connector, STATS_WAITS, 1);
		return true;
	}
	return false;
}

void
conduit_renewal_end(Renewal *renewal, const char *owner, const char *tenant, RequestAnswer answer)
{
	CredentialView *view = renewal->view;
	pg_uuid_t	connection = view->place.connection;

	if (!conduit_credential_look_up(&connection, owner, tenant, view, &renewal->problem))
		return;
	if (view->generation != renewal->generation || read_parked(view))
		take_newer(renewal);
	else
		note_answer(renewal, answer);
}

bool
conduit_renew(CredentialView *view, const char *owner, const char *tenant, bool forced, TimestampTz until)
{
	FlightRequest request = {.kind = REQUEST_REFRESH,.connection = view->place.connection,
		.generation = view->generation,.forced = forced};
	int			timeout = conduit_vend_timeout;
	Renewal		renewal;

	if (conduit_renewal_begin(&renewal, view, forced))
	{
		if (!forced && conduit_credential_usable(view, conduit_now()))
			timeout = Min(timeout, conduit_vend_patience);
		if (!TIMESTAMP_IS_NOEND(until))
			timeout = Min(timeout, (int) TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until));
		strlcpy(request.connector, view->place.connector, sizeof(request.connector));
		conduit_renewal_end(&renewal, owner, tenant, conduit_wait_for_worker(&request, timeout, NULL));
	}
	conduit_report_problem(&renewal.problem);
	return renewal.renewed;
}
