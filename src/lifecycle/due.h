/*-------------------------------------------------------------------------
 *
 * due.h
 *	  Which credentials are due; for the worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_DUE_H
#define CONDUIT_DUE_H

#include "base/compat.h"
#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "utils/uuid.h"

typedef struct DueRow
{
	pg_uuid_t	connection;
	char	   *connector;
	TimestampTz refresh_at;
} DueRow;

/* How far a scan has come: rows are in the order of refresh_at, then id. */
typedef struct DueMark
{
	TimestampTz refresh_at;
	pg_uuid_t	connection;
} DueMark;

/*
 * conduit_due_scan lists up to max credentials after a mark whose refresh_at
 * is not later than "to", earliest first, but none of the connectors in
 * excluded (List of char *).  It touches the index between the two times alone.  Rows
 * are palloc'd in the current context.
 */
extern int	conduit_due_scan(const DueMark *mark, TimestampTz to, List *excluded, int max, DueRow **rows);

/* The first refresh_at after a time, or a minute after it if there is none by then. */
extern TimestampTz conduit_due_next(TimestampTz after);

/* conduit_due_batch lists up to max due credentials of a tenant, oldest expiry first. */
extern int	conduit_due_batch(const char *tenant, TimestampTz now, int max, DueRow **rows);

/* conduit_due_write_last_use writes noted uses down, a batch; returns how many. */
extern int	conduit_due_write_last_use(void);

#endif							/* CONDUIT_DUE_H */
