/*-------------------------------------------------------------------------
 *
 * export.c
 *	  conduit_export_credential: a whole secret, for somebody else's key.
 *
 * The one place outside of the worker where a refresh token is opened.  It
 * leaves as an OpenPGP message (pgcrypto), and the event says so.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/json.h"
#include "base/report.h"
#include "lifecycle/argument.h"
#include "lifecycle/credential.h"
#include "lifecycle/event.h"
#include "lifecycle/key.h"
#include "lifecycle/store.h"

#define MAX_PUBLIC_KEY_LEN (256 * 1024)

PG_FUNCTION_INFO_V1(conduit_export_credential);

/* What is exported: the stored credential, or the parked reply that is its successor. */
typedef struct Export
{
	CredentialPlace place;
	int64		generation;
	TimestampTz issued_at;
	TimestampTz expires_at;
	TimestampTz refresh_expires_at;
	char	   *token_type;		/* UTF-8 */
	char	   *scope;			/* UTF-8 */
	bytea	   *access;
	bytea	   *refresh;
	char	   *account;
	char	   *status;
	bool		in_flight;		/* its refresh token is being used */
} Export;

/* ---- the rows ---- */

static void
read_parts(Export *export, int column, MemoryContext context)
{
	export->issued_at = conduit_row_time(0, column);
	export->expires_at = conduit_row_time(0, column + 1);
	export->refresh_expires_at = conduit_row_time(0, column + 2);
	export->token_type = conduit_row_utf8(0, column + 3, context);
	if (!conduit_row_isnull(0, column + 4))
		export->scope = conduit_row_utf8(0, column + 4, context);
	export->access = conduit_row_bytea(0, column + 5, context);
	export->refresh = conduit_row_bytea(0, column + 6, context);
}

/* A refresh that is parked has used up the stored token; one under way is about to. */
static void
look_for_flight(Export *export, MemoryContext context)
{
	static StoreQuery select = {
		"SELECT outcome IS NOT DISTINCT FROM 'refreshed', outcome IS NULL, issued_at, expires_at, refresh_expires_at,"
		" token_type, scope, access, refresh FROM conduit.flight WHERE connection_id = $1 AND generation = $2",
		2, {UUIDOID, INT8OID}
	};
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, &export->place.connection);
	conduit_arg(&args, Int64GetDatum(export->generation));
	if (conduit_store_run(&select, &args) == 0)
		return;
	export->in_flight = conduit_row_bool(0, 2);
	if (conduit_row_bool(0, 1))
	{
		export->generation++;
		read_parts(export, 3, context);
	}
}

static void
read_export(const pg_uuid_t *id, char *owner, char *tenant, Export *export, MemoryContext context)
{
	static StoreQuery select = {
		"SELECT n.connector, n.account, n.status, c.origin, c.generation, c.issued_at, c.expires_at,"
		" c.refresh_expires_at, c.token_type, c.scope, c.access, c.refresh, c.connection_id IS NOT NULL"
		" FROM conduit.connection n LEFT JOIN conduit.credential c ON c.connection_id = n.id"
		" WHERE n.id = $1 AND n.owner = $2 AND n.tenant = $3",
		3, {UUIDOID, TEXTOID, TEXTOID}
	};
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, id);
	conduit_arg_text(&args, owner);
	conduit_arg_text(&args, tenant);
	if (conduit_store_run(&select, &args) == 0)
		conduit_raise(CONDUIT_ERR_CONNECTION_NOT_FOUND, NULL);
	export->status = conduit_row_text(0, 3, context);
	if (strcmp(export->status, "REVOKED") == 0)
		conduit_raise(CONDUIT_ERR_REVOKED, "revoked");
	if (!conduit_row_bool(0, 13))
		conduit_raise(CONDUIT_ERR_CREDENTIAL_NOT_FOUND, NULL);

	export->place.connection = *id;
	export->place.owner = owner;
	export->place.tenant = tenant;
	export->place.connector = conduit_row_text(0, 1, context);
	export->account = conduit_row_text(0, 2, context);
	export->place.origin = conduit_row_text(0, 4, context);
	export->generation = conduit_row_int64(0, 5);
	read_parts(export, 6, context);
	look_for_flight(export, context);
}

static void
write_event(const Export *export)
{
	ConduitEvent event = {
		.kind = "exported",.tenant = export->place.tenant,.connection = &export->place.connection,
		.owner = export->place.owner,.connector = export->place.connector,.account = export->account,
		.old_status = export->status,.new_status = export->status
	};

	conduit_event_write(&event);
}

/* ---- pgcrypto ---- */

