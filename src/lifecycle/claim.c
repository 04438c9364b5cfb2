/*-------------------------------------------------------------------------
 *
 * claim.c
 *	  The first half of a refresh: claim it, send it, read the reply.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/refresh.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/settings.h"
#include "lifecycle/argument.h"
#include "lifecycle/catalogue.h"
#include "lifecycle/schedule.h"
#include "lifecycle/store.h"
#include "lifecycle/throttle.h"
#include "provider/authorize_url.h"
#include "provider/classify.h"
#include "shared/stats.h"

#define QUARANTINE_SECONDS 3600

/* Columns of the claim's look-up. */
enum
{
	C_TENANT = 1, C_OWNER, C_CONNECTOR, C_ORIGIN, C_GENERATION, C_STATUS, C_REFRESH_AT,
	C_NEXT_ATTEMPT_AT, C_LAST_ERROR, C_IN_DOUBT, C_ACCESS, C_REFRESH, C_REFRESH_EXPIRES_AT,
	C_REFRESHED_AT, C_PARAMS, C_CLIENT_ID, C_ACCOUNT, C_REVISION, C_BUILTIN, C_LAST_USED, C_SCOPE,
	C_REQUESTED_SCOPES
};

static pg_uuid_t incarnation;

void
conduit_refresh_set_incarnation(void)
{
	incarnation = conduit_new_id();
}

const pg_uuid_t *
conduit_incarnation(void)
{
	return &incarnation;
}

static void
set_outcome(RefreshFlight *flight, OutcomeClass outcome, const char *code, double retry_after)
{
	memset(&flight->outcome, 0, sizeof(flight->outcome));
	flight->outcome.outcome = outcome;
	strlcpy(flight->outcome.code, code, sizeof(flight->outcome.code));
	flight->outcome.retry_after = retry_after;
	flight->reply_at = conduit_now();
}

static bool
has_outcome(const RefreshFlight *flight)
{
	return flight->outcome.code[0] != '\0';
}

static uint64
look_up(const pg_uuid_t *connection)
{
	static StoreQuery select = {
		"SELECT c.tenant, c.owner, c.connector, c.origin, c.generation, c.status, c.refresh_at,"
		" c.next_attempt_at, c.last_error, c.in_doubt, c.access, c.refresh, c.refresh_expires_at,"
		" c.refreshed_at, n.params::pg_catalog.text, n.client_id, n.account, k.revision, k.builtin,"
		" COALESCE(u.used_on::pg_catalog.timestamptz, n.created_at), c.scope,"
		" pg_catalog.array_to_string(n.requested_scopes, ' ')"
		" FROM conduit.credential c JOIN conduit.connection n ON n.id = c.connection_id"
		" JOIN conduit.connector k ON k.slug = c.connector"
		" LEFT JOIN conduit.last_use u ON u.connection_id = c.connection_id"
		" WHERE c.connection_id = $1",
		1, {UUIDOID}
	};
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, connection);
	return conduit_store_run(&select, &args);
}

/*
 * A connection that nobody has used for conduit.refresh_idle is refreshed on
 * read only, and to keep its refresh token alive.  Returns whether it was put
 * off.
 */
static bool
put_off_if_idle(const pg_uuid_t *connection, TimestampTz now)
{
	static StoreQuery update = {
		"UPDATE conduit.credential SET refresh_at = $2 WHERE connection_id = ("
		" SELECT connection_id FROM conduit.credential WHERE connection_id = $1"
		" FOR NO KEY UPDATE SKIP LOCKED)",
		2, {UUIDOID, TIMESTAMPTZOID}
	};
	TimestampTz keep_alive;
	StoreArgs	args = {0};

	if (conduit_refresh_idle <= 0 ||
		conduit_seconds_between(conduit_row_time(0, C_LAST_USED), now) < conduit_refresh_idle)
		return false;
	keep_alive = conduit_row_isnull(0, C_REFRESH_EXPIRES_AT) ? DT_NOEND :
		conduit_schedule_keep_alive(conduit_row_isnull(0, C_REFRESHED_AT) ? now : conduit_row_time(0, C_REFRESHED_AT),
									conduit_row_time(0, C_REFRESH_EXPIRES_AT));
	if (keep_alive <= now)
		return false;
	conduit_arg_uuid(&args, connection);
	conduit_arg_time(&args, keep_alive);
	conduit_store_run(&update, &args);
	return true;
}

