/*-------------------------------------------------------------------------
 *
 * unit.c
 *	  Entry point of the module that unit tests load instead of Conduit.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "base/settings.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	conduit_settings_define();
}
