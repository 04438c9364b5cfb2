/*-------------------------------------------------------------------------
 *
 * last_use.h
 *	  What was used of late, until the worker has written it down.
 *
 * A vend writes nothing, nor does the proof of a session or a key, so their
 * last uses are noted here and written to tables by the worker: of a connection
 * the day, of sessions and keys the minute.  The table is bounded: where it is
 * full, a use that has been written makes room, else the note is dropped and
 * the next use makes it again.
 *
 * Wording:
 *	   - A stamp is a number of days or minutes, by the kind; it grows with time.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_LAST_USE_H
#define CONDUIT_LAST_USE_H

#include "base/compat.h"
#include "datatype/timestamp.h"
#include "utils/date.h"
#include "utils/uuid.h"

typedef enum UseKind
{
	USE_CONNECTION,				/* stamps are DateADT */
	USE_SESSION,				/* stamps are minutes of TimestampTz */
	USE_API_KEY
} UseKind;

extern Size conduit_last_use_size(void);
extern void conduit_last_use_attach(void *memory, bool initialise);

/* The day (UTC) and the minute that a time falls on, and when a minute began. */
extern DateADT conduit_last_use_day(TimestampTz at);
extern int64 conduit_last_use_minute(TimestampTz at);
extern TimestampTz conduit_last_use_minute_start(int64 minute);

/* conduit_last_use_note records a use in this database; cheap when noted already. */
extern void conduit_last_use_note(UseKind kind, const pg_uuid_t *id, int64 stamp);

/*
 * conduit_last_use_take copies notes of this database that are not written yet
 * and takes them for written; conduit_last_use_put_back undoes it for one that
 * could not be.
 */
extern int	conduit_last_use_take(UseKind kind, pg_uuid_t *ids, int64 *stamps, int capacity);
extern void conduit_last_use_put_back(UseKind kind, const pg_uuid_t *id, int64 stamp);

#endif							/* CONDUIT_LAST_USE_H */