/* A function of the extension pgcrypto, wherever that is, and nobody else's of that name. */
static Oid
pgcrypto_function(const char *name, const char *arguments)
{
	static StoreQuery select = {
		"SELECT p.oid::pg_catalog.int8 FROM pg_catalog.pg_proc p"
		" JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid"
		" AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e'"
		" JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'pgcrypto'"
		" WHERE p.proname = $1 AND p.proargtypes = $2::pg_catalog.oidvector",
		2, {TEXTOID, TEXTOID}
	};
	StoreArgs	args = {0};

	conduit_arg_text(&args, name);
	conduit_arg_text(&args, arguments);
	if (conduit_store_run(&select, &args) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("pgcrypto cannot encrypt"),
				 errdetail("pgcrypto"),
				 errhint("Run ALTER EXTENSION pgcrypto UPDATE."),
				 errhidestmt(true), errhidecontext(true)));
	return (Oid) conduit_row_int64(0, 1);
}

static bool
is_armored(const bytea *key)
{
	static const char begin[] = "-----BEGIN PGP ";

	return VARSIZE_ANY_EXHDR(key) > strlen(begin) && memcmp(VARDATA_ANY(key), begin, strlen(begin)) == 0;
}

/* Functions that are called where errors are caught are not inlined: their variables are no concern of that. */
pg_noinline static bytea *
call_pgcrypto(bytea *plaintext, bytea *key, Oid encrypt_function, Oid dearmor_function)
{
	if (is_armored(key))
		key = DatumGetByteaPP(OidFunctionCall1(dearmor_function, PointerGetDatum(key)));
	return DatumGetByteaPP(OidFunctionCall2(encrypt_function, PointerGetDatum(plaintext), PointerGetDatum(key)));
}

/*
 * Encrypt for a public key.  What pgcrypto says of one that it cannot use is
 * replaced by words of ours; any error ends the call, so that nothing it left
 * behind is used.
 */
static bytea *
encrypt(bytea *plaintext, bytea *key, Oid encrypt_function, Oid dearmor_function)
{
	MemoryContext context = CurrentMemoryContext;
	bytea	   *volatile message = NULL;

	PG_TRY();
	{
		message = call_pgcrypto(plaintext, key, encrypt_function, dearmor_function);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		if (geterrcode() != ERRCODE_EXTERNAL_ROUTINE_INVOCATION_EXCEPTION &&
			geterrcode() != ERRCODE_INVALID_PARAMETER_VALUE)
			PG_RE_THROW();
		FlushErrorState();
		conduit_bad_argument("invalid pgp_public_key", "unusable",
							 "It is an OpenPGP public key, binary or armored, with an RSA or Elgamal subkey to encrypt to.");
	}
	PG_END_TRY();
	return message;
}

/* ---- the secret as JSON ---- */

static void
add_name(StringInfo json, const char *name)
{
	appendStringInfoString(json, json->data[json->len - 1] == '{' ? "" : ",");
	conduit_json_write_string(json, name, strlen(name));
	appendStringInfoChar(json, ':');
}

static void
add_text(StringInfo json, const char *name, const char *text, int length)
{
	if (text == NULL)
		return;
	add_name(json, name);
	conduit_json_write_string(json, text, length);
}

static void
add_secret(StringInfo json, const char *name, const SecretText *text)
{
	add_text(json, name, text->data, text->length);
}

