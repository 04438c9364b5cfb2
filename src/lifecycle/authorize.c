/*-------------------------------------------------------------------------
 *
 * authorize.c
 *	  conduit_authorize: where to send a browser, and the state that it brings
 *	  back.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/authorize.h"

#include <math.h>

#include "access/htup_details.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "base/base64url.h"
#include "base/clock.h"
#include "base/report.h"
#include "lifecycle/adoption.h"
#include "lifecycle/argument.h"
#include "lifecycle/catalogue.h"
#include "lifecycle/client.h"
#include "lifecycle/credential.h"
#include "lifecycle/key.h"
#include "lifecycle/store.h"
#include "provider/authorize_url.h"

#define MAX_SCOPES 500
#define MAX_SCOPE_LEN 512
/* How many an owner may begin while one lives: more than people do, or teams. */
#define MAX_STATES 300

/* 256 bits each, as text; a verifier has at least 43 characters (RFC 7636, 4.1). */
#define SECRET_BYTES 32
#define SECRET_LEN conduit_base64url_encoded_length(SECRET_BYTES)

PG_FUNCTION_INFO_V1(conduit_authorize);

/* What is asked for, from the arguments and what they lead to. */
typedef struct Asked
{
	char	   *owner;
	char	   *tenant;
	char	   *slug;
	char	   *redirect_uri;
	List	   *scopes;			/* char *, in the server's encoding */
	char	   *params;			/* JSON object text: those that are given; NULL: none */
	char	   *metadata;		/* likewise */
	const pg_uuid_t *connection;	/* NULL: a new one */
	const ConduitConnector *connector;
	ConduitJson *all_params;	/* with those of the connection; NULL: none */
	char	   *client_id;
} Asked;

/* ---- scopes ---- */

/* RFC 6749, 3.3, less strict: printable ASCII, no space. */
static bool
scope_valid(const char *scope)
{
	for (const unsigned char *c = (const unsigned char *) scope; *c; c++)
		if (*c <= 0x20 || *c >= 0x7f)
			return false;
	return scope[0] != '\0' && strlen(scope) <= MAX_SCOPE_LEN;
}

static List *
add_scope(List *scopes, const char *scope)
{
	ListCell   *cell;

	foreach(cell, scopes)
		if (strcmp(lfirst(cell), scope) == 0)
			return scopes;
	return lappend(scopes, pstrdup(scope));
}

/* NIL also for an empty array; *given tells. */
static List *
scopes_argument(FunctionCallInfo fcinfo, int n, bool *given)
{
	List	   *scopes = NIL;
	Datum	   *elements;
	bool	   *nulls;
	int			count;

	*given = !PG_ARGISNULL(n);
	if (!*given)
		return NIL;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(n), TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &count);
	if (count > MAX_SCOPES)
		conduit_bad_argument("invalid scopes", psprintf("too_many %d", MAX_SCOPES),
							 "The number is the most there may be.");
	for (int i = 0; i < count; i++)
	{
		char	   *scope = nulls[i] ? "" : TextDatumGetCString(elements[i]);

		if (!scope_valid(scope))
			conduit_bad_argument("invalid scopes", psprintf("element %d", i + 1),
								 "A scope is a text of printable ASCII characters without spaces.");
		scopes = add_scope(scopes, scope);
	}
	return scopes;
}

/* Scopes that stand in rows, one each; what a provider has made of them may be unfit to be asked for. */
static List *
add_stored_scopes(List *scopes, StoreQuery *query, const pg_uuid_t *connection)
{
	StoreArgs	args = {0};
	MemoryContext context = CurrentMemoryContext;
	uint64		n;

	conduit_arg_uuid(&args, connection);
	n = conduit_store_run(query, &args);
	for (uint64 i = 0; i < n; i++)
	{
		char	   *scope = conduit_row_text(i, 1, context);

		if (scope != NULL && scope_valid(scope))
			scopes = add_scope(scopes, scope);
	}
	return scopes;
}

/*
 * For a connection that is authorized again: those last requested, or those
 * given with those that it has, so that nothing is lost.
 */
