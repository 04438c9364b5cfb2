/*-------------------------------------------------------------------------
 *
 * key.c
 *	  The keyring's committed check values.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/key.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "base/clock.h"
#include "base/report.h"
#include "base/settings.h"
#include "lifecycle/store.h"
#include "lifecycle/wait.h"
#include "shared/wraps.h"

PG_FUNCTION_INFO_V1(conduit_keyring);

/* The table conduit.key at which keys were verified: another one knows nothing. */
static Oid	verified_in = InvalidOid;

typedef enum KeyState
{
	KEY_UNKNOWN,
	KEY_MATCHES,
	KEY_DIFFERS
} KeyState;

ConduitError
conduit_key_error(SealStatus status)
{
	return status == SEAL_UNKNOWN_KEY ? CONDUIT_ERR_UNKNOWN_KEY :
		status == SEAL_CANNOT_OPEN ? CONDUIT_ERR_CANNOT_OPEN : CONDUIT_ERR_VAULT_LOCKED;
}

void
conduit_key_raise(SealStatus status, const char *key_id)
{
	switch (status)
	{
		case SEAL_UNKNOWN_KEY:
			conduit_raise(CONDUIT_ERR_UNKNOWN_KEY,
						  key_id && key_id[0] ? psprintf("unknown_key %s", key_id) : "unknown_key");
		case SEAL_CANNOT_OPEN:
			conduit_raise(CONDUIT_ERR_CANNOT_OPEN, "cannot_open");
		case SEAL_UNVERIFIED:
			conduit_raise(CONDUIT_ERR_VAULT_LOCKED, "unverified");
		default:
			conduit_raise(CONDUIT_ERR_VAULT_LOCKED,
						  conduit_keyring_problem_code() ? conduit_keyring_problem_code() : "locked");
	}
}

static bytea *
check_value_bytea(const ConduitKey *key)
{
	bytea	   *value = palloc(VARHDRSZ + CONDUIT_KCV_LEN);

	SET_VARSIZE(value, VARHDRSZ + CONDUIT_KCV_LEN);
	memcpy(VARDATA(value), key->kcv, CONDUIT_KCV_LEN);
	return value;
}

/* Compare a key with its committed check value; within a store scope. */
static KeyState
look_up_key(ConduitKey *key)
{
	static StoreQuery select = {
		"SELECT check_value OPERATOR(pg_catalog.=) $2 FROM conduit.key"
		" WHERE id OPERATOR(pg_catalog.=) $1",
		2, {TEXTOID, BYTEAOID}
	};
	StoreArgs	args = {0};

	conduit_arg_text(&args, key->id);
	conduit_arg_bytea(&args, check_value_bytea(key));
	if (conduit_store_run(&select, &args) == 0)
		return KEY_UNKNOWN;
	return conduit_row_bool(0, 1) ? KEY_MATCHES : KEY_DIFFERS;
}

static ConduitKey *
primary_or_raise(void)
{
	ConduitKey *primary = conduit_keyring_primary();

	if (primary == NULL)
		conduit_key_raise(SEAL_LOCKED, NULL);
	return primary;
}

/* What another table said, before the extension was created again, is void. */
static void
forget_verified(void)
{
	ConduitKeyring *ring = conduit_keyring_get();

	for (int i = 0; ring != NULL && i < ring->nkeys; i++)
		ring->keys[i].verified = false;
	verified_in = conduit_table("key");
}

static KeyState
verify_primary(ConduitKey *primary)
{
	StoreScope	scope;
	KeyState	state;

	if (verified_in != conduit_table("key"))
		forget_verified();
	if (primary->verified)
		return KEY_MATCHES;

	conduit_store_begin(&scope);
	state = look_up_key(primary);
	conduit_store_end(&scope);
	primary->verified = state == KEY_MATCHES;
	return state;
}

bool
conduit_key_verify_primary(void)
{
	ConduitKey *primary = conduit_keyring_primary();

	return primary != NULL && verify_primary(primary) == KEY_MATCHES;
}

void
conduit_key_prepare_to_seal(void)
{
	FlightRequest request = {.kind = REQUEST_KEYS};
	KeyState	state = verify_primary(primary_or_raise());

	if (state == KEY_UNKNOWN)
	{
		switch (conduit_wait_for_worker(&request, conduit_vend_timeout, NULL))
		{
			case ANSWER_DONE:
				break;
			case ANSWER_VAULT:
				conduit_raise(CONDUIT_ERR_VAULT_LOCKED, "worker_keyring");
			default:
				conduit_raise(CONDUIT_ERR_NO_WORKER, NULL);
		}
		state = verify_primary(primary_or_raise());
	}
	if (state == KEY_DIFFERS)
		conduit_raise(CONDUIT_ERR_VAULT_LOCKED, "key_mismatch");
	if (state == KEY_UNKNOWN)
		conduit_raise(CONDUIT_ERR_VAULT_LOCKED, "unverified");
}

void
conduit_key_commit_check_values(void)
{
	static StoreQuery insert = {
		"INSERT INTO conduit.key (id, check_value, created_at) VALUES ($1, $2, $3)"
		" ON CONFLICT (id) DO NOTHING",
		3, {TEXTOID, BYTEAOID, TIMESTAMPTZOID}
	};
	ConduitKeyring *ring = conduit_keyring_get();
	StoreScope	scope;

	if (ring == NULL)
		return;
	conduit_store_begin(&scope);
	for (int i = 0; i < ring->nkeys; i++)
	{
		StoreArgs	args = {0};

		conduit_arg_text(&args, ring->keys[i].id);
		conduit_arg_bytea(&args, check_value_bytea(&ring->keys[i]));
		conduit_arg_time(&args, conduit_now());
		conduit_store_run(&insert, &args);
	}
	conduit_store_end(&scope);
}

