/*-------------------------------------------------------------------------
 *
 * area.c
 *	  Conduit's part of the main shared memory.
 *
 *-------------------------------------------------------------------------
 */
#include "shared/area.h"

#include "storage/ipc.h"
#include "storage/shmem.h"

#include "shared/flight.h"
#include "shared/last_use.h"
#include "shared/limiter.h"
#include "shared/roster.h"
#include "shared/stats.h"
#include "shared/wraps.h"

#define TRANCHE "conduit"

typedef struct AreaPart
{
	const char *name;
	Size		(*size) (void);
	void		(*attach) (void *memory, bool initialise);
} AreaPart;

static const AreaPart parts[] = {
	{"conduit roster", conduit_roster_size, conduit_roster_attach},
	{"conduit flight", conduit_flight_size, conduit_flight_attach},
	{"conduit stats", conduit_stats_size, conduit_stats_attach},
	{"conduit last use", conduit_last_use_size, conduit_last_use_attach},
	{"conduit wraps", conduit_wraps_size, conduit_wraps_attach},
	{"conduit limiter", conduit_limiter_size, conduit_limiter_attach},
};

static shmem_request_hook_type previous_request_hook = NULL;
static shmem_startup_hook_type previous_startup_hook = NULL;
static LWLockPadded *locks = NULL;

static void
request_area(void)
{
	if (previous_request_hook)
		previous_request_hook();

	for (int i = 0; i < lengthof(parts); i++)
		RequestAddinShmemSpace(MAXALIGN(parts[i].size()));
	RequestNamedLWLockTranche(TRANCHE, CONDUIT_NUM_LOCKS);
}

/*
 * Runs in the postmaster, again after a crash restart, and in every child
 * where memory is not inherited: so nothing but first-time initialisation
 * depends on having been here before.
 */
static void
attach_area(void)
{
	if (previous_startup_hook)
		previous_startup_hook();

	locks = NULL;
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	for (int i = 0; i < lengthof(parts); i++)
	{
		bool		found;
		void	   *memory = ShmemInitStruct(parts[i].name, parts[i].size(), &found);

		parts[i].attach(memory, !found);
	}
	locks = GetNamedLWLockTranche(TRANCHE);
	LWLockRelease(AddinShmemInitLock);
}

/* conduit_area_install_hooks must run while libraries are being preloaded. */
void
conduit_area_install_hooks(void)
{
	previous_request_hook = shmem_request_hook;
	shmem_request_hook = request_area;
	previous_startup_hook = shmem_startup_hook;
	shmem_startup_hook = attach_area;
}

bool
conduit_area_attached(void)
{
	return locks != NULL;
}

LWLock *
conduit_area_lock(ConduitLock lock)
{
	Assert(locks != NULL);
	return &locks[lock].lock;
}
