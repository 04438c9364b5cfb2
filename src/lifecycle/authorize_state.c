/*-------------------------------------------------------------------------
 *
 * authorize_state.c
 *	  Rows of conduit.authorize_state.
 *
 * After conduit_authorize() has made them they are written by the worker alone,
 * but for conduit_rewrap(), which locks those that are open or parked.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/authorize.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "base/clock.h"
#include "lifecycle/credential.h"
#include "lifecycle/key.h"
#include "lifecycle/refresh.h"
#include "lifecycle/store.h"

/* A state is kept so long after its end, in seconds. */
#define KEPT_SECONDS 86400

#define PURGE_BATCH 1000

static const char *const status_names[] = {
	[AUTHORIZE_OPEN] = "open",
	[AUTHORIZE_CLAIMED] = "claimed",
	[AUTHORIZE_RECEIVED] = "received",
	[AUTHORIZE_PARKED] = "parked",
	[AUTHORIZE_DONE] = "done",
	[AUTHORIZE_FAILED] = "failed"
};

/* Those that are asked in a next request, once there is a token. */
static const char *const step_names[] = {
	[AUTHORIZE_SEND_CODE] = "code",
	[AUTHORIZE_EXCHANGE] = "exchange",
	[AUTHORIZE_ACCOUNT] = "account",
	[AUTHORIZE_NOTHING] = "none"
};

/* What a state stands for; params as they are with those of the connection. */
#define STATE_COLUMNS \
	"SELECT s.id, s.tenant, s.owner, s.connector, s.origin, s.client_id, s.redirect_uri," \
	" (COALESCE(n.params, '{}') || s.params)::pg_catalog.text, s.connection_id, s.verifier, s.expires_at, s.status," \
	" s.code_hash, s.closed_at, s.result, s.outcome, s.reason, s.token_origin," \
	" (SELECT k.builtin FROM conduit.connector k WHERE k.slug = s.connector)"
#define STATE_TABLES \
	" FROM conduit.authorize_state s LEFT JOIN conduit.connection n ON n.id = s.connection_id"

enum
{
	S_ID = 1, S_TENANT, S_OWNER, S_CONNECTOR, S_ORIGIN, S_CLIENT_ID, S_REDIRECT_URI, S_PARAMS, S_CONNECTION,
	S_VERIFIER, S_EXPIRES_AT, S_STATUS, S_CODE_HASH, S_CLOSED_AT, S_RESULT, S_OUTCOME, S_REASON,
	S_TOKEN_ORIGIN, S_BUILTIN, S_NEXT
};

void
conduit_authorize_hash(const char *text, uint8 hash[CONDUIT_DIGEST_LEN])
{
	conduit_sha256(text, strlen(text), hash);
}

bytea *
conduit_authorize_hash_bytea(const char *text)
{
	bytea	   *hash = palloc(VARHDRSZ + CONDUIT_DIGEST_LEN);

	SET_VARSIZE(hash, VARHDRSZ + CONDUIT_DIGEST_LEN);
	conduit_authorize_hash(text, (uint8 *) VARDATA(hash));
	return hash;
}

/* The place of a name in a list; the last, which nobody writes, for an unknown one. */
static int
place_of(const char *name, const char *const *names, int n)
{
	for (int i = 0; i < n; i++)
		if (name != NULL && strcmp(names[i], name) == 0)
			return i;
	return n - 1;
}

