/*-------------------------------------------------------------------------
 *
 * api_key.c
 *	  Server-to-server keys.
 *
 *-------------------------------------------------------------------------
 */
#include "door/api_key.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "port/pg_crc32c.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/base64url.h"
#include "base/clock.h"
#include "base/report.h"
#include "lifecycle/argument.h"
#include "lifecycle/key.h"
#include "lifecycle/store.h"
#include "shared/last_use.h"
#include "vault/digest.h"
#include "vault/secret.h"

PG_FUNCTION_INFO_V1(conduit_create_api_key);
PG_FUNCTION_INFO_V1(conduit_rotate_api_key);
PG_FUNCTION_INFO_V1(conduit_revoke_api_key);

#define PREFIX			"cdt_"
#define PREFIX_LENGTH	4
#define SECRET_BYTES	32
#define CHECKSUM_BYTES	4
#define ID_LENGTH		conduit_base64url_encoded_length(UUID_LEN)
#define SECRET_LENGTH	conduit_base64url_encoded_length(SECRET_BYTES)
#define CHECKSUM_LENGTH conduit_base64url_encoded_length(CHECKSUM_BYTES)
#define KEY_LENGTH		(PREFIX_LENGTH + ID_LENGTH + SECRET_LENGTH + CHECKSUM_LENGTH)
#define MAC_BYTES		CONDUIT_DIGEST_LEN
#define MAX_SCOPES		64
#define MAX_SCOPE_LEN	128
#define MAX_NAME_LEN	100
#define MAX_GRACE_S		(30 * 86400.0)
#define USE_BATCH		1000

/* ---- the MAC key ---- */

static SealPlace
mac_key_place(const pg_uuid_t *id)
{
	SealPlace	place = {
		.purpose = "mac",.row = id,.connection = id,.tenant = "",.owner = "",.connector = "",
		.field = "secret",.generation = 0,.origin = ""
	};

	return place;
}

/* The sealed MAC key; NULL if there is none yet. */
static bytea *
read_mac_key(pg_uuid_t *id)
{
	static StoreQuery select = {"SELECT id, secret FROM conduit.mac_key", 0, {0}};

	if (conduit_store_run(&select, NULL) == 0)
		return NULL;
	*id = conduit_row_uuid(0, 1);
	return conduit_row_bytea(0, 2, CurrentMemoryContext);
}

/*
 * Draw the MAC key if there is none.  Of two sessions that do, the one that
 * comes second waits for the first and finds its key.
 */
static void
ensure_mac_key(void)
{
	static StoreQuery insert = {
		"INSERT INTO conduit.mac_key (id, secret, created_at) VALUES ($1, $2, $3) ON CONFLICT (singleton) DO NOTHING",
		3, {UUIDOID, BYTEAOID, TIMESTAMPTZOID}
	};
	pg_uuid_t	id;
	SealPlace	place = mac_key_place(&id);
	char		bytes[SECRET_BYTES];
	ConduitSecret secret = {.client_secret = {bytes, SECRET_BYTES}};
	bytea	   *blob;
	SealStatus	status;
	StoreArgs	args = {0};

	if (read_mac_key(&id) != NULL)
		return;
	id = conduit_new_id();
	conduit_random(bytes, sizeof(bytes));
	status = conduit_secret_seal(&place, &secret, &blob);
	conduit_wipe(bytes, sizeof(bytes));
	if (status != SEAL_OK)
		conduit_key_raise(status, NULL);
	conduit_key_seal_done();
	conduit_arg_uuid(&args, &id);
	conduit_arg_bytea(&args, blob);
	conduit_arg_time(&args, conduit_now());
	conduit_store_run(&insert, &args);
}

/*
 * The MAC of a key's secret, bound to its id.  False if there is no MAC key,
 * for then no key can be right; raises the vault's error if it cannot be opened.
 */
static bool
compute_mac(const pg_uuid_t *key, const uint8 *secret, uint8 *mac)
{
	pg_uuid_t	id;
	SealPlace	place = mac_key_place(&id);
	bytea	   *blob = read_mac_key(&id);
	char		key_id[CONDUIT_KEY_ID_LEN + 1];
	uint8		message[UUID_LEN + SECRET_BYTES];
	OpenedSecret opened;
	ConduitSecret record;
	SealStatus	status;

	if (blob == NULL)
		return false;
	status = conduit_secret_open(&place, blob, &opened, &record, key_id);
	if (status != SEAL_OK)
		conduit_key_raise(status, key_id);
	memcpy(message, key->data, UUID_LEN);
	memcpy(message + UUID_LEN, secret, SECRET_BYTES);
	conduit_hmac(record.client_secret.data, record.client_secret.length, message, sizeof(message), mac);
	conduit_wipe(message, sizeof(message));
	conduit_wipe_opened(&opened);
	return true;
}

