/*-------------------------------------------------------------------------
 *
 * alert.h
 *	  What is wrong with a connector rather than with one of its connections.
 *
 * An alert is an event, connector_alert, when it begins, and another one,
 * connector_recovered, when it ends; neither has a connection.  One is open if
 * its last event says so, which outlives the worker.  The worker keeps in memory
 * what it has still to write down.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_ALERT_H
#define CONDUIT_ALERT_H

#include "base/compat.h"
#include "datatype/timestamp.h"

typedef enum AlertKind
{
	ALERT_CLIENT,				/* a client that the provider refuses, or none */
	ALERT_STORM					/* too many refresh tokens said to be dead */
} AlertKind;

typedef struct OpenAlert
{
	AlertKind	kind;
	char	   *connector;
	char	   *tenant;			/* of the client; '' for a storm */
	char	   *reason;
	TimestampTz since;
} OpenAlert;

/*
 * conduit_alert_read lists the open alerts there are, of all tenants, in the
 * current context; returns how many.  Within conduit_store_begin and _end.
 */
extern int	conduit_alert_read(OpenAlert **alerts);

/* For the worker at its start: takes those for told; otherwise as conduit_alert_read. */
extern int	conduit_alert_load(OpenAlert **alerts);

/*
 * For the worker, in memory: an alert begins, or ends.  One that is open
 * already is not told again, unless again is set.
 */
extern void conduit_alert_begin(AlertKind kind, const char *connector, const char *tenant,
								const char *reason, bool again);
extern void conduit_alert_end(AlertKind kind, const char *connector, const char *tenant);

/*
 * Whether there is something to write down; write it, within
 * conduit_store_begin and _end; and forget it once that is committed.
 */
extern bool conduit_alert_pending(void);
extern void conduit_alert_write(void);
extern void conduit_alert_written(void);

#endif							/* CONDUIT_ALERT_H */