static bool
any_key_in_use(void)
{
	static StoreQuery select = {"SELECT FROM conduit.key LIMIT 1", 0, {0}};
	StoreScope	scope;
	bool		any;

	conduit_store_begin(&scope);
	any = conduit_store_run(&select, NULL) > 0;
	conduit_store_end(&scope);
	return any;
}

void
conduit_key_extend_check_values(void)
{
	ConduitKey *primary = conduit_keyring_primary();

	if (primary != NULL && verify_primary(primary) == KEY_UNKNOWN && any_key_in_use())
		conduit_key_commit_check_values();
}

bool
conduit_key_trusted(void)
{
	ConduitKey *primary = conduit_keyring_primary();

	return primary != NULL && verify_primary(primary) != KEY_DIFFERS;
}

void
conduit_key_seal_done(void)
{
	char		key_id[CONDUIT_KEY_ID_LEN + 1];
	uint32		count;

	while ((count = conduit_seal_take_count(key_id)) > 0)
		conduit_wraps_add(key_id, count);
}

void
conduit_key_flush_wraps(void)
{
	static StoreQuery update = {
		"UPDATE conduit.key SET wraps = wraps OPERATOR(pg_catalog.+) $2"
		" WHERE id OPERATOR(pg_catalog.=) $1",
		2, {TEXTOID, INT8OID}
	};
	char		key_id[CONDUIT_KEY_ID_LEN + 1];
	uint64		count;
	StoreScope	scope;

	conduit_store_begin(&scope);
	while (conduit_wraps_take(key_id, &count))
	{
		StoreArgs	args = {0};

		conduit_arg_text(&args, key_id);
		conduit_arg(&args, Int64GetDatum(count));
		conduit_store_run(&update, &args);
	}
	conduit_store_end(&scope);
}

/*
 * Blobs per key: where they stand, the id of the key that each names.  The id
 * is 16 bytes, zero-padded, at offset 6 (seal.c).
 */
#define BLOB_KEYS \
	" SELECT pg_catalog.substring(b.blob, 7, 16) AS key, pg_catalog.count(*) AS blobs" \
	" FROM (SELECT access FROM conduit.credential UNION ALL SELECT refresh FROM conduit.credential" \
	"  UNION ALL SELECT secret FROM conduit.client_secret UNION ALL SELECT secret FROM conduit.mac_key" \
	"  UNION ALL SELECT jwk FROM conduit.jwt_key" \
	"  UNION ALL SELECT access FROM conduit.flight UNION ALL SELECT refresh FROM conduit.flight" \
	"  UNION ALL SELECT access FROM conduit.revocation" \
	"  UNION ALL SELECT refresh FROM conduit.revocation" \
	"  UNION ALL SELECT verifier FROM conduit.authorize_state" \
	"  UNION ALL SELECT granted FROM conduit.authorize_state) b (blob)" \
	" WHERE pg_catalog.octet_length(b.blob) > 22 GROUP BY 1"

/*
 * conduit_keyring() lists the keys of this process's ring and those that rows
 * name, without any key.
 */
Datum
conduit_keyring(PG_FUNCTION_ARGS)
{
	static StoreQuery select = {
		"WITH ring (id, is_primary, check_value) AS ("
		"  SELECT * FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3))),"
		" blobs (key, blobs) AS (" BLOB_KEYS "),"
		" named (id, blobs) AS ("
		"  SELECT pg_catalog.encode(pg_catalog.rtrim(key, '\\x00'::bytea), 'escape'), blobs FROM blobs),"
		" ids (id) AS (SELECT id FROM ring UNION SELECT id FROM conduit.key UNION SELECT id FROM named)"
		" SELECT ids.id, COALESCE(ring.is_primary, false), ring.id IS NOT NULL,"
		"  CASE WHEN ring.id IS NULL THEN 'missing' WHEN k.id IS NULL THEN 'unused'"
		"   WHEN k.check_value OPERATOR(pg_catalog.=) ring.check_value THEN 'good' ELSE 'mismatch' END,"
		"  COALESCE(named.blobs, 0), COALESCE(k.wraps, 0), k.created_at"
		" FROM ids LEFT JOIN ring ON ring.id OPERATOR(pg_catalog.=) ids.id"
		" LEFT JOIN conduit.key k ON k.id OPERATOR(pg_catalog.=) ids.id"
		" LEFT JOIN named ON named.id OPERATOR(pg_catalog.=) ids.id ORDER BY ids.id",
		3, {TEXTARRAYOID, BOOLARRAYOID, BYTEAARRAYOID}
	};
	ConduitKeyring *ring = conduit_keyring_get();
	int			n = ring ? ring->nkeys : 0;
	Datum	   *ids = palloc(sizeof(Datum) * (n + 1));
	Datum	   *primary = palloc(sizeof(Datum) * (n + 1));
	Datum	   *values = palloc(sizeof(Datum) * (n + 1));
	StoreArgs	args = {0};

	for (int i = 0; i < n; i++)
	{
		ids[i] = CStringGetTextDatum(ring->keys[i].id);
		primary[i] = BoolGetDatum(ring->keys[i].primary);
		values[i] = PointerGetDatum(check_value_bytea(&ring->keys[i]));
	}
	conduit_arg(&args, PointerGetDatum(construct_array(ids, n, TEXTOID, -1, false, TYPALIGN_INT)));
	conduit_arg(&args, PointerGetDatum(construct_array(primary, n, BOOLOID, 1, true, TYPALIGN_CHAR)));
	conduit_arg(&args, PointerGetDatum(construct_array(values, n, BYTEAOID, -1, false, TYPALIGN_INT)));
	conduit_store_return_rows(fcinfo, &select, &args);
	return (Datum) 0;
}