/* Whether the row that was looked up may be refreshed now; ANSWER_NONE if so. */
static RequestAnswer
check_row(const pg_uuid_t *connection, int64 generation, bool forced, bool unasked, TimestampTz now)
{
	char	   *status = conduit_row_text(0, C_STATUS, CurrentMemoryContext);
	char	   *last_error = conduit_row_text(0, C_LAST_ERROR, CurrentMemoryContext);
	TimestampTz next_attempt_at = conduit_row_time(0, C_NEXT_ATTEMPT_AT);

	if (strcmp(status, "ACTIVE") != 0)
		return ANSWER_DONE;
	if (generation >= 0 && conduit_row_int64(0, C_GENERATION) != generation)
		return ANSWER_NEWER;
	if (conduit_row_isnull(0, C_REFRESH))
		return ANSWER_NOT_REFRESHABLE;

	/* A token that may have been used already, and a provider that asks for
	 * time, are not to be hurried by anybody. */
	if (!TIMESTAMP_IS_NOEND(next_attempt_at) && next_attempt_at > now &&
		(!forced || conduit_row_bool(0, C_IN_DOUBT) ||
		 (last_error && strcmp(last_error, "throttled") == 0)))
		return ANSWER_DEFERRED;
	if (unasked && conduit_row_time(0, C_REFRESH_AT) > now)
		return ANSWER_DEFERRED;
	if (unasked && put_off_if_idle(connection, now))
		return ANSWER_DEFERRED;
	return ANSWER_NONE;
}

static RefreshFlight *
make_flight(const pg_uuid_t *connection)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "conduit flight", ALLOCSET_SMALL_SIZES);
	RefreshFlight *flight = MemoryContextAllocZero(context, sizeof(RefreshFlight));

	flight->context = context;
	flight->place.connection = *connection;
	flight->place.tenant = conduit_row_text(0, C_TENANT, context);
	flight->place.owner = conduit_row_text(0, C_OWNER, context);
	flight->place.connector = conduit_row_text(0, C_CONNECTOR, context);
	flight->place.origin = conduit_row_text(0, C_ORIGIN, context);
	flight->generation = conduit_row_int64(0, C_GENERATION);
	flight->refresh_expires_at = conduit_row_time(0, C_REFRESH_EXPIRES_AT);
	flight->in_doubt = conduit_row_bool(0, C_IN_DOUBT);
	flight->account = conduit_row_text(0, C_ACCOUNT, context);
	flight->client_id = conduit_row_text(0, C_CLIENT_ID, context);
	flight->params = conduit_row_text(0, C_PARAMS, context);
	flight->scope = conduit_row_text(0, C_SCOPE, context);
	flight->requested_scopes = conduit_row_text(0, C_REQUESTED_SCOPES, context);
	flight->access = conduit_row_bytea(0, C_ACCESS, context);
	flight->refresh = conduit_row_bytea(0, C_REFRESH, context);
	return flight;
}

/* Where the request goes: nowhere but to the origin that the token is bound to. */
static void
find_endpoint(RefreshFlight *flight)
{
	MemoryContext old = MemoryContextSwitchTo(flight->context);
	const char *problem;
	const char *variable;

	flight->variables = conduit_parse_object(flight->params, "invalid params");
	flight->endpoint = conduit_connector_refresh_endpoint(flight->connector, flight->variables, &problem, &variable);
	if (flight->endpoint == NULL)
		set_outcome(flight, OUTCOME_CONFIG, "endpoint_invalid", -1);
	else if (strcmp(conduit_connector_token_origin(flight->connector, flight->variables), flight->place.origin) != 0)
		set_outcome(flight, OUTCOME_CONFIG, "origin_changed", -1);
	MemoryContextSwitchTo(old);
}

