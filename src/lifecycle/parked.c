/*-------------------------------------------------------------------------
 *
 * parked.c
 *	  Outcomes of refreshes that are kept in the flight row, sealed for their
 *	  final place, while somebody's open transaction holds that.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/refresh.h"

#include "catalog/pg_type.h"
#include "utils/memutils.h"

#include "base/json.h"
#include "lifecycle/store.h"

void
conduit_refresh_park(RefreshFlight *flight)
{
	static StoreQuery park = {
		"UPDATE conduit.flight SET outcome = $3, code = $4, reply_at = $5, retry_after = $6, issued_at = $7,"
		" expires_at = $8, refresh_expires_at = $9, lifetime = $10, token_type = $11, scope = $12,"
		" access = $13, refresh = $14, client_id = $15,"
		" new_params = $16::pg_catalog.jsonb, new_metadata = $17::pg_catalog.jsonb WHERE connection_id = $1 AND generation = $2",
		17, {UUIDOID, INT8OID, TEXTOID, TEXTOID, TIMESTAMPTZOID, FLOAT8OID, TIMESTAMPTZOID,
			TIMESTAMPTZOID, TIMESTAMPTZOID, FLOAT8OID, TEXTOID, TEXTOID, BYTEAOID, BYTEAOID,
		TEXTOID, TEXTOID, TEXTOID}
	};
	const TokenOutcome *outcome = &flight->outcome;
	const TokenGrant *grant = &outcome->grant;
	bool		refreshed = outcome->outcome == OUTCOME_REFRESHED;
	StoreArgs	args = {0};

	/* Tokens that cannot be sealed are kept in memory until they can. */
	if (refreshed && !flight->sealed)
		ereport(ERROR,
				(errmsg("a refreshed token waits in memory to be sealed"),
				 errhint("Restore the keyring, then reload.")));

	conduit_arg_uuid(&args, &flight->place.connection);
	conduit_arg(&args, Int64GetDatum(flight->generation));
	conduit_arg_text(&args, conduit_outcome_name(outcome->outcome));
	conduit_arg_text(&args, outcome->code);
	conduit_arg_time(&args, flight->reply_at);
	conduit_arg(&args, Float8GetDatum(outcome->retry_after));
	conduit_arg_time(&args, refreshed ? grant->issued_at : DT_NOEND);
	conduit_arg_time(&args, refreshed ? grant->expires_at : DT_NOEND);
	conduit_arg_time(&args, refreshed ? grant->refresh_expires_at : DT_NOEND);
	conduit_arg(&args, Float8GetDatum(refreshed ? grant->lifetime : 0));
	conduit_arg_utf8(&args, refreshed ? grant->token_type : NULL);
	conduit_arg_utf8(&args, refreshed ? grant->scope : NULL);
	conduit_arg_bytea(&args, flight->sealed ? flight->access : NULL);
	conduit_arg_bytea(&args, flight->sealed ? flight->refresh : NULL);
	conduit_arg_text(&args, flight->client_id);
	conduit_arg_utf8(&args, refreshed ? conduit_json_text(grant->new_params) : NULL);
	conduit_arg_utf8(&args, refreshed ? conduit_json_text(grant->new_metadata) : NULL);
	conduit_store_run(&park, &args);
}

static OutcomeClass
outcome_named(const char *name)
{
	for (int i = OUTCOME_REFRESHED; i <= OUTCOME_UNKNOWN; i++)
		if (strcmp(conduit_outcome_name(i), name) == 0)
			return i;
	return OUTCOME_UNKNOWN;
}

/* Columns of a parked flight. */
enum
{
	P_CONNECTION = 1, P_GENERATION, P_ATTEMPT, P_IN_DOUBT, P_TENANT, P_OWNER, P_CONNECTOR, P_ORIGIN,
	P_ACCOUNT, P_CLIENT_ID, P_OUTCOME, P_CODE, P_REPLY_AT, P_RETRY_AFTER, P_ISSUED_AT, P_EXPIRES_AT,
	P_REFRESH_EXPIRES_AT, P_LIFETIME, P_TOKEN_TYPE, P_SCOPE, P_ACCESS, P_REFRESH, P_PARAMS,
	P_NEW_PARAMS, P_NEW_METADATA
};

