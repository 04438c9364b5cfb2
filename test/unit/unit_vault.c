/*-------------------------------------------------------------------------
 *
 * unit_vault.c
 *	  SQL functions over base/ and vault/, for tests.
 *
 * Wording:
 *	   - A place is an array of nine texts: purpose, row, connection, tenant,
 *		 owner, connector, field, generation, origin.
 *	   - Functions whose name ends in _status answer the status; their brothers
 *		 raise it as an error.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include <math.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/report.h"
#include "base/settings.h"
#include "catalog/pg_type.h"
#include "portability/instr_time.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"
#include "vault/secret.h"

#define PLACE_FIELDS 9
#define SECRET_FIELDS 15

static const char *const status_names[] = {
	[SEAL_OK] = "SEAL_OK",
	[SEAL_LOCKED] = "SEAL_LOCKED",
	[SEAL_UNVERIFIED] = "SEAL_UNVERIFIED",
	[SEAL_UNKNOWN_KEY] = "SEAL_UNKNOWN_KEY",
	[SEAL_CANNOT_OPEN] = "SEAL_CANNOT_OPEN",
};

static void
expect_ok(SealStatus status)
{
	if (status != SEAL_OK)
		ereport(ERROR, (errmsg_internal("%s", status_names[status])));
}

/* texts_of_array returns the elements, NULL for null ones. */
static char **
texts_of_array(ArrayType *array, int expected)
{
	Datum	   *elements;
	bool	   *nulls;
	int			n;
	char	  **texts;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &n);
	if (n != expected)
		elog(ERROR, "expected %d elements", expected);
	texts = palloc0(sizeof(char *) * n);
	for (int i = 0; i < n; i++)
		if (!nulls[i])
			texts[i] = TextDatumGetCString(elements[i]);
	return texts;
}

static SealPlace *
place_of_array(ArrayType *array)
{
	char	  **texts = texts_of_array(array, PLACE_FIELDS);
	SealPlace  *place = palloc0(sizeof(SealPlace));

	place->purpose = texts[0];
	place->row = DatumGetUUIDP(DirectFunctionCall1(uuid_in, CStringGetDatum(texts[1])));
	place->connection = DatumGetUUIDP(DirectFunctionCall1(uuid_in, CStringGetDatum(texts[2])));
	place->tenant = texts[3];
	place->owner = texts[4];
	place->connector = texts[5];
	place->field = texts[6];
	place->generation = DatumGetInt64(DirectFunctionCall1(int8in, CStringGetDatum(texts[7])));
	place->origin = texts[8];
	return place;
}

static bytea *
bytea_of(const void *data, Size length)
{
	bytea	   *result = palloc(VARHDRSZ + length);

	SET_VARSIZE(result, VARHDRSZ + length);
	memcpy(VARDATA(result), data, length);
	return result;
}

/* Marks the primary as lifecycle code does once it has seen the key's row. */
PG_FUNCTION_INFO_V1(unit_verify);
Datum
unit_verify(PG_FUNCTION_ARGS)
{
	ConduitKey *key = conduit_keyring_primary();

	if (key)
		key->verified = PG_GETARG_BOOL(0);
	PG_RETURN_BOOL(key != NULL);
}

/* "name|serial|id:kcv[:primary][:verified] ..." or null. */
PG_FUNCTION_INFO_V1(unit_keyring);
Datum
unit_keyring(PG_FUNCTION_ARGS)
{
	ConduitKeyring *ring = conduit_keyring_get();
	StringInfoData text;

	if (ring == NULL)
		PG_RETURN_NULL();
	initStringInfo(&text);
	appendStringInfo(&text, "%s|" UINT64_FORMAT "|", ring->name, ring->serial);
	for (int i = 0; i < ring->nkeys; i++)
	{
		ConduitKey *key = &ring->keys[i];

		appendStringInfo(&text, "%s%s:", i ? " " : "", key->id);
		for (int j = 0; j < CONDUIT_KCV_LEN; j++)
			appendStringInfo(&text, "%02x", key->kcv[j]);
		appendStringInfo(&text, "%s%s", key->primary ? ":primary" : "",
						 key->verified ? ":verified" : "");
	}
	PG_RETURN_TEXT_P(cstring_to_text(text.data));
}

