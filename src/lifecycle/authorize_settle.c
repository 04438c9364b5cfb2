/*-------------------------------------------------------------------------
 *
 * authorize_settle.c
 *	  Move what a provider has granted to the connection it is for.
 *
 * In one transaction: the connection, made or renewed, its credential, the
 * events, the end of the state.  Nothing here waits for a lock: what is held is
 * tried again later.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/authorize.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "base/clock.h"
#include "lifecycle/argument.h"
#include "lifecycle/catalogue.h"
#include "lifecycle/connection.h"
#include "lifecycle/credential.h"
#include "lifecycle/key.h"
#include "lifecycle/revocation.h"
#include "lifecycle/store.h"
#include "lifecycle/storing.h"

/* For the one wait that cannot be skipped: another's uncommitted row of the same account. */
#define CONFLICT_TIMEOUT "10ms"

typedef enum LockState
{
	LOCK_OURS,
	LOCK_HELD,					/* by somebody's open transaction */
	LOCK_GONE
} LockState;

/* What is settled, and where. */
typedef struct Settling
{
	const AuthorizeState *state;
	AuthorizeGrant *grant;
	const ConduitConnector *connector;
	char	   *account;		/* in the server's encoding; NULL: not known */
	ConnectionRow row;			/* the connection, locked */
	bool		found;			/* it exists */
	int64		generation;		/* of its credential; 0: none */
	char	   *origin;			/* of its credential */
	bytea	   *refresh;		/* of its credential; NULL: none */
} Settling;

static bool
run_has_rows(StoreQuery *query, const pg_uuid_t *id)
{
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, id);
	return conduit_store_run(query, &args) > 0;
}

/* Keep the connector from being dropped before this commits. */
static LockState
lock_connector(const char *slug)
{
	static StoreQuery lock = {
		"SELECT FROM conduit.connector WHERE slug = $1 FOR KEY SHARE SKIP LOCKED", 1, {TEXTOID}
	};
	static StoreQuery select = {
		"SELECT FROM conduit.connector WHERE slug = $1", 1, {TEXTOID}
	};
	StoreArgs	args = {0};

	conduit_arg_text(&args, slug);
	if (conduit_store_run(&lock, &args) > 0)
		return LOCK_OURS;
	return conduit_store_run(&select, &args) > 0 ? LOCK_HELD : LOCK_GONE;
}

/* Lock a connection of the state's owner into settling->row. */
static LockState
lock_connection(Settling *settling, const pg_uuid_t *id)
{
	static StoreQuery lock = {
		"SELECT account, status, client_id, params::pg_catalog.text, last_generation FROM conduit.connection"
		" WHERE id = $1 AND owner = $2 AND tenant = $3 AND connector = $4 FOR NO KEY UPDATE SKIP LOCKED",
		4, {UUIDOID, TEXTOID, TEXTOID, TEXTOID}
	};
	static StoreQuery select = {
		"SELECT FROM conduit.connection WHERE id = $1", 1, {UUIDOID}
	};
	const AuthorizeState *state = settling->state;
	ConnectionRow *row = &settling->row;
	MemoryContext context = CurrentMemoryContext;
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, id);
	conduit_arg_text(&args, state->owner);
	conduit_arg_text(&args, state->tenant);
	conduit_arg_text(&args, state->connector);
	if (conduit_store_run(&lock, &args) == 0)
		return run_has_rows(&select, id) ? LOCK_HELD : LOCK_GONE;
	row->id = *id;
	row->account = conduit_row_text(0, 1, context);
	row->status = conduit_row_text(0, 2, context);
	row->client_id = conduit_row_text(0, 3, context);
	row->params = conduit_row_text(0, 4, context);
	row->last_generation = conduit_row_int64(0, 5);
	settling->found = true;
	return LOCK_OURS;
}

/* The other connection of the owner that has the account; false if there is none. */
static bool
find_by_account(const Settling *settling, pg_uuid_t *id)
{
	static StoreQuery select = {
		"SELECT id FROM conduit.connection WHERE tenant = $1 AND owner = $2 AND connector = $3 AND account = $4"
		" AND status <> 'REVOKED' AND id <> $5",
		5, {TEXTOID, TEXTOID, TEXTOID, TEXTOID, UUIDOID}
	};
	const AuthorizeState *state = settling->state;
	StoreArgs	args = {0};

	if (settling->account == NULL)
		return false;
	conduit_arg_text(&args, state->tenant);
	conduit_arg_text(&args, state->owner);
	conduit_arg_text(&args, state->connector);
	conduit_arg_text(&args, settling->account);
	conduit_arg_uuid(&args, &settling->row.id);
	if (conduit_store_run(&select, &args) == 0)
		return false;
	*id = conduit_row_uuid(0, 1);
	return true;
}

