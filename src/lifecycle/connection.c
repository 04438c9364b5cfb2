/*-------------------------------------------------------------------------
 *
 * connection.c
 *	  Connections: rows, states, and who may see them.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/connection.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/builtins.h"

#include "base/clock.h"
#include "base/report.h"
#include "lifecycle/adoption.h"
#include "lifecycle/argument.h"
#include "lifecycle/authorize.h"
#include "lifecycle/catalogue.h"
#include "lifecycle/client.h"
#include "lifecycle/direct.h"
#include "lifecycle/event.h"
#include "lifecycle/revocation.h"
#include "lifecycle/store.h"

#define MAX_PAGE_SIZE 500
#define STANDARD_PAGE_SIZE 100

PG_FUNCTION_INFO_V1(conduit_create_connection);
PG_FUNCTION_INFO_V1(conduit_get_connection);
PG_FUNCTION_INFO_V1(conduit_list_connections);
PG_FUNCTION_INFO_V1(conduit_find_connection);
PG_FUNCTION_INFO_V1(conduit_update_connection);
PG_FUNCTION_INFO_V1(conduit_revoke_connection);
PG_FUNCTION_INFO_V1(conduit_delete_connection);
PG_FUNCTION_INFO_V1(conduit_delete_owner);

/* The one shape of a connection in results: type conduit.connection_info. */
#define CONNECTION_SHAPE \
	"SELECT n.id, n.owner, n.connector, n.account, n.account_label, n.status, n.status_reason," \
	" pg_catalog.string_to_array(c.scope, ' '), n.requested_scopes, n.params, n.metadata," \
	" c.connection_id IS NOT NULL, COALESCE(c.refresh IS NOT NULL, false), c.expires_at, c.refresh_at," \
	" c.refreshed_at, u.used_on::pg_catalog.timestamptz, c.last_error, c.last_error_code, c.last_error_at," \
	" COALESCE(c.attempts, 0), COALESCE(c.generation, 0), n.created_at, n.updated_at" \
	" FROM conduit.connection n" \
	" LEFT JOIN conduit.credential c ON c.connection_id = n.id" \
	" LEFT JOIN conduit.last_use u ON u.connection_id = n.id"

ConnectionRow *
conduit_connection_lock(const pg_uuid_t *id, const char *owner, const char *tenant)
{
	enum
	{
		TENANT, OWNER, CONNECTOR, ACCOUNT, STATUS, CLIENT_ID, PARAMS, LAST_GENERATION, NUM_COLUMNS
	};
	static DirectTable connections = {
		"connection", NULL, NUM_COLUMNS,
		{"tenant", "owner", "connector", "account", "status", "client_id", "params", "last_generation"}
	};
	DirectRow	found;
	ConnectionRow *row;
	Jsonb	   *params;
	bool		isnull;

	/* Whose it is never changes, so somebody else's is not locked to find out. */
	if (!conduit_direct_open_uuid(&found, &connections, id) || !conduit_direct_equals(&found, TENANT, tenant) ||
		(owner != NULL && !conduit_direct_equals(&found, OWNER, owner)) ||
		!conduit_direct_lock(&found, LockTupleExclusive))
		conduit_raise(CONDUIT_ERR_CONNECTION_NOT_FOUND, NULL);

	row = palloc0(sizeof(ConnectionRow));
	row->id = *id;
	row->tenant = conduit_direct_text(&found, TENANT);
	row->owner = conduit_direct_text(&found, OWNER);
	row->connector = conduit_direct_text(&found, CONNECTOR);
	row->account = conduit_direct_text(&found, ACCOUNT);
	row->status = conduit_direct_text(&found, STATUS);
	row->client_id = conduit_direct_text(&found, CLIENT_ID);
	params = DatumGetJsonbP(conduit_direct_column(&found, PARAMS, &isnull));
	row->params = JsonbToCString(NULL, &params->root, VARSIZE(params));
	row->last_generation = DatumGetInt64(conduit_direct_column(&found, LAST_GENERATION, &isnull));
	conduit_direct_close(&found);
	return row;
}