static AuthorizeState *
read_state(uint64 row, MemoryContext context)
{
	AuthorizeState *state = MemoryContextAllocZero(context, sizeof(AuthorizeState));

	state->id = conduit_row_uuid(row, S_ID);
	state->tenant = conduit_row_text(row, S_TENANT, context);
	state->owner = conduit_row_text(row, S_OWNER, context);
	state->connector = conduit_row_text(row, S_CONNECTOR, context);
	state->origin = conduit_row_text(row, S_ORIGIN, context);
	state->client_id = conduit_row_text(row, S_CLIENT_ID, context);
	state->redirect_uri = conduit_row_text(row, S_REDIRECT_URI, context);
	state->params = conduit_row_text(row, S_PARAMS, context);
	state->again = !conduit_row_isnull(row, S_CONNECTION);
	state->connection = conduit_row_uuid(row, S_CONNECTION);
	state->verifier = conduit_row_bytea(row, S_VERIFIER, context);
	state->expires_at = conduit_row_time(row, S_EXPIRES_AT);
	state->status = place_of(conduit_row_text(row, S_STATUS, context), status_names, lengthof(status_names));
	state->code_hash = conduit_row_bytea(row, S_CODE_HASH, context);
	state->closed_at = conduit_row_time(row, S_CLOSED_AT);
	state->result = conduit_row_uuid(row, S_RESULT);
	state->outcome = conduit_row_text(row, S_OUTCOME, context);
	state->reason = conduit_row_text(row, S_REASON, context);
	state->token_origin = conduit_row_text(row, S_TOKEN_ORIGIN, context);
	state->builtin = conduit_row_bool(row, S_BUILTIN);
	return state;
}

static AuthorizeState *
find(StoreQuery *query, const char *state, const char *owner, const char *tenant, MemoryContext context)
{
	StoreArgs	args = {0};

	conduit_arg_bytea(&args, conduit_authorize_hash_bytea(state));
	conduit_arg_text(&args, owner);
	conduit_arg_text(&args, tenant);
	return conduit_store_run(query, &args) == 0 ? NULL : read_state(0, context);
}

AuthorizeState *
conduit_authorize_find(const char *state, const char *owner, const char *tenant, MemoryContext context)
{
	static StoreQuery select = {
		STATE_COLUMNS STATE_TABLES " WHERE s.state_hash = $1 AND s.owner = $2 AND s.tenant = $3",
		3, {BYTEAOID, TEXTOID, TEXTOID}
	};

	return find(&select, state, owner, tenant, context);
}

AuthorizeState *
conduit_authorize_lock(const char *state, const char *owner, const char *tenant, MemoryContext context, bool *held)
{
	static StoreQuery lock = {
		STATE_COLUMNS STATE_TABLES " WHERE s.state_hash = $1 AND s.owner = $2 AND s.tenant = $3"
		" FOR NO KEY UPDATE OF s SKIP LOCKED",
		3, {BYTEAOID, TEXTOID, TEXTOID}
	};
	AuthorizeState *found = find(&lock, state, owner, tenant, context);

	*held = found == NULL && conduit_authorize_find(state, owner, tenant, context) != NULL;
	return found;
}

bool
conduit_authorize_same_code(const AuthorizeState *state, const char *code)
{
	uint8		hash[CONDUIT_DIGEST_LEN];

	if (state->code_hash == NULL || VARSIZE_ANY_EXHDR(state->code_hash) != CONDUIT_DIGEST_LEN)
		return false;
	conduit_authorize_hash(code, hash);
	return memcmp(VARDATA_ANY(state->code_hash), hash, CONDUIT_DIGEST_LEN) == 0;
}

SealPlace
conduit_authorize_place(const AuthorizeState *state, const char *field)
{
	SealPlace	place = {
		.purpose = "authorize",.row = &state->id,.connection = &state->id,
		.tenant = conduit_place_text(state->tenant),.owner = conduit_place_text(state->owner),
		.connector = state->connector,.field = field,.generation = 0,.origin = state->origin
	};

	return place;
}

/* An object of a provider's as jsonb text; null where there is none. */
static void
arg_json(StoreArgs *args, const ConduitJson *json)
{
	StringInfoData text;

	if (json == NULL)
	{
		conduit_arg_null(args);
		return;
	}
	initStringInfo(&text);
	conduit_json_write(&text, json);
	conduit_arg_utf8(args, text.data);
}

