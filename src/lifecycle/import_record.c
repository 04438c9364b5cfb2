/*-------------------------------------------------------------------------
 *
 * import_record.c
 *	  Reading and checking the records of an import.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/import.h"

#include "catalog/pg_type.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "base/json.h"
#include "lifecycle/client.h"
#include "lifecycle/handover.h"
#include "lifecycle/store.h"
#include "lifecycle/storing.h"

#define DIGEST_LEN 16

typedef enum RecordField
{
	FIELD_OWNER,
	FIELD_ACCOUNT,
	FIELD_PARAMS,
	FIELD_METADATA,
	FIELD_CLIENT_ID,
	FIELD_SECRET,
	NUM_FIELDS
} RecordField;

static const char *const field_names[NUM_FIELDS] = {
	"owner", "account", "params", "metadata", "client_id", "secret"
};

/* An error of a field: its name and what is wrong with it. */
static void
refuse(ImportRecord *record, const char *field, const char *problem)
{
	record->error = psprintf("%s %s", field, problem);
}

/* The members of a record by their names; false and an error for one of another name. */
static bool
find_fields(const ConduitJson *object, const ConduitJson **fields, ImportRecord *record)
{
	for (int i = 0; i < NUM_FIELDS; i++)
		fields[i] = NULL;
	for (const ConduitJson *member = object->first; member != NULL; member = member->next)
	{
		int			i = 0;

		while (i < NUM_FIELDS && strcmp(member->key, field_names[i]) != 0)
			i++;
		if (i == NUM_FIELDS)
		{
			record->error = "unknown_key";
			return false;
		}
		if (member->type != CONDUIT_JSON_NULL)
			fields[i] = member;
	}
	return true;
}

/* Ids of users and accounts are often numbers; as text there is one way to write an integer. */
static bool
is_integer(const ConduitJson *member)
{
	return member->type == CONDUIT_JSON_NUMBER &&
		strspn(member->text, "-0123456789") == member->length;
}

/*
 * A name.  Where it need not be given, an empty one is none, as in
 * conduit_create_connection().  NULL with an error set if it is no good.
 */
static char *
read_name(const ConduitJson **fields, RecordField field, bool required, int max, ImportRecord *record)
{
	const ConduitJson *member = fields[field];
	const char *problem;
	const char *hint;
	char	   *text;

	if (!required && (member == NULL || (member->type == CONDUIT_JSON_STRING && member->length == 0)))
		return NULL;
	if (member != NULL && member->type != CONDUIT_JSON_STRING && !is_integer(member))
	{
		refuse(record, field_names[field], "not_a_string");
		return NULL;
	}
	text = member ? conduit_utf8_to_server(member->text) : NULL;
	if (member != NULL && text == NULL)
	{
		refuse(record, field_names[field], "encoding");
		return NULL;
	}
	problem = conduit_name_problem(text, max, &hint);
	if (problem == NULL)
		return text;
	refuse(record, field_names[field], problem);
	return NULL;
}

/* An object as jsonb; NULL if it is not given, or with an error set. */
static Jsonb *
read_object(const ConduitJson **fields, RecordField field, ImportRecord *record)
{
	const ConduitJson *member = fields[field];
	ConduitJson object;
	StringInfoData text;
	char	   *json;
	Jsonb	   *result;

	if (member == NULL)
		return NULL;
	if (member->type != CONDUIT_JSON_OBJECT)
	{
		refuse(record, field_names[field], "not_an_object");
		return NULL;
	}
	object = *member;
	object.key = NULL;
	object.next = NULL;
	initStringInfo(&text);
	conduit_json_write(&text, &object);
	if (text.len > CONDUIT_MAX_JSON_LEN)
	{
		refuse(record, field_names[field], psprintf("too_long %d", CONDUIT_MAX_JSON_LEN));
		return NULL;
	}
	json = conduit_utf8_to_server(text.data);
	result = json ? conduit_try_jsonb(json) : NULL;
	if (result == NULL)
		refuse(record, field_names[field], json ? "bad_value" : "encoding");
	return result;
}

