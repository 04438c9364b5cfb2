/*-------------------------------------------------------------------------
 *
 * deprovision.c
 *	  What becomes of a tenant whose schema was dropped.
 *
 *-------------------------------------------------------------------------
 */
#include "door/deprovision.h"

#include "lifecycle/store.h"

int
conduit_deprovision(void)
{
	static StoreQuery pending = {
		"SELECT FROM conduit.facade WHERE dropped_at IS NOT NULL LIMIT 1", 0, {0}
	};
	static StoreQuery destroy = {"SELECT conduit.destroy_dropped_tenants()", 0, {0}};
	StoreScope	scope;
	int			n = 0;

	conduit_store_begin(&scope);
	if (conduit_store_run(&pending, NULL) > 0)
	{
		conduit_store_run(&destroy, NULL);
		n = conduit_row_int32(0, 1);
	}
	conduit_store_end(&scope);
	return n;
}
