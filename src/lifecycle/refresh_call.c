/*-------------------------------------------------------------------------
 *
 * refresh_call.c
 *	  conduit_refresh and conduit_refresh_due: refreshes that a caller asks for.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "funcapi.h"
#include "utils/builtins.h"

#include "base/report.h"
#include "lifecycle/argument.h"
#include "lifecycle/renewal.h"
#include "lifecycle/store.h"
#include "lifecycle/wait.h"

#define MAX_BATCH 10000

PG_FUNCTION_INFO_V1(conduit_refresh);
PG_FUNCTION_INFO_V1(conduit_refresh_due);

/* conduit_refresh(owner, connection_id, seen_generation, tenant) */
Datum
conduit_refresh(PG_FUNCTION_ARGS)
{
	char	   *owner = conduit_owner_argument(fcinfo, 0);
	const pg_uuid_t *id = conduit_connection_argument(fcinfo, 1);
	char	   *tenant = conduit_tenant_argument(fcinfo, 3);
	CredentialView view;
	bool		refreshed = false;
	TupleDesc	shape;
	Datum		values[3];
	bool		nulls[3] = {false, false, false};

	conduit_credential_entitled(id, owner, tenant, &view);
	if (view.refreshable && (PG_ARGISNULL(2) || PG_GETARG_INT64(2) == view.generation))
		refreshed = conduit_renew(&view, owner, tenant, true, DT_NOEND);

	if (get_call_result_type(fcinfo, NULL, &shape) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = BoolGetDatum(refreshed);
	values[1] = TimestampTzGetDatum(view.expires_at);
	nulls[1] = TIMESTAMP_IS_NOEND(view.expires_at);
	values[2] = Int64GetDatum(view.generation);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(shape), values, nulls)));
}

/* conduit_refresh_due(max_count, tenant) */
Datum
conduit_refresh_due(PG_FUNCTION_ARGS)
{
	int			max_count = PG_ARGISNULL(0) ? MAX_BATCH : PG_GETARG_INT32(0);
	char	   *tenant = conduit_tenant_argument(fcinfo, 1);
	FlightRequest request = {.kind = REQUEST_DUE_BATCH};
	int			refreshed;

	(void) conduit_extension(false);
	if (max_count <= 0)
		PG_RETURN_INT32(0);
	if (RecoveryInProgress())
		conduit_raise(CONDUIT_ERR_UNAVAILABLE, "standby");
	request.max_count = Min(max_count, MAX_BATCH);
	strlcpy(request.tenant, tenant, sizeof(request.tenant));

	switch (conduit_wait_for_worker(&request, -1, &refreshed))
	{
		case ANSWER_DONE:
			PG_RETURN_INT32(refreshed);
		case ANSWER_PAUSED:
			conduit_raise(CONDUIT_ERR_PAUSED, "paused");
		case ANSWER_VAULT:
			conduit_raise(CONDUIT_ERR_VAULT_LOCKED, "worker_keyring");
		case ANSWER_NONE:
			conduit_raise(CONDUIT_ERR_UNAVAILABLE, "timeout");
		default:
			conduit_raise(CONDUIT_ERR_NO_WORKER, NULL);
	}
}