char *
conduit_connection_status(const pg_uuid_t *id, const char *owner, const char *tenant)
{
	static StoreQuery select = {
		"SELECT status FROM conduit.connection"
		" WHERE id = $1 AND tenant = $2 AND ($3 IS NULL OR owner = $3)",
		3, {UUIDOID, TEXTOID, TEXTOID}
	};
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, id);
	conduit_arg_text(&args, tenant);
	conduit_arg_text(&args, owner);
	return conduit_store_run(&select, &args) == 0 ? NULL :
		conduit_row_text(0, 1, CurrentMemoryContext);
}

void
conduit_connection_set_status(const pg_uuid_t *id, const char *status, const char *reason)
{
	static StoreQuery connection = {
		"UPDATE conduit.connection SET status = $2, status_reason = $3, updated_at = $4 WHERE id = $1",
		4, {UUIDOID, TEXTOID, TEXTOID, TIMESTAMPTZOID}
	};
	static StoreQuery credential = {
		"UPDATE conduit.credential SET status = $2 WHERE connection_id = $1 AND status <> $2",
		2, {UUIDOID, TEXTOID}
	};
	StoreArgs	args = {0};
	StoreArgs	credential_args = {0};

	conduit_arg_uuid(&args, id);
	conduit_arg_text(&args, status);
	conduit_arg_text(&args, reason);
	conduit_arg_time(&args, conduit_now());
	conduit_store_run(&connection, &args);

	conduit_arg_uuid(&credential_args, id);
	conduit_arg_text(&credential_args, status);
	conduit_store_run(&credential, &credential_args);
}

void
conduit_connection_merge(const pg_uuid_t *id, const char *params, const char *metadata)
{
	static StoreQuery update = {
		"UPDATE conduit.connection SET params = params || COALESCE($2::pg_catalog.jsonb, '{}'),"
		" metadata = metadata || COALESCE($3::pg_catalog.jsonb, '{}'), updated_at = $4 WHERE id = $1"
		" AND (params || COALESCE($2::pg_catalog.jsonb, '{}') <> params"
		" OR metadata || COALESCE($3::pg_catalog.jsonb, '{}') <> metadata)",
		4, {UUIDOID, TEXTOID, TEXTOID, TIMESTAMPTZOID}
	};
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, id);
	conduit_arg_utf8(&args, params);
	conduit_arg_utf8(&args, metadata);
	conduit_arg_time(&args, conduit_now());
	conduit_store_run(&update, &args);
}

void
conduit_connection_event(const ConnectionRow *row, const char *kind, const char *new_status, const char *reason)
{
	ConduitEvent event = {
		.kind = kind,.tenant = row->tenant,.connection = &row->id,.owner = row->owner,
		.connector = row->connector,.account = row->account,
		.old_status = row->status,.new_status = new_status,.reason = reason
	};

	conduit_event_write(&event);
}

pg_noreturn static void
raise_exists(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNIQUE_VIOLATION),
			 errmsg("connection exists already"),
			 errdetail("exists"),
			 errhint("conduit_find_connection() finds it."),
			 errhidestmt(true), errhidecontext(true)));
}

/*
 * Write a row whose account may be taken.  The index alone can tell: it waits
 * for others that have not committed, whatever the isolation level, but it
 * would quote owner and account.
 */
static void
write_unique(StoreQuery *query, const StoreArgs *args)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		conduit_store_run(query, args);
	}
	PG_CATCH();
	{
		if (geterrcode() != ERRCODE_UNIQUE_VIOLATION)
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
		raise_exists();
	}
	PG_END_TRY();
}

