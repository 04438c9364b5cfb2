/*-------------------------------------------------------------------------
 *
 * last_use.c
 *	  Which connections were used today.
 *
 * A set-associative table: a connection's note stands in one bucket of a few,
 * each bucket under a spinlock of its own.
 *
 *-------------------------------------------------------------------------
 */
#include "shared/last_use.h"

#include "access/xlog.h"
#include "common/hashfn.h"
#include "storage/spin.h"

#define BUCKETS 4096
#define WAYS 8

typedef struct Note
{
	Oid			database;		/* InvalidOid: free */
	DateADT		day;
	bool		written;
	pg_uuid_t	connection;
} Note;

typedef struct Bucket
{
	slock_t		mutex;
	Note		notes[WAYS];
} Bucket;

static Bucket *buckets = NULL;

Size
conduit_last_use_size(void)
{
	return sizeof(Bucket) * BUCKETS;
}

void
conduit_last_use_attach(void *memory, bool initialise)
{
	buckets = memory;
	if (!initialise)
		return;
	memset(memory, 0, conduit_last_use_size());
	for (int i = 0; i < BUCKETS; i++)
		SpinLockInit(&buckets[i].mutex);
}

DateADT
conduit_last_use_day(TimestampTz at)
{
	return (DateADT) (at / USECS_PER_DAY - (at % USECS_PER_DAY < 0 ? 1 : 0));
}

static Bucket *
bucket_of(const pg_uuid_t *connection)
{
	return &buckets[hash_bytes(connection->data, UUID_LEN) % BUCKETS];
}

static bool
is_note_of(const Note *note, const pg_uuid_t *connection)
{
	return note->database == MyDatabaseId &&
		memcmp(&note->connection, connection, sizeof(pg_uuid_t)) == 0;
}

void
conduit_last_use_note(const pg_uuid_t *connection, TimestampTz at)
{
	DateADT		today = conduit_last_use_day(at);
	Bucket	   *bucket;
	Note	   *place = NULL;

	if (buckets == NULL || RecoveryInProgress())
		return;
	bucket = bucket_of(connection);

	SpinLockAcquire(&bucket->mutex);
	for (int i = 0; i < WAYS; i++)
	{
		Note	   *note = &bucket->notes[i];

		if (is_note_of(note, connection))
		{
			place = note;
			break;
		}
		if (place == NULL && (!OidIsValid(note->database) || note->written))
			place = note;
	}
	if (place != NULL && !(is_note_of(place, connection) && place->day == today))
	{
		place->database = MyDatabaseId;
		place->connection = *connection;
		place->day = today;
		place->written = false;
	}
	SpinLockRelease(&bucket->mutex);
}

int
conduit_last_use_take(pg_uuid_t *connections, DateADT *days, int capacity)
{
	int			n = 0;

	for (int i = 0; i < BUCKETS && n < capacity && buckets != NULL; i++)
	{
		Bucket	   *bucket = &buckets[i];

		SpinLockAcquire(&bucket->mutex);
		for (int j = 0; j < WAYS && n < capacity; j++)
		{
			Note	   *note = &bucket->notes[j];

			if (note->database != MyDatabaseId || note->written)
				continue;
			connections[n] = note->connection;
			days[n] = note->day;
			note->written = true;
			n++;
		}
		SpinLockRelease(&bucket->mutex);
	}
	return n;
}

void
conduit_last_use_put_back(const pg_uuid_t *connection, DateADT day)
{
	Bucket	   *bucket = bucket_of(connection);

	SpinLockAcquire(&bucket->mutex);
	for (int j = 0; j < WAYS; j++)
		if (is_note_of(&bucket->notes[j], connection) && bucket->notes[j].day == day)
			bucket->notes[j].written = false;
	SpinLockRelease(&bucket->mutex);
}