void
conduit_authorize_claim(const AuthorizeState *state, const char *code, const char *token_origin,
						const ConduitJson *params, const ConduitJson *metadata)
{
	static StoreQuery claim = {
		"UPDATE conduit.authorize_state SET status = 'claimed', incarnation = $2, code_hash = $3, token_origin = $4,"
		" params = params || COALESCE($5::pg_catalog.jsonb, '{}'),"
		" metadata = metadata || COALESCE($6::pg_catalog.jsonb, '{}'), outcome = NULL, reason = NULL WHERE id = $1",
		6, {UUIDOID, UUIDOID, BYTEAOID, TEXTOID, TEXTOID, TEXTOID}
	};
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, &state->id);
	conduit_arg_uuid(&args, conduit_incarnation());
	conduit_arg_bytea(&args, conduit_authorize_hash_bytea(code));
	conduit_arg_text(&args, token_origin);
	arg_json(&args, params);
	arg_json(&args, metadata);
	conduit_store_run(&claim, &args);
}

void
conduit_authorize_reopen(const AuthorizeState *state, const char *outcome, const char *reason)
{
	static StoreQuery reopen = {
		"UPDATE conduit.authorize_state SET status = 'open', incarnation = NULL, code_hash = NULL,"
		" outcome = $2, reason = $3 WHERE id = $1 AND status IN ('open', 'claimed')",
		3, {UUIDOID, TEXTOID, TEXTOID}
	};
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, &state->id);
	conduit_arg_text(&args, outcome);
	conduit_arg_text(&args, reason);
	conduit_store_run(&reopen, &args);
}

static void
close_state(const AuthorizeState *state, AuthorizeStatus status, const char *code, const pg_uuid_t *result,
			const char *outcome, const char *reason)
{
	static StoreQuery close = {
		"UPDATE conduit.authorize_state SET status = $2, result = $3, outcome = $4, reason = $5, closed_at = $6,"
		" code_hash = COALESCE($7, code_hash), verifier = NULL, granted = NULL, next_step = NULL WHERE id = $1",
		7, {UUIDOID, TEXTOID, UUIDOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, BYTEAOID}
	};
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, &state->id);
	conduit_arg_text(&args, status_names[status]);
	if (result != NULL)
		conduit_arg_uuid(&args, result);
	else
		conduit_arg_null(&args);
	conduit_arg_text(&args, outcome);
	conduit_arg_text(&args, reason);
	conduit_arg_time(&args, conduit_now());
	conduit_arg_bytea(&args, code ? conduit_authorize_hash_bytea(code) : NULL);
	conduit_store_run(&close, &args);
}

void
conduit_authorize_fail(const AuthorizeState *state, const char *outcome, const char *reason)
{
	close_state(state, AUTHORIZE_FAILED, NULL, NULL, outcome, reason);
}

void
conduit_authorize_refuse(const AuthorizeState *state, const char *code, const char *reason)
{
	close_state(state, AUTHORIZE_FAILED, code, NULL, "refused", reason);
}

void
conduit_authorize_done(const AuthorizeState *state, const pg_uuid_t *connection)
{
	close_state(state, AUTHORIZE_DONE, NULL, connection, NULL, NULL);
}

void
conduit_authorize_note(const AuthorizeState *state, const ConduitJson *params, const ConduitJson *metadata)
{
	static StoreQuery merge = {
		"UPDATE conduit.authorize_state SET params = params || COALESCE($2::pg_catalog.jsonb, '{}'),"
		" metadata = metadata || COALESCE($3::pg_catalog.jsonb, '{}') WHERE id = $1",
		3, {UUIDOID, TEXTOID, TEXTOID}
	};
	StoreArgs	args = {0};

	if (params == NULL && metadata == NULL)
		return;
	conduit_arg_uuid(&args, &state->id);
	arg_json(&args, params);
	arg_json(&args, metadata);
	conduit_store_run(&merge, &args);
}