/* conduit_create_connection(owner, connector, account, params, metadata, tenant) */
Datum
conduit_create_connection(PG_FUNCTION_ARGS)
{
	static StoreQuery insert = {
		"INSERT INTO conduit.connection (id, tenant, owner, connector, account, params, metadata, created_at, updated_at, client_id)"
		" VALUES ($1, $2, $3, $4, $5, $6::pg_catalog.jsonb, $7::pg_catalog.jsonb, $8, $8, $9)",
		9, {UUIDOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, TEXTOID}
	};
	char	   *owner = conduit_owner_argument(fcinfo, 0);
	char	   *slug = conduit_slug_argument(fcinfo, 1);
	char	   *account = conduit_optional_name_argument(fcinfo, 2, "invalid account", CONDUIT_MAX_ACCOUNT_LEN);
	char	   *params = conduit_object_argument(fcinfo, 3, "invalid params");
	char	   *metadata = conduit_object_argument(fcinfo, 4, "invalid metadata");
	char	   *tenant = conduit_tenant_argument(fcinfo, 5);
	pg_uuid_t  *id = palloc(sizeof(pg_uuid_t));
	const ConduitConnector *connector;
	ConnectionRow row = {0};
	StoreArgs	args = {0};
	StoreScope	scope;

	*id = conduit_new_id();
	conduit_store_begin(&scope);
	connector = conduit_catalogue_require(slug, true);
	conduit_connector_check_params(connector, conduit_parse_object(params, "invalid params"));
	conduit_adoption_note_use(true);

	conduit_arg_uuid(&args, id);
	conduit_arg_text(&args, tenant);
	conduit_arg_text(&args, owner);
	conduit_arg_text(&args, slug);
	conduit_arg_text(&args, account);
	conduit_arg_text(&args, params ? params : "{}");
	conduit_arg_text(&args, metadata ? metadata : "{}");
	conduit_arg_time(&args, conduit_now());

	/* Likely the client its credential will be issued under: then storing that need not change this row. */
	conduit_arg_text(&args, conduit_connector_binds_client(connector) ? conduit_client_current_id(tenant, slug) : NULL);
	write_unique(&insert, &args);

	row.id = *id;
	row.tenant = tenant;
	row.owner = owner;
	row.connector = slug;
	row.account = account;
	conduit_connection_event(&row, "created", "ACTIVE", NULL);
	conduit_store_end(&scope);
	PG_RETURN_UUID_P(id);
}

/* conduit_get_connection(owner, connection_id, tenant) */
Datum
conduit_get_connection(PG_FUNCTION_ARGS)
{
	static StoreQuery select = {
		CONNECTION_SHAPE " WHERE n.id = $1 AND n.tenant = $2 AND n.owner = $3",
		3, {UUIDOID, TEXTOID, TEXTOID}
	};
	char	   *owner = conduit_owner_argument(fcinfo, 0);
	const pg_uuid_t *id = conduit_connection_argument(fcinfo, 1);
	char	   *tenant = conduit_tenant_argument(fcinfo, 2);
	StoreArgs	args = {0};
	StoreScope	scope;
	TupleDesc	shape;
	HeapTuple	tuple;

	if (get_call_result_type(fcinfo, NULL, &shape) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	conduit_arg_uuid(&args, id);
	conduit_arg_text(&args, tenant);
	conduit_arg_text(&args, owner);
	conduit_store_begin(&scope);
	if (conduit_store_run(&select, &args) == 0)
		conduit_raise(CONDUIT_ERR_CONNECTION_NOT_FOUND, NULL);
	tuple = SPI_copytuple(SPI_tuptable->vals[0]);
	conduit_store_end(&scope);
	PG_RETURN_DATUM(heap_copy_tuple_as_datum(tuple, BlessTupleDesc(shape)));
}

/* Whether the caller may vend, and so see the connections of every owner. */
static void
check_may_vend(Oid caller)
{
	static StoreQuery select = {
		"SELECT pg_catalog.has_function_privilege($1, p.oid, 'EXECUTE') FROM pg_catalog.pg_proc p"
		" JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid"
		" AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.refobjid = $2 AND d.deptype = 'e'"
		" WHERE p.proname = 'conduit_vend'",
		2, {OIDOID, OIDOID}
	};
	StoreArgs	args = {0};

	conduit_arg(&args, ObjectIdGetDatum(caller));
	conduit_arg(&args, ObjectIdGetDatum(conduit_extension(false)->oid));
	if (conduit_store_run(&select, &args) == 0 || !conduit_row_bool(0, 1))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to list the connections of every owner"),
				 errdetail("owner_required"),
				 errhint("Pass an owner, or have conduit_grant() give you the profile \"service\"."),
				 errhidestmt(true), errhidecontext(true)));
}

