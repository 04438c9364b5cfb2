/*-------------------------------------------------------------------------
 *
 * guard.c
 *	  Letting a caller in, or not: conduit.enter() for facades,
 *	  conduit_require_key() and conduit_require_backend() for an application's
 *	  own functions.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "base/report.h"
#include "door/identity.h"
#include "lifecycle/argument.h"
#include "lifecycle/store.h"

PG_FUNCTION_INFO_V1(conduit_enter);
PG_FUNCTION_INFO_V1(conduit_require_key);
PG_FUNCTION_INFO_V1(conduit_require_backend);
PG_FUNCTION_INFO_V1(conduit_facade_require_key);
PG_FUNCTION_INFO_V1(conduit_facade_require_backend);

/* In place of a connector, which has no such slug: that of each of several connections. */
#define EACH_CONNECTOR	"*"

/* What a function of a facade asks of its caller. */
typedef enum Need
{
	NEED_OWNER,					/* an owner, who may be a browser's */
	NEED_OWNER_OR_BACKEND,		/* an owner, or a backend for all of them */
	NEED_BACKEND,				/* a backend, whose owner may be nobody */
	NEED_BACKEND_FOR_OWNER,		/* a backend for an owner */
	NEED_KEY,					/* an API key */
	NEED_NOBODY					/* anybody: health */
} Need;

static Need
need_argument(FunctionCallInfo fcinfo, int n)
{
	static const char *const names[] = {
		[NEED_OWNER] = "owner",
		[NEED_OWNER_OR_BACKEND] = "owner or backend",
		[NEED_BACKEND] = "backend",
		[NEED_BACKEND_FOR_OWNER] = "backend for owner",
		[NEED_KEY] = "key",
		[NEED_NOBODY] = "nobody"
	};
	char	   *text = conduit_text_argument(fcinfo, n);

	for (int i = 0; i < lengthof(names); i++)
		if (text != NULL && strcmp(text, names[i]) == 0)
			return i;
	conduit_bad_argument("invalid need", NULL, "It is owner, owner or backend, backend, backend for owner, key or nobody.");
}

/* The rules of an exposed schema; its tenant is in them. */
static void
read_rules(const char *schema_name, DoorRules *rules)
{
	static StoreQuery select = {
		"SELECT tenant, COALESCE(options ->> 'owner_claim', 'sub'), options ->> 'jwt_audience',"
		" options ->> 'owners', COALESCE((options ->> 'trust_claims')::pg_catalog.bool, false)"
		" FROM conduit.facade WHERE schema_name = $1 AND dropped_at IS NULL",
		1, {TEXTOID}
	};
	StoreArgs	args = {0};

	conduit_arg_text(&args, schema_name);
	if (conduit_store_run(&select, &args) == 0)
		conduit_raise(CONDUIT_ERR_UNAUTHORIZED, NULL);
	rules->schema_name = schema_name;
	rules->tenant = conduit_row_text(0, 1, CurrentMemoryContext);
	rules->owner_claim = conduit_row_text(0, 2, CurrentMemoryContext);
	rules->audience = conduit_row_text(0, 3, CurrentMemoryContext);
	rules->owners = conduit_row_text(0, 4, CurrentMemoryContext);
	rules->trust_claims = conduit_row_bool(0, 5);
}

/* The connector of an owner's connection, NULL if there is none such: whose object a key's scope names. */
static char *
connector_of(const pg_uuid_t *connection, const char *owner, const char *tenant)
{
	static StoreQuery select = {
		"SELECT connector FROM conduit.connection WHERE id = $1 AND tenant = $2 AND ($3 IS NULL OR owner = $3)",
		3, {UUIDOID, TEXTOID, TEXTOID}
	};
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, connection);
	conduit_arg_text(&args, tenant);
	conduit_arg_text(&args, owner);
	return conduit_store_run(&select, &args) == 0 ? NULL : conduit_row_text(0, 1, CurrentMemoryContext);
}

/* A bound session opens its own connection and nothing else. */
static void
check_binding(const Identity *identity, const pg_uuid_t *connection)
{
	if (!identity->bound)
		return;
	if (connection == NULL)
		conduit_raise(CONDUIT_ERR_FORBIDDEN, "session");
	if (memcmp(connection, &identity->connection, sizeof(pg_uuid_t)) != 0)
		conduit_raise(CONDUIT_ERR_CONNECTION_NOT_FOUND, NULL);
}

