/*-------------------------------------------------------------------------
 *
 * client.c
 *	  OAuth apps: which client a connection is used under, and its secrets.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/client.h"

#include <ctype.h>

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "base/clock.h"
#include "base/report.h"
#include "lifecycle/argument.h"
#include "lifecycle/catalogue.h"
#include "lifecycle/commit.h"
#include "lifecycle/credential.h"
#include "lifecycle/direct.h"
#include "lifecycle/key.h"
#include "lifecycle/revocation.h"
#include "lifecycle/store.h"
#include "provider/assertion.h"
#include "shared/roster.h"

#define MAX_REDIRECT_URIS 32
#define MAX_REDIRECT_URI_LEN 2048
#define MAX_CLIENT_SECRET_LEN 65536

PG_FUNCTION_INFO_V1(conduit_set_client);
PG_FUNCTION_INFO_V1(conduit_retire_client);

/* Scheme and authority of a URL template as it is written, variables and all. */
static char *
template_origin(const char *url)
{
	const char *authority = strstr(url, "://");
	const char *end = authority ? strpbrk(authority + 3, "/?") : NULL;
	char	   *origin = pnstrdup(url, end ? end - url : strlen(url));

	return origin;
}

/*
 * The origin a client's secret is bound to: those of all endpoints it is sent
 * to, each once, with what the variables in them may be.  A connector one of
 * whose endpoints is moved to other hosts can no longer open the secret.  Nor
 * can one that would send a private key where it signed with it.
 */
char *
conduit_client_origin(const ConduitConnector *connector)
{
	bool		revokes_as_client = connector->revoke_auth == REVOKE_AUTH_CLIENT || connector->revoke_auth == REVOKE_AUTH_BASIC;
	const char *const urls[] = {connector->token_url, connector->refresh_url, connector->exchange_url,
	revokes_as_client ? connector->revoke_url : NULL};
	char	   *origins[lengthof(urls)] = {0};
	int			norigins = 0;
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < lengthof(urls); i++)
	{
		char	   *origin = urls[i] ? template_origin(urls[i]) : NULL;

		for (int j = 0; origin != NULL && j < norigins; j++)
		{
			if (strcmp(origins[j], origin) == 0)
				origin = NULL;
		}
		if (origin == NULL)
			continue;
		origins[norigins++] = origin;
		appendStringInfo(&text, "%s%s", text.len > 0 ? " " : "", origin);
	}
	for (const ConduitJson *param = connector->params ? connector->params->first : NULL;
		 param != NULL; param = param->next)
	{
		const char *pattern = conduit_json_string(conduit_json_get(param, "pattern"));
		bool		used = false;

		for (int i = 0; i < norigins; i++)
			used |= strstr(origins[i], psprintf("{%s}", param->key)) != NULL;
		if (used)
			appendStringInfo(&text, " %s=%s", param->key, pattern ? pattern : "");
	}
	if (connector->client_auth == CLIENT_AUTH_PRIVATE_KEY_JWT)
		appendStringInfoString(&text, " private_key_jwt");
	return text.data;
}

static SealPlace
secret_place(const pg_uuid_t *id, const char *tenant, const ConduitConnector *connector, const char *origin)
{
	SealPlace	place = {
		.purpose = "client",.row = id,.connection = id,.tenant = conduit_place_text(tenant),.owner = "",
		.connector = connector->slug,.field = "secret",.generation = 0,.origin = origin
	};

	return place;
}

ConduitClient *
conduit_client_find(const char *tenant, const char *connector, const char *client_id, MemoryContext context)
{
	static StoreQuery select = {
		"SELECT c.client_id, c.tenant, s.id, s.secret, s.last_success_at"
		" FROM (SELECT id, client_id, tenant FROM conduit.client"
		"  WHERE connector = $2 AND tenant IN ($1, '')"
		"  AND CASE WHEN $3 IS NULL THEN current ELSE client_id = $3 END"
		"  ORDER BY tenant DESC LIMIT 1) c"
		" LEFT JOIN conduit.client_secret s ON s.client = c.id"
		" ORDER BY s.created_at DESC LIMIT " CppAsString2(CONDUIT_MAX_CLIENT_SECRETS),
		3, {TEXTOID, TEXTOID, TEXTOID}
	};
	StoreArgs	args = {0};
	ConduitClient *client;
	uint64		n;

	conduit_arg_text(&args, tenant);
	conduit_arg_text(&args, connector);
	conduit_arg_text(&args, client_id);
	n = conduit_store_run(&select, &args);
	if (n == 0)
		return NULL;

	client = MemoryContextAllocZero(context, sizeof(ConduitClient));
	client->client_id = conduit_row_text(0, 1, context);
	client->tenant = conduit_row_text(0, 2, context);
	for (uint64 i = 0; i < n && !conduit_row_isnull(i, 3); i++)
	{
		ClientSecretBlob *secret = &client->secrets[client->nsecrets++];

		secret->id = conduit_row_uuid(i, 3);
		secret->blob = conduit_row_bytea(i, 4, context);
		secret->last_success_at = conduit_row_time(i, 5);
	}
	return client;
}

