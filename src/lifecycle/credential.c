/*-------------------------------------------------------------------------
 *
 * credential.c
 *	  The sealed secret of a connection: reading it on the hot path.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/credential.h"

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "lifecycle/direct.h"
#include "lifecycle/key.h"

/* Columns of conduit.credential that a vend reads. */
typedef enum CredentialColumn
{
	COLUMN_GENERATION,
	COLUMN_EXPIRES_AT,
	COLUMN_DUE_AT,
	COLUMN_NEXT_ATTEMPT_AT,
	COLUMN_REFRESHED_AT,
	COLUMN_STATUS,
	COLUMN_TENANT,
	COLUMN_OWNER,
	COLUMN_CONNECTOR,
	COLUMN_ORIGIN,
	COLUMN_TOKEN_TYPE,
	COLUMN_SCOPE,
	COLUMN_LAST_ERROR,
	COLUMN_LAST_ERROR_CODE,
	COLUMN_ACCESS,
	COLUMN_REFRESH,
	NUM_COLUMNS
} CredentialColumn;

static DirectTable credentials = {
	"credential", NULL, NUM_COLUMNS,
	{"generation", "expires_at", "due_at", "next_attempt_at", "refreshed_at", "status",
		"tenant", "owner", "connector", "origin", "token_type", "scope",
	"last_error", "last_error_code", "access", "refresh"}
};

static TimestampTz
time_column(const DirectRow *row, CredentialColumn which)
{
	bool		isnull;
	Datum		value = conduit_direct_column(row, which, &isnull);

	return isnull ? DT_NOEND : DatumGetTimestampTz(value);
}

static void
copy_view(const DirectRow *row, CredentialView *view)
{
	bool		isnull;
	Datum		xmin = slot_getsysattr(row->slot, MinTransactionIdAttributeNumber, &isnull);
	Datum		value;

	view->own = TransactionIdIsCurrentTransactionId(DatumGetTransactionId(xmin));
	view->generation = DatumGetInt64(conduit_direct_column(row, COLUMN_GENERATION, &isnull));
	view->expires_at = time_column(row, COLUMN_EXPIRES_AT);
	view->due_at = time_column(row, COLUMN_DUE_AT);
	view->next_attempt_at = time_column(row, COLUMN_NEXT_ATTEMPT_AT);
	view->refreshed_at = time_column(row, COLUMN_REFRESHED_AT);
	view->status = conduit_direct_text(row, COLUMN_STATUS);
	view->place.tenant = conduit_direct_text(row, COLUMN_TENANT);
	view->place.owner = conduit_direct_text(row, COLUMN_OWNER);
	view->place.connector = conduit_direct_text(row, COLUMN_CONNECTOR);
	view->place.origin = conduit_direct_text(row, COLUMN_ORIGIN);
	view->token_type = conduit_direct_text(row, COLUMN_TOKEN_TYPE);
	view->scope = conduit_direct_text(row, COLUMN_SCOPE);
	view->last_error = conduit_direct_text(row, COLUMN_LAST_ERROR);
	view->last_error_code = conduit_direct_text(row, COLUMN_LAST_ERROR_CODE);
	(void) conduit_direct_column(row, COLUMN_REFRESH, &isnull);
	view->refreshable = !isnull;
	value = conduit_direct_column(row, COLUMN_ACCESS, &isnull);
	view->access = isnull ? NULL : DatumGetByteaPCopy(value);
}

bool
conduit_credential_read(const pg_uuid_t *connection, const char *owner, const char *tenant, CredentialView *view)
{
	DirectRow	row;
	bool		found;

	/* Compared before anything else is read: the row may be somebody else's. */
	found = conduit_direct_open_uuid(&row, &credentials, connection) &&
		conduit_direct_equals(&row, COLUMN_OWNER, owner) && conduit_direct_equals(&row, COLUMN_TENANT, tenant);
	if (found)
	{
		view->place.connection = *connection;
		copy_view(&row, view);
	}
	conduit_direct_close(&row);
	return found;
}

const char *
conduit_place_text(const char *text)
{
	return pg_server_to_any(text, strlen(text), PG_UTF8);
}

SealPlace
conduit_credential_seal_place(const CredentialPlace *place, const char *field, int64 generation)
{
	SealPlace	seal_place = {
		.purpose = "credential",.row = &place->connection,.connection = &place->connection,
		.tenant = conduit_place_text(place->tenant),.owner = conduit_place_text(place->owner),
		.connector = place->connector,
		.field = field,.generation = generation,.origin = place->origin
	};

	return seal_place;
}

SealStatus
conduit_credential_seal_grant(const CredentialPlace *place, int64 generation, const ConduitSecret *secret,
							  bytea **access, bytea **refresh)
{
	SealPlace	access_place = conduit_credential_seal_place(place, "access", generation);
	SealPlace	refresh_place = conduit_credential_seal_place(place, "refresh", generation);
	ConduitSecret access_part = {{0}};
	ConduitSecret refresh_part = {{0}};
	SealStatus	status = SEAL_OK;

	conduit_secret_take_access_part(&access_part, secret);
	conduit_secret_take_refresh_part(&refresh_part, secret);
	*access = *refresh = NULL;
	if (access_part.access_token.data || access_part.api_key.data || access_part.username.data)
		status = conduit_secret_seal(&access_place, &access_part, access);
	if (status == SEAL_OK && conduit_secret_has_refresh_part(&refresh_part))
		status = conduit_secret_seal(&refresh_place, &refresh_part, refresh);
	conduit_key_seal_done();
	return status;
}