/* The object of a column, in memory of the context; NULL where it is null. */
static ConduitJson *
row_object(uint64 row, int column, MemoryContext context)
{
	char	   *text = conduit_row_utf8(row, column, context);
	MemoryContext old = MemoryContextSwitchTo(context);
	const char *problem;
	ConduitJson *object = text ? conduit_json_parse(text, strlen(text), &problem) : NULL;

	MemoryContextSwitchTo(old);
	return object;
}

static RefreshFlight *
parked_flight(uint64 row, MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "conduit parked flight", ALLOCSET_SMALL_SIZES);
	RefreshFlight *flight = MemoryContextAllocZero(context, sizeof(RefreshFlight));
	TokenGrant *grant = &flight->outcome.grant;
	char	   *code = conduit_row_text(row, P_CODE, context);

	flight->context = context;
	flight->place.connection = conduit_row_uuid(row, P_CONNECTION);
	flight->place.tenant = conduit_row_text(row, P_TENANT, context);
	flight->place.owner = conduit_row_text(row, P_OWNER, context);
	flight->place.connector = conduit_row_text(row, P_CONNECTOR, context);
	flight->place.origin = conduit_row_text(row, P_ORIGIN, context);
	flight->generation = conduit_row_int64(row, P_GENERATION);
	flight->attempt = conduit_row_int32(row, P_ATTEMPT);
	flight->in_doubt = conduit_row_bool(row, P_IN_DOUBT);
	flight->account = conduit_row_text(row, P_ACCOUNT, context);
	flight->client_id = conduit_row_text(row, P_CLIENT_ID, context);
	flight->params = conduit_row_text(row, P_PARAMS, context);
	flight->outcome.outcome = outcome_named(conduit_row_text(row, P_OUTCOME, context));
	strlcpy(flight->outcome.code, code ? code : "", sizeof(flight->outcome.code));
	flight->outcome.retry_after = conduit_row_float(row, P_RETRY_AFTER);
	flight->reply_at = conduit_row_time(row, P_REPLY_AT);
	grant->issued_at = conduit_row_time(row, P_ISSUED_AT);
	grant->expires_at = conduit_row_time(row, P_EXPIRES_AT);
	grant->refresh_expires_at = conduit_row_time(row, P_REFRESH_EXPIRES_AT);
	grant->lifetime = conduit_row_float(row, P_LIFETIME);
	grant->token_type = conduit_row_utf8(row, P_TOKEN_TYPE, context);
	grant->scope = conduit_row_utf8(row, P_SCOPE, context);
	grant->new_params = row_object(row, P_NEW_PARAMS, context);
	grant->new_metadata = row_object(row, P_NEW_METADATA, context);
	flight->access = conduit_row_bytea(row, P_ACCESS, context);
	flight->refresh = conduit_row_bytea(row, P_REFRESH, context);
	if (flight->outcome.outcome == OUTCOME_REFRESHED && flight->access == NULL)
		flight->outcome.outcome = OUTCOME_UNKNOWN;	/* nobody parks that */
	flight->sealed = flight->outcome.outcome == OUTCOME_REFRESHED;
	flight->parked = true;
	return flight;
}

List *
conduit_refresh_load_parked(const pg_uuid_t *after, int max, MemoryContext context)
{
	static StoreQuery select = {
		"SELECT f.connection_id, f.generation, f.attempt, f.in_doubt, f.tenant, f.owner, f.connector, f.origin,"
		" f.account, f.client_id, f.outcome, f.code, f.reply_at, f.retry_after, f.issued_at, f.expires_at,"
		" f.refresh_expires_at, f.lifetime, f.token_type, f.scope, f.access, f.refresh, f.params::pg_catalog.text,"
		" f.new_params::pg_catalog.text, f.new_metadata::pg_catalog.text"
		" FROM conduit.flight f"
		" WHERE f.outcome IS NOT NULL AND f.connection_id > $1 ORDER BY f.connection_id LIMIT $2",
		2, {UUIDOID, INT4OID}
	};
	StoreArgs	args = {0};
	List	   *flights = NIL;
	MemoryContext old;
	uint64		n;

	conduit_arg_uuid(&args, after);
	conduit_arg(&args, Int32GetDatum(max));
	n = conduit_store_run(&select, &args);
	old = MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < n; i++)
		flights = lappend(flights, parked_flight(i, context));
	MemoryContextSwitchTo(old);
	return flights;
}