/* conduit_list_connections(owner, only_connector, only_status, after, page_size, tenant) */
Datum
conduit_list_connections(PG_FUNCTION_ARGS)
{
	static StoreQuery of_owner = {
		CONNECTION_SHAPE " WHERE n.tenant = $1 AND n.owner = $2 AND ($3 IS NULL OR n.connector = $3)"
		" AND ($4 IS NULL OR n.status = $4) AND ($5 IS NULL OR n.id > $5) ORDER BY n.id LIMIT $6",
		6, {TEXTOID, TEXTOID, TEXTOID, TEXTOID, UUIDOID, INT4OID}
	};
	static StoreQuery of_all = {
		CONNECTION_SHAPE " WHERE n.tenant = $1 AND $2 IS NULL AND ($3 IS NULL OR n.connector = $3)"
		" AND ($4 IS NULL OR n.status = $4) AND ($5 IS NULL OR n.id > $5) ORDER BY n.id LIMIT $6",
		6, {TEXTOID, TEXTOID, TEXTOID, TEXTOID, UUIDOID, INT4OID}
	};
	char	   *owner = PG_ARGISNULL(0) ? NULL : conduit_owner_argument(fcinfo, 0);
	char	   *connector = PG_ARGISNULL(1) ? NULL : conduit_slug_argument(fcinfo, 1);
	char	   *status = conduit_text_argument(fcinfo, 2);
	int			page_size = conduit_count_argument(fcinfo, 4, STANDARD_PAGE_SIZE, 1, MAX_PAGE_SIZE, "invalid page_size");
	char	   *tenant = conduit_tenant_argument(fcinfo, 5);
	StoreArgs	args = {0};

	if (status != NULL && strcmp(status, "ACTIVE") != 0 &&
		strcmp(status, "NEEDS_REAUTH") != 0 && strcmp(status, "REVOKED") != 0)
		conduit_bad_argument("invalid status", "status", "It is ACTIVE, NEEDS_REAUTH or REVOKED.");
	if (owner == NULL)
	{
		Oid			caller = GetUserId();
		StoreScope	scope;

		conduit_store_begin(&scope);
		check_may_vend(caller);
		conduit_store_end(&scope);
	}

	conduit_arg_text(&args, tenant);
	conduit_arg_text(&args, owner);
	conduit_arg_text(&args, connector);
	conduit_arg_text(&args, status);
	if (PG_ARGISNULL(3))
		conduit_arg_null(&args);
	else
		conduit_arg(&args, PG_GETARG_DATUM(3));
	conduit_arg(&args, Int32GetDatum(page_size));
	conduit_store_return_rows(fcinfo, owner ? &of_owner : &of_all, &args);
	return (Datum) 0;
}

