/*-------------------------------------------------------------------------
 *
 * token.c
 *	  conduit.make_token(): a key for a short-lived token that PostgREST takes.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/base64url.h"
#include "base/json.h"
#include "base/report.h"
#include "door/jwt.h"
#include "door/jwt_key.h"
#include "lifecycle/store.h"
#include "vault/seal.h"

PG_FUNCTION_INFO_V1(conduit_make_token);

#define NOT_BEFORE_S	5		/* clocks differ */

/* What is known of the key and its facade. */
typedef struct TokenSubject
{
	char	   *tenant;
	char	   *owner;			/* NULL: nobody's in particular */
	char	   *role;			/* NULL: none is set */
	char	   *audience;		/* NULL: none */
	int			ttl;			/* seconds */
	TimestampTz key_ends;		/* DT_NOEND: never */
} TokenSubject;

pg_noreturn static void
not_configured(const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(MAKE_SQLSTATE('P', 'T', '5', '0', '0')),
			 errmsg("facade is not configured"),
			 errdetail("%s", detail),
			 errhint("%s", hint),
			 errhidestmt(true), errhidecontext(true)));
}

static void
read_subject(const char *schema_name, const pg_uuid_t *key, TokenSubject *subject)
{
	static StoreQuery select = {
		"SELECT f.tenant, k.owner, f.options ->> 'token_role', f.options ->> 'jwt_audience',"
		" LEAST(k.expires_at, k.revoked_at), COALESCE((f.options ->> 'token_ttl')::pg_catalog.int4, 300)"
		" FROM conduit.facade f JOIN conduit.api_key k ON k.tenant = f.tenant"
		" WHERE f.schema_name = $1 AND k.id = $2 AND f.dropped_at IS NULL",
		2, {TEXTOID, UUIDOID}
	};
	StoreArgs	args = {0};

	conduit_arg_text(&args, schema_name);
	conduit_arg_uuid(&args, key);
	if (conduit_store_run(&select, &args) == 0)
		conduit_raise(CONDUIT_ERR_UNAUTHORIZED, NULL);
	subject->tenant = conduit_row_text(0, 1, CurrentMemoryContext);
	subject->owner = conduit_row_utf8(0, 2, CurrentMemoryContext);
	subject->role = conduit_row_utf8(0, 3, CurrentMemoryContext);
	subject->audience = conduit_row_utf8(0, 4, CurrentMemoryContext);
	subject->key_ends = conduit_row_time(0, 5);
	subject->ttl = conduit_row_int32(0, 6);
	if (subject->role == NULL)
		not_configured("token_role", "Name the role of its tokens in option token_role of conduit_expose().");
}

static void
add_claim(StringInfo claims, const char *name, const char *value)
{
	if (value == NULL)
		return;
	appendStringInfo(claims, ",\"%s\":", name);
	conduit_json_write_string(claims, value, strlen(value));
}

/*
 * The claims of a token that lives for seconds.  By the real clock, whatever
 * conduit.clock_offset says: somebody else verifies it.
 */
static char *
write_claims(const TokenSubject *subject, TimestampTz now, int seconds)
{
	int64		epoch = now / USECS_PER_SEC + (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * (int64) SECS_PER_DAY;
	uint8		random[16];
	char		jti[conduit_base64url_encoded_length(sizeof(random)) + 1];
	StringInfoData claims;

	conduit_random(random, sizeof(random));
	(void) conduit_base64url_encode(random, sizeof(random), jti);
	initStringInfo(&claims);
	appendStringInfo(&claims, "{\"iss\":\"conduit\",\"iat\":" INT64_FORMAT ",\"nbf\":" INT64_FORMAT ",\"exp\":" INT64_FORMAT,
					 epoch, epoch - NOT_BEFORE_S, epoch + seconds);
	add_claim(&claims, "jti", jti);
	add_claim(&claims, "role", subject->role);
	add_claim(&claims, "sub", subject->owner);
	add_claim(&claims, "aud", subject->audience);
	appendStringInfoChar(&claims, '}');
	return claims.data;
}

/* conduit.make_token(schema_name, key_id) */
Datum
conduit_make_token(PG_FUNCTION_ARGS)
{
	char	   *schema_name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	const pg_uuid_t *key = PG_GETARG_UUID_P(1);
	TimestampTz now = GetCurrentTimestamp();
	TokenSubject subject;
	JwkSet	   *keys;
	char	   *token;
	int			seconds;
	TupleDesc	shape;
	Datum		values[3];
	bool		nulls[3] = {false, false, false};
	HeapTuple	tuple;
	StoreScope	scope;

	if (get_call_result_type(fcinfo, NULL, &shape) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	shape = BlessTupleDesc(shape);

	conduit_store_begin(&scope);
	read_subject(schema_name, key, &subject);
	seconds = subject.ttl;
	if (!TIMESTAMP_IS_NOEND(subject.key_ends))
		seconds = (int) Max(1, Min(seconds, (subject.key_ends - now) / USECS_PER_SEC));
	keys = conduit_jwt_keys(schema_name, subject.tenant);
	token = keys ? conduit_jwt_sign(write_claims(&subject, now, seconds), keys) : NULL;
	if (token == NULL)
		not_configured("jwt_key", "Set a key that can sign with conduit_set_jwt_key().");

	MemoryContextSwitchTo(scope.caller_context);
	values[0] = CStringGetTextDatum(token);
	values[1] = CStringGetTextDatum("Bearer");
	values[2] = Int32GetDatum(seconds);
	tuple = heap_form_tuple(shape, values, nulls);
	conduit_wipe(token, strlen(token));
	conduit_store_end(&scope);
	PG_RETURN_DATUM(HeapTupleGetDatum(tuple));
}