static void
find_client(RefreshFlight *flight, bool builtin)
{
	MemoryContext old;

	if (!conduit_connector_takes_client(flight->connector))
		return;
	flight->client = conduit_client_find(flight->place.tenant, flight->place.connector,
										 flight->client_id, flight->context);
	old = MemoryContextSwitchTo(flight->context);
	if (flight->client == NULL)
		flight->client = conduit_client_from_environment(flight->place.tenant, flight->connector,
														 builtin, flight->client_id);
	if (flight->client == NULL ||
		(flight->client->nsecrets == 0 && conduit_connector_needs_secret(flight->connector)))
		set_outcome(flight, OUTCOME_CONFIG, "client_missing", -1);
	else if (flight->client_id == NULL)
		flight->client_id = flight->client->client_id;
	MemoryContextSwitchTo(old);
}

/*
 * Insert the flight row, or take over one whose worker is gone.  False if it
 * is this worker's own or holds a parked reply.
 */
static bool
write_claim(RefreshFlight *flight)
{
	static StoreQuery claim = {
		"INSERT INTO conduit.flight AS f (connection_id, generation, attempt, in_doubt, incarnation, claimed_at,"
		" tenant, owner, connector, origin, account, client_id, params)"
		" VALUES ($1, $2, 1, $3, $4, $5, $6, $7, $8, $9, $10, $11, $13::pg_catalog.jsonb)"
		" ON CONFLICT (connection_id) DO UPDATE SET generation = EXCLUDED.generation,"
		" attempt = CASE WHEN f.generation = EXCLUDED.generation THEN f.attempt + 1 ELSE 1 END,"
		" in_doubt = EXCLUDED.in_doubt OR (f.generation = EXCLUDED.generation AND $12),"
		" incarnation = EXCLUDED.incarnation, claimed_at = EXCLUDED.claimed_at,"
		" account = EXCLUDED.account, client_id = EXCLUDED.client_id, origin = EXCLUDED.origin,"
		" params = EXCLUDED.params"
		" WHERE f.incarnation <> EXCLUDED.incarnation AND f.outcome IS NULL"
		" RETURNING attempt, in_doubt",
		13, {UUIDOID, INT8OID, BOOLOID, UUIDOID, TIMESTAMPTZOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID,
		TEXTOID, TEXTOID, BOOLOID, TEXTOID}
	};
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, &flight->place.connection);
	conduit_arg(&args, Int64GetDatum(flight->generation));
	conduit_arg(&args, BoolGetDatum(flight->in_doubt));
	conduit_arg_uuid(&args, &incarnation);
	conduit_arg_time(&args, conduit_now());
	conduit_arg_text(&args, flight->place.tenant);
	conduit_arg_text(&args, flight->place.owner);
	conduit_arg_text(&args, flight->place.connector);
	conduit_arg_text(&args, flight->place.origin);
	conduit_arg_text(&args, flight->account);
	conduit_arg_text(&args, flight->client_id);
	conduit_arg(&args, BoolGetDatum(flight->connector->refresh_rotates));
	conduit_arg_text(&args, flight->params);
	if (conduit_store_run(&claim, &args) == 0)
		return false;
	flight->attempt = conduit_row_int32(0, 1);
	flight->in_doubt = conduit_row_bool(0, 2);
	if (flight->attempt > CONDUIT_MAX_FLIGHT_ATTEMPTS)
		set_outcome(flight, OUTCOME_TRANSIENT, "quarantined", QUARANTINE_SECONDS);
	return true;
}

RequestAnswer
conduit_refresh_claim(const pg_uuid_t *connection, int64 generation, bool forced, bool unasked,
					  RefreshFlight **claimed)
{
	TimestampTz now = conduit_now();
	RequestAnswer answer;
	RefreshFlight *flight;
	int64		revision;
	bool		builtin;

	*claimed = NULL;
	if (look_up(connection) == 0)
		return ANSWER_NOT_REFRESHABLE;
	answer = check_row(connection, generation, forced, unasked, now);
	if (answer != ANSWER_NONE)
		return answer;

	revision = conduit_row_int64(0, C_REVISION);
	builtin = conduit_row_bool(0, C_BUILTIN);
	flight = make_flight(connection);
	flight->connector = conduit_catalogue_get(flight->place.connector, revision);
	find_endpoint(flight);
	if (!has_outcome(flight))
		find_client(flight, builtin);
	if (!has_outcome(flight) && !conduit_throttle_admit(flight, unasked))
	{
		conduit_refresh_free(flight);
		return ANSWER_DEFERRED;
	}
	if (write_claim(flight))
	{
		/* Until here an error frees it with the transaction: nobody else may know it. */
		MemoryContextSetParent(flight->context, TopMemoryContext);
		*claimed = flight;
		return ANSWER_NONE;
	}

	conduit_refresh_free(flight);
	return ANSWER_PARKED;
}