/* ---- the text of a key ---- */

static void
checksum(const char *text, int length, uint8 *sum)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, text, length);
	FIN_CRC32C(crc);
	for (int i = 0; i < CHECKSUM_BYTES; i++)
		sum[i] = (uint8) (crc >> (8 * (CHECKSUM_BYTES - 1 - i)));
}

static char *
format_key(const pg_uuid_t *id, const uint8 *secret)
{
	char	   *text = palloc(KEY_LENGTH + 1);
	char	   *at = text + PREFIX_LENGTH;
	uint8		sum[CHECKSUM_BYTES];

	strlcpy(text, PREFIX, KEY_LENGTH + 1);
	at += conduit_base64url_encode(id->data, UUID_LEN, at);
	at += conduit_base64url_encode(secret, SECRET_BYTES, at);
	checksum(text, at - text, sum);
	(void) conduit_base64url_encode(sum, CHECKSUM_BYTES, at);
	return text;
}

/* False if text has not the form of a key, its checksum included. */
static bool
parse_key(const char *text, pg_uuid_t *id, uint8 *secret)
{
	uint8		sum[CHECKSUM_BYTES];
	uint8		stated[CHECKSUM_BYTES + 3];
	uint8		id_bytes[UUID_LEN + 3];
	uint8		secret_bytes[SECRET_BYTES + 3];
	const char *id_text = text + PREFIX_LENGTH;
	const char *secret_text = id_text + ID_LENGTH;
	const char *sum_text = secret_text + SECRET_LENGTH;

	if (strlen(text) != KEY_LENGTH || strncmp(text, PREFIX, PREFIX_LENGTH) != 0 ||
		conduit_base64url_decode(sum_text, CHECKSUM_LENGTH, stated) != CHECKSUM_BYTES ||
		conduit_base64url_decode(id_text, ID_LENGTH, id_bytes) != UUID_LEN ||
		conduit_base64url_decode(secret_text, SECRET_LENGTH, secret_bytes) != SECRET_BYTES)
		return false;
	checksum(text, sum_text - text, sum);
	memcpy(id->data, id_bytes, UUID_LEN);
	memcpy(secret, secret_bytes, SECRET_BYTES);
	conduit_wipe(secret_bytes, sizeof(secret_bytes));
	return memcmp(sum, stated, CHECKSUM_BYTES) == 0;
}

/* ---- proving ---- */

static void
copy_scopes(uint64 row, int column, ApiKey *key)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &isnull);
	Datum	   *scopes;
	bool	   *nulls;

	deconstruct_array(DatumGetArrayTypeP(value), TEXTOID, -1, false, TYPALIGN_INT, &scopes, &nulls, &key->nscopes);
	key->scopes = palloc(sizeof(char *) * (key->nscopes + 1));
	for (int i = 0; i < key->nscopes; i++)
		key->scopes[i] = nulls[i] ? pstrdup("") : TextDatumGetCString(scopes[i]);
}

bool
conduit_api_key_verify(const char *text, const char *tenant, ApiKey *key)
{
	static StoreQuery select = {
		"SELECT mac, owner, scopes, expires_at FROM conduit.api_key"
		" WHERE id = $1 AND tenant = $2 AND (expires_at IS NULL OR expires_at > $3)"
		" AND (revoked_at IS NULL OR revoked_at > $3)",
		3, {UUIDOID, TEXTOID, TIMESTAMPTZOID}
	};
	TimestampTz now = conduit_now();
	uint8		secret[SECRET_BYTES];
	uint8		mac[MAC_BYTES];
	bytea	   *stored;
	StoreArgs	args = {0};
	bool		proven;

	memset(key, 0, sizeof(*key));
	if (!parse_key(text, &key->id, secret))
		return false;
	proven = compute_mac(&key->id, secret, mac);
	conduit_wipe(secret, sizeof(secret));
	if (!proven)
		return false;

	conduit_arg_uuid(&args, &key->id);
	conduit_arg_text(&args, tenant);
	conduit_arg_time(&args, now);
	if (conduit_store_run(&select, &args) == 0)
		return false;
	stored = conduit_row_bytea(0, 1, CurrentMemoryContext);
	if (VARSIZE_ANY_EXHDR(stored) != MAC_BYTES || !conduit_digests_equal(VARDATA_ANY(stored), mac, MAC_BYTES))
		return false;
	key->tenant = pstrdup(tenant);
	key->owner = conduit_row_text(0, 2, CurrentMemoryContext);
	key->expires_at = conduit_row_time(0, 4);
	copy_scopes(0, 3, key);
	conduit_last_use_note(USE_API_KEY, &key->id, conduit_last_use_minute(now));
	return true;
}