/* Of a client that was found in a row. */
ConduitClient *
conduit_client_copy(const ConduitClient *client, MemoryContext context)
{
	ConduitClient *copy = MemoryContextAlloc(context, sizeof(ConduitClient));

	*copy = *client;
	copy->client_id = MemoryContextStrdup(context, client->client_id);
	copy->tenant = MemoryContextStrdup(context, client->tenant);
	for (int i = 0; i < client->nsecrets; i++)
	{
		Size		size = VARSIZE_ANY(client->secrets[i].blob);

		copy->secrets[i].blob = MemoryContextAlloc(context, size);
		memcpy(copy->secrets[i].blob, client->secrets[i].blob, size);
	}
	return copy;
}

/* CONDUIT_<SLUG>_<suffix>, the slug in capitals, hyphens as underscores. */
static const char *
environment_value(const char *slug, const char *suffix)
{
	char	   *name = psprintf("CONDUIT_%s_%s", slug, suffix);
	const char *value;

	for (char *c = name; *c; c++)
		*c = isalnum((unsigned char) *c) ? pg_toupper((unsigned char) *c) : '_';
	value = getenv(name);
	pfree(name);
	return value != NULL && value[0] != '\0' ? value : NULL;
}

ConduitClient *
conduit_client_from_environment(const char *tenant, const ConduitConnector *connector,
								bool builtin, const char *client_id)
{
	const char *id;
	const char *secret;
	ConduitClient *client;

	if (!builtin || tenant[0] != '\0')
		return NULL;
	id = environment_value(connector->slug, "CLIENT_ID");
	if (id == NULL || (client_id != NULL && strcmp(id, client_id) != 0))
		return NULL;
	secret = environment_value(connector->slug, "CLIENT_SECRET");

	client = palloc0(sizeof(ConduitClient));
	client->client_id = pstrdup(id);
	client->tenant = pstrdup("");
	if (secret != NULL)
	{
		client->environment_secret = pstrdup(secret);
		client->nsecrets = 1;
	}
	return client;
}

static bool
app_from_environment(const char *tenant, const ConduitConnector *connector, ClientApp *app)
{
	static StoreQuery select = {
		"SELECT builtin FROM conduit.connector WHERE slug = $1", 1, {TEXTOID}
	};
	const char *uris = environment_value(connector->slug, "REDIRECT_URIS");
	ConduitClient *client;
	StoreArgs	args = {0};

	conduit_arg_text(&args, connector->slug);
	if (conduit_store_run(&select, &args) == 0)
		return false;
	client = conduit_client_from_environment(tenant, connector, conduit_row_bool(0, 1), NULL);
	if (client == NULL)
		return false;
	if (client->environment_secret != NULL)
		conduit_wipe(client->environment_secret, strlen(client->environment_secret));
	app->client_id = client->client_id;
	for (const char *uri = uris ? uris : ""; *uri != '\0';)
	{
		int			length = strcspn(uri, ", \t\n");

		if (length > 0)
			app->redirect_uris = lappend(app->redirect_uris, pnstrdup(uri, length));
		uri += length + (uri[length] != '\0' ? 1 : 0);
	}
	return true;
}

bool
conduit_client_app(const char *tenant, const ConduitConnector *connector, ClientApp *app)
{
	static StoreQuery select = {
		"SELECT c.client_id, u.uri FROM (SELECT client_id, redirect_uris FROM conduit.client"
		"  WHERE connector = $2 AND tenant IN ($1, '') AND current ORDER BY tenant DESC LIMIT 1) c"
		" LEFT JOIN LATERAL pg_catalog.unnest(c.redirect_uris) WITH ORDINALITY u (uri, n) ON true ORDER BY u.n",
		2, {TEXTOID, TEXTOID}
	};
	MemoryContext context = CurrentMemoryContext;
	StoreArgs	args = {0};
	uint64		n;

	memset(app, 0, sizeof(*app));
	conduit_arg_text(&args, tenant);
	conduit_arg_text(&args, connector->slug);
	n = conduit_store_run(&select, &args);
	if (n == 0)
		return app_from_environment(tenant, connector, app);
	app->client_id = conduit_row_text(0, 1, context);
	for (uint64 i = 0; i < n; i++)
		if (!conduit_row_isnull(i, 2))
			app->redirect_uris = lappend(app->redirect_uris, conduit_row_text(i, 2, context));
	return true;
}

