/*-------------------------------------------------------------------------
 *
 * settle.c
 *	  The second half of a refresh: move its outcome to where it belongs.
 *
 * Nothing here waits for a lock on a user's row: what is held is parked.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/refresh.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "base/clock.h"
#include "base/json.h"
#include "lifecycle/catalogue.h"
#include "lifecycle/commit.h"
#include "lifecycle/connection.h"
#include "lifecycle/key.h"
#include "lifecycle/revocation.h"
#include "lifecycle/rows.h"
#include "lifecycle/schedule.h"
#include "lifecycle/store.h"
#include "lifecycle/storm.h"
#include "shared/roster.h"
#include "shared/stats.h"

/* A provider that adds keys with every answer must not fill the row. */
#define MAX_EXTRA_LEN (128 * 1024)

/* How often the last success of a client's secret is written down, in seconds. */
#define LAST_SUCCESS_EVERY 3600

typedef enum RowState
{
	ROW_GONE,
	ROW_HELD,					/* by somebody's open transaction */
	ROW_LOCKED_BY_US
} RowState;

/* The credential as it is locked. */
typedef struct LockedCredential
{
	RowState	state;
	ItemPointerData tid;		/* where it stays while it is locked */
	bool		clientless;		/* its connection says of no client that it stands under it */
	int64		generation;
	bool		active;
	int			attempts;
	TimestampTz refresh_at;
} LockedCredential;

/* Nodes that point into *buffer, a copy of extra that the caller wipes. */
static ConduitJson *
parse_extra(const SecretText *extra, char **buffer)
{
	const char *problem;
	ConduitJson *json;

	*buffer = NULL;
	if (extra->data == NULL)
		return NULL;
	*buffer = palloc(extra->length + 1);
	memcpy(*buffer, extra->data, extra->length);
	(*buffer)[extra->length] = '\0';
	json = conduit_json_parse(*buffer, extra->length, &problem);
	return json != NULL && json->type == CONDUIT_JSON_OBJECT ? json : NULL;
}

/* Add the members of one object that the other lacks. */
static void
add_missing_members(ConduitJson *object, ConduitJson *from)
{
	ConduitJson *last = object->first;

	while (last != NULL && last->next != NULL)
		last = last->next;
	for (ConduitJson *member = from->first, *next; member != NULL; member = next)
	{
		next = member->next;
		if (conduit_json_get(object, member->key) != NULL)
			continue;
		member->next = NULL;
		if (last == NULL)
			object->first = member;
		else
			last->next = member;
		last = member;
	}
}

/*
 * What the first answer said beyond tokens (an instance's URL, say) need not
 * be repeated by later ones: keys that the new answer lacks are kept.  The
 * result is a copy of its own.
 */
static void
merge_extra(const SecretText *old, SecretText *new)
{
	char	   *old_buffer;
	char	   *new_buffer;
	ConduitJson *before = parse_extra(old, &old_buffer);
	ConduitJson *after = parse_extra(new, &new_buffer);
	int			new_length = new->length;
	StringInfoData merged;

	if (before != NULL)
	{
		if (after != NULL)
			add_missing_members(after, before);
		initStringInfo(&merged);
		conduit_json_write(&merged, after != NULL ? after : before);
		if (merged.len <= MAX_EXTRA_LEN)
		{
			if (new->data != NULL)
				conduit_wipe(unconstify(char *, new->data), new->length);
			new->data = merged.data;
			new->length = merged.len;
		}
	}
	if (old_buffer != NULL)
		conduit_wipe(old_buffer, old->length);
	if (new_buffer != NULL)
		conduit_wipe(new_buffer, new_length);
}

/*
 * A success without an access token extends the stored one, which is sealed
 * anew for the next generation.  Where there is none it was no success, though
 * the refresh token may have been used.  Returns whether there is one.
 */
static bool
keep_access_token(RefreshFlight *flight, const SecretText *stored)
{
	TokenGrant *grant = &flight->outcome.grant;

	if (stored->data == NULL)
	{
		conduit_token_grant_wipe(grant);
		flight->outcome.outcome = OUTCOME_UNKNOWN;
		strlcpy(flight->outcome.code, "no_access_token", sizeof(flight->outcome.code));
		return false;
	}
	if (grant->secret.access_token.data == NULL)
	{
		grant->secret.access_token.data = pnstrdup(stored->data, stored->length);
		grant->secret.access_token.length = stored->length;
	}
	return true;
}