/* "code: problem" or null. */
PG_FUNCTION_INFO_V1(unit_keyring_problem);
Datum
unit_keyring_problem(PG_FUNCTION_ARGS)
{
	(void) conduit_keyring_get();
	if (conduit_keyring_problem_code() == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("%s: %s", conduit_keyring_problem_code(),
											  conduit_keyring_problem())));
}

PG_FUNCTION_INFO_V1(unit_keyring_find);
Datum
unit_keyring_find(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(conduit_keyring_find(text_to_cstring(PG_GETARG_TEXT_PP(0))) != NULL);
}

PG_FUNCTION_INFO_V1(unit_settings_epoch);
Datum
unit_settings_epoch(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64((int64) conduit_settings_epoch());
}

PG_FUNCTION_INFO_V1(unit_seal);
Datum
unit_seal(PG_FUNCTION_ARGS)
{
	SealPlace  *place = place_of_array(PG_GETARG_ARRAYTYPE_P(0));
	bytea	   *plaintext = PG_GETARG_BYTEA_PP(1);
	bytea	   *blob;

	expect_ok(conduit_seal(place, (uint8 *) VARDATA_ANY(plaintext),
						   VARSIZE_ANY_EXHDR(plaintext), &blob));
	PG_RETURN_BYTEA_P(blob);
}

PG_FUNCTION_INFO_V1(unit_open);
Datum
unit_open(PG_FUNCTION_ARGS)
{
	SealPlace  *place = place_of_array(PG_GETARG_ARRAYTYPE_P(0));
	OpenedSecret opened;
	bytea	   *plaintext;

	expect_ok(conduit_open(place, PG_GETARG_BYTEA_PP(1), &opened, NULL));
	plaintext = bytea_of(opened.data, opened.length);
	conduit_wipe_opened(&opened);
	PG_RETURN_BYTEA_P(plaintext);
}

PG_FUNCTION_INFO_V1(unit_open_status);
Datum
unit_open_status(PG_FUNCTION_ARGS)
{
	SealPlace  *place = place_of_array(PG_GETARG_ARRAYTYPE_P(0));
	OpenedSecret opened;
	SealStatus	status = conduit_open(place, PG_GETARG_BYTEA_PP(1), &opened, NULL);

	if ((status == SEAL_OK) != (opened.data != NULL))
		elog(ERROR, "data without success, or success without data");
	conduit_wipe_opened(&opened);
	PG_RETURN_TEXT_P(cstring_to_text(status_names[status]));
}

PG_FUNCTION_INFO_V1(unit_rewrap);
Datum
unit_rewrap(PG_FUNCTION_ARGS)
{
	SealPlace  *place = place_of_array(PG_GETARG_ARRAYTYPE_P(0));
	bytea	   *rewrapped;

	expect_ok(conduit_rewrap_blob(place, PG_GETARG_BYTEA_PP(1), &rewrapped));
	if (rewrapped == NULL)
		PG_RETURN_NULL();
	PG_RETURN_BYTEA_P(rewrapped);
}

PG_FUNCTION_INFO_V1(unit_blob_key_id);
Datum
unit_blob_key_id(PG_FUNCTION_ARGS)
{
	char		key_id[CONDUIT_KEY_ID_LEN + 1];

	if (!conduit_blob_key_id(PG_GETARG_BYTEA_PP(0), key_id))
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(key_id));
}

/* "id=count ..." of all wraps since the last call. */
PG_FUNCTION_INFO_V1(unit_take_counts);
Datum
unit_take_counts(PG_FUNCTION_ARGS)
{
	StringInfoData text;
	char		key_id[CONDUIT_KEY_ID_LEN + 1];
	uint32		count;

	initStringInfo(&text);
	while ((count = conduit_seal_take_count(key_id)) > 0)
		appendStringInfo(&text, "%s%s=%u", text.len ? " " : "", key_id, count);
	PG_RETURN_TEXT_P(cstring_to_text(text.data));
}

/*
 * Counts the blobs that open, of all that differ from the given one by one bit
 * (or, with cut, by a missing end).
 */
