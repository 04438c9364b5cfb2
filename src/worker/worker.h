/*-------------------------------------------------------------------------
 *
 * worker.h
 *	  The background processes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_WORKER_H
#define CONDUIT_WORKER_H

#include "base/compat.h"

/* Name of the library, for background workers' entry points. */
#define CONDUIT_LIBRARY "conduit"

/* Register the launcher; while libraries are being preloaded. */
extern void conduit_launcher_register(void);

/* Install the hook that makes workers leave before utility commands. */
extern void conduit_drain_install_hook(void);

extern PGDLLEXPORT void conduit_launcher_main(Datum arg);
extern PGDLLEXPORT void conduit_worker_main(Datum arg);

#endif							/* CONDUIT_WORKER_H */