bool
conduit_api_key_allows(const ApiKey *key, const char *action, const char *object)
{
	size_t		length = strlen(action);

	for (int i = 0; i < key->nscopes; i++)
	{
		const char *scope = key->scopes[i];
		const char *rest;

		if (strcmp(scope, "*") == 0)
			return true;
		if (strncmp(scope, "*:", 2) == 0)
			rest = scope + 1;
		else if (strncmp(scope, action, length) == 0)
			rest = scope + length;
		else
			continue;
		if (*rest == '\0' || strcmp(rest, ":*") == 0 ||
			(*rest == ':' && (object == NULL || strcmp(rest + 1, object) == 0)))
			return true;
	}
	return false;
}

/* ---- making, rotating, revoking ---- */

/* action, action:connector; either may be "*". */
static bool
scope_valid(const char *scope)
{
	const char *colon = strchr(scope, ':');
	size_t		length = colon ? colon - scope : strlen(scope);

	if (strlen(scope) > MAX_SCOPE_LEN || length == 0)
		return false;
	if (!(length == 1 && scope[0] == '*') &&
		strspn(scope, "abcdefghijklmnopqrstuvwxyz0123456789_") != length)
		return false;
	return colon == NULL || strcmp(colon + 1, "*") == 0 ||
		(colon[1] != '\0' && strspn(colon + 1, "abcdefghijklmnopqrstuvwxyz0123456789-_") == strlen(colon + 1));
}

static ArrayType *
scopes_argument(FunctionCallInfo fcinfo, int n)
{
	ArrayType  *array;
	Datum	   *scopes;
	bool	   *nulls;
	int			count;

	if (PG_ARGISNULL(n))
		conduit_bad_argument("invalid scopes", "null",
							 "Name what the key may do, such as {vend:github,request:*}, or {*} for everything.");
	array = PG_GETARG_ARRAYTYPE_P(n);
	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &scopes, &nulls, &count);
	if (count == 0 || count > MAX_SCOPES)
		conduit_bad_argument("invalid scopes", psprintf("range 1 %d", MAX_SCOPES),
							 "The numbers are the fewest and the most there may be.");
	for (int i = 0; i < count; i++)
		if (nulls[i] || !scope_valid(TextDatumGetCString(scopes[i])))
			conduit_bad_argument("invalid scopes", psprintf("element %d", i + 1),
								 "A scope is an action, such as vend, or an action on a connector, such as vend:github; either may be *.");
	return array;
}

/* Insert a key and return its text. */
static char *
insert_key(const pg_uuid_t *id, const char *tenant, const char *owner, const char *name, Datum scopes,
		   TimestampTz expires_at, const pg_uuid_t *rotated_from)
{
	static StoreQuery insert = {
		"INSERT INTO conduit.api_key (id, tenant, owner, name, scopes, mac, created_at, expires_at, rotated_from)"
		" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
		9, {UUIDOID, TEXTOID, TEXTOID, TEXTOID, TEXTARRAYOID, BYTEAOID, TIMESTAMPTZOID, TIMESTAMPTZOID, UUIDOID}
	};
	uint8		secret[SECRET_BYTES];
	bytea	   *mac = palloc(VARHDRSZ + MAC_BYTES);
	char	   *text;
	StoreArgs	args = {0};

	ensure_mac_key();
	conduit_random(secret, sizeof(secret));
	if (!compute_mac(id, secret, (uint8 *) VARDATA(mac)))
		conduit_raise(CONDUIT_ERR_VAULT_LOCKED, "mac_key");
	SET_VARSIZE(mac, VARHDRSZ + MAC_BYTES);
	text = format_key(id, secret);
	conduit_wipe(secret, sizeof(secret));

	conduit_arg_uuid(&args, id);
	conduit_arg_text(&args, tenant);
	conduit_arg_text(&args, owner);
	conduit_arg_text(&args, name);
	conduit_arg(&args, scopes);
	conduit_arg_bytea(&args, mac);
	conduit_arg_time(&args, conduit_now());
	conduit_arg_time(&args, expires_at);
	if (rotated_from != NULL)
		conduit_arg_uuid(&args, rotated_from);
	else
		conduit_arg_null(&args);
	conduit_store_run(&insert, &args);
	return text;
}

