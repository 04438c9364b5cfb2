/*-------------------------------------------------------------------------
 *
 * schedule.h
 *	  When a token is due, and when to try again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_SCHEDULE_H
#define CONDUIT_SCHEDULE_H

#include "base/compat.h"
#include "datatype/timestamp.h"
#include "provider/connector.h"
#include "provider/token_response.h"
#include "utils/uuid.h"

/*
 * conduit_schedule_due returns from when on a token counts as due: expiry less
 * lead and jitter; DT_NOEND for a token without expiry.  Where the lifetime is
 * known, the lead is at most half of it and the token is not due in the first
 * half of its life.  settled: it was just brought by a refresh, and is not due
 * within 30 seconds, whatever it says of itself.
 */
extern TimestampTz conduit_schedule_due(const ConduitConnector *connector, const pg_uuid_t *connection,
										int64 generation, TimestampTz now, TimestampTz expires_at,
										double lifetime, bool settled);

/*
 * conduit_schedule_refresh returns when the worker refreshes a token unasked:
 * when it is due, or sooner where its refresh token, which was used or issued
 * at refreshed_at, has to be kept alive.
 */
extern TimestampTz conduit_schedule_refresh(const pg_uuid_t *connection, int64 generation, TimestampTz due_at,
											TimestampTz refreshed_at, TimestampTz refresh_expires_at);

/*
 * conduit_schedule_retry returns when to try again after the attempts-th
 * failure in a row: 30 s, doubled up to 15 minutes, with jitter, and not before
 * what the provider asked for.  An unknown outcome, where there was no doubt
 * before, is retried within half of the connector's reuse window.  A DEAD
 * one that is doubted: in 10 to 15 minutes.
 */
extern TimestampTz conduit_schedule_retry(const ConduitConnector *connector, OutcomeClass outcome, int attempts,
										  bool in_doubt, double retry_after, TimestampTz now);

/* When to keep an unused refresh token alive: before it expires; DT_NOEND: never. */
extern TimestampTz conduit_schedule_keep_alive(const pg_uuid_t *connection, int64 generation,
											   TimestampTz refreshed_at, TimestampTz refresh_expires_at);

/*
 * conduit_schedule_spread returns when the worker is to refresh one of many
 * that come at once.  What is not due yet is refreshed up to spread seconds
 * earlier, though not before half_life, and never later; what is due and still
 * usable, at once; what nobody can use any more, up to spread seconds later,
 * while its refresh token lives: a reader who needs it sooner has it refreshed.
 */
extern TimestampTz conduit_schedule_spread(TimestampTz due_at, TimestampTz half_life, TimestampTz usable_until,
										   TimestampTz refresh_expires_at, double spread, TimestampTz now);

#endif							/* CONDUIT_SCHEDULE_H */