static void
set_vault_outcome(RefreshFlight *flight, SealStatus status)
{
	set_outcome(flight, OUTCOME_CONFIG,
				status == SEAL_UNKNOWN_KEY ? "unknown_key" :
				status == SEAL_CANNOT_OPEN ? "cannot_open" : "vault_locked", -1);
}

static bool
open_refresh_token(RefreshFlight *flight)
{
	SealPlace	place = conduit_credential_seal_place(&flight->place, "refresh", flight->generation);
	SealStatus	status;

	if (flight->is_open)
		return true;
	status = conduit_secret_open(&place, flight->refresh, &flight->opened, &flight->refresh_part, NULL);
	if (status != SEAL_OK)
		set_vault_outcome(flight, status);
	flight->is_open = status == SEAL_OK;
	return flight->is_open;
}

/* The client's secret that is to be tried, if it has one. */
static bool
open_client_secret(RefreshFlight *flight, OpenedSecret *opened, ConduitSecret *secret)
{
	SealStatus	status;

	memset(opened, 0, sizeof(*opened));
	memset(secret, 0, sizeof(*secret));
	if (flight->client == NULL || flight->client->nsecrets == 0)
		return true;
	if (flight->client->environment_secret != NULL)
	{
		secret->client_secret.data = flight->client->environment_secret;
		secret->client_secret.length = strlen(flight->client->environment_secret);
		return true;
	}
	status = conduit_client_open_secret(flight->client, flight->secret, flight->connector, opened, secret);
	if (status != SEAL_OK)
		set_vault_outcome(flight, status);
	return status == SEAL_OK;
}

/* What was granted, as the provider has put it; else what was asked for. */
static const char *
scope_to_send(const RefreshFlight *flight)
{
	char	   *scope;

	if (flight->scope != NULL)
		return flight->scope;
	if (flight->requested_scopes == NULL)
		return conduit_scope_join(flight->connector, flight->connector->default_scopes);
	scope = pstrdup(flight->requested_scopes);
	for (char *c = scope; *c != '\0' && strcmp(flight->connector->scope_separator, ",") == 0; c++)
	{
		if (*c == ' ')
			*c = ',';
	}
	return scope;
}

bool
conduit_refresh_send(RefreshFlight *flight)
{
	TokenRequest request = {0};
	OpenedSecret client_opened;
	ConduitSecret client_secret;
	MemoryContext old;

	if (has_outcome(flight))
		return false;
	old = MemoryContextSwitchTo(flight->context);
	if (open_refresh_token(flight) && open_client_secret(flight, &client_opened, &client_secret))
	{
		request.kind = flight->connector->auth_type == AUTH_BEARER_RENEW ?
			TOKEN_REQUEST_BEARER_RENEW : TOKEN_REQUEST_REFRESH;
		request.connector = flight->connector;
		request.params = flight->variables;
		request.endpoint = flight->endpoint;
		request.client_id = flight->client ? flight->client->client_id : NULL;
		request.client_secret = client_secret.client_secret;
		request.refresh_token = flight->refresh_part.refresh_token;
		request.scope = scope_to_send(flight);
		request.timeout_ms = conduit_http_timeout;
		flight->exchange = conduit_exchange_token(&request, &flight->exchange_owner);
		conduit_stats_add(flight->place.connector, STATS_IN_FLIGHT, 1);
		if (client_opened.data != NULL)
			conduit_wipe_opened(&client_opened);
	}
	MemoryContextSwitchTo(old);
	return flight->exchange != NULL;
}