SealStatus
conduit_client_open_secret(const ConduitClient *client, int n, const ConduitConnector *connector,
						   OpenedSecret *opened, ConduitSecret *secret)
{
	char	   *origin = conduit_client_origin(connector);
	SealPlace	place = secret_place(&client->secrets[n].id, client->tenant, connector, origin);
	SealStatus	status = conduit_secret_open(&place, client->secrets[n].blob, opened, secret, NULL);

	pfree(origin);
	return status;
}

static char *
current_id(const char *tenant, const char *connector)
{
	static DirectTable clients = {"client", "client_current_key", 1, {"client_id"}};
	DirectRow	row;
	char	   *client_id = NULL;

	if (conduit_direct_open_texts(&row, &clients, tenant, connector))
		client_id = conduit_direct_text(&row, 0);
	conduit_direct_close(&row);
	return client_id;
}

char *
conduit_client_current_id(const char *tenant, const char *connector)
{
	char	   *own = current_id(tenant, connector);

	return own != NULL || tenant[0] == '\0' ? own : current_id("", connector);
}

/* RFC 6749 3.1.2: an absolute URI without a fragment. */
static bool
redirect_uri_valid(const char *uri)
{
	const char *c = uri;

	if (strlen(uri) > MAX_REDIRECT_URI_LEN || !isalpha((unsigned char) *c))
		return false;
	while (isalnum((unsigned char) *c) || *c == '+' || *c == '.' || *c == '-')
		c++;
	if (*c != ':' || c[1] == '\0')
		return false;
	for (c = uri; *c; c++)
		if ((unsigned char) *c <= 0x20 || (unsigned char) *c >= 0x7f || *c == '#')
			return false;
	return true;
}

static ArrayType *
redirect_uris_argument(FunctionCallInfo fcinfo, int n)
{
	ArrayType  *array;
	Datum	   *uris;
	bool	   *nulls;
	int			count;

	if (PG_ARGISNULL(n))
		return construct_empty_array(TEXTOID);
	array = PG_GETARG_ARRAYTYPE_P(n);
	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &uris, &nulls, &count);
	if (count > MAX_REDIRECT_URIS)
		conduit_bad_argument("invalid redirect_uris", psprintf("too_many %d", MAX_REDIRECT_URIS),
							 "The number is the most there may be.");
	for (int i = 0; i < count; i++)
		if (nulls[i] || !redirect_uri_valid(TextDatumGetCString(uris[i])))
			conduit_bad_argument("invalid redirect_uris", psprintf("element %d", i + 1),
								 "A redirect URI is absolute, without a fragment (RFC 6749, 3.1.2).");
	return construct_array(uris, count, TEXTOID, -1, false, TYPALIGN_INT);
}

static pg_uuid_t
upsert_client(const char *tenant, const char *connector, const char *client_id,
			  ArrayType *redirect_uris, bool keep_redirect_uris)
{
	static StoreQuery others = {
		"UPDATE conduit.client SET current = false"
		" WHERE tenant = $1 AND connector = $2 AND client_id <> $3 AND current",
		3, {TEXTOID, TEXTOID, TEXTOID}
	};
	static StoreQuery upsert = {
		"INSERT INTO conduit.client (id, tenant, connector, client_id, current, redirect_uris, created_at, updated_at)"
		" VALUES ($1, $2, $3, $4, true, $5, $6, $6)"
		" ON CONFLICT (tenant, connector, client_id) DO UPDATE SET current = true,"
		" redirect_uris = CASE WHEN $7 THEN client.redirect_uris ELSE EXCLUDED.redirect_uris END,"
		" updated_at = EXCLUDED.updated_at RETURNING id",
		7, {UUIDOID, TEXTOID, TEXTOID, TEXTOID, TEXTARRAYOID, TIMESTAMPTZOID, BOOLOID}
	};
	pg_uuid_t	id = conduit_new_id();
	StoreArgs	former = {0};
	StoreArgs	args = {0};

	conduit_arg_text(&former, tenant);
	conduit_arg_text(&former, connector);
	conduit_arg_text(&former, client_id);
	conduit_store_run(&others, &former);

	conduit_arg_uuid(&args, &id);
	conduit_arg_text(&args, tenant);
	conduit_arg_text(&args, connector);
	conduit_arg_text(&args, client_id);
	conduit_arg(&args, PointerGetDatum(redirect_uris));
	conduit_arg_time(&args, conduit_now());
	conduit_arg(&args, BoolGetDatum(keep_redirect_uris));
	conduit_store_run(&upsert, &args);
	return conduit_row_uuid(0, 1);
}

