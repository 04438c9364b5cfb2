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
	ROW_LOCKED_BY_US,
	ROW_HELD,					/* by somebody's open transaction */
	ROW_GONE
} RowState;

/* The credential as it is locked. */
typedef struct LockedCredential
{
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
lock_connection(const pg_uuid_t *connection)
{
	static StoreQuery lock = {
		"SELECT FROM conduit.connection WHERE id = $1 FOR NO KEY UPDATE SKIP LOCKED", 1, {UUIDOID}
	};
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, connection);
	return conduit_store_run(&lock, &args) > 0;
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

/* Lock connection, then credential; never wait. */
static RowState
lock_rows(const pg_uuid_t *connection, LockedCredential *row)
{
	static StoreQuery lock = {
		"SELECT generation, status = 'ACTIVE', attempts, refresh_at FROM conduit.credential"
		" WHERE connection_id = $1 FOR NO KEY UPDATE SKIP LOCKED",
		1, {UUIDOID}
	};
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, connection);
	if (!lock_connection(connection) || conduit_store_run(&lock, &args) == 0)
		return row_exists(connection) ? ROW_HELD : ROW_GONE;
	row->generation = conduit_row_int64(0, 1);
	row->active = conduit_row_bool(0, 2);
	row->attempts = conduit_row_int32(0, 3);
	row->refresh_at = conduit_row_time(0, 4);
	return ROW_LOCKED_BY_US;
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

static void
apply_refreshed(RefreshFlight *flight)
{
	static StoreQuery update = {
		"UPDATE conduit.credential SET generation = $2, expires_at = $3, due_at = $4, refresh_at = $13,"
		" issued_at = $5, refreshed_at = $6, refresh_expires_at = $7, lifetime = $8, token_type = COALESCE($9, token_type),"
		" scope = COALESCE($10, scope), access = $11, refresh = $12, next_attempt_at = NULL, attempts = 0,"
		" in_doubt = false, last_error = NULL, last_error_code = NULL, last_error_at = NULL"
		" WHERE connection_id = $1",
		13, {UUIDOID, INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID,
		TIMESTAMPTZOID, FLOAT8OID, TEXTOID, TEXTOID, BYTEAOID, BYTEAOID, TIMESTAMPTZOID}
	};
	const TokenGrant *grant = &flight->outcome.grant;
	int64		generation = flight->generation + 1;
	TimestampTz due_at = conduit_schedule_due(flight->connector, &flight->place.connection, generation,
											  flight->reply_at, grant->expires_at, grant->lifetime, true);
	TimestampTz refresh_at = conduit_schedule_refresh(&flight->place.connection, generation, due_at,
													  flight->reply_at, grant->refresh_expires_at);
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, &flight->place.connection);
	conduit_arg(&args, Int64GetDatum(generation));
	conduit_arg_time(&args, grant->expires_at);
	conduit_arg_time(&args, due_at);
	conduit_arg_time(&args, grant->issued_at);
	conduit_arg_time(&args, flight->reply_at);
	conduit_arg_time(&args, grant->refresh_expires_at);
	conduit_arg(&args, Float8GetDatum(grant->lifetime));
	conduit_arg_utf8(&args, grant->token_type);
	conduit_arg_utf8(&args, grant->scope);
	conduit_arg_bytea(&args, flight->access);
	conduit_arg_bytea(&args, flight->refresh);
	conduit_arg_time(&args, refresh_at);
	conduit_store_run(&update, &args);
	conduit_at_commit(NUDGE_DUE, refresh_at);
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
note_client(RefreshFlight *flight)
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
	if (conduit_connector_binds_client(flight->connector))
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

static void
end_claim(const RefreshFlight *flight)
{
	static StoreQuery delete = {
		"DELETE FROM conduit.flight WHERE connection_id = $1 AND generation = $2", 2, {UUIDOID, INT8OID}
	};
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, &flight->place.connection);
	conduit_arg(&args, Int64GetDatum(flight->generation));
	conduit_store_run(&delete, &args);
}

SettleResult
conduit_refresh_settle(RefreshFlight *flight)
{
	LockedCredential row;

	if (flight->connector == NULL)
		flight->connector = conduit_catalogue_get(flight->place.connector, -1);

	switch (lock_rows(&flight->place.connection, &row))
	{
		case ROW_HELD:
			if (!flight->parked)
				conduit_refresh_park(flight);
			return SETTLE_PARKED;

		case ROW_GONE:
			/*
			 * Revoked or deleted meanwhile: what the flight brought must die
			 * too.  What it was minted with is not for keeping.
			 */
			if (flight->sealed && flight->connector != NULL && !conduit_auth_mints(flight->connector->auth_type))
				conduit_revocation_queue_flight(&flight->place.connection, flight->generation + 1,
												flight->place.tenant, flight->place.owner,
												flight->place.connector, flight->place.origin,
												flight->account, flight->client_id, flight->params,
												flight->access, flight->refresh);
			break;

		case ROW_LOCKED_BY_US:
			/*
			 * Authorized again meanwhile: the outcome is of a token that nobody
			 * has any more.  The new one may have been found due while this
			 * flight was in its way.
			 */
			if (row.generation != flight->generation || !row.active)
			{
				if (!TIMESTAMP_IS_NOEND(row.refresh_at))
					conduit_at_commit(NUDGE_DUE, row.refresh_at);
				break;
			}
			if (flight->outcome.outcome == OUTCOME_REFRESHED)
			{
				apply_refreshed(flight);
				merge_connection(flight);
				note_client(flight);
			}
			else if (flight->outcome.outcome == OUTCOME_DEAD)
				apply_dead(flight, &row);
			else
				apply_failure(flight, &row);
			break;
	}
	end_claim(flight);
	return SETTLED;
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
