/*-------------------------------------------------------------------------
 *
 * secret.c
 *	  The plaintext record of a credential and its encoding.
 *
 * One record has one encoding: fields in the order of their tags, each at most
 * once, and nothing but zeros behind the last, so that what is decoded is
 * exactly what was encoded.
 *
 *-------------------------------------------------------------------------
 */
#include "vault/secret.h"

#include "port/pg_bswap.h"

#define RECORD_VERSION	1
#define RECORD_UNIT		64		/* lengths are multiples of this */
#define FIELD_HEADER	(1 + sizeof(uint32))

/* A field's tag is its place in this table plus one; append, never reorder. */
static const size_t field_offsets[] = {
	offsetof(ConduitSecret, access_token),
	offsetof(ConduitSecret, refresh_token),
	offsetof(ConduitSecret, api_key),
	offsetof(ConduitSecret, api_secret),
	offsetof(ConduitSecret, username),
	offsetof(ConduitSecret, password),
	offsetof(ConduitSecret, client_secret),
	offsetof(ConduitSecret, extra),
};

static inline SecretText *
field_of(const ConduitSecret *secret, int index)
{
	return (SecretText *) ((char *) secret + field_offsets[index]);
}

uint8 *
conduit_secret_encode(const ConduitSecret *secret, Size *length)
{
	Size		size = 1;
	uint8	   *record;
	uint8	   *to;

	for (int i = 0; i < lengthof(field_offsets); i++)
		if (field_of(secret, i)->data)
			size += FIELD_HEADER + field_of(secret, i)->length;
	size = TYPEALIGN(RECORD_UNIT, size);

	record = palloc0(size);
	to = record;
	*to++ = RECORD_VERSION;
	for (int i = 0; i < lengthof(field_offsets); i++)
	{
		const SecretText *field = field_of(secret, i);
		uint32		prefix = pg_hton32((uint32) field->length);

		if (field->data == NULL)
			continue;
		*to++ = i + 1;
		memcpy(to, &prefix, sizeof(prefix));
		memcpy(to + sizeof(prefix), field->data, field->length);
		to += sizeof(prefix) + field->length;
	}
	*length = size;
	return record;
}

bool
conduit_secret_decode(const uint8 *data, Size length, ConduitSecret *secret)
{
	const uint8 *at = data;
	const uint8 *end = data + length;
	int			last_tag = 0;

	memset(secret, 0, sizeof(*secret));
	if (length == 0 || length % RECORD_UNIT != 0 || *at++ != RECORD_VERSION)
		return false;

	while (at < end && *at != 0)
	{
		int			tag = *at;
		uint32		field_length;

		if (tag <= last_tag || tag > lengthof(field_offsets) || end - at < FIELD_HEADER)
			return false;
		last_tag = tag;
		memcpy(&field_length, at + 1, sizeof(field_length));
		field_length = pg_ntoh32(field_length);
		at += FIELD_HEADER;
		if (field_length > end - at)
			return false;
		field_of(secret, tag - 1)->data = (const char *) at;
		field_of(secret, tag - 1)->length = (int) field_length;
		at += field_length;
	}
	if (end - at >= RECORD_UNIT)
		return false;
	for (; at < end; at++)
		if (*at != 0)
			return false;
	return true;
}

SealStatus
conduit_secret_seal(const SealPlace *place, const ConduitSecret *secret, bytea **blob)
{
	volatile SealStatus status = SEAL_LOCKED;
	Size		length;
	uint8	   *record = conduit_secret_encode(secret, &length);

	/* The record has to go even if there is no memory for the blob. */
	PG_TRY();
	{
		status = conduit_seal(place, record, length, blob);
	}
	PG_FINALLY();
	{
		conduit_wipe(record, length);
		pfree(record);
	}
	PG_END_TRY();
	return status;
}

SealStatus
conduit_secret_open(const SealPlace *place, const bytea *blob,
					OpenedSecret *opened, ConduitSecret *secret, char *key_id)
{
	SealStatus	status = conduit_open(place, blob, opened, key_id);

	if (status == SEAL_OK && !conduit_secret_decode(opened->data, opened->length, secret))
	{
		conduit_wipe_opened(opened);
		status = SEAL_CANNOT_OPEN;
	}
	if (status != SEAL_OK)
		memset(secret, 0, sizeof(*secret));
	return status;
}