static Datum
key_result(FunctionCallInfo fcinfo, const pg_uuid_t *id, char *text)
{
	TupleDesc	shape;
	Datum		values[2];
	bool		nulls[2] = {false, false};
	Datum		result;

	if (get_call_result_type(fcinfo, NULL, &shape) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = UUIDPGetDatum(id);
	values[1] = CStringGetTextDatum(text);
	conduit_wipe(text, strlen(text));
	result = HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(shape), values, nulls));
	conduit_wipe(VARDATA_ANY(DatumGetPointer(values[1])), VARSIZE_ANY_EXHDR(DatumGetPointer(values[1])));
	return result;
}

/* conduit_create_api_key(owner, name, scopes, expires_at, tenant) */
Datum
conduit_create_api_key(PG_FUNCTION_ARGS)
{
	char	   *owner = PG_ARGISNULL(0) ? NULL : conduit_owner_argument(fcinfo, 0);
	char	   *name = conduit_name_argument(fcinfo, 1, "invalid name", MAX_NAME_LEN);
	ArrayType  *scopes = scopes_argument(fcinfo, 2);
	TimestampTz expires_at = PG_ARGISNULL(3) ? DT_NOEND : PG_GETARG_TIMESTAMPTZ(3);
	char	   *tenant = conduit_tenant_argument(fcinfo, 4);
	pg_uuid_t  *id = palloc(sizeof(pg_uuid_t));
	char	   *text;
	StoreScope	scope;
	MemoryContext context = CurrentMemoryContext;

	if (expires_at <= conduit_now())
		conduit_bad_argument("invalid expires_at", "past", "It is when the key ends; NULL: never.");
	conduit_key_prepare_to_seal();
	*id = conduit_new_id();
	conduit_store_begin(&scope);
	text = insert_key(id, tenant, owner, name, PointerGetDatum(scopes), expires_at, NULL);
	text = MemoryContextStrdup(context, text);
	conduit_store_end(&scope);
	return key_result(fcinfo, id, text);
}

pg_noreturn static void
raise_unknown_key(void)
{
	ereport(ERROR,
			(errcode(MAKE_SQLSTATE('P', 'T', '4', '0', '4')),
			 errmsg("API key not found"),
			 errhint("conduit_list_api_keys() lists those there are."),
			 errhidestmt(true), errhidecontext(true)));
}

static const pg_uuid_t *
key_argument(FunctionCallInfo fcinfo, int n)
{
	if (PG_ARGISNULL(n))
		conduit_bad_argument("invalid id", "null", "conduit_list_api_keys() lists the ids.");
	return PG_GETARG_UUID_P(n);
}

static double
grace_argument(FunctionCallInfo fcinfo, int n)
{
	Interval   *span;
	double		seconds;

	if (PG_ARGISNULL(n))
		return 0;
	span = PG_GETARG_INTERVAL_P(n);
	seconds = span->time / (double) USECS_PER_SEC + (span->day + span->month * (double) DAYS_PER_MONTH) * SECS_PER_DAY;
	if (seconds < 0 || seconds > MAX_GRACE_S)
		conduit_bad_argument("invalid grace", "range 0 2592000", "The numbers are seconds: at most 30 days.");
	return seconds;
}