PG_FUNCTION_INFO_V1(unit_damage);
Datum
unit_damage(PG_FUNCTION_ARGS)
{
	SealPlace  *place = place_of_array(PG_GETARG_ARRAYTYPE_P(0));
	bytea	   *blob = PG_GETARG_BYTEA_PP(1);
	bool		cut = PG_GETARG_BOOL(2);
	Size		length = VARSIZE_ANY_EXHDR(blob);
	int64		opened_count = 0;
	OpenedSecret opened;

	for (Size i = 0; i < (cut ? length : length * 8); i++)
	{
		bytea	   *damaged = bytea_of(VARDATA_ANY(blob), cut ? i : length);
		SealStatus	status;

		if (!cut)
			VARDATA(damaged)[i / 8] ^= 1 << (i % 8);
		status = conduit_open(place, damaged, &opened, NULL);
		if (status == SEAL_OK)
			opened_count++;
		if (opened.data != NULL && status != SEAL_OK)
			elog(ERROR, "data without success");
		conduit_wipe_opened(&opened);
		pfree(damaged);
	}
	PG_RETURN_INT64(opened_count);
}

/*
 * Opens a blob and resets the memory context it is in, and answers whether the
 * plaintext was gone when its memory was about to be given back.
 */
static const uint8 *watched;
static Size watched_length;
static bool watched_clear;

static void
watch(void *arg)
{
	watched_clear = true;
	for (Size i = 0; i < watched_length; i++)
		watched_clear &= watched[i] == 0;
}

PG_FUNCTION_INFO_V1(unit_cleansed_by_reset);
Datum
unit_cleansed_by_reset(PG_FUNCTION_ARGS)
{
	SealPlace  *place = place_of_array(PG_GETARG_ARRAYTYPE_P(0));
	bytea	   *blob = PG_GETARG_BYTEA_PP(1);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "unit",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContextCallback *callback = MemoryContextAlloc(context, sizeof(*callback));
	MemoryContext former;
	OpenedSecret opened[3];
	bool		was_clear = true;

	/* Callbacks run last in, first out: ours runs after the guard's. */
	callback->func = watch;
	callback->arg = NULL;
	MemoryContextRegisterResetCallback(context, callback);

	former = MemoryContextSwitchTo(context);
	for (int i = 0; i < lengthof(opened); i++)
		expect_ok(conduit_open(place, blob, &opened[i], NULL));
	conduit_wipe_opened(&opened[1]);
	watched = opened[0].data;
	watched_length = opened[0].length;
	for (Size i = 0; i < watched_length; i++)
		was_clear &= watched[i] == 0;
	MemoryContextSwitchTo(former);
	MemoryContextReset(context);
	if (was_clear)
		elog(ERROR, "there was nothing to clear");

	/* The context can be used again after a reset. */
	former = MemoryContextSwitchTo(context);
	expect_ok(conduit_open(place, blob, &opened[0], NULL));
	conduit_wipe_opened(&opened[0]);
	MemoryContextSwitchTo(former);
	MemoryContextDelete(context);
	PG_RETURN_BOOL(watched_clear);
}

/* Microseconds per call, the fastest of ten parts: 'open', 'seal', 'secret'. */
PG_FUNCTION_INFO_V1(unit_bench);
Datum
unit_bench(PG_FUNCTION_ARGS)
{
	char	   *what = text_to_cstring(PG_GETARG_TEXT_PP(0));
	SealPlace  *place = place_of_array(PG_GETARG_ARRAYTYPE_P(1));
	bytea	   *blob = PG_GETARG_BYTEA_PP(2);
	int			rounds = PG_GETARG_INT32(3);
	double		best = INFINITY;
	OpenedSecret opened;
	ConduitSecret secret;
	bytea	   *sealed;
	uint8		plaintext[192] = {0};

	for (int part = 0; part < 10; part++)
	{
		instr_time	start;
		instr_time	end;

		INSTR_TIME_SET_CURRENT(start);
		for (int i = 0; i < rounds; i++)
		{
			if (what[0] == 'o')
			{
				expect_ok(conduit_open(place, blob, &opened, NULL));
				conduit_wipe_opened(&opened);
			}
			else if (strcmp(what, "seal") == 0)
			{
				expect_ok(conduit_seal(place, plaintext, sizeof(plaintext), &sealed));
				pfree(sealed);
			}
			else
			{
				expect_ok(conduit_secret_open(place, blob, &opened, &secret, NULL));
				conduit_wipe_opened(&opened);
			}
		}
		INSTR_TIME_SET_CURRENT(end);
		INSTR_TIME_SUBTRACT(end, start);
		best = Min(best, INSTR_TIME_GET_DOUBLE(end) * 1e6 / rounds);
	}
	PG_RETURN_FLOAT8(best);
}