static void
complete_scopes(Asked *asked, bool given)
{
	static StoreQuery granted = {
		"SELECT s.scope FROM conduit.credential c, pg_catalog.unnest(pg_catalog.string_to_array(c.scope, ' ')) s (scope)"
		" WHERE c.connection_id = $1",
		1, {UUIDOID}
	};
	static StoreQuery requested = {
		"SELECT s.scope FROM conduit.connection n, pg_catalog.unnest(n.requested_scopes) s (scope) WHERE n.id = $1",
		1, {UUIDOID}
	};
	ListCell   *cell;

	if (asked->connection != NULL)
		asked->scopes = add_stored_scopes(asked->scopes, given ? &granted : &requested, asked->connection);
	if (given || asked->scopes != NIL)
		return;
	foreach(cell, asked->connector->default_scopes)
		asked->scopes = add_scope(asked->scopes, lfirst(cell));
}

/* ---- a connection that is authorized again ---- */

/* Its params are not changed by that: they may be given, but must be the same. */
static void
check_same_params(const ConduitJson *given, const ConduitJson *own)
{
	for (const ConduitJson *member = given ? given->first : NULL; member != NULL; member = member->next)
	{
		const char *text = conduit_json_string(conduit_json_get(own, member->key));

		if (text == NULL || member->type != CONDUIT_JSON_STRING || strcmp(text, member->text) != 0)
			conduit_bad_argument("invalid params", "connection",
								 "Those of a connection that is authorized again are its own; conduit_update_connection() changes them.");
	}
}

static void
read_connection(Asked *asked)
{
	static StoreQuery select = {
		"SELECT connector, status, params::pg_catalog.text FROM conduit.connection"
		" WHERE id = $1 AND owner = $2 AND tenant = $3",
		3, {UUIDOID, TEXTOID, TEXTOID}
	};
	MemoryContext context = CurrentMemoryContext;
	StoreArgs	args = {0};
	char	   *slug;
	ConduitJson *own;

	conduit_arg_uuid(&args, asked->connection);
	conduit_arg_text(&args, asked->owner);
	conduit_arg_text(&args, asked->tenant);
	if (conduit_store_run(&select, &args) == 0)
		conduit_raise(CONDUIT_ERR_CONNECTION_NOT_FOUND, NULL);
	slug = conduit_row_text(0, 1, context);
	if (strcmp(conduit_row_text(0, 2, context), "REVOKED") == 0)
		conduit_raise(CONDUIT_ERR_REVOKED, "revoked");
	if (asked->slug != NULL && strcmp(asked->slug, slug) != 0)
		conduit_bad_argument("invalid connector", "connection",
							 "It is the connection's own, which NULL stands for.");
	asked->slug = slug;
	own = conduit_parse_object(conduit_row_text(0, 3, context), "invalid params");
	check_same_params(asked->all_params, own);
	asked->all_params = own;
	asked->params = NULL;
}

/* ---- the client ---- */

static void
choose_client(Asked *asked)
{
	ClientApp	app;
	ListCell   *cell;

	if (!conduit_client_app(asked->tenant, asked->connector, &app))
		conduit_raise(CONDUIT_ERR_NOT_CONFIGURED, "client_missing");
	asked->client_id = app.client_id;
	if (app.redirect_uris == NIL)
		conduit_bad_argument("invalid redirect_uri", "none_registered",
							 "Give the client's redirect URIs to conduit_set_client(), as they stand at the provider.");
	if (asked->redirect_uri == NULL)
	{
		asked->redirect_uri = linitial(app.redirect_uris);
		return;
	}
	foreach(cell, app.redirect_uris)
		if (strcmp(lfirst(cell), asked->redirect_uri) == 0)
			return;
	conduit_bad_argument("invalid redirect_uri", "not_registered",
						 "It must be equal to one of the client's, as given to conduit_set_client(); NULL is the first.");
}

/* ---- the row and the URL ---- */

static ArrayType *
scope_array(const List *scopes)
{
	Datum	   *elements = palloc(sizeof(Datum) * (list_length(scopes) + 1));
	ListCell   *cell;
	int			n = 0;

	foreach(cell, scopes)
		elements[n++] = CStringGetTextDatum(lfirst(cell));
	return construct_array(elements, n, TEXTOID, -1, false, TYPALIGN_INT);
}

