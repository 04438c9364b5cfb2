/*-------------------------------------------------------------------------
 *
 * last_use.h
 *	  Which connections were used today, until the worker has written it down.
 *
 * A vend writes nothing, so the day of a connection's last use is noted here
 * and written to conduit.last_use by the worker, once a day and connection.
 * The table is bounded: where it is full, a use that has been written makes
 * room, else the note is dropped and the next vend makes it again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_LAST_USE_H
#define CONDUIT_LAST_USE_H

#include "base/compat.h"
#include "datatype/timestamp.h"
#include "utils/date.h"
#include "utils/uuid.h"

extern Size conduit_last_use_size(void);
extern void conduit_last_use_attach(void *memory, bool initialise);

/* The day (UTC) that a time falls on. */
extern DateADT conduit_last_use_day(TimestampTz at);

/* conduit_last_use_note records a use in this database; cheap when noted already. */
extern void conduit_last_use_note(const pg_uuid_t *connection, TimestampTz at);

/*
 * conduit_last_use_take copies notes of this database that are not written yet
 * and takes them for written; conduit_last_use_put_back undoes it for one that
 * could not be.
 */
extern int	conduit_last_use_take(pg_uuid_t *connections, DateADT *days, int capacity);
extern void conduit_last_use_put_back(const pg_uuid_t *connection, DateADT day);

#endif							/* CONDUIT_LAST_USE_H */
