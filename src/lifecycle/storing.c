/*-------------------------------------------------------------------------
 *
 * storing.c
 *	  conduit_store_credential: sealing what a provider or a user handed over.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/storing.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "base/clock.h"
#include "base/report.h"
#include "lifecycle/adoption.h"
#include "lifecycle/argument.h"
#include "lifecycle/catalogue.h"
#include "lifecycle/client.h"
#include "lifecycle/commit.h"
#include "lifecycle/connection.h"
#include "lifecycle/direct.h"
#include "lifecycle/handover.h"
#include "lifecycle/key.h"
#include "lifecycle/schedule.h"
#include "lifecycle/store.h"
#include "shared/roster.h"

PG_FUNCTION_INFO_V1(conduit_store_credential);

pg_noreturn static void
bad_secret(const char *problem, const char *hint)
{
	conduit_bad_argument("invalid secret", problem, hint);
}

/*
 * The caller's text as UTF-8 in a buffer of our own; *length without its final
 * NUL.  Wiped by the caller.  Not inlined: its variables are none of those
 * that the caller's PG_TRY must keep.
 */
pg_noinline static char *
secret_buffer(text *secret, int *length)
{
	int			size = VARSIZE_ANY_EXHDR(secret);
	char	   *utf8;
	char	   *buffer;

	if (size > CONDUIT_MAX_SECRET_LEN)
		bad_secret(psprintf("too_long %d", CONDUIT_MAX_SECRET_LEN), "The number is the most bytes it may have.");
	utf8 = pg_server_to_any(VARDATA_ANY(secret), size, PG_UTF8);
	*length = utf8 == VARDATA_ANY(secret) ? size : (int) strlen(utf8);
	buffer = palloc(*length + 1);
	memcpy(buffer, utf8, *length);
	buffer[*length] = '\0';
	if (utf8 != VARDATA_ANY(secret))
		conduit_wipe(utf8, *length);
	return buffer;
}

static void
read_secret(const ConduitConnector *connector, char *buffer, int length, TimestampTz now, TokenGrant *grant)
{
	const char *problem;
	const char *hint;
	ConduitJson *object = conduit_json_parse(buffer, length, &problem);

	if (object == NULL)
		bad_secret("json", "Pass one JSON object, with keys and strings in double quotes.");
	problem = conduit_handover_read(connector, object, now, grant, &hint);
	if (problem != NULL)
		bad_secret(problem, hint);
}

static void
check_kind(const ConduitConnector *connector, const char *kind)
{
	const char *expected = conduit_handover_kind(connector);

	if (kind == NULL)
		return;
	if (!conduit_handover_kind_known(kind))
		conduit_bad_argument("invalid kind", "unknown", "It is OAUTH2, CLIENT, JWT, API_KEY or BASIC; NULL is what the connector asks for.");
	if (strcmp(kind, expected) != 0)
		conduit_bad_argument("invalid kind", psprintf("expected %s", expected),
							 "The connector asks for another kind; NULL is what it asks for.");
}

/* The columns that are read as well; they come first. */
enum
{
	STORED_GENERATION, STORED_IMPORTED
};

/* All columns of conduit.credential: a credential that is stored leaves nothing of the former one. */
static DirectTable credentials = {
	"credential", NULL, 27,
	{"generation", "imported",
		"connection_id", "expires_at", "due_at", "refresh_at", "issued_at", "refresh_expires_at", "lifetime",
		"status", "kind", "tenant", "owner", "connector", "origin", "token_type", "scope", "own_client",
	"access", "refresh", "attempts", "in_doubt", "refreshed_at", "next_attempt_at", "last_error", "last_error_code", "last_error_at"}
};

/* The generation of the stored credential, locked; 0 if there is none. */
static int64
lock_generation(const pg_uuid_t *connection)
{
	DirectRow	row;
	int64		generation = 0;
	bool		isnull;

	if (conduit_direct_open_uuid(&row, &credentials, connection) && conduit_direct_lock(&row, LockTupleExclusive))
		generation = DatumGetInt64(conduit_direct_column(&row, STORED_GENERATION, &isnull));
	conduit_direct_close(&row);
	return generation;
}

void
conduit_storing_seal(const CredentialPlace *place, const ConduitConnector *connector, const TokenGrant *grant,
					 int64 generation, TimestampTz now, StoredGrant *stored)
{
	SealStatus	status = conduit_credential_seal_grant(place, generation, &grant->secret,
													   &stored->access, &stored->refresh);

	if (status != SEAL_OK)
		conduit_key_raise(status, NULL);
	stored->place = place;
	stored->generation = generation;
	stored->imported = NULL;
	stored->kind = conduit_handover_kind(connector);
	stored->issued_at = grant->issued_at;
	stored->expires_at = grant->expires_at;
	stored->refresh_expires_at = grant->refresh_expires_at;
	stored->lifetime = grant->lifetime;
	stored->token_type = grant->token_type;
	stored->scope = grant->scope;
	stored->own_client = grant->secret.client_id.length > 0 ?
		pnstrdup(grant->secret.client_id.data, grant->secret.client_id.length) : NULL;
	stored->due_at = conduit_schedule_due(connector, &place->connection, generation, now,
										  grant->expires_at, grant->lifetime, false);
	if (stored->access == NULL)
		stored->due_at = now;	/* a refresh token alone: what it stands for is due */

	/* What is minted is so when somebody first wants it. */
	stored->refresh_at = stored->refresh == NULL || conduit_auth_mints(connector->auth_type) ? DT_NOEND :
		conduit_schedule_refresh(&place->connection, generation, stored->due_at,
								 grant->issued_at, grant->refresh_expires_at);
}