/* Lock the connection's credential, which may not be there. */
static LockState
lock_credential(Settling *settling)
{
	static StoreQuery lock = {
		"SELECT generation, origin, refresh FROM conduit.credential WHERE connection_id = $1"
		" FOR NO KEY UPDATE SKIP LOCKED",
		1, {UUIDOID}
	};
	static StoreQuery select = {
		"SELECT FROM conduit.credential WHERE connection_id = $1", 1, {UUIDOID}
	};
	MemoryContext context = CurrentMemoryContext;

	if (!run_has_rows(&lock, &settling->row.id))
		return run_has_rows(&select, &settling->row.id) ? LOCK_HELD : LOCK_GONE;
	settling->generation = conduit_row_int64(0, 1);
	settling->origin = conduit_row_text(0, 2, context);
	settling->refresh = conduit_row_bytea(0, 3, context);
	return LOCK_OURS;
}

/* Where the connection's credential will be bound to, with what the state says for its params. */
static char *
origin_with_state(const Settling *settling)
{
	static StoreQuery merge = {
		"SELECT ($2::pg_catalog.jsonb || s.params)::pg_catalog.text FROM conduit.authorize_state s WHERE s.id = $1",
		2, {UUIDOID, TEXTOID}
	};
	StoreArgs	args = {0};
	char	   *params;

	conduit_arg_uuid(&args, &settling->state->id);
	conduit_arg_text(&args, settling->found ? settling->row.params : "{}");
	if (conduit_store_run(&merge, &args) == 0)
		return pstrdup("");
	params = conduit_row_text(0, 1, CurrentMemoryContext);
	return conduit_connector_token_origin(settling->connector, conduit_parse_object(params, "invalid params"));
}

/*
 * The account as the server can hold it: what has no form in its encoding
 * cannot be compared, and is not known.
 */
static char *
account_text(const AuthorizeGrant *grant)
{
	StoreArgs	args = {0};

	conduit_arg_utf8(&args, grant->account);
	return args.nulls[0] == 'n' ? NULL : TextDatumGetCString(args.values[0]);
}

/* ---- what cannot be used ---- */

/*
 * A grant that has no place: it is revoked, where the connector can and the
 * rule allows it, and the state has failed.
 */
static void
discard(Settling *settling, const char *outcome, const char *reason)
{
	const AuthorizeState *state = settling->state;
	CredentialPlace place = {
		.connection = state->id,.tenant = state->tenant,.owner = state->owner,.connector = state->connector,
		.origin = state->token_origin ? state->token_origin : ""
	};
	bytea	   *access;
	bytea	   *refresh;
	SealStatus	status = conduit_credential_seal_grant(&place, 1, &settling->grant->token.secret, &access, &refresh);

	if (status != SEAL_OK)
		conduit_key_raise(status, NULL);
	conduit_revocation_queue_flight(&state->id, 1, state->tenant, state->owner, state->connector, place.origin,
									settling->account, state->client_id, state->params, access, refresh);
	conduit_authorize_fail(state, outcome, reason);
}

/* ---- the connection ---- */

/*
 * Write a connection whose account may be taken by a row that is not committed
 * yet: the index alone can tell, by a wait, which is kept short.  False if so.
 */
static bool
write_connection(StoreQuery *query, const StoreArgs *args)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool written = false;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		int			level = NewGUCNestLevel();

		(void) set_config_option("lock_timeout", CONFLICT_TIMEOUT, PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
		conduit_store_run(query, args);
		AtEOXact_GUC(true, level);
		ReleaseCurrentSubTransaction();
		written = true;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		if (error->sqlerrcode != ERRCODE_UNIQUE_VIOLATION && error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE &&
			error->sqlerrcode != ERRCODE_T_R_DEADLOCK_DETECTED)
			ReThrowError(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return written;
}

static bool
insert_connection(Settling *settling)
{
	static StoreQuery insert = {
		"INSERT INTO conduit.connection (id, tenant, owner, connector, account, account_label, client_id,"
		" requested_scopes, params, metadata, created_at, updated_at)"
		" SELECT s.id, s.tenant, s.owner, s.connector, $2, $3, s.client_id, s.scopes, s.params, s.metadata, $4, $4"
		" FROM conduit.authorize_state s WHERE s.id = $1",
		4, {UUIDOID, TEXTOID, TEXTOID, TIMESTAMPTZOID}
	};
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, &settling->state->id);
	conduit_arg_text(&args, settling->account);
	conduit_arg_utf8(&args, settling->grant->account_label);
	conduit_arg_time(&args, conduit_now());
	if (!write_connection(&insert, &args))
		return false;
	settling->row.account = settling->account;
	conduit_connection_event(&settling->row, "created", "ACTIVE", NULL);
	settling->row.status = "ACTIVE";
	return true;
}