/*
 * The connector's own check raises an error that may name the variable.  It
 * touches nothing but memory, so that it may be caught; the name is input here.
 */
static bool
params_good(const ConduitConnector *connector, const ConduitJson *params)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool good = false;

	PG_TRY();
	{
		conduit_connector_check_params(connector, params);
		good = true;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		if (geterrcode() != ERRCODE_INVALID_PARAMETER_VALUE)
			PG_RE_THROW();
		FlushErrorState();
	}
	PG_END_TRY();
	return good;
}

/*
 * What tells a record that is imported again from a new one: by then its
 * refresh token may have been used, and must not take the place of its
 * successor.  A refresh token is random enough (RFC 6749, 10.10) that nobody
 * finds it from this.
 */
static bytea *
digest_of(const Import *import, const ImportRecord *record, const SecretText *refresh_token)
{
	const char *texts[] = {
		import->tenant, record->owner, import->slug, record->client_id ? record->client_id : "",
		record->params ? JsonbToCString(NULL, &record->params->root, VARSIZE(record->params)) : ""
	};
	pg_cryptohash_ctx *hash;
	uint8		sum[PG_SHA256_DIGEST_LENGTH];
	bytea	   *digest;
	bool		good;

	if (record->owner == NULL || refresh_token->data == NULL)
		return NULL;
	hash = pg_cryptohash_create(PG_SHA256);
	good = hash != NULL && pg_cryptohash_init(hash) >= 0;
	for (int i = 0; i < lengthof(texts); i++)
		good = good && pg_cryptohash_update(hash, (const uint8 *) texts[i], strlen(texts[i]) + 1) >= 0;
	good = good && pg_cryptohash_update(hash, (const uint8 *) refresh_token->data, refresh_token->length) >= 0 &&
		pg_cryptohash_final(hash, sum, sizeof(sum)) >= 0;
	pg_cryptohash_free(hash);
	if (!good)
		elog(ERROR, "could not compute a digest");

	digest = palloc(VARHDRSZ + DIGEST_LEN);
	SET_VARSIZE(digest, VARHDRSZ + DIGEST_LEN);
	memcpy(VARDATA(digest), sum, DIGEST_LEN);
	return digest;
}

bool
conduit_import_same(const bytea *a, const bytea *b)
{
	return a != NULL && b != NULL && VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}

/* Whether the secret can be stored.  It is read again when it is: nothing of it is kept. */
static void
check_secret(const Import *import, ImportRecord *record)
{
	TokenGrant	grant;
	const char *problem;
	const char *hint;

	if (record->secret == NULL)
		problem = "missing";
	else
	{
		problem = conduit_handover_read(import->connector, record->secret, import->now, &grant, &hint);
		if (problem == NULL)
		{
			record->digest = digest_of(import, record, &grant.secret.refresh_token);
			conduit_token_grant_wipe(&grant);
		}
	}
	if (problem != NULL)
		refuse(record, "secret", problem);
}