static void
end_exchange(RefreshFlight *flight)
{
	conduit_exchange_free(flight->exchange);
	flight->exchange = NULL;
	conduit_stats_add(flight->place.connector, STATS_IN_FLIGHT, -1);
}

/*
 * Only "this secret is wrong" leads to the client's other secret: the refresh
 * token has not been looked at then.
 */
static bool
try_next_secret(RefreshFlight *flight)
{
	if (flight->outcome.outcome != OUTCOME_CONFIG ||
		!conduit_classify_refuses_client(flight->outcome.code) ||
		flight->client == NULL || flight->secret + 1 >= flight->client->nsecrets)
		return false;
	flight->secret++;
	memset(&flight->outcome, 0, sizeof(flight->outcome));
	conduit_throttle_repeat(flight);
	return conduit_refresh_send(flight);
}

bool
conduit_refresh_receive(RefreshFlight *flight)
{
	MemoryContext old = MemoryContextSwitchTo(flight->context);

	conduit_exchange_read(flight->exchange, &flight->outcome);
	flight->reply_at = conduit_now();
	end_exchange(flight);
	conduit_throttle_note(flight);
	conduit_stats_add(flight->place.connector, STATS_MICROSECONDS, (int64) (flight->outcome.seconds * 1e6));
	MemoryContextSwitchTo(old);
	return !try_next_secret(flight);
}

void
conduit_refresh_give_up(RefreshFlight *flight)
{
	bool		sent = flight->exchange != NULL && conduit_exchange_sent(flight->exchange);

	if (flight->exchange != NULL)
		end_exchange(flight);
	set_outcome(flight, sent ? OUTCOME_UNKNOWN : OUTCOME_TRANSIENT, "internal", -1);
}

void
conduit_refresh_withdraw(RefreshFlight *flight)
{
	static StoreQuery delete = {
		"DELETE FROM conduit.flight WHERE connection_id = $1 AND generation = $2", 2, {UUIDOID, INT8OID}
	};
	StoreArgs	args = {0};

	end_exchange(flight);
	/* one that takes the place of a flight in doubt leaves it in doubt */
	if (flight->attempt > 1)
		return;
	conduit_arg_uuid(&args, &flight->place.connection);
	conduit_arg(&args, Int64GetDatum(flight->generation));
	conduit_store_run(&delete, &args);
}

void
conduit_refresh_free(RefreshFlight *flight)
{
	if (flight->exchange != NULL)
		end_exchange(flight);
	conduit_token_grant_wipe(&flight->outcome.grant);
	if (flight->is_open)
		conduit_wipe_opened(&flight->opened);
	if (flight->client != NULL && flight->client->environment_secret != NULL)
		conduit_wipe(flight->client->environment_secret, strlen(flight->client->environment_secret));
	MemoryContextDelete(flight->context);
}

int
conduit_refresh_void_claims(pg_uuid_t **connections, int64 **generations)
{
	static StoreQuery clean = {
		"DELETE FROM conduit.flight f WHERE f.outcome IS NULL AND f.incarnation <> $1 AND NOT EXISTS ("
		" SELECT FROM conduit.credential c WHERE c.connection_id = f.connection_id"
		" AND c.generation = f.generation AND c.status = 'ACTIVE' AND c.refresh IS NOT NULL)"
		" OR NOT EXISTS (SELECT FROM conduit.connector k WHERE k.slug = f.connector)",
		1, {UUIDOID}
	};
	static StoreQuery select = {
		"SELECT connection_id, generation FROM conduit.flight WHERE outcome IS NULL AND incarnation <> $1",
		1, {UUIDOID}
	};
	MemoryContext context = CurrentMemoryContext;
	StoreArgs	args = {0};
	int			n;

	conduit_arg_uuid(&args, &incarnation);
	conduit_store_run(&clean, &args);
	n = (int) conduit_store_run(&select, &args);
	*connections = MemoryContextAlloc(context, sizeof(pg_uuid_t) * (n + 1));
	*generations = MemoryContextAlloc(context, sizeof(int64) * (n + 1));
	for (int i = 0; i < n; i++)
	{
		(*connections)[i] = conduit_row_uuid(i, 1);
		(*generations)[i] = conduit_row_int64(i, 2);
	}
	return n;
}