/* What there is in it beside the refresh token goes from one generation to the next. */
static void
keep_refresh_part(ConduitSecret *secret, const ConduitSecret *stored)
{
	SecretText	refresh_token = secret->refresh_token;

	conduit_secret_take_refresh_part(secret, stored);
	secret->refresh_token = refresh_token;
}

SealStatus
conduit_refresh_seal(RefreshFlight *flight)
{
	TokenGrant *grant = &flight->outcome.grant;
	SealPlace	place = conduit_credential_seal_place(&flight->place, "access", flight->generation);
	MemoryContext old;
	OpenedSecret opened;
	ConduitSecret before = {{0}};
	SealStatus	status = SEAL_OK;
	bytea	   *access;
	bytea	   *refresh;
	bool		was_open = false;
	bool		has_access_token;
	bool		kept = grant->secret.refresh_token.data == NULL;

	if (flight->outcome.outcome != OUTCOME_REFRESHED || flight->sealed)
		return SEAL_OK;
	if (!conduit_key_verify_primary())
		return SEAL_UNVERIFIED;

	old = MemoryContextSwitchTo(flight->context);
	if (kept)
		grant->secret.refresh_token = flight->refresh_part.refresh_token;
	keep_refresh_part(&grant->secret, &flight->refresh_part);

	/* A refresh token that was kept expires when it did. */
	if (TIMESTAMP_IS_NOEND(grant->refresh_expires_at) && (kept || !flight->connector->refresh_rotates))
		grant->refresh_expires_at = flight->refresh_expires_at;
	if (flight->access != NULL &&
		conduit_secret_open(&place, flight->access, &opened, &before, NULL) == SEAL_OK)
	{
		was_open = true;
		merge_extra(&before.extra, &grant->secret.extra);
	}
	has_access_token = !grant->keeps_access_token || keep_access_token(flight, &before.access_token);
	if (has_access_token)
		status = conduit_credential_seal_grant(&flight->place, flight->generation + 1, &grant->secret,
											   &access, &refresh);
	if (was_open)
		conduit_wipe_opened(&opened);
	if (has_access_token && status == SEAL_OK)
	{
		conduit_token_grant_wipe(grant);
		flight->access = access;
		flight->refresh = refresh;
		flight->sealed = true;
	}
	MemoryContextSwitchTo(old);
	return status;
}

static bool
row_exists(const pg_uuid_t *connection)
{
	static StoreQuery select = {
		"SELECT FROM conduit.credential WHERE connection_id = $1", 1, {UUIDOID}
	};
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, connection);
	return conduit_store_run(&select, &args) > 0;
}

/*
 * Lock connection, then credential, of each flight; never wait.  A row that
 * cannot be had is skipped, and with it the pair.
 */
static void
lock_rows(RefreshFlight **flights, int n, LockedCredential *locked)
{
	static StoreQuery lock = {
		"SELECT r.n, l.* FROM pg_catalog.unnest($1) WITH ORDINALITY r (id, n) CROSS JOIN LATERAL ("
		"SELECT c.ctid, c.generation, c.status = 'ACTIVE', c.attempts, c.refresh_at, n.client_id IS NULL"
		" FROM conduit.connection n JOIN conduit.credential c ON c.connection_id = n.id"
		" WHERE n.id = r.id FOR NO KEY UPDATE SKIP LOCKED) l",
		1, {UUIDARRAYOID}
	};
	StoreRows	rows;
	StoreArgs	args = {0};
	uint64		found;

	conduit_rows_begin(&rows, &lock, 1, n);
	for (int i = 0; i < n; i++)
	{
		StoreArgs	cells = {0};

		conduit_arg_uuid(&cells, &flights[i]->place.connection);
		conduit_rows_add(&rows, &cells);
	}
	conduit_rows_args(&rows, &args);
	found = conduit_store_run(&lock, &args);
	for (uint64 i = 0; i < found; i++)
	{
		LockedCredential *row = &locked[conduit_row_int64(i, 1) - 1];

		row->state = ROW_LOCKED_BY_US;
		row->tid = conduit_row_tid(i, 2);
		row->generation = conduit_row_int64(i, 3);
		row->active = conduit_row_bool(i, 4);
		row->attempts = conduit_row_int32(i, 5);
		row->refresh_at = conduit_row_time(i, 6);
		row->clientless = conduit_row_bool(i, 7);
	}
	for (int i = 0; i < n; i++)
		if (locked[i].state != ROW_LOCKED_BY_US)
			locked[i].state = row_exists(&flights[i]->place.connection) ? ROW_HELD : ROW_GONE;
}

