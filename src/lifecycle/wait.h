/*-------------------------------------------------------------------------
 *
 * wait.h
 *	  A backend asks the worker for something and waits.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_WAIT_H
#define CONDUIT_WAIT_H

#include "base/compat.h"
#include "shared/flight.h"

/*
 * conduit_wait_for_worker posts a request and waits, interruptibly, until it is
 * answered or timeout_ms (-1: none) is over, less where statement_timeout
 * leaves less.  Returns ANSWER_NONE when time was up and ANSWER_GONE when there
 * is no worker and none will come.  The caller must hold no lock that the
 * worker needs.
 */
extern RequestAnswer conduit_wait_for_worker(const FlightRequest *request, int timeout_ms, int *count);

/* True if a worker is there or will come: preloaded, no standby, launcher up, slot free. */
extern bool conduit_worker_possible(void);

#endif							/* CONDUIT_WAIT_H */
