/*-------------------------------------------------------------------------
 *
 * conduit.c
 *	  OAuth token broker and credential vault inside PostgreSQL.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "base/settings.h"
#include "shared/area.h"
#include "worker/worker.h"

CONDUIT_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	conduit_settings_define();

	/* Without shared_preload_libraries warm vends work, and nothing refreshes. */
	if (!process_shared_preload_libraries_in_progress || IsBinaryUpgrade)
		return;
	conduit_area_install_hooks();
	conduit_drain_install_hook();
	conduit_launcher_register();
}