/* What the reply said of the connection; its row is locked. */
static void
merge_connection(const RefreshFlight *flight)
{
	const TokenGrant *grant = &flight->outcome.grant;

	if (grant->new_params != NULL || grant->new_metadata != NULL)
		conduit_connection_merge(&flight->place.connection, conduit_json_text(grant->new_params),
								 conduit_json_text(grant->new_metadata));
}

/*
 * The new tokens of locked credentials.  They are found by where they are: the
 * planner has no other way to get at them than one by one.
 */
static StoreQuery refreshed = {
	"UPDATE conduit.credential c SET generation = r.generation, expires_at = r.expires_at, due_at = r.due_at,"
	" refresh_at = r.refresh_at, issued_at = r.issued_at, refreshed_at = r.refreshed_at,"
	" refresh_expires_at = r.refresh_expires_at, lifetime = r.lifetime, token_type = COALESCE(r.token_type, c.token_type),"
	" scope = COALESCE(r.scope, c.scope), access = r.access, refresh = r.refresh, next_attempt_at = NULL, attempts = 0,"
	" in_doubt = false, last_error = NULL, last_error_code = NULL, last_error_at = NULL"
	" FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) r (tid, generation, expires_at,"
	" due_at, refresh_at, issued_at, refreshed_at, refresh_expires_at, lifetime, token_type, scope, access, refresh)"
	" WHERE c.ctid = r.tid",
	13, {TIDARRAYOID, INT8ARRAYOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID,
		TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID, FLOAT8ARRAYOID, TEXTARRAYOID, TEXTARRAYOID, BYTEAARRAYOID,
	BYTEAARRAYOID}
};

static void
add_refreshed(StoreRows *rows, const RefreshFlight *flight, LockedCredential *row)
{
	const TokenGrant *grant = &flight->outcome.grant;
	int64		generation = flight->generation + 1;
	TimestampTz due_at = conduit_schedule_due(flight->connector, &flight->place.connection, generation,
											  flight->reply_at, grant->expires_at, grant->lifetime, true);
	TimestampTz refresh_at = conduit_schedule_refresh(&flight->place.connection, generation, due_at,
													  flight->reply_at, grant->refresh_expires_at);
	StoreArgs	cells = {0};

	conduit_arg(&cells, PointerGetDatum(&row->tid));
	conduit_arg(&cells, Int64GetDatum(generation));
	conduit_arg_time(&cells, grant->expires_at);
	conduit_arg_time(&cells, due_at);
	conduit_arg_time(&cells, refresh_at);
	conduit_arg_time(&cells, grant->issued_at);
	conduit_arg_time(&cells, flight->reply_at);
	conduit_arg_time(&cells, grant->refresh_expires_at);
	conduit_arg(&cells, Float8GetDatum(grant->lifetime));
	conduit_arg_utf8(&cells, grant->token_type);
	conduit_arg_utf8(&cells, grant->scope);
	conduit_arg_bytea(&cells, flight->access);
	conduit_arg_bytea(&cells, flight->refresh);
	conduit_rows_add(rows, &cells);
	conduit_at_commit(NUDGE_DUE, refresh_at);
}

static void
write_refreshed(const StoreRows *rows)
{
	StoreArgs	args = {0};

	if (rows->n == 0)
		return;
	conduit_rows_args(rows, &args);
	if (conduit_store_run(&refreshed, &args) != rows->n)
		elog(ERROR, "a locked credential is not where it was");
}

static void
apply_failure(RefreshFlight *flight, const LockedCredential *row)
{
	static StoreQuery update = {
		"UPDATE conduit.credential SET attempts = attempts + 1, next_attempt_at = $2,"
		" refresh_at = CASE WHEN " CONDUIT_NEVER_MINTED " THEN NULL ELSE $2 END,"
		" in_doubt = in_doubt OR $3, last_error = $4, last_error_code = $5, last_error_at = $6"
		" WHERE connection_id = $1",
		6, {UUIDOID, TIMESTAMPTZOID, BOOLOID, TEXTOID, TEXTOID, TIMESTAMPTZOID}
	};
	OutcomeClass outcome = flight->outcome.outcome;
	bool		in_doubt = flight->in_doubt ||
		(outcome == OUTCOME_UNKNOWN && flight->connector->refresh_rotates);
	TimestampTz next = conduit_schedule_retry(flight->connector, outcome, row->attempts + 1, flight->in_doubt,
											  flight->outcome.retry_after, conduit_now());
	char	   *id = DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&flight->place.connection)));
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, &flight->place.connection);
	conduit_arg_time(&args, next);
	conduit_arg(&args, BoolGetDatum(in_doubt));
	conduit_arg_text(&args, conduit_outcome_name(outcome));
	conduit_arg_text(&args, flight->outcome.code);
	conduit_arg_time(&args, flight->reply_at);
	conduit_store_run(&update, &args);
	conduit_at_commit(NUDGE_DUE, next);

	ereport(LOG,
			(errmsg("conduit: refresh of connection %s failed: %s, %s, next attempt in %.0f s",
					id, conduit_outcome_name(outcome), flight->outcome.code,
					conduit_seconds_between(conduit_now(), next)),
			 errhidestmt(true), errhidecontext(true)));
}