static void
add_secret(const pg_uuid_t *client, const char *tenant, const ConduitConnector *connector, text *client_secret)
{
	static StoreQuery insert = {
		"INSERT INTO conduit.client_secret (id, client, origin, secret, created_at)"
		" VALUES ($1, $2, $3, $4, $5)",
		5, {UUIDOID, UUIDOID, TEXTOID, BYTEAOID, TIMESTAMPTZOID}
	};
	static StoreQuery prune = {
		"DELETE FROM conduit.client_secret WHERE client = $1 AND id NOT IN ("
		" SELECT id FROM conduit.client_secret WHERE client = $1"
		" ORDER BY created_at DESC, id DESC LIMIT " CppAsString2(CONDUIT_MAX_CLIENT_SECRETS) ")",
		1, {UUIDOID}
	};
	pg_uuid_t	id = conduit_new_id();
	char	   *origin = conduit_client_origin(connector);
	SealPlace	place = secret_place(&id, tenant, connector, origin);
	ConduitSecret secret = {.client_secret = {VARDATA_ANY(client_secret), VARSIZE_ANY_EXHDR(client_secret)}};
	bytea	   *blob;
	SealStatus	status = conduit_secret_seal(&place, &secret, &blob);
	StoreArgs	args = {0};
	StoreArgs	prune_args = {0};

	if (status != SEAL_OK)
		conduit_key_raise(status, NULL);
	conduit_key_seal_done();

	conduit_arg_uuid(&args, &id);
	conduit_arg_uuid(&args, client);
	conduit_arg_text(&args, origin);
	conduit_arg_bytea(&args, blob);
	conduit_arg_time(&args, conduit_now());
	conduit_store_run(&insert, &args);
	conduit_arg_uuid(&prune_args, client);
	conduit_store_run(&prune, &prune_args);
}

/* Rows that somebody holds wait.  A connection is locked before its credential here, too. */
void
conduit_client_try_again(const char *connector, const char *tenant)
{
	static StoreQuery update = {
		"UPDATE conduit.credential SET next_attempt_at = NULL,"
		" refresh_at = CASE WHEN refresh_at IS NOT NULL THEN LEAST(COALESCE(due_at, $3), refresh_at) END"
		" WHERE connection_id IN ("
		" SELECT c.connection_id FROM conduit.credential c JOIN conduit.connection n ON n.id = c.connection_id"
		" WHERE n.connector = $1 AND ($2 = '' OR n.tenant = $2)"
		" AND c.status = 'ACTIVE' AND c.last_error = 'config' AND c.refresh IS NOT NULL"
		" FOR NO KEY UPDATE OF n, c SKIP LOCKED)",
		3, {TEXTOID, TEXTOID, TIMESTAMPTZOID}
	};
	StoreArgs	args = {0};

	conduit_arg_text(&args, connector);
	conduit_arg_text(&args, tenant);
	conduit_arg_time(&args, conduit_now());
	if (conduit_store_run(&update, &args) > 0)
		conduit_at_commit(NUDGE_DUE, DT_NOBEGIN);
}

/* The connector has use for a client, and for what is given as its secret. */
static void
check_client_secret(const ConduitConnector *connector, text *client_secret)
{
	const char *expected;

	if (!conduit_connector_takes_client(connector))
		conduit_bad_argument("connector takes no client", "auth_type",
							 "Only connectors that name a client to a token endpoint are used under one.");
	if (client_secret == NULL)
	{
		if (conduit_connector_needs_secret(connector))
			conduit_bad_argument("invalid client_secret", "blank",
								 "This connector authenticates its client with a secret.");
		return;
	}
	if (connector->client_auth != CLIENT_AUTH_PRIVATE_KEY_JWT)
		return;
	expected = conduit_assertion_check_key(VARDATA_ANY(client_secret), VARSIZE_ANY_EXHDR(client_secret),
										   connector->signing_algorithm);
	if (expected != NULL)
		conduit_bad_argument("invalid client_secret", "private_key", expected);
}

