/*-------------------------------------------------------------------------
 *
 * deprovision.h
 *	  What becomes of a tenant whose schema was dropped.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_DEPROVISION_H
#define CONDUIT_DEPROVISION_H

#include "base/compat.h"

/*
 * conduit_deprovision destroys, for the worker, what belonged to tenants whose
 * exposed schemas were dropped; returns how many are done with.
 */
extern int	conduit_deprovision(void);

#endif							/* CONDUIT_DEPROVISION_H */