/*
 * The stored refresh token is dead, if it is the one that was sent, was sent
 * under the client that the connection stands under, and the provider does not
 * say so of everybody.
 */
static void
apply_dead(RefreshFlight *flight, const LockedCredential *credential)
{
	static StoreQuery read = {
		"SELECT status, client_id FROM conduit.connection WHERE id = $1", 1, {UUIDOID}
	};
	static StoreQuery update = {
		"UPDATE conduit.credential SET refresh_at = NULL, next_attempt_at = NULL, attempts = attempts + 1,"
		" last_error = $2, last_error_code = $3, last_error_at = $4 WHERE connection_id = $1",
		4, {UUIDOID, TEXTOID, TEXTOID, TIMESTAMPTZOID}
	};
	const char *reason = flight->in_doubt ? "rotation_outcome_lost" : flight->outcome.code;
	ConnectionRow row = {0};
	StoreArgs	key = {0};
	StoreArgs	args = {0};
	char	   *client_id;
	char	   *id = DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&flight->place.connection)));

	conduit_arg_uuid(&key, &flight->place.connection);
	if (conduit_store_run(&read, &key) == 0)
		return;
	row.id = flight->place.connection;
	row.tenant = flight->place.tenant;
	row.owner = flight->place.owner;
	row.connector = flight->place.connector;
	row.account = flight->account;
	row.status = conduit_row_text(0, 1, CurrentMemoryContext);
	client_id = conduit_row_text(0, 2, CurrentMemoryContext);
	if (client_id != NULL && flight->client_id != NULL && strcmp(client_id, flight->client_id) != 0)
	{
		conduit_at_commit(NUDGE_DUE, DT_NOBEGIN);	/* still due, under its own client */
		return;
	}
	if (conduit_storm_doubts(flight->place.connector))
	{
		apply_failure(flight, credential);
		return;
	}

	conduit_arg_uuid(&args, &flight->place.connection);
	conduit_arg_text(&args, conduit_outcome_name(OUTCOME_DEAD));
	conduit_arg_text(&args, flight->outcome.code);
	conduit_arg_time(&args, flight->reply_at);
	conduit_store_run(&update, &args);
	conduit_connection_set_status(&row.id, "NEEDS_REAUTH", reason);
	conduit_connection_event(&row, "needs_reauth", "NEEDS_REAUTH", reason);

	ereport(LOG,
			(errmsg("conduit: connection %s needs re-authorization: %s", id, reason),
			 errhidestmt(true), errhidecontext(true)));
}

/* What a success tells about the client it was made under; not worth a wait. */
static void
note_client(RefreshFlight *flight, const LockedCredential *row)
{
	static StoreQuery record = {
		"UPDATE conduit.connection SET client_id = $2 WHERE id = $1 AND client_id IS NULL",
		2, {UUIDOID, TEXTOID}
	};
	static StoreQuery success = {
		"UPDATE conduit.client_secret SET last_success_at = $2 WHERE id = ("
		" SELECT id FROM conduit.client_secret WHERE id = $1 FOR NO KEY UPDATE SKIP LOCKED)",
		2, {UUIDOID, TIMESTAMPTZOID}
	};
	StoreArgs	args = {0};

	if (flight->client == NULL)
		return;
	if (row->clientless && conduit_connector_binds_client(flight->connector))
	{
		conduit_arg_uuid(&args, &flight->place.connection);
		conduit_arg_text(&args, flight->client_id);
		conduit_store_run(&record, &args);
	}
	if (flight->client->nsecrets > 0 && flight->client->environment_secret == NULL)
	{
		ClientSecretBlob *secret = &flight->client->secrets[flight->secret];
		StoreArgs	success_args = {0};

		if (!TIMESTAMP_IS_NOEND(secret->last_success_at) &&
			conduit_seconds_between(secret->last_success_at, flight->reply_at) < LAST_SUCCESS_EVERY)
			return;
		conduit_arg_uuid(&success_args, &secret->id);
		conduit_arg_time(&success_args, flight->reply_at);
		conduit_store_run(&success, &success_args);
	}
}