/* conduit_find_connection(owner, connector, account, tenant) */
Datum
conduit_find_connection(PG_FUNCTION_ARGS)
{
	static StoreQuery select = {
		"SELECT id FROM conduit.connection WHERE tenant = $1 AND owner = $2 AND connector = $3"
		" AND ($4 IS NULL OR account = $4) AND status <> 'REVOKED' ORDER BY id LIMIT 2",
		4, {TEXTOID, TEXTOID, TEXTOID, TEXTOID}
	};
	char	   *owner = conduit_owner_argument(fcinfo, 0);
	char	   *slug = conduit_slug_argument(fcinfo, 1);
	char	   *account = conduit_optional_name_argument(fcinfo, 2, "invalid account", CONDUIT_MAX_ACCOUNT_LEN);
	char	   *tenant = conduit_tenant_argument(fcinfo, 3);
	pg_uuid_t  *id = palloc(sizeof(pg_uuid_t));
	StoreArgs	args = {0};
	StoreScope	scope;
	uint64		n;

	conduit_arg_text(&args, tenant);
	conduit_arg_text(&args, owner);
	conduit_arg_text(&args, slug);
	conduit_arg_text(&args, account);
	conduit_store_begin(&scope);
	n = conduit_store_run(&select, &args);
	if (n == 0)
		conduit_raise(CONDUIT_ERR_CONNECTION_NOT_FOUND, NULL);
	if (n > 1)
		conduit_bad_argument("several connections match", "several",
							 "Name the account; conduit_list_connections() shows them.");
	*id = conduit_row_uuid(0, 1);
	conduit_store_end(&scope);
	PG_RETURN_UUID_P(id);
}

static bool
origins_differ(const char *a, const char *b)
{
	return strcmp(a ? a : "", b ? b : "") != 0;
}

/* Whether other params would send this connection's credential to another host. */
static bool
params_change_host(const ConduitConnector *connector, const ConduitJson *old, const ConduitJson *new)
{
	const char *templates[] = {connector->token_url, connector->refresh_url, connector->exchange_url,
	connector->revoke_url, connector->account_url, connector->api_base_url};

	for (int i = 0; i < lengthof(templates); i++)
	{
		if (templates[i] != NULL &&
			origins_differ(conduit_connector_origin(connector, templates[i], old),
						   conduit_connector_origin(connector, templates[i], new)))
			return true;
	}
	return false;
}

/* conduit_update_connection(owner, connection_id, account, params, metadata, tenant) */
Datum
conduit_update_connection(PG_FUNCTION_ARGS)
{
	static StoreQuery update = {
		"UPDATE conduit.connection SET account = COALESCE($2, account),"
		" params = COALESCE($3::pg_catalog.jsonb, params),"
		" metadata = COALESCE($4::pg_catalog.jsonb, metadata), updated_at = $5 WHERE id = $1",
		5, {UUIDOID, TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID}
	};
	char	   *owner = conduit_owner_argument(fcinfo, 0);
	const pg_uuid_t *id = conduit_connection_argument(fcinfo, 1);
	char	   *account = conduit_optional_name_argument(fcinfo, 2, "invalid account", CONDUIT_MAX_ACCOUNT_LEN);
	char	   *params = conduit_object_argument(fcinfo, 3, "invalid params");
	char	   *metadata = conduit_object_argument(fcinfo, 4, "invalid metadata");
	char	   *tenant = conduit_tenant_argument(fcinfo, 5);
	StoreArgs	args = {0};
	StoreScope	scope;
	ConnectionRow *row;

	conduit_store_begin(&scope);
	row = conduit_connection_lock(id, owner, tenant);
	if (strcmp(row->status, "REVOKED") == 0)
		conduit_raise(CONDUIT_ERR_REVOKED, "revoked");
	if (params != NULL)
	{
		const ConduitConnector *connector = conduit_catalogue_require(row->connector, false);
		ConduitJson *new = conduit_parse_object(params, "invalid params");

		conduit_connector_check_params(connector, new);
		if (params_change_host(connector, conduit_parse_object(row->params, "invalid params"), new))
			conduit_revocation_destroy_credential(id);
	}
	conduit_arg_uuid(&args, id);
	conduit_arg_text(&args, account);
	conduit_arg_text(&args, params);
	conduit_arg_text(&args, metadata);
	conduit_arg_time(&args, conduit_now());
	write_unique(&update, &args);
	conduit_store_end(&scope);
	PG_RETURN_VOID();
}