void
conduit_import_read(const Import *import, ConduitJsonPart *part, ImportRecord *record)
{
	const ConduitJson *fields[NUM_FIELDS];
	const char *problem;
	ConduitJson *object;

	record->length = part->length;
	if (part->length > CONDUIT_MAX_SECRET_LEN)
	{
		record->error = psprintf("too_long %d", CONDUIT_MAX_SECRET_LEN);
		return;
	}
	object = conduit_json_parse(part->text, part->length, &problem);
	if (object == NULL || object->type != CONDUIT_JSON_OBJECT)
	{
		record->error = object == NULL ? "json" : "not_an_object";
		return;
	}
	if (!find_fields(object, fields, record))
		return;

	record->owner = read_name(fields, FIELD_OWNER, true, CONDUIT_MAX_OWNER_LEN, record);
	if (record->error == NULL)
		record->account = read_name(fields, FIELD_ACCOUNT, false, CONDUIT_MAX_ACCOUNT_LEN, record);
	if (record->error == NULL)
		record->client_id = read_name(fields, FIELD_CLIENT_ID, false, CONDUIT_MAX_CLIENT_ID_LEN, record);
	if (record->error == NULL && record->client_id == NULL)
		record->client_id = import->current_client;
	if (record->error == NULL)
		record->metadata = read_object(fields, FIELD_METADATA, record);
	if (record->error == NULL)
		record->params = read_object(fields, FIELD_PARAMS, record);
	if (record->error == NULL && record->params != NULL)
	{
		record->param_values = fields[FIELD_PARAMS];
		if (!params_good(import->connector, record->param_values))
			refuse(record, "params", "bad_value");
	}
	record->secret = fields[FIELD_SECRET];
	if (record->error == NULL)
		check_secret(import, record);
}

/* A client that stands in the server's environment serves tenant '' of a built-in connector. */
static bool
in_environment(const Import *import, const char *client_id)
{
	static StoreQuery select = {
		"SELECT builtin FROM conduit.connector WHERE slug = $1", 1, {TEXTOID}
	};
	StoreArgs	args = {0};
	ConduitClient *client;

	conduit_arg_text(&args, import->slug);
	if (conduit_store_run(&select, &args) == 0)
		return false;
	client = conduit_client_from_environment(import->tenant, import->connector, conduit_row_bool(0, 1), client_id);
	if (client != NULL && client->environment_secret != NULL)
		conduit_wipe(client->environment_secret, strlen(client->environment_secret));
	return client != NULL;
}

static int
compare_texts(const void *a, const void *b)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

/* The clients named by records that there are, locked and in order; returns how many. */
static int
find_clients(const Import *import, Datum *names, int n, char ***found)
{
	static StoreQuery select = {
		"SELECT client_id FROM conduit.client WHERE connector = $1 AND tenant IN ($2, '')"
		" AND client_id = ANY ($3) ORDER BY id FOR KEY SHARE",
		3, {TEXTOID, TEXTOID, TEXTARRAYOID}
	};
	StoreArgs	args = {0};
	MemoryContext context = CurrentMemoryContext;
	int			count;

	conduit_arg_text(&args, import->slug);
	conduit_arg_text(&args, import->tenant);
	conduit_arg(&args, PointerGetDatum(construct_array(names, n, TEXTOID, -1, false, TYPALIGN_INT)));
	count = (int) conduit_store_run(&select, &args);
	*found = MemoryContextAlloc(context, sizeof(char *) * (count + 1));
	for (int i = 0; i < count; i++)
		(*found)[i] = conduit_row_text(i, 1, context);
	qsort(*found, count, sizeof(char *), compare_texts);
	return count;
}

void
conduit_import_check_clients(const Import *import)
{
	bool		used = conduit_connector_binds_client(import->connector);
	Datum	   *names = palloc(sizeof(Datum) * (import->n + 1));
	int			n = 0;
	char	  **found;
	int			count;

	for (int i = 0; i < import->n; i++)
	{
		ImportRecord *record = &import->records[i];

		if (record->error != NULL)
			continue;
		if (!used && record->client_id != NULL)
			refuse(record, "client_id", "unexpected");
		else if (record->client_id != NULL)
			names[n++] = CStringGetTextDatum(record->client_id);
	}
	if (n == 0)
		return;

	count = find_clients(import, names, n, &found);
	for (int i = 0; i < import->n; i++)
	{
		ImportRecord *record = &import->records[i];

		if (record->error == NULL && record->client_id != NULL && record->client_id != import->current_client &&
			bsearch(&record->client_id, found, count, sizeof(char *), compare_texts) == NULL &&
			!in_environment(import, record->client_id))
			refuse(record, "client_id", "unknown");
	}
}