static void
add_time(StringInfo json, const char *name, TimestampTz at)
{
	int64		microseconds = at + (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;

	if (TIMESTAMP_IS_NOEND(at) || TIMESTAMP_IS_NOBEGIN(at))
		return;
	add_name(json, name);
	appendStringInfo(json, INT64_FORMAT, microseconds / USECS_PER_SEC);
}

/* The members of an object's text, without its braces. */
static void
add_members(StringInfo json, const SecretText *object)
{
	if (object->data == NULL || object->length <= 2)
		return;
	if (json->data[json->len - 1] != '{')
		appendStringInfoChar(json, ',');
	appendBinaryStringInfo(json, object->data + 1, object->length - 2);
}

/* No more bytes than this has the JSON text: nothing is written twice for want of room. */
static Size
json_bound(const ConduitSecret *access, const ConduitSecret *refresh, const Export *export)
{
	Size		bound = 1024;

	bound += 6 * ((Size) access->access_token.length + access->api_key.length + access->api_secret.length +
				  access->username.length + access->password.length + refresh->refresh_token.length);
	bound += access->extra.length;
	bound += 6 * ((Size) refresh->client_id.length + refresh->client_secret.length + refresh->private_key.length +
				  refresh->issuer.length + refresh->subject.length + refresh->key_id.length +
				  refresh->audience.length + refresh->scope.length);
	bound += 6 * (export->token_type ? strlen(export->token_type) : 0);
	bound += 6 * (export->scope ? strlen(export->scope) : 0);
	return bound;
}

/* What tokens are minted with; they themselves are not worth a move. */
static void
add_minting_secret(StringInfo json, const ConduitSecret *refresh)
{
	if (refresh->client_id.length > 0)
		add_secret(json, "client_id", &refresh->client_id);
	add_secret(json, "client_secret", &refresh->client_secret);
	add_secret(json, "private_key", &refresh->private_key);
	add_secret(json, "issuer", &refresh->issuer);
	add_secret(json, "subject", &refresh->subject);
	add_secret(json, "key_id", &refresh->key_id);
	add_secret(json, "audience", &refresh->audience);
	add_secret(json, "scope", &refresh->scope);
}

static void
add_grant(StringInfo json, const Export *export, const ConduitSecret *access, const ConduitSecret *refresh)
{
	bool		token = access->access_token.data != NULL || refresh->refresh_token.data != NULL;

	add_secret(json, "access_token", &access->access_token);
	add_secret(json, "refresh_token", &refresh->refresh_token);
	add_secret(json, "api_key", &access->api_key);
	add_secret(json, "api_secret", &access->api_secret);
	add_secret(json, "username", &access->username);
	add_secret(json, "password", &access->password);
	if (token)
	{
		add_text(json, "token_type", export->token_type, export->token_type ? strlen(export->token_type) : 0);
		add_text(json, "scope", export->scope, export->scope ? strlen(export->scope) : 0);
		add_time(json, "issued_at", export->issued_at);
		add_time(json, "refresh_token_expires_at", export->refresh_expires_at);
	}
	add_time(json, "expires_at", export->expires_at);
	add_members(json, &access->extra);
}

/*
 * As conduit_store_credential() takes it.  Room for a varlena's header is left
 * at the beginning.
 */
static void
write_json(StringInfo json, const Export *export, const ConduitSecret *access, const ConduitSecret *refresh)
{
	initStringInfo(json);
	enlargeStringInfo(json, (int) Min(json_bound(access, refresh, export), (Size) (MaxAllocSize / 2)));
	appendStringInfoSpaces(json, VARHDRSZ);
	appendStringInfoChar(json, '{');
	if (conduit_secret_mints(refresh))
		add_minting_secret(json, refresh);
	else
		add_grant(json, export, access, refresh);
	appendStringInfoChar(json, '}');
}

static void
open_part(const Export *export, const char *field, const bytea *blob, OpenedSecret *opened, ConduitSecret *secret)
{
	SealPlace	place = conduit_credential_seal_place(&export->place, field, export->generation);
	char		key_id[CONDUIT_KEY_ID_LEN + 1];
	SealStatus	status;

	memset(secret, 0, sizeof(*secret));
	if (blob == NULL)
		return;
	status = conduit_secret_open(&place, blob, opened, secret, key_id);
	if (status != SEAL_OK)
		conduit_key_raise(status, key_id);
}

/* Open both parts and write them as one.  After an error their memory wipes itself (OpenedSecret). */
pg_noinline static void
make_plaintext(const Export *export, StringInfo json)
{
	OpenedSecret opened[2] = {{0}};
	ConduitSecret access;
	ConduitSecret refresh;

	open_part(export, "access", export->access, &opened[0], &access);
	open_part(export, "refresh", export->refresh, &opened[1], &refresh);
	write_json(json, export, &access, &refresh);
	for (int i = 0; i < lengthof(opened); i++)
		if (opened[i].data != NULL)
			conduit_wipe_opened(&opened[i]);
}

/* ---- the call ---- */

/* conduit_export_credential(owner, connection_id, pgp_public_key, tenant) */
Datum
conduit_export_credential(PG_FUNCTION_ARGS)
{
	char	   *owner = conduit_owner_argument(fcinfo, 0);
	const pg_uuid_t *id = conduit_connection_argument(fcinfo, 1);
	char	   *tenant = conduit_tenant_argument(fcinfo, 3);
	MemoryContext context = CurrentMemoryContext;
	StringInfoData json = {0};
	Export		export = {{{{0}}}};
	bytea	   *key;
	bytea	   *message = NULL;
	Oid			encrypt_function;
	Oid			dearmor_function;
	StoreScope	scope;

	if (PG_ARGISNULL(2))
		conduit_bad_argument("invalid pgp_public_key", "null", "Pass an OpenPGP public key.");
	key = PG_GETARG_BYTEA_PP(2);
	if (VARSIZE_ANY_EXHDR(key) > MAX_PUBLIC_KEY_LEN)
		conduit_bad_argument("invalid pgp_public_key", psprintf("too_long %d", MAX_PUBLIC_KEY_LEN),
							 "The number is the most bytes it may have.");

	conduit_store_begin(&scope);
	read_export(id, owner, tenant, &export, context);
	encrypt_function = pgcrypto_function("pgp_pub_encrypt_bytea", "17 17");
	dearmor_function = pgcrypto_function("dearmor", "25");
	write_event(&export);
	conduit_store_end(&scope);

	PG_TRY();
	{
		make_plaintext(&export, &json);
		SET_VARSIZE(json.data, json.len);
		message = encrypt((bytea *) json.data, key, encrypt_function, dearmor_function);
	}
	PG_FINALLY();
	{
		if (json.data != NULL)
			conduit_wipe(json.data, json.maxlen);
	}
	PG_END_TRY();

	if (export.in_flight)
		ereport(WARNING,
				(errmsg("the credential is being refreshed"),
				 errdetail("in_flight"),
				 errhint("Its refresh token may be replaced in a moment: export it again."),
				 errhidestmt(true), errhidecontext(true)));
	PG_RETURN_BYTEA_P(message);
}