static bool
renew_connection(Settling *settling)
{
	static StoreQuery update = {
		"UPDATE conduit.connection n SET account = COALESCE(n.account, $3), account_label = COALESCE($4, n.account_label),"
		" client_id = s.client_id, requested_scopes = s.scopes, params = n.params || s.params,"
		" metadata = n.metadata || s.metadata, status = 'ACTIVE', status_reason = NULL, updated_at = $5"
		" FROM conduit.authorize_state s WHERE s.id = $1 AND n.id = $2",
		5, {UUIDOID, UUIDOID, TEXTOID, TEXTOID, TIMESTAMPTZOID}
	};
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, &settling->state->id);
	conduit_arg_uuid(&args, &settling->row.id);
	conduit_arg_text(&args, settling->account);
	conduit_arg_utf8(&args, settling->grant->account_label);
	conduit_arg_time(&args, conduit_now());
	return write_connection(&update, &args);
}

/* ---- the credential ---- */

/*
 * Some providers give a refresh token with the first authorization of an
 * account only: the stored one stays, if it is the same account's, of the same
 * client and for the same endpoint.  Opened into *opened, which the caller wipes.
 */
static bool
keep_refresh_token(Settling *settling, OpenedSecret *opened)
{
	ConduitSecret *secret = &settling->grant->token.secret;
	CredentialPlace place = {
		.connection = settling->row.id,.tenant = settling->state->tenant,.owner = settling->state->owner,
		.connector = settling->state->connector,.origin = settling->origin
	};
	SealPlace	seal_place;
	ConduitSecret before;
	SealStatus	status;

	if (secret->refresh_token.data != NULL || settling->refresh == NULL ||
		settling->account == NULL || settling->row.account == NULL ||
		strcmp(settling->account, settling->row.account) != 0 ||
		settling->row.client_id == NULL || strcmp(settling->row.client_id, settling->state->client_id) != 0 ||
		strcmp(settling->origin, settling->state->token_origin) != 0)
		return false;
	seal_place = conduit_credential_seal_place(&place, "refresh", settling->generation);
	status = conduit_secret_open(&seal_place, settling->refresh, opened, &before, NULL);
	if (status != SEAL_OK)
	{
		ereport(LOG,
				(errmsg("conduit: the stored refresh token of a connection that was authorized again cannot be opened"),
				 errhint("conduit_keyring() shows which keys are missing or wrong."),
				 errhidestmt(true), errhidecontext(true)));
		return false;
	}
	secret->refresh_token = before.refresh_token;
	return true;
}

static void
write_credential(Settling *settling)
{
	TokenGrant *token = &settling->grant->token;
	CredentialPlace place = {
		.connection = settling->row.id,.tenant = settling->state->tenant,.owner = settling->state->owner,
		.connector = settling->state->connector,.origin = settling->state->token_origin
	};
	int64		generation = Max(settling->generation, settling->row.last_generation) + 1;
	OpenedSecret opened;
	bool		kept = keep_refresh_token(settling, &opened);
	StoredGrant stored;

	/* The grant may be settled again, and must not point to what is gone then. */
	PG_TRY();
	{
		conduit_storing_seal(&place, settling->connector, token, generation, conduit_now(), &stored);
	}
	PG_FINALLY();
	{
		if (kept)
		{
			memset(&token->secret.refresh_token, 0, sizeof(SecretText));
			conduit_wipe_opened(&opened);
		}
	}
	PG_END_TRY();
	conduit_storing_write(&stored, 1);
}

/* ---- putting it together ---- */