static void
check_need(const Identity *identity, Need need)
{
	if (need == NEED_NOBODY)
		return;
	if (!identity->backend && identity->owner == NULL)
		conduit_raise(CONDUIT_ERR_UNAUTHORIZED, NULL);
	if (need == NEED_OWNER && identity->owner == NULL)
		conduit_raise(CONDUIT_ERR_UNAUTHORIZED, NULL);
	if (need == NEED_KEY && !identity->has_key)
		conduit_raise(identity->backend ? CONDUIT_ERR_FORBIDDEN : CONDUIT_ERR_UNAUTHORIZED, "key");
	if ((need == NEED_BACKEND || need == NEED_BACKEND_FOR_OWNER) && !identity->backend)
		conduit_raise(CONDUIT_ERR_FORBIDDEN, "backend");
	if (need == NEED_BACKEND_FOR_OWNER && identity->owner == NULL)
		conduit_raise(CONDUIT_ERR_UNAUTHORIZED, NULL);
}

/* Is this a GET, by which a page's images come with a cookie and nothing else? */
static bool
request_is_get(void)
{
	const char *method = GetConfigOption("request.method", true, false);

	return method != NULL && strcmp(method, "GET") == 0;
}

/* conduit.enter(schema_name, action, need, connection_id, connector) */
Datum
conduit_enter(PG_FUNCTION_ARGS)
{
	char	   *schema_name = conduit_text_argument(fcinfo, 0);
	char	   *action = conduit_text_argument(fcinfo, 1);
	Need		need = need_argument(fcinfo, 2);
	const pg_uuid_t *connection = PG_ARGISNULL(3) ? NULL : PG_GETARG_UUID_P(3);
	char	   *connector = conduit_text_argument(fcinfo, 4);
	DoorRules	rules;
	Identity	identity;
	TupleDesc	shape;
	Datum		values[4];
	bool		nulls[4];
	HeapTuple	tuple;
	StoreScope	scope;

	if (get_call_result_type(fcinfo, NULL, &shape) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	shape = BlessTupleDesc(shape);

	if (schema_name == NULL || action == NULL)
		conduit_bad_argument("invalid call of conduit.enter()", "null", "A facade's functions call it.");
	conduit_store_begin(&scope);
	read_rules(schema_name, &rules);
	conduit_identify(&rules, strcmp(action, "preview") == 0 && request_is_get(), &identity);
	check_need(&identity, need);
	if (identity.has_key && need != NEED_NOBODY)
	{
		/*
		 * A key for some connectors is not for what concerns all of them.  A
		 * connection that is not found has no connector, and is to be
		 * answered as not found.
		 */
		if (connection != NULL)
			connector = connector_of(connection, identity.owner, rules.tenant);
		else if (connector == NULL)
			connector = "";
		else if (strcmp(connector, EACH_CONNECTOR) == 0)
			connector = NULL;	/* the function looks at each itself */
		if (!conduit_api_key_allows(&identity.key, action, connector))
			conduit_raise(CONDUIT_ERR_FORBIDDEN, "scope");
	}
	if (need != NEED_NOBODY)
		check_binding(&identity, connection);

	MemoryContextSwitchTo(scope.caller_context);
	nulls[0] = identity.owner == NULL;
	values[0] = nulls[0] ? (Datum) 0 : CStringGetTextDatum(identity.owner);
	nulls[1] = false;
	values[1] = BoolGetDatum(identity.backend);
	nulls[2] = !identity.has_key;
	values[2] = UUIDPGetDatum(&identity.key.id);
	nulls[3] = !identity.bound;
	values[3] = UUIDPGetDatum(&identity.connection);
	tuple = heap_form_tuple(shape, values, nulls);
	conduit_store_end(&scope);
	PG_RETURN_DATUM(HeapTupleGetDatum(tuple));
}

/* "action" or "action:object" of a guard's argument. */
static bool
key_covers(const ApiKey *key, const char *scope)
{
	const char *colon;

	if (scope == NULL)
		return true;
	colon = strchr(scope, ':');
	if (colon == NULL)
		return conduit_api_key_allows(key, scope, NULL);
	return conduit_api_key_allows(key, pnstrdup(scope, colon - scope), colon + 1);
}

/* The key of this request, if it covers what is wanted. */
static Datum
require_key(FunctionCallInfo fcinfo, const DoorRules *rules, const char *wanted, MemoryContext context)
{
	Identity	identity;
	Datum	   *scopes;
	TupleDesc	shape;
	Datum		values[3];
	bool		nulls[3] = {false, false, false};

	conduit_identify(rules, false, &identity);
	if (!identity.has_key)
		conduit_raise(CONDUIT_ERR_UNAUTHORIZED, NULL);
	if (!key_covers(&identity.key, wanted))
		conduit_raise(CONDUIT_ERR_FORBIDDEN, "scope");

	MemoryContextSwitchTo(context);
	if (get_call_result_type(fcinfo, NULL, &shape) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = UUIDPGetDatum(&identity.key.id);
	nulls[1] = identity.owner == NULL;
	values[1] = nulls[1] ? (Datum) 0 : CStringGetTextDatum(identity.owner);
	scopes = palloc(sizeof(Datum) * (identity.key.nscopes + 1));
	for (int i = 0; i < identity.key.nscopes; i++)
		scopes[i] = CStringGetTextDatum(identity.key.scopes[i]);
	values[2] = PointerGetDatum(construct_array(scopes, identity.key.nscopes, TEXTOID, -1, false, TYPALIGN_INT));
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(shape), values, nulls));
}