static ConduitSecret *
secret_of_array(ArrayType *array)
{
	char	  **texts = texts_of_array(array, SECRET_FIELDS);
	ConduitSecret *secret = palloc0(sizeof(ConduitSecret));
	SecretText *fields[SECRET_FIELDS] = {
		&secret->access_token, &secret->refresh_token, &secret->api_key,
		&secret->api_secret, &secret->username, &secret->password,
		&secret->client_secret, &secret->extra, &secret->client_id,
		&secret->private_key, &secret->issuer, &secret->subject, &secret->key_id,
		&secret->audience, &secret->scope
	};

	for (int i = 0; i < SECRET_FIELDS; i++)
	{
		fields[i]->data = texts[i];
		fields[i]->length = texts[i] ? strlen(texts[i]) : 0;
	}
	return secret;
}

static ArrayType *
array_of_secret(const ConduitSecret *secret)
{
	const SecretText *fields[SECRET_FIELDS] = {
		&secret->access_token, &secret->refresh_token, &secret->api_key,
		&secret->api_secret, &secret->username, &secret->password,
		&secret->client_secret, &secret->extra, &secret->client_id,
		&secret->private_key, &secret->issuer, &secret->subject, &secret->key_id,
		&secret->audience, &secret->scope
	};
	Datum		elements[SECRET_FIELDS] = {0};
	bool		nulls[SECRET_FIELDS];
	int			size = SECRET_FIELDS;
	int			lower = 1;

	for (int i = 0; i < SECRET_FIELDS; i++)
	{
		nulls[i] = fields[i]->data == NULL;
		if (!nulls[i])
			elements[i] = PointerGetDatum(cstring_to_text_with_len(fields[i]->data,
																   fields[i]->length));
	}
	return construct_md_array(elements, nulls, 1, &size, &lower,
							  TEXTOID, -1, false, TYPALIGN_INT);
}

PG_FUNCTION_INFO_V1(unit_secret_encode);
Datum
unit_secret_encode(PG_FUNCTION_ARGS)
{
	Size		length;
	uint8	   *record = conduit_secret_encode(secret_of_array(PG_GETARG_ARRAYTYPE_P(0)), &length);

	PG_RETURN_BYTEA_P(bytea_of(record, length));
}

PG_FUNCTION_INFO_V1(unit_secret_decode);
Datum
unit_secret_decode(PG_FUNCTION_ARGS)
{
	bytea	   *record = PG_GETARG_BYTEA_PP(0);
	ConduitSecret secret;

	if (!conduit_secret_decode((uint8 *) VARDATA_ANY(record), VARSIZE_ANY_EXHDR(record), &secret))
		PG_RETURN_NULL();
	PG_RETURN_ARRAYTYPE_P(array_of_secret(&secret));
}

PG_FUNCTION_INFO_V1(unit_secret_seal);
Datum
unit_secret_seal(PG_FUNCTION_ARGS)
{
	bytea	   *blob;

	expect_ok(conduit_secret_seal(place_of_array(PG_GETARG_ARRAYTYPE_P(0)),
								  secret_of_array(PG_GETARG_ARRAYTYPE_P(1)), &blob));
	PG_RETURN_BYTEA_P(blob);
}

PG_FUNCTION_INFO_V1(unit_secret_open);
Datum
unit_secret_open(PG_FUNCTION_ARGS)
{
	OpenedSecret opened;
	ConduitSecret secret;
	ArrayType  *result;

	expect_ok(conduit_secret_open(place_of_array(PG_GETARG_ARRAYTYPE_P(0)),
								  PG_GETARG_BYTEA_PP(1), &opened, &secret, NULL));
	result = array_of_secret(&secret);
	conduit_wipe_opened(&opened);
	PG_RETURN_ARRAYTYPE_P(result);
}

