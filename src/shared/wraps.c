/*-------------------------------------------------------------------------
 *
 * wraps.c
 *	  How many data keys were wrapped under each key.
 *
 * The count serves a warning at billions: where the table is full, some are
 * not counted.
 *
 *-------------------------------------------------------------------------
 */
#include "shared/wraps.h"

#include "storage/spin.h"

#define MAX_COUNTS 256

typedef struct WrapCount
{
	Oid			database;
	char		key_id[CONDUIT_KEY_ID_LEN + 1];
	uint64		count;			/* 0: free */
} WrapCount;

typedef struct SharedWraps
{
	slock_t		mutex;
	WrapCount	counts[MAX_COUNTS];
} SharedWraps;

static SharedWraps *wraps = NULL;

Size
conduit_wraps_size(void)
{
	return sizeof(SharedWraps);
}

void
conduit_wraps_attach(void *memory, bool initialise)
{
	wraps = memory;
	if (!initialise)
		return;
	memset(wraps, 0, sizeof(*wraps));
	SpinLockInit(&wraps->mutex);
}

void
conduit_wraps_add(const char *key_id, uint32 count)
{
	WrapCount  *place = NULL;

	if (wraps == NULL || count == 0)
		return;
	SpinLockAcquire(&wraps->mutex);
	for (int i = 0; i < MAX_COUNTS; i++)
	{
		WrapCount  *entry = &wraps->counts[i];

		if (entry->count == 0)
		{
			if (place == NULL)
				place = entry;
		}
		else if (entry->database == MyDatabaseId && strcmp(entry->key_id, key_id) == 0)
		{
			place = entry;
			break;
		}
	}
	if (place != NULL)
	{
		place->database = MyDatabaseId;
		strlcpy(place->key_id, key_id, sizeof(place->key_id));
		place->count += count;
	}
	SpinLockRelease(&wraps->mutex);
}

bool
conduit_wraps_take(char *key_id, uint64 *count)
{
	bool		found = false;

	if (wraps == NULL)
		return false;
	SpinLockAcquire(&wraps->mutex);
	for (int i = 0; i < MAX_COUNTS && !found; i++)
	{
		WrapCount  *entry = &wraps->counts[i];

		if (entry->count == 0 || entry->database != MyDatabaseId)
			continue;
		strlcpy(key_id, entry->key_id, CONDUIT_KEY_ID_LEN + 1);
		*count = entry->count;
		entry->count = 0;
		found = true;
	}
	SpinLockRelease(&wraps->mutex);
	return found;
}