void
conduit_authorize_keep(const AuthorizeState *state, const AuthorizeGrant *grant, AuthorizeStep next)
{
	static StoreQuery keep = {
		"UPDATE conduit.authorize_state SET status = $2, next_step = $3, granted = $4, issued_at = $5,"
		" token_expires_at = $6, refresh_expires_at = $7, lifetime = $8, token_type = $9, scope = $10,"
		" account = $11, account_label = $12, verifier = NULL WHERE id = $1",
		12, {UUIDOID, TEXTOID, TEXTOID, BYTEAOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, FLOAT8OID,
		TEXTOID, TEXTOID, TEXTOID, TEXTOID}
	};
	const TokenGrant *token = &grant->token;
	SealPlace	place = conduit_authorize_place(state, "granted");
	bytea	   *granted;
	SealStatus	status = conduit_key_verify_primary() ?
		conduit_secret_seal(&place, &token->secret, &granted) : SEAL_UNVERIFIED;
	StoreArgs	args = {0};

	if (status != SEAL_OK)
		conduit_key_raise(status, NULL);
	conduit_key_seal_done();

	conduit_authorize_note(state, token->new_params, token->new_metadata);
	conduit_arg_uuid(&args, &state->id);
	conduit_arg_text(&args, status_names[next == AUTHORIZE_NOTHING ? AUTHORIZE_PARKED : AUTHORIZE_RECEIVED]);
	conduit_arg_text(&args, step_names[next]);
	conduit_arg_bytea(&args, granted);
	conduit_arg_time(&args, token->issued_at);
	conduit_arg_time(&args, token->expires_at);
	conduit_arg_time(&args, token->refresh_expires_at);
	conduit_arg(&args, Float8GetDatum(token->lifetime));
	conduit_arg_utf8(&args, token->token_type);
	conduit_arg_utf8(&args, token->scope);
	conduit_arg_utf8(&args, grant->account);
	conduit_arg_utf8(&args, grant->account_label);
	conduit_store_run(&keep, &args);
}

void
conduit_authorize_park(const AuthorizeState *state)
{
	static StoreQuery park = {
		"UPDATE conduit.authorize_state SET status = 'parked', next_step = 'none' WHERE id = $1", 1, {UUIDOID}
	};
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, &state->id);
	conduit_store_run(&park, &args);
}

bool
conduit_authorize_relock(const AuthorizeState *state, bool *gone)
{
	static StoreQuery lock = {
		"SELECT FROM conduit.authorize_state WHERE id = $1 FOR NO KEY UPDATE SKIP LOCKED", 1, {UUIDOID}
	};
	static StoreQuery select = {
		"SELECT FROM conduit.authorize_state WHERE id = $1", 1, {UUIDOID}
	};
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, &state->id);
	*gone = false;
	if (conduit_store_run(&lock, &args) > 0)
		return true;
	*gone = conduit_store_run(&select, &args) == 0;
	return false;
}

static AuthorizeLoaded *
read_loaded(uint64 row, MemoryContext context)
{
	AuthorizeLoaded *loaded = MemoryContextAllocZero(context, sizeof(AuthorizeLoaded));
	TokenGrant *token = &loaded->grant.token;
	int			column = S_NEXT;

	loaded->state = read_state(row, context);
	loaded->next = place_of(conduit_row_text(row, column++, context), step_names, lengthof(step_names));
	loaded->granted = conduit_row_bytea(row, column++, context);
	token->issued_at = conduit_row_time(row, column++);
	token->expires_at = conduit_row_time(row, column++);
	token->refresh_expires_at = conduit_row_time(row, column++);
	token->lifetime = conduit_row_float(row, column++);
	token->token_type = conduit_row_utf8(row, column++, context);
	token->scope = conduit_row_utf8(row, column++, context);
	loaded->grant.account = conduit_row_utf8(row, column++, context);
	loaded->grant.account_label = conduit_row_utf8(row, column++, context);
	return loaded;
}

List *
conduit_authorize_load(AuthorizeStatus status, const pg_uuid_t *after, int max, MemoryContext context)
{
	static StoreQuery select = {
		STATE_COLUMNS ", s.next_step, s.granted, s.issued_at, s.token_expires_at, s.refresh_expires_at,"
		" s.lifetime, s.token_type, s.scope, s.account, s.account_label" STATE_TABLES
		" WHERE s.status IN ('claimed', 'received', 'parked') AND s.status = $1 AND s.id > $2 ORDER BY s.id LIMIT $3",
		3, {TEXTOID, UUIDOID, INT4OID}
	};
	StoreArgs	args = {0};
	List	   *loaded = NIL;
	uint64		n;

	conduit_arg_text(&args, status_names[status]);
	conduit_arg_uuid(&args, after);
	conduit_arg(&args, Int32GetDatum(max));
	n = conduit_store_run(&select, &args);
	for (uint64 i = 0; i < n; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		loaded = lappend(loaded, read_loaded(i, context));
		MemoryContextSwitchTo(old);
	}
	return loaded;
}