/* A copy of a bytea that the JSON reader may change. */
static char *
json_buffer(bytea *input)
{
	int			length = VARSIZE_ANY_EXHDR(input);
	char	   *buffer = palloc(length + 1);

	memcpy(buffer, VARDATA_ANY(input), length);
	buffer[length] = 'x';		/* the reader sees to the NUL */
	return buffer;
}

/* "ok <canonical text>" or "bad <problem>". */
PG_FUNCTION_INFO_V1(unit_json);
Datum
unit_json(PG_FUNCTION_ARGS)
{
	bytea	   *input = PG_GETARG_BYTEA_PP(0);
	const char *problem;
	ConduitJson *root = conduit_json_parse(json_buffer(input), VARSIZE_ANY_EXHDR(input), &problem);
	StringInfoData text;

	if ((root == NULL) != (problem != NULL))
		elog(ERROR, "problem without failure, or failure without problem");
	if (root == NULL)
		PG_RETURN_TEXT_P(cstring_to_text(psprintf("bad %s", problem)));
	initStringInfo(&text);
	appendStringInfoString(&text, "ok ");
	conduit_json_write(&text, root);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(text.data, text.len));
}

/* The node at path as text, with its value as a number if it has one. */
PG_FUNCTION_INFO_V1(unit_json_path);
Datum
unit_json_path(PG_FUNCTION_ARGS)
{
	bytea	   *input = PG_GETARG_BYTEA_PP(0);
	const char *problem;
	ConduitJson *root = conduit_json_parse(json_buffer(input), VARSIZE_ANY_EXHDR(input), &problem);
	const ConduitJson *node = conduit_json_path(root, text_to_cstring(PG_GETARG_TEXT_PP(1)));
	StringInfoData text;
	double		number;

	if (node == NULL)
		PG_RETURN_NULL();
	initStringInfo(&text);
	conduit_json_write(&text, node);
	if (conduit_json_double(node, &number))
		appendStringInfo(&text, " = %g", number);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(text.data, text.len));
}

/* Milliseconds to parse an object of n keys, the last of which repeats one if asked. */
PG_FUNCTION_INFO_V1(unit_json_bench);
Datum
unit_json_bench(PG_FUNCTION_ARGS)
{
	int			n = PG_GETARG_INT32(0);
	bool		repeat = PG_GETARG_BOOL(1);
	StringInfoData text;
	const char *problem;
	instr_time	start;
	instr_time	end;

	initStringInfo(&text);
	for (int i = 0; i < n; i++)
		appendStringInfo(&text, "%c\"key%d\":1", i ? ',' : '{', repeat && i == n - 1 ? 0 : i);
	appendStringInfoChar(&text, '}');
	INSTR_TIME_SET_CURRENT(start);
	if ((conduit_json_parse(text.data, text.len, &problem) == NULL) != repeat)
		elog(ERROR, "wrong answer");
	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_SUBTRACT(end, start);
	PG_RETURN_FLOAT8(INSTR_TIME_GET_MILLISEC(end));
}

PG_FUNCTION_INFO_V1(unit_raise);
Datum
unit_raise(PG_FUNCTION_ARGS)
{
	conduit_raise((ConduitError) PG_GETARG_INT32(0), text_to_cstring(PG_GETARG_TEXT_PP(1)));
}

PG_FUNCTION_INFO_V1(unit_warn);
Datum
unit_warn(PG_FUNCTION_ARGS)
{
	conduit_warn((ConduitError) PG_GETARG_INT32(0), text_to_cstring(PG_GETARG_TEXT_PP(1)));
	PG_RETURN_VOID();
}

/* Seconds by which conduit_now() differs from the server's clock. */
PG_FUNCTION_INFO_V1(unit_clock_shift);
Datum
unit_clock_shift(PG_FUNCTION_ARGS)
{
	PG_RETURN_FLOAT8(rint(conduit_seconds_between(GetCurrentTimestamp(), conduit_now())));
}

PG_FUNCTION_INFO_V1(unit_time_add);
Datum
unit_time_add(PG_FUNCTION_ARGS)
{
	PG_RETURN_TIMESTAMPTZ(conduit_time_add(PG_GETARG_TIMESTAMPTZ(0), PG_GETARG_FLOAT8(1)));
}