/* conduit_set_client(connector, client_id, client_secret, redirect_uris, tenant) */
Datum
conduit_set_client(PG_FUNCTION_ARGS)
{
	char	   *slug = conduit_slug_argument(fcinfo, 0);
	char	   *client_id = conduit_name_argument(fcinfo, 1, "invalid client_id", CONDUIT_MAX_CLIENT_ID_LEN);
	text	   *client_secret = PG_ARGISNULL(2) ? NULL : PG_GETARG_TEXT_PP(2);
	ArrayType  *redirect_uris = redirect_uris_argument(fcinfo, 3);
	char	   *tenant = conduit_tenant_argument(fcinfo, 4);
	const ConduitConnector *connector;
	pg_uuid_t	client;
	StoreScope	scope;

	if (client_secret != NULL && VARSIZE_ANY_EXHDR(client_secret) == 0)
		client_secret = NULL;
	if (client_secret != NULL && VARSIZE_ANY_EXHDR(client_secret) > MAX_CLIENT_SECRET_LEN)
		conduit_bad_argument("invalid client_secret", psprintf("too_long %d", MAX_CLIENT_SECRET_LEN),
							 "The number is the most bytes it may have.");
	if (client_secret != NULL)
		conduit_key_prepare_to_seal();

	conduit_store_begin(&scope);
	connector = conduit_catalogue_require(slug, true);
	check_client_secret(connector, client_secret);
	client = upsert_client(tenant, slug, client_id, redirect_uris, PG_ARGISNULL(3));
	if (client_secret != NULL)
		add_secret(&client, tenant, connector, client_secret);
	conduit_client_try_again(slug, tenant);
	conduit_store_end(&scope);
	PG_RETURN_VOID();
}

/* conduit_retire_client(connector, client_id, tenant) */
Datum
conduit_retire_client(PG_FUNCTION_ARGS)
{
	static StoreQuery lock = {
		"SELECT id FROM conduit.client WHERE connector = $1 AND client_id = $2 AND tenant = $3 FOR UPDATE",
		3, {TEXTOID, TEXTOID, TEXTOID}
	};

	/*
	 * A tenant's connection is served by its tenant's client where that has
	 * the id, else by the common one.  One without a credential has had none
	 * issued under any.
	 */
	static StoreQuery uses = {
		"SELECT pg_catalog.count(*) FROM conduit.connection n"
		" WHERE n.connector = $1 AND n.client_id = $2 AND n.status <> 'REVOKED'"
		" AND EXISTS (SELECT FROM conduit.credential c WHERE c.connection_id = n.id)"
		" AND CASE WHEN $3 <> '' THEN n.tenant = $3 ELSE NOT EXISTS ("
		"  SELECT FROM conduit.client c WHERE c.tenant = n.tenant AND c.tenant <> ''"
		"  AND c.connector = $1 AND c.client_id = $2) END",
		3, {TEXTOID, TEXTOID, TEXTOID}
	};
	static StoreQuery delete = {
		"DELETE FROM conduit.client WHERE connector = $1 AND client_id = $2 AND tenant = $3",
		3, {TEXTOID, TEXTOID, TEXTOID}
	};
	char	   *slug = conduit_slug_argument(fcinfo, 0);
	char	   *client_id = conduit_name_argument(fcinfo, 1, "invalid client_id", CONDUIT_MAX_CLIENT_ID_LEN);
	char	   *tenant = conduit_tenant_argument(fcinfo, 2);
	StoreArgs	args = {0};
	StoreScope	scope;

	conduit_arg_text(&args, slug);
	conduit_arg_text(&args, client_id);
	conduit_arg_text(&args, tenant);
	conduit_store_begin(&scope);
	if (conduit_store_run(&lock, &args) == 0)
		conduit_bad_argument("unknown client", "unknown_client", "conduit_clients() lists those there are.");
	conduit_store_run(&uses, &args);
	if (conduit_row_int64(0, 1) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_FOREIGN_KEY_VIOLATION),
				 errmsg("client is in use"),
				 errdetail("in_use " INT64_FORMAT, conduit_row_int64(0, 1)),
				 errhint("Connections issued under it can be refreshed with it only; re-authorize or delete them first."),
				 errhidestmt(true), errhidecontext(true)));
	conduit_revocation_warn_queued(slug, client_id, tenant);
	conduit_store_run(&delete, &args);
	conduit_store_end(&scope);
	PG_RETURN_VOID();
}
