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
#include "lifecycle/store.h"
#include "lifecycle/wait.h"
#include "shared/stats.h"

/*
 * There is no credential for this owner: say what the connection is.  A
 * foreign connection takes the same look-ups as one that does not exist.
 */
pg_noreturn static void
raise_missing(const pg_uuid_t *connection, const char *owner, const char *tenant)
{
	StoreScope	scope;
	char	   *status;

	conduit_store_begin(&scope);
	status = conduit_connection_status(connection, owner, tenant);
	if (status == NULL)
		conduit_raise(CONDUIT_ERR_CONNECTION_NOT_FOUND, NULL);
	if (strcmp(status, "REVOKED") == 0)
		conduit_raise(CONDUIT_ERR_REVOKED, "revoked");
	conduit_raise(CONDUIT_ERR_CREDENTIAL_NOT_FOUND, NULL);
}

void
conduit_credential_entitled(const pg_uuid_t *connection, const char *owner, const char *tenant,
							CredentialView *view)
{
	if (!conduit_credential_read(connection, owner, tenant, view))
		raise_missing(connection, owner, tenant);
	if (strcmp(view->status, "NEEDS_REAUTH") == 0)
		conduit_raise(CONDUIT_ERR_NEEDS_REAUTH, "needs_reauth");
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

/* Answers that a provider gave, as opposed to none. */
static bool
is_bad_response(const char *class, const char *code)
{
	static const char *const no_answer[] = {
		"denied", "dns", "refused", "tls", "timeout", "broken", "quarantined", "internal"
	};

	if (strcmp(class, "throttled") == 0)
		return false;
	for (int i = 0; i < lengthof(no_answer); i++)
		if (strcmp(code, no_answer[i]) == 0)
			return false;
	return code[0] != '\0';
}

/* What the last attempt, recorded in the row, means for a caller. */
static ConduitError
recorded_error(const CredentialView *view)
{
	const char *class = view->last_error ? view->last_error : "";
	const char *code = view->last_error_code ? view->last_error_code : "";

	if (strcmp(code, "client_missing") == 0)
		return CONDUIT_ERR_NOT_CONFIGURED;
	if (strcmp(code, "vault_locked") == 0)
		return CONDUIT_ERR_VAULT_LOCKED;
	if (strcmp(code, "unknown_key") == 0)
		return CONDUIT_ERR_UNKNOWN_KEY;
	if (strcmp(code, "cannot_open") == 0)
		return CONDUIT_ERR_CANNOT_OPEN;
	return is_bad_response(class, code) ? CONDUIT_ERR_BAD_RESPONSE : CONDUIT_ERR_UNAVAILABLE;
}

static void
report_failure(const CredentialView *view, ConduitError error, const char *code)
{
	TimestampTz now = conduit_now();
	char	   *detail = failure_detail(view, code, now);

	if (conduit_credential_usable(view, now))
		conduit_warn(error, detail);
	else
		conduit_raise(error, detail);
}

static void
report_recorded_failure(const CredentialView *view)
{
	report_failure(view, recorded_error(view),
				   view->last_error_code ? view->last_error_code : "unavailable");
}

static void
report_answer(const CredentialView *view, RequestAnswer answer)
{
	switch (answer)
	{
		case ANSWER_NONE:
			report_failure(view, CONDUIT_ERR_UNAVAILABLE, "timeout");
			break;
		case ANSWER_GONE:
			report_failure(view, CONDUIT_ERR_NO_WORKER, "no_worker");
			break;
		case ANSWER_PAUSED:
			/* nothing failed: the administrator wants it so */
			if (!conduit_credential_usable(view, conduit_now()))
				conduit_raise(CONDUIT_ERR_PAUSED, "paused");
			break;
		case ANSWER_VAULT:
			report_failure(view, CONDUIT_ERR_VAULT_LOCKED, "worker_keyring");
			break;
		case ANSWER_NOT_CONFIGURED:
			report_failure(view, CONDUIT_ERR_NOT_CONFIGURED, "client_missing");
			break;
		case ANSWER_FAILED:
			report_failure(view, CONDUIT_ERR_UNAVAILABLE, "internal");
			break;
		default:
			if (view->last_error != NULL)
				report_recorded_failure(view);
			else
				report_failure(view, CONDUIT_ERR_UNAVAILABLE, "pending");
			break;
	}
}

bool
conduit_renew(CredentialView *view, const char *owner, const char *tenant, bool forced)
{
	FlightRequest request = {.kind = REQUEST_REFRESH,.connection = view->place.connection,
		.generation = view->generation,.forced = forced};
	TimestampTz now = conduit_now();
	bool		usable = conduit_credential_usable(view, now);
	int			timeout = conduit_vend_timeout;
	RequestAnswer answer;

	/* The worker cannot see what this transaction has written. */
	if (view->own)
	{
		if (!usable || forced)
			conduit_raise(CONDUIT_ERR_NOT_COMMITTED, "uncommitted");
		return false;
	}
	if (RecoveryInProgress())
	{
		if (!usable || forced)
			conduit_raise(CONDUIT_ERR_UNAVAILABLE, "standby");
		return false;
	}
	if (!forced && view->next_attempt_at > now && !TIMESTAMP_IS_NOEND(view->next_attempt_at))
	{
		if (read_parked(view))
			return true;
		report_recorded_failure(view);
		return false;
	}

	if (usable && !forced)
		timeout = Min(timeout, conduit_vend_patience);
	strlcpy(request.connector, view->place.connector, sizeof(request.connector));
	conduit_stats_add(view->place.connector, STATS_WAITS, 1);
	answer = conduit_wait_for_worker(&request, timeout, NULL);

	conduit_credential_entitled(&request.connection, owner, tenant, view);
	if (view->generation != request.generation || read_parked(view))
	{
		/* newer, if perhaps expired again in the meantime */
		if (!conduit_credential_usable(view, conduit_now()))
			report_failure(view, CONDUIT_ERR_UNAVAILABLE, "expired_again");
		return true;
	}
	report_answer(view, answer);
	return false;
}