static void
require_backend(const DoorRules *rules, const char *wanted)
{
	Identity	identity;

	conduit_identify(rules, false, &identity);
	check_need(&identity, NEED_BACKEND);
	if (identity.has_key && !key_covers(&identity.key, wanted))
		conduit_raise(CONDUIT_ERR_FORBIDDEN, "scope");
}

/* conduit_require_key(scope, tenant) */
Datum
conduit_require_key(PG_FUNCTION_ARGS)
{
	char	   *wanted = conduit_text_argument(fcinfo, 0);
	DoorRules	rules = {.tenant = conduit_tenant_argument(fcinfo, 1),.owner_claim = "sub"};
	StoreScope	scope;
	Datum		result;

	conduit_store_begin(&scope);
	result = require_key(fcinfo, &rules, wanted, scope.caller_context);
	conduit_store_end(&scope);
	PG_RETURN_DATUM(result);
}

/* conduit_require_backend(scope, tenant) */
Datum
conduit_require_backend(PG_FUNCTION_ARGS)
{
	char	   *wanted = conduit_text_argument(fcinfo, 0);
	DoorRules	rules = {.tenant = conduit_tenant_argument(fcinfo, 1),.owner_claim = "sub"};
	StoreScope	scope;

	conduit_store_begin(&scope);
	require_backend(&rules, wanted);
	conduit_store_end(&scope);
	PG_RETURN_VOID();
}

/* The facade's name, which is an argument of what its functions call. */
static char *
facade_argument(FunctionCallInfo fcinfo)
{
	char	   *schema_name = conduit_text_argument(fcinfo, 0);

	if (schema_name == NULL)
		conduit_bad_argument("invalid schema_name", "null", "A facade's functions name their schema.");
	return schema_name;
}

/* conduit.require_key(schema_name, scope) */
Datum
conduit_facade_require_key(PG_FUNCTION_ARGS)
{
	char	   *schema_name = facade_argument(fcinfo);
	char	   *wanted = conduit_text_argument(fcinfo, 1);
	DoorRules	rules;
	StoreScope	scope;
	Datum		result;

	conduit_store_begin(&scope);
	read_rules(schema_name, &rules);
	result = require_key(fcinfo, &rules, wanted, scope.caller_context);
	conduit_store_end(&scope);
	PG_RETURN_DATUM(result);
}

/* conduit.require_backend(schema_name, scope) */
Datum
conduit_facade_require_backend(PG_FUNCTION_ARGS)
{
	char	   *schema_name = facade_argument(fcinfo);
	char	   *wanted = conduit_text_argument(fcinfo, 1);
	DoorRules	rules;
	StoreScope	scope;

	conduit_store_begin(&scope);
	read_rules(schema_name, &rules);
	require_backend(&rules, wanted);
	conduit_store_end(&scope);
	PG_RETURN_VOID();
}
