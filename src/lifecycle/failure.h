/*-------------------------------------------------------------------------
 *
 * failure.h
 *	  What a failure that stands in a row means for a caller.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_FAILURE_H
#define CONDUIT_FAILURE_H

#include "base/compat.h"
#include "base/report.h"

/*
 * conduit_failure_error returns the error for the class and the code of an
 * attempt that failed: our own configuration or vault, an answer of the
 * provider's, or none.
 */
extern ConduitError conduit_failure_error(const char *class, const char *code);

#endif							/* CONDUIT_FAILURE_H */