/* conduit_rotate_api_key(owner, id, grace, tenant) */
Datum
conduit_rotate_api_key(PG_FUNCTION_ARGS)
{
	static StoreQuery lock = {
		"SELECT name, scopes, expires_at FROM conduit.api_key"
		" WHERE id = $1 AND tenant = $2 AND owner IS NOT DISTINCT FROM $3"
		" AND (expires_at IS NULL OR expires_at > $4) AND revoked_at IS NULL FOR UPDATE",
		4, {UUIDOID, TEXTOID, TEXTOID, TIMESTAMPTZOID}
	};
	static StoreQuery end = {
		"UPDATE conduit.api_key SET revoked_at = $2 WHERE id = $1", 2, {UUIDOID, TIMESTAMPTZOID}
	};
	char	   *owner = PG_ARGISNULL(0) ? NULL : conduit_owner_argument(fcinfo, 0);
	const pg_uuid_t *id = key_argument(fcinfo, 1);
	double		grace = grace_argument(fcinfo, 2);
	char	   *tenant = conduit_tenant_argument(fcinfo, 3);
	pg_uuid_t  *new_id = palloc(sizeof(pg_uuid_t));
	MemoryContext context = CurrentMemoryContext;
	TimestampTz now = conduit_now();
	TimestampTz expires_at;
	char	   *name;
	Datum		scopes;
	bool		isnull;
	char	   *text;
	StoreArgs	args = {0};
	StoreArgs	end_args = {0};
	StoreScope	scope;

	conduit_key_prepare_to_seal();
	*new_id = conduit_new_id();
	conduit_store_begin(&scope);
	conduit_arg_uuid(&args, id);
	conduit_arg_text(&args, tenant);
	conduit_arg_text(&args, owner);
	conduit_arg_time(&args, now);
	if (conduit_store_run(&lock, &args) == 0)
		raise_unknown_key();
	name = conduit_row_text(0, 1, CurrentMemoryContext);
	scopes = PointerGetDatum(DatumGetArrayTypePCopy(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull)));
	expires_at = conduit_row_time(0, 3);

	text = insert_key(new_id, tenant, owner, name, scopes, expires_at, id);
	conduit_arg_uuid(&end_args, id);
	conduit_arg_time(&end_args, conduit_time_add(now, grace));
	conduit_store_run(&end, &end_args);
	text = MemoryContextStrdup(context, text);
	conduit_store_end(&scope);
	return key_result(fcinfo, new_id, text);
}

/* conduit_revoke_api_key(owner, id, tenant) */
Datum
conduit_revoke_api_key(PG_FUNCTION_ARGS)
{
	static StoreQuery revoke = {
		"UPDATE conduit.api_key SET revoked_at = LEAST(revoked_at, $4)"
		" WHERE id = $1 AND tenant = $2 AND owner IS NOT DISTINCT FROM $3",
		4, {UUIDOID, TEXTOID, TEXTOID, TIMESTAMPTZOID}
	};
	char	   *owner = PG_ARGISNULL(0) ? NULL : conduit_owner_argument(fcinfo, 0);
	const pg_uuid_t *id = key_argument(fcinfo, 1);
	char	   *tenant = conduit_tenant_argument(fcinfo, 2);
	StoreArgs	args = {0};
	StoreScope	scope;

	conduit_arg_uuid(&args, id);
	conduit_arg_text(&args, tenant);
	conduit_arg_text(&args, owner);
	conduit_arg_time(&args, conduit_now());
	conduit_store_begin(&scope);
	if (conduit_store_run(&revoke, &args) == 0)
		raise_unknown_key();
	conduit_store_end(&scope);
	PG_RETURN_VOID();
}

/* ---- for the worker ---- */

int
conduit_api_key_write_uses(void)
{
	static StoreQuery update = {
		"UPDATE conduit.api_key SET last_used_at = $2 WHERE id = ("
		" SELECT id FROM conduit.api_key WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $2)"
		" FOR NO KEY UPDATE SKIP LOCKED)",
		2, {UUIDOID, TIMESTAMPTZOID}
	};
	pg_uuid_t	ids[USE_BATCH];
	int64		minutes[USE_BATCH];
	StoreScope	scope;
	int			n = conduit_last_use_take(USE_API_KEY, ids, minutes, USE_BATCH);

	if (n == 0)
		return 0;
	conduit_store_begin(&scope);
	for (int i = 0; i < n; i++)
	{
		StoreArgs	args = {0};

		conduit_arg_uuid(&args, &ids[i]);
		conduit_arg_time(&args, conduit_last_use_minute_start(minutes[i]));
		conduit_store_run(&update, &args);
	}
	conduit_store_end(&scope);
	return n;
}