static void
write_row(const StoredGrant *stored)
{
	DirectRow	row;
	StoreArgs	cells = {0};
	bool		replaces = conduit_direct_open_uuid(&row, &credentials, &stored->place->connection) &&
		conduit_direct_lock(&row, LockTupleExclusive);
	bool		isnull = true;
	Datum		imported = replaces ? conduit_direct_column(&row, STORED_IMPORTED, &isnull) : (Datum) 0;

	conduit_arg(&cells, Int64GetDatum(stored->generation));
	if (stored->imported != NULL || isnull)
		conduit_arg_bytea(&cells, stored->imported);
	else
		conduit_arg(&cells, imported);
	conduit_arg_uuid(&cells, &stored->place->connection);
	conduit_arg_time(&cells, stored->expires_at);
	conduit_arg_time(&cells, stored->due_at);
	conduit_arg_time(&cells, stored->refresh_at);
	conduit_arg_time(&cells, stored->issued_at);
	conduit_arg_time(&cells, stored->refresh_expires_at);
	conduit_arg(&cells, Float8GetDatum(stored->lifetime));
	conduit_arg_text(&cells, "ACTIVE");
	conduit_arg_text(&cells, stored->kind);
	conduit_arg_text(&cells, stored->place->tenant);
	conduit_arg_text(&cells, stored->place->owner);
	conduit_arg_text(&cells, stored->place->connector);
	conduit_arg_text(&cells, stored->place->origin);
	conduit_arg_utf8(&cells, stored->token_type);
	conduit_arg_utf8(&cells, stored->scope);
	conduit_arg_utf8(&cells, stored->own_client);
	conduit_arg_bytea(&cells, stored->access);
	conduit_arg_bytea(&cells, stored->refresh);
	conduit_arg(&cells, Int32GetDatum(0));	/* attempts */
	conduit_arg(&cells, BoolGetDatum(false));	/* in doubt */
	while (cells.n < credentials.ncolumns)
		conduit_arg_null(&cells);

	if (replaces)
		conduit_direct_update(&row, &cells);
	else
		conduit_direct_insert(&credentials, &cells);
	conduit_direct_close(&row);
}

void
conduit_storing_write(const StoredGrant *stored, int n)
{
	TimestampTz earliest = DT_NOEND;

	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		write_row(&stored[i]);
		earliest = Min(earliest, stored[i].refresh_at);
	}
	if (!TIMESTAMP_IS_NOEND(earliest))
		conduit_at_commit(NUDGE_DUE, earliest);
}

/* A credential is refreshed with the client it was issued under: that of today. */
static void
record_client(const ConnectionRow *connection, const ConduitConnector *connector)
{
	static DirectTable connections = {"connection", NULL, 1, {"client_id"}};
	const char *client_id;
	DirectRow	row;
	StoreArgs	cells = {0};

	if (!conduit_connector_binds_client(connector))
		return;
	client_id = conduit_client_current_id(connection->tenant, connection->connector);
	if (conduit_same_text(client_id, connection->client_id))
		return;
	conduit_arg_text(&cells, client_id);
	if (conduit_direct_open_uuid(&row, &connections, &connection->id))
		conduit_direct_update(&row, &cells);
	conduit_direct_close(&row);
}

static void
store_secret(const pg_uuid_t *id, const char *tenant, const char *kind, char *buffer, int length, TokenGrant *grant)
{
	TimestampTz now = conduit_now();
	ConnectionRow *row = conduit_connection_lock(id, NULL, tenant);
	const ConduitConnector *connector;
	CredentialPlace place;
	StoredGrant stored;
	int64		generation;

	if (strcmp(row->status, "REVOKED") == 0)
		conduit_raise(CONDUIT_ERR_REVOKED, "revoked");
	connector = conduit_catalogue_require(row->connector, false);
	check_kind(connector, kind);
	read_secret(connector, buffer, length, now, grant);

	place.connection = *id;
	place.tenant = row->tenant;
	place.owner = row->owner;
	place.connector = row->connector;
	place.origin = conduit_connector_token_origin(connector, conduit_parse_object(row->params, "invalid params"));

	conduit_adoption_note_use(false);
	generation = lock_generation(id);
	conduit_storing_seal(&place, connector, grant, Max(generation, row->last_generation) + 1, now, &stored);
	conduit_storing_write(&stored, 1);
	conduit_token_grant_wipe(grant);
	record_client(row, connector);
	if (strcmp(row->status, "NEEDS_REAUTH") == 0)
	{
		conduit_connection_set_status(id, "ACTIVE", NULL);
		conduit_connection_event(row, "recovered", "ACTIVE", NULL);
	}
	else if (generation == 0)
		conduit_connection_event(row, "authorized", "ACTIVE", NULL);
}

/* conduit_store_credential(connection_id, kind, secret, tenant) */
Datum
conduit_store_credential(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *id = conduit_connection_argument(fcinfo, 0);
	char	   *kind = conduit_text_argument(fcinfo, 1);
	char	   *tenant = conduit_tenant_argument(fcinfo, 3);
	TokenGrant	grant = {{{0}}};
	char	   *buffer;
	int			length;
	StoreScope	scope;

	if (PG_ARGISNULL(2))
		bad_secret("null", "Pass the secret as JSON text, in a bound parameter.");
	buffer = secret_buffer(PG_GETARG_TEXT_PP(2), &length);

	PG_TRY();
	{
		conduit_key_prepare_to_seal();
		conduit_store_begin(&scope);
		store_secret(id, tenant, kind, buffer, length, &grant);
		conduit_store_end(&scope);
	}
	PG_FINALLY();
	{
		conduit_token_grant_wipe(&grant);
		conduit_wipe(buffer, length);
	}
	PG_END_TRY();
	PG_RETURN_UUID_P(id);
}
