/*-------------------------------------------------------------------------
 *
 * jwt_key.c
 *	  The keys that prove the tokens of a facade's callers.
 *
 *-------------------------------------------------------------------------
 */
#include "door/jwt_key.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "base/clock.h"
#include "base/report.h"
#include "door/jwt.h"
#include "lifecycle/argument.h"
#include "lifecycle/credential.h"
#include "lifecycle/key.h"
#include "lifecycle/store.h"
#include "vault/secret.h"

PG_FUNCTION_INFO_V1(conduit_set_jwt_key);

#define MAX_JWK_LEN		65536

static SealPlace
jwt_key_place(const pg_uuid_t *id, const char *tenant)
{
	SealPlace	place = {
		.purpose = "jwt_key",.row = id,.connection = id,.tenant = conduit_place_text(tenant),.owner = "",
		.connector = "",.field = "secret",.generation = 0,.origin = ""
	};

	return place;
}

/* The keys of one JWK (Set); NULL if it is none. */
static JwkSet *
open_keys(const pg_uuid_t *id, const char *tenant, const bytea *blob)
{
	SealPlace	place = jwt_key_place(id, tenant);
	char		key_id[CONDUIT_KEY_ID_LEN + 1];
	OpenedSecret opened;
	ConduitSecret secret;
	JwkSet	   *set = NULL;
	const char *problem;
	SealStatus	status = conduit_secret_open(&place, blob, &opened, &secret, key_id);
	char	   *text;
	ConduitJson *json;

	if (status != SEAL_OK)
		conduit_key_raise(status, key_id);
	text = palloc(secret.client_secret.length + 1);
	memcpy(text, secret.client_secret.data, secret.client_secret.length);
	text[secret.client_secret.length] = '\0';
	json = conduit_json_parse(text, secret.client_secret.length, &problem);
	if (json != NULL && conduit_jwk_parse(json, &set) != NULL)
		set = NULL;
	conduit_wipe(text, secret.client_secret.length);
	conduit_wipe_opened(&opened);
	return set;
}

/* The facades whose keys count: their keys, and what they ask of a token. */
static uint64
select_keys(const char *schema_name, const char *tenant)
{
	static StoreQuery select = {
		"SELECT k.id, k.jwk, f.options ->> 'jwt_audience', COALESCE(f.options ->> 'owner_claim', 'sub')"
		" FROM conduit.jwt_key k JOIN conduit.facade f ON f.schema_name = k.schema_name"
		" WHERE f.tenant = $1 AND ($2 IS NULL OR f.schema_name = $2) AND f.dropped_at IS NULL ORDER BY k.schema_name",
		2, {TEXTOID, TEXTOID}
	};
	StoreArgs	args = {0};

	conduit_arg_text(&args, tenant);
	conduit_arg_text(&args, schema_name);
	return conduit_store_run(&select, &args);
}

static JwkSet *
row_keys(uint64 row, const char *tenant)
{
	pg_uuid_t	id = conduit_row_uuid(row, 1);

	return open_keys(&id, tenant, conduit_row_bytea(row, 2, CurrentMemoryContext));
}

JwtProof
conduit_jwt_prove(const char *schema_name, const char *tenant, const char *token, TimestampTz now, ProvenToken *proven)
{
	uint64		n = select_keys(schema_name, tenant);

	for (uint64 i = 0; i < n; i++)
	{
		JwkSet	   *keys = row_keys(i, tenant);
		char	   *audience = conduit_row_text(i, 3, CurrentMemoryContext);

		proven->claims = keys ? conduit_jwt_verify(token, keys, audience, now) : NULL;
		proven->owner_claim = conduit_row_text(i, 4, CurrentMemoryContext);
		if (proven->claims != NULL)
			return JWT_PROVEN;
	}
	return n == 0 ? JWT_NO_KEYS : JWT_REFUSED;
}

JwkSet *
conduit_jwt_keys(const char *schema_name, const char *tenant)
{
	return select_keys(schema_name, tenant) == 0 ? NULL : row_keys(0, tenant);
}