static void
draw_secret(char *text)
{
	uint8		bytes[SECRET_BYTES];

	conduit_random(bytes, sizeof(bytes));
	(void) conduit_base64url_encode(bytes, sizeof(bytes), text);
	conduit_wipe(bytes, sizeof(bytes));
}

/* Draw a verifier, seal it for its row and compute its challenge (RFC 7636, 4.2). */
static bytea *
make_verifier(const AuthorizeState *state, char *challenge)
{
	char		verifier[SECRET_LEN + 1];
	uint8		hash[CONDUIT_DIGEST_LEN];
	SealPlace	place = conduit_authorize_place(state, "verifier");
	ConduitSecret secret = {.access_token = {verifier, SECRET_LEN}};
	bytea	   *sealed;
	SealStatus	status;

	draw_secret(verifier);
	conduit_authorize_hash(verifier, hash);
	(void) conduit_base64url_encode(hash, sizeof(hash), challenge);
	status = conduit_secret_seal(&place, &secret, &sealed);
	conduit_wipe(verifier, sizeof(verifier));
	if (status != SEAL_OK)
		conduit_key_raise(status, NULL);
	conduit_key_seal_done();
	return sealed;
}

/*
 * A browser's user may begin authorizations, and each is a row that is kept for
 * a day.  Closed ones count, or a loop of both would fill the table.
 */
static void
check_not_too_many(const Asked *asked)
{
	static StoreQuery select = {
		"SELECT expires_at FROM conduit.authorize_state WHERE tenant = $1 AND owner = $2 AND expires_at > $3"
		" ORDER BY expires_at DESC OFFSET $4 LIMIT 1",
		4, {TEXTOID, TEXTOID, TIMESTAMPTZOID, INT4OID}
	};
	TimestampTz now = conduit_now();
	StoreArgs	args = {0};
	double		seconds;

	conduit_arg_text(&args, asked->tenant);
	conduit_arg_text(&args, asked->owner);
	conduit_arg_time(&args, now);
	conduit_arg(&args, Int32GetDatum(MAX_STATES - 1));
	if (conduit_store_run(&select, &args) == 0)
		return;
	seconds = ceil((conduit_row_time(0, 1) - now) / (double) USECS_PER_SEC);
	conduit_raise(CONDUIT_ERR_RATE_LIMITED, psprintf("rate_limited retry_after=%d", (int) seconds));
}

static void
insert_state(const Asked *asked, const AuthorizeState *state, const char *text, const bytea *verifier)
{
	static StoreQuery insert = {
		"INSERT INTO conduit.authorize_state (id, state_hash, tenant, owner, connector, origin, client_id,"
		" redirect_uri, scopes, params, metadata, connection_id, verifier, created_at, expires_at)"
		" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, COALESCE($10::pg_catalog.jsonb, '{}'),"
		" COALESCE($11::pg_catalog.jsonb, '{}'), $12, $13, $14, $15)",
		15, {UUIDOID, BYTEAOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTARRAYOID, TEXTOID,
		TEXTOID, UUIDOID, BYTEAOID, TIMESTAMPTZOID, TIMESTAMPTZOID}
	};
	TimestampTz now = conduit_now();
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, &state->id);
	conduit_arg_bytea(&args, conduit_authorize_hash_bytea(text));
	conduit_arg_text(&args, asked->tenant);
	conduit_arg_text(&args, asked->owner);
	conduit_arg_text(&args, asked->slug);
	conduit_arg_text(&args, state->origin);
	conduit_arg_text(&args, asked->client_id);
	conduit_arg_text(&args, asked->redirect_uri);
	conduit_arg(&args, PointerGetDatum(scope_array(asked->scopes)));
	conduit_arg_text(&args, asked->params);
	conduit_arg_text(&args, asked->metadata);
	if (asked->connection != NULL)
		conduit_arg_uuid(&args, asked->connection);
	else
		conduit_arg_null(&args);
	conduit_arg_bytea(&args, verifier);
	conduit_arg_time(&args, now);
	conduit_arg_time(&args, conduit_time_add(now, CONDUIT_STATE_LIFETIME));
	conduit_store_run(&insert, &args);
}