static StoreQuery ended = {
	"DELETE FROM conduit.flight WHERE connection_id = ANY ($1)"
	" AND generation = ($2)[pg_catalog.array_position($1, connection_id)]",
	2, {UUIDARRAYOID, INT8ARRAYOID}
};

static void
add_ended(StoreRows *rows, const RefreshFlight *flight)
{
	StoreArgs	cells = {0};

	conduit_arg_uuid(&cells, &flight->place.connection);
	conduit_arg(&cells, Int64GetDatum(flight->generation));
	conduit_rows_add(rows, &cells);
}

static void
end_claims(const StoreRows *rows)
{
	StoreArgs	args = {0};

	if (rows->n == 0)
		return;
	conduit_rows_args(rows, &args);
	conduit_store_run(&ended, &args);
}

/* The credential is locked, and still the one that the flight was for. */
static void
apply(RefreshFlight *flight, LockedCredential *row, StoreRows *successes)
{
	switch (flight->outcome.outcome)
	{
		case OUTCOME_REFRESHED:
			add_refreshed(successes, flight, row);
			merge_connection(flight);
			note_client(flight, row);
			break;
		case OUTCOME_DEAD:
			apply_dead(flight, row);
			break;
		default:
			apply_failure(flight, row);
			break;
	}
}

/*
 * Revoked or deleted meanwhile: what the flight brought must die too.  What it
 * was minted with is not for keeping.
 */
static void
drop_reply(RefreshFlight *flight)
{
	if (flight->sealed && flight->connector != NULL && !conduit_auth_mints(flight->connector->auth_type))
		conduit_revocation_queue_flight(&flight->place.connection, flight->generation + 1,
										flight->place.tenant, flight->place.owner,
										flight->place.connector, flight->place.origin,
										flight->account, flight->client_id, flight->params,
										flight->access, flight->refresh);
}

static SettleResult
settle_one(RefreshFlight *flight, LockedCredential *row, StoreRows *successes)
{
	if (flight->connector == NULL)
		flight->connector = conduit_catalogue_get(flight->place.connector, -1);
	if (row->state == ROW_HELD)
	{
		if (!flight->parked)
			conduit_refresh_park(flight);
		return SETTLE_PARKED;
	}
	if (row->state == ROW_GONE)
		drop_reply(flight);
	else if (row->generation == flight->generation && row->active)
		apply(flight, row, successes);

	/*
	 * Authorized again meanwhile: the outcome is of a token that nobody has any
	 * more.  The new one may have been found due while this flight was in its
	 * way.
	 */
	else if (!TIMESTAMP_IS_NOEND(row->refresh_at))
		conduit_at_commit(NUDGE_DUE, row->refresh_at);
	return SETTLED;
}

void
conduit_refresh_settle(RefreshFlight **flights, int n, SettleResult *results)
{
	LockedCredential *locked = palloc0(sizeof(LockedCredential) * n);
	StoreRows	successes;
	StoreRows	ends;

	conduit_rows_begin(&successes, &refreshed, refreshed.nargs, n);
	conduit_rows_begin(&ends, &ended, ended.nargs, n);
	lock_rows(flights, n, locked);
	for (int i = 0; i < n; i++)
	{
		results[i] = settle_one(flights[i], &locked[i], &successes);
		if (results[i] == SETTLED)
			add_ended(&ends, flights[i]);
	}
	write_refreshed(&successes);
	end_claims(&ends);
}

RequestAnswer
conduit_refresh_answer(const RefreshFlight *flight, SettleResult result)
{
	const char *code = flight->outcome.code;

	if (result == SETTLE_PARKED)
		return ANSWER_PARKED;
	if (strcmp(code, "client_missing") == 0)
		return ANSWER_NOT_CONFIGURED;
	if (strcmp(code, "vault_locked") == 0 || strcmp(code, "unknown_key") == 0 || strcmp(code, "cannot_open") == 0)
		return ANSWER_VAULT;
	return ANSWER_DONE;
}