/* conduit_revoke_connection(owner, connection_id, tenant) */
Datum
conduit_revoke_connection(PG_FUNCTION_ARGS)
{
	char	   *owner = conduit_owner_argument(fcinfo, 0);
	const pg_uuid_t *id = conduit_connection_argument(fcinfo, 1);
	char	   *tenant = conduit_tenant_argument(fcinfo, 2);
	StoreScope	scope;
	ConnectionRow *row;

	conduit_store_begin(&scope);
	row = conduit_connection_lock(id, owner, tenant);
	if (strcmp(row->status, "REVOKED") != 0)
	{
		conduit_revocation_destroy_credential(id);
		conduit_connection_set_status(id, "REVOKED", "revoked");
		conduit_connection_event(row, "revoked", "REVOKED", NULL);
	}
	conduit_store_end(&scope);
	PG_RETURN_VOID();
}

/* Remove a locked connection with all that belongs to it. */
static void
delete_connection(const ConnectionRow *row)
{
	static StoreQuery connection = {"DELETE FROM conduit.connection WHERE id = $1", 1, {UUIDOID}};
	static StoreQuery last_use = {"DELETE FROM conduit.last_use WHERE connection_id = $1", 1, {UUIDOID}};
	StoreArgs	args = {0};

	conduit_arg_uuid(&args, &row->id);
	conduit_revocation_destroy_credential(&row->id);
	conduit_store_run(&connection, &args);
	conduit_store_run(&last_use, &args);
	conduit_connection_event(row, "deleted", NULL, NULL);
}

/* conduit_delete_connection(owner, connection_id, tenant) */
Datum
conduit_delete_connection(PG_FUNCTION_ARGS)
{
	char	   *owner = conduit_owner_argument(fcinfo, 0);
	const pg_uuid_t *id = conduit_connection_argument(fcinfo, 1);
	char	   *tenant = conduit_tenant_argument(fcinfo, 2);
	StoreScope	scope;

	conduit_store_begin(&scope);
	delete_connection(conduit_connection_lock(id, owner, tenant));
	conduit_store_end(&scope);
	PG_RETURN_VOID();
}

/* Who acted for the owner does so no more: sessions, and keys that are the owner's own. */
static void
end_proofs(const char *owner, const char *tenant)
{
	static StoreQuery sessions = {
		"DELETE FROM conduit.session WHERE owner = $1 AND tenant = $2", 2, {TEXTOID, TEXTOID}
	};
	static StoreQuery keys = {
		"UPDATE conduit.api_key SET revoked_at = LEAST(revoked_at, $3) WHERE owner = $1 AND tenant = $2",
		3, {TEXTOID, TEXTOID, TIMESTAMPTZOID}
	};
	StoreArgs	args = {0};

	conduit_arg_text(&args, owner);
	conduit_arg_text(&args, tenant);
	conduit_store_run(&sessions, &args);
	conduit_arg_time(&args, conduit_now());
	conduit_store_run(&keys, &args);
}

/* conduit_delete_owner(owner, tenant) */
Datum
conduit_delete_owner(PG_FUNCTION_ARGS)
{
	static StoreQuery select = {
		"SELECT id FROM conduit.connection WHERE owner = $1 AND tenant = $2 ORDER BY id FOR UPDATE",
		2, {TEXTOID, TEXTOID}
	};
	char	   *owner = conduit_owner_argument(fcinfo, 0);
	char	   *tenant = conduit_tenant_argument(fcinfo, 1);
	StoreArgs	args = {0};
	StoreScope	scope;
	pg_uuid_t  *ids;
	uint64		n;

	conduit_arg_text(&args, owner);
	conduit_arg_text(&args, tenant);
	conduit_store_begin(&scope);

	/* First, so that a connection that is just being made is seen, or never made. */
	conduit_authorize_forget(owner, tenant);
	n = conduit_store_run(&select, &args);
	ids = palloc(sizeof(pg_uuid_t) * (n + 1));
	for (uint64 i = 0; i < n; i++)
		ids[i] = conduit_row_uuid(i, 1);
	for (uint64 i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		delete_connection(conduit_connection_lock(&ids[i], owner, tenant));
	}
	end_proofs(owner, tenant);
	conduit_store_end(&scope);
	PG_RETURN_INT32((int32) n);
}
