/*-------------------------------------------------------------------------
 *
 * last_use.c
 *	  What was used of late.
 *
 * A set-associative table: a note stands in one bucket of a few,
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
	UseKind		kind;
	bool		written;
	int64		stamp;
	pg_uuid_t	id;
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

int64
conduit_last_use_minute(TimestampTz at)
{
	return at / USECS_PER_MINUTE - (at % USECS_PER_MINUTE < 0 ? 1 : 0);
}

TimestampTz
conduit_last_use_minute_start(int64 minute)
{
	return minute * USECS_PER_MINUTE;
}

static Bucket *
bucket_of(const pg_uuid_t *id)
{
	return &buckets[hash_bytes(id->data, UUID_LEN) % BUCKETS];
}

static bool
is_note_of(const Note *note, UseKind kind, const pg_uuid_t *id)
{
	return note->database == MyDatabaseId && note->kind == kind &&
		memcmp(&note->id, id, sizeof(pg_uuid_t)) == 0;
}

void
conduit_last_use_note(UseKind kind, const pg_uuid_t *id, int64 stamp)
{
	Bucket	   *bucket;
	Note	   *place = NULL;

	if (buckets == NULL || RecoveryInProgress())
		return;
	bucket = bucket_of(id);

	SpinLockAcquire(&bucket->mutex);
	for (int i = 0; i < WAYS; i++)
	{
		Note	   *note = &bucket->notes[i];

		if (is_note_of(note, kind, id))
		{
			place = note;
			break;
		}
		if (place == NULL && (!OidIsValid(note->database) || note->written))
			place = note;
	}
	if (place != NULL && !(is_note_of(place, kind, id) && place->stamp == stamp))
	{
		place->database = MyDatabaseId;
		place->kind = kind;
		place->id = *id;
		place->stamp = stamp;
		place->written = false;
	}
	SpinLockRelease(&bucket->mutex);
}

int
conduit_last_use_take(UseKind kind, pg_uuid_t *ids, int64 *stamps, int capacity)
{
	int			n = 0;

	for (int i = 0; i < BUCKETS && n < capacity && buckets != NULL; i++)
	{
		Bucket	   *bucket = &buckets[i];

		SpinLockAcquire(&bucket->mutex);
		for (int j = 0; j < WAYS && n < capacity; j++)
		{
			Note	   *note = &bucket->notes[j];

			if (note->database != MyDatabaseId || note->kind != kind || note->written)
				continue;
			ids[n] = note->id;
			stamps[n] = note->stamp;
			note->written = true;
			n++;
		}
		SpinLockRelease(&bucket->mutex);
	}
	return n;
}

void
conduit_last_use_put_back(UseKind kind, const pg_uuid_t *id, int64 stamp)
{
	Bucket	   *bucket = bucket_of(id);

	SpinLockAcquire(&bucket->mutex);
	for (int j = 0; j < WAYS; j++)
		if (is_note_of(&bucket->notes[j], kind, id) && bucket->notes[j].stamp == stamp)
			bucket->notes[j].written = false;
	SpinLockRelease(&bucket->mutex);
}
