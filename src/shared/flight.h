/*-------------------------------------------------------------------------
 *
 * flight.h
 *	  Requests for refreshes and the backends that wait for them.
 *
 * Wording:
 *	   - A slot belongs to one process, by its proc number: it holds at most one
 *		 request, so capacity cannot run out.
 *	   - A request names a connection and the generation its caller saw, or asks
 *		 for a batch of due ones, or for the keyring's check values.
 *	   - The serial of a slot grows with each request, so that an answer to one
 *		 that its caller gave up reaches nobody.
 *
 * No secret passes through here: a caller that is told "done" reads the table.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_FLIGHT_H
#define CONDUIT_FLIGHT_H

#include "base/compat.h"
#include "datatype/timestamp.h"
#include "storage/dsm_impl.h"
#include "utils/uuid.h"

#include "shared/stats.h"

#define CONDUIT_MAX_TENANT_LEN 255

typedef enum RequestKind
{
	REQUEST_REFRESH,			/* this connection, if due to its caller */
	REQUEST_REFRESH_MANY,		/* the connections in its mail (FlightItem) */
	REQUEST_DUE_BATCH,			/* up to max_count due ones of a tenant */
	REQUEST_KEYS,				/* commit check values of the keyring */
	REQUEST_CALLBACK,			/* exchange a code; connection is the id its mail is sealed for */
	REQUEST_CALL				/* send an HTTP request, which comes by mail */
} RequestKind;

typedef enum RequestAnswer
{
	ANSWER_NONE,				/* still waiting */
	ANSWER_DONE,				/* flight over, whatever its outcome: read the table */
	ANSWER_NEWER,				/* another generation is stored already */
	ANSWER_PARKED,				/* over, but somebody's open transaction holds the row */
	ANSWER_NOT_REFRESHABLE,		/* row gone, not ACTIVE, or nothing to refresh with */
	ANSWER_DEFERRED,			/* not now: backoff, throttled */
	ANSWER_PAUSED,
	ANSWER_NOT_CONFIGURED,
	ANSWER_VAULT,				/* keyring missing, key unknown, blob does not open */
	ANSWER_REFUSED,				/* there is no such open state */
	ANSWER_FAILED,				/* the worker could not do it; its log says why */
	ANSWER_GONE,				/* the worker left: its successor may be asked */
	ANSWER_LOST					/* it left amid a call, which may have been made: not again */
} RequestAnswer;

typedef struct FlightRequest
{
	RequestKind kind;
	pg_uuid_t	connection;
	char		connector[CONDUIT_MAX_SLUG_LEN + 1];
	int64		generation;
	bool		forced;			/* also in backoff */
	int			max_count;
	char		tenant[CONDUIT_MAX_TENANT_LEN + 1];
	dsm_handle	mail;			/* mailbox with the rest of the request; 0: none */
} FlightRequest;

/* One of the connections that a request of several names. */
typedef struct FlightItem
{
	pg_uuid_t	connection;
	char		connector[CONDUIT_MAX_SLUG_LEN + 1];
	int64		generation;
} FlightItem;

#define CONDUIT_MAX_FLIGHT_ITEMS 1000

/* Names one waiting request, for the worker. */
typedef struct FlightWaiter
{
	int			procno;
	uint32		serial;
} FlightWaiter;

extern Size conduit_flight_size(void);
extern void conduit_flight_attach(void *memory, bool initialise);

/*
 * For backends.  conduit_flight_post fills this process's slot and wakes the
 * worker or the launcher; conduit_flight_answer tells how it stands (count: how
 * many a batch refreshed); conduit_flight_give_up frees the slot and is called
 * on every way out.
 */
extern void conduit_flight_post(const FlightRequest *request);
extern RequestAnswer conduit_flight_answer(int *count);
extern void conduit_flight_give_up(void);

/*
 * For the worker: take the next request posted for its database; answer one;
 * drop one flight of a batch, which answers it when none is left.
 */
extern bool conduit_flight_take(Oid database, FlightRequest *request, FlightWaiter *waiter);
extern void conduit_flight_reply(FlightWaiter waiter, RequestAnswer answer);
extern void conduit_flight_begin_batch(FlightWaiter waiter, int flights);
extern void conduit_flight_count_down(FlightWaiter waiter, bool refreshed);
extern bool conduit_flight_still_waiting(FlightWaiter waiter);

/* With CONDUIT_LOCK_ROSTER held: answer all requests of a database with GONE or LOST. */
extern void conduit_flight_worker_gone_locked(Oid database);

#endif							/* CONDUIT_FLIGHT_H */