SealStatus
conduit_authorize_unseal(AuthorizeLoaded *loaded)
{
	AuthorizeGrant *grant = &loaded->grant;
	SealPlace	place = conduit_authorize_place(loaded->state, "granted");
	SealStatus	status;
	MemoryContext old;

	if (grant->is_open)
		return SEAL_OK;
	if (loaded->granted == NULL)
		return SEAL_CANNOT_OPEN;
	old = MemoryContextSwitchTo(GetMemoryChunkContext(loaded));
	status = conduit_secret_open(&place, loaded->granted, &grant->opened, &grant->token.secret, NULL);
	MemoryContextSwitchTo(old);
	grant->is_open = status == SEAL_OK;
	return status;
}

void
conduit_authorize_free_grant(AuthorizeGrant *grant)
{
	if (grant->is_open)
	{
		conduit_wipe_opened(&grant->opened);
		memset(&grant->token.secret, 0, sizeof(grant->token.secret));
	}
	else
		conduit_token_grant_wipe(&grant->token);
	grant->is_open = false;
}

int
conduit_authorize_void_claims(void)
{
	static StoreQuery fail = {
		"UPDATE conduit.authorize_state SET status = 'failed', outcome = 'refused', reason = 'lost', closed_at = $2,"
		" verifier = NULL WHERE status IN ('claimed', 'received', 'parked') AND status = 'claimed' AND incarnation <> $1",
		2, {UUIDOID, TIMESTAMPTZOID}
	};
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, conduit_incarnation());
	conduit_arg_time(&args, conduit_now());
	return (int) conduit_store_run(&fail, &args);
}

int
conduit_authorize_purge(void)
{
	static StoreQuery purge = {
		"DELETE FROM conduit.authorize_state WHERE id IN ("
		" SELECT id FROM conduit.authorize_state WHERE expires_at < $1 AND status IN ('open', 'done', 'failed')"
		" ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
		2, {TIMESTAMPTZOID, INT4OID}
	};
	StoreArgs	args = {0};
	StoreScope	scope;
	int			n;

	conduit_store_begin(&scope);
	conduit_arg_time(&args, conduit_time_add(conduit_now(), -(double) KEPT_SECONDS));
	conduit_arg(&args, Int32GetDatum(PURGE_BATCH));
	n = (int) conduit_store_run(&purge, &args);
	conduit_store_end(&scope);
	return n;
}

void
conduit_authorize_forget(const char *owner, const char *tenant)
{
	static StoreQuery forget = {
		"DELETE FROM conduit.authorize_state WHERE id IN ("
		" SELECT id FROM conduit.authorize_state WHERE owner = $1 AND tenant = $2 AND status IN ('open', 'done', 'failed')"
		" FOR UPDATE SKIP LOCKED)",
		2, {TEXTOID, TEXTOID}
	};

	/* Waits for the worker where that is just claiming or settling one, which takes a moment. */
	static StoreQuery mark = {
		"UPDATE conduit.authorize_state SET expires_at = '-infinity' WHERE owner = $1 AND tenant = $2",
		2, {TEXTOID, TEXTOID}
	};
	StoreArgs	args = {0};

	conduit_arg_text(&args, owner);
	conduit_arg_text(&args, tenant);
	conduit_store_run(&forget, &args);
	conduit_store_run(&mark, &args);
}

bool
conduit_authorize_forgotten(const AuthorizeState *state)
{
	static StoreQuery select = {
		"SELECT FROM conduit.authorize_state WHERE id = $1 AND expires_at = '-infinity'", 1, {UUIDOID}
	};
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, &state->id);
	return conduit_store_run(&select, &args) > 0;
}