/* Refuse a text that is no JWK of ours; it is never repeated. */
static void
check_jwk(text *jwk, char **buffer, int *length)
{
	char	   *utf8 = pg_server_to_any(VARDATA_ANY(jwk), VARSIZE_ANY_EXHDR(jwk), PG_UTF8);
	const char *problem;
	char	   *copy;
	ConduitJson *json;
	JwkSet	   *set;

	*length = utf8 == VARDATA_ANY(jwk) ? (int) VARSIZE_ANY_EXHDR(jwk) : (int) strlen(utf8);
	if (*length > MAX_JWK_LEN)
		conduit_bad_argument("invalid jwk", psprintf("too_long %d", MAX_JWK_LEN), "The number is the most bytes it may have.");
	*buffer = palloc(*length + 1);
	memcpy(*buffer, utf8, *length);
	copy = palloc(*length + 1);
	memcpy(copy, utf8, *length);
	copy[*length] = '\0';
	json = conduit_json_parse(copy, *length, &problem);
	problem = json == NULL ? "json" : conduit_jwk_parse(json, &set);
	conduit_wipe(copy, *length);
	if (problem != NULL)
	{
		conduit_wipe(*buffer, *length);
		conduit_bad_argument("invalid jwk", problem,
							 "Pass a JWK or a JWK Set with keys for HS256 (oct, 32 bytes or more), RS256 (RSA, 2048 bits or more) or ES256 (EC, P-256).");
	}
}

/* conduit_set_jwt_key(schema_name, jwk) */
Datum
conduit_set_jwt_key(PG_FUNCTION_ARGS)
{
	static StoreQuery facade = {
		"SELECT tenant FROM conduit.facade WHERE schema_name = $1 AND dropped_at IS NULL FOR KEY SHARE", 1, {TEXTOID}
	};
	static StoreQuery delete = {"DELETE FROM conduit.jwt_key WHERE schema_name = $1", 1, {TEXTOID}};
	static StoreQuery insert = {
		"INSERT INTO conduit.jwt_key (schema_name, id, jwk, created_at) VALUES ($1, $2, $3, $4)"
		" ON CONFLICT (schema_name) DO UPDATE SET id = EXCLUDED.id, jwk = EXCLUDED.jwk, created_at = EXCLUDED.created_at",
		4, {TEXTOID, UUIDOID, BYTEAOID, TIMESTAMPTZOID}
	};
	char	   *schema_name = conduit_name_argument(fcinfo, 0, "invalid schema_name", NAMEDATALEN - 1);
	pg_uuid_t	id = conduit_new_id();
	ConduitSecret secret = {{0}};
	char	   *buffer = NULL;
	int			length = 0;
	SealPlace	place;
	SealStatus	status;
	bytea	   *blob;
	StoreArgs	key = {0};
	StoreArgs	args = {0};
	StoreScope	scope;

	if (!PG_ARGISNULL(1))
	{
		check_jwk(PG_GETARG_TEXT_PP(1), &buffer, &length);
		conduit_key_prepare_to_seal();
	}
	conduit_arg_text(&key, schema_name);
	conduit_store_begin(&scope);
	if (conduit_store_run(&facade, &key) == 0)
		conduit_bad_argument("unknown facade", "unknown_facade", "Expose the schema first with conduit_expose().");
	if (buffer == NULL)
		conduit_store_run(&delete, &key);
	else
	{
		place = jwt_key_place(&id, conduit_row_text(0, 1, CurrentMemoryContext));
		secret.client_secret.data = buffer;
		secret.client_secret.length = length;
		status = conduit_secret_seal(&place, &secret, &blob);
		conduit_wipe(buffer, length);
		if (status != SEAL_OK)
			conduit_key_raise(status, NULL);
		conduit_key_seal_done();
		conduit_arg_text(&args, schema_name);
		conduit_arg_uuid(&args, &id);
		conduit_arg_bytea(&args, blob);
		conduit_arg_time(&args, conduit_now());
		conduit_store_run(&insert, &args);
	}
	conduit_store_end(&scope);
	PG_RETURN_VOID();
}