static char *
build_url(const Asked *asked, const char *state, const char *challenge)
{
	AuthorizeRequest request = {
		.client_id = conduit_place_text(asked->client_id),.redirect_uri = asked->redirect_uri,.state = state,
		.scopes = asked->scopes,.code_challenge = challenge,.params = asked->all_params
	};
	const char *problem;
	const char *variable = NULL;
	char	   *url = conduit_authorize_url(asked->connector, &request, &problem, &variable);

	if (url == NULL && variable != NULL)
		conduit_bad_argument("invalid params", psprintf("%s: %s", variable, problem),
							 "Pass an object that gives the connector's variables values matching their patterns.");
	if (url == NULL)
		conduit_bad_argument("authorize URL cannot be built", problem,
							 "See the connector's authorize_url and conduit.egress_allow.");
	return url;
}

/* Make the state; both results are of the current context. */
static void
authorize(Asked *asked, bool scopes_given, char **url, char *text)
{
	AuthorizeState state = {.id = conduit_new_id(),.tenant = asked->tenant,.owner = asked->owner};
	char		challenge[SECRET_LEN + 1];
	bytea	   *verifier = NULL;

	if (asked->connection != NULL)
		read_connection(asked);
	asked->connector = conduit_catalogue_require(asked->slug, asked->connection == NULL);
	if (asked->connector->auth_type != AUTH_OAUTH2_CODE)
		conduit_bad_argument("connector takes no authorization", "auth_type",
							 "Only connectors of type oauth2_code are authorized in a browser; store a credential instead.");
	conduit_connector_check_params(asked->connector, asked->all_params);
	choose_client(asked);
	complete_scopes(asked, scopes_given);
	check_not_too_many(asked);
	conduit_adoption_note_use(true);

	state.connector = asked->slug;
	state.origin = conduit_client_origin(asked->connector);
	draw_secret(text);
	if (asked->connector->pkce)
		verifier = make_verifier(&state, challenge);
	insert_state(asked, &state, text, verifier);
	*url = build_url(asked, text, verifier ? challenge : NULL);
}

/* conduit_authorize(owner, connector, redirect_uri, scopes, params, connection_id, metadata, tenant) */
Datum
conduit_authorize(PG_FUNCTION_ARGS)
{
	Asked		asked = {0};
	bool		scopes_given;
	char	   *url;
	char	   *result;
	char		text[SECRET_LEN + 1];
	StoreScope	scope;
	TupleDesc	shape;
	Datum		values[2];
	bool		nulls[2] = {false, false};

	asked.owner = conduit_owner_argument(fcinfo, 0);
	asked.slug = PG_ARGISNULL(1) && !PG_ARGISNULL(5) ? NULL : conduit_slug_argument(fcinfo, 1);
	asked.redirect_uri = conduit_text_argument(fcinfo, 2);
	asked.scopes = scopes_argument(fcinfo, 3, &scopes_given);
	asked.params = conduit_object_argument(fcinfo, 4, "invalid params");
	asked.all_params = conduit_parse_object(asked.params, "invalid params");
	asked.connection = PG_ARGISNULL(5) ? NULL : PG_GETARG_UUID_P(5);
	asked.metadata = conduit_object_argument(fcinfo, 6, "invalid metadata");
	asked.tenant = conduit_tenant_argument(fcinfo, 7);
	if (get_call_result_type(fcinfo, NULL, &shape) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (RecoveryInProgress())
		conduit_raise(CONDUIT_ERR_UNAVAILABLE, "standby");

	conduit_key_prepare_to_seal();
	conduit_store_begin(&scope);
	authorize(&asked, scopes_given, &url, text);
	result = MemoryContextStrdup(scope.caller_context, url);
	conduit_store_end(&scope);

	values[0] = CStringGetTextDatum(result);
	values[1] = CStringGetTextDatum(text);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(shape), values, nulls)));
}