/* The connection that is authorized again. */
static AuthorizeSettle
settle_again(Settling *settling)
{
	const AuthorizeState *state = settling->state;
	ConnectionRow *row = &settling->row;
	pg_uuid_t	other;

	switch (lock_connection(settling, &state->connection))
	{
		case LOCK_HELD:
			return AUTHORIZE_HELD;
		case LOCK_GONE:
			discard(settling, "refused", "connection_gone");
			return AUTHORIZE_SETTLED;
		case LOCK_OURS:
			break;
	}
	if (strcmp(row->status, "REVOKED") == 0)
		discard(settling, "refused", "connection_revoked");
	else if (row->account != NULL && settling->account != NULL && strcmp(row->account, settling->account) != 0)
		discard(settling, "refused", "account_mismatch");
	else if (row->account != NULL && settling->account == NULL && settling->connector->account_url != NULL)
		conduit_authorize_fail(state, "transient", "account_unknown");
	else if (strcmp(origin_with_state(settling), state->token_origin) != 0)
		discard(settling, "refused", "params_changed");
	else
	{
		/* Another connection may have the account that this one turns out to be of. */
		if (row->account == NULL && find_by_account(settling, &other))
			settling->account = NULL;
		if (lock_credential(settling) == LOCK_HELD || !renew_connection(settling))
			return AUTHORIZE_HELD;
		return AUTHORIZE_SETTLED;
	}
	settling->found = false;
	return AUTHORIZE_SETTLED;
}

/* A new connection, or the one that the owner has of the account. */
static AuthorizeSettle
settle_new(Settling *settling)
{
	pg_uuid_t	existing;

	settling->row.id = settling->state->id;
	if (find_by_account(settling, &existing))
	{
		if (lock_connection(settling, &existing) != LOCK_OURS ||
			settling->row.account == NULL || strcmp(settling->row.account, settling->account) != 0 ||
			strcmp(settling->row.status, "REVOKED") == 0)
			return AUTHORIZE_HELD;	/* it is changing: look again */
		if (strcmp(origin_with_state(settling), settling->state->token_origin) == 0)
			return lock_credential(settling) == LOCK_HELD || !renew_connection(settling) ?
				AUTHORIZE_HELD : AUTHORIZE_SETTLED;

		/* The same name at another host is not the same account. */
		memset(&settling->row, 0, sizeof(settling->row));
		settling->row.id = settling->state->id;
		settling->account = NULL;
		settling->found = false;
	}
	settling->row.tenant = settling->state->tenant;
	settling->row.owner = settling->state->owner;
	settling->row.connector = settling->state->connector;
	if (!insert_connection(settling))
		return AUTHORIZE_HELD;
	settling->found = true;
	return AUTHORIZE_SETTLED;
}

AuthorizeSettle
conduit_authorize_settle(const AuthorizeState *state, AuthorizeGrant *grant)
{
	Settling	settling = {.state = state,.grant = grant};
	bool		recovered;

	if (!conduit_key_verify_primary())
		conduit_key_raise(SEAL_UNVERIFIED, NULL);
	switch (lock_connector(state->connector))
	{
		case LOCK_HELD:
			return AUTHORIZE_HELD;
		case LOCK_GONE:
			conduit_authorize_fail(state, "refused", "connector_gone");
			return AUTHORIZE_SETTLED;
		case LOCK_OURS:
			break;
	}
	settling.connector = conduit_catalogue_get(state->connector, -1);
	settling.account = account_text(grant);
	settling.row.tenant = state->tenant;
	settling.row.owner = state->owner;
	settling.row.connector = state->connector;
	if (conduit_authorize_forgotten(state))
	{
		discard(&settling, "refused", "owner_deleted");
		return AUTHORIZE_SETTLED;
	}
	conduit_authorize_note(state, grant->token.new_params, grant->token.new_metadata);

	if ((state->again ? settle_again(&settling) : settle_new(&settling)) == AUTHORIZE_HELD)
		return AUTHORIZE_HELD;
	if (!settling.found)
		return AUTHORIZE_SETTLED;	/* discarded */

	write_credential(&settling);
	recovered = strcmp(settling.row.status, "NEEDS_REAUTH") == 0;
	if (settling.row.account == NULL)
		settling.row.account = settling.account;
	conduit_connection_event(&settling.row, recovered ? "recovered" : "authorized", "ACTIVE", NULL);
	conduit_authorize_done(state, &settling.row.id);
	return AUTHORIZE_SETTLED;
}
