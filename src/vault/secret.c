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
static const struct
{
	size_t		offset;
	bool		refreshes;		/* is of the refresh part */
}			fields[] =
{
	{offsetof(ConduitSecret, access_token), false},
	{offsetof(ConduitSecret, refresh_token), true},
	{offsetof(ConduitSecret, api_key), false},
	{offsetof(ConduitSecret, api_secret), false},
	{offsetof(ConduitSecret, username), false},
	{offsetof(ConduitSecret, password), false},
	{offsetof(ConduitSecret, client_secret), true},
	{offsetof(ConduitSecret, extra), false},
	{offsetof(ConduitSecret, client_id), true},
	{offsetof(ConduitSecret, private_key), true},
	{offsetof(ConduitSecret, issuer), true},
	{offsetof(ConduitSecret, subject), true},
	{offsetof(ConduitSecret, key_id), true},
	{offsetof(ConduitSecret, audience), true},
	{offsetof(ConduitSecret, scope), true},
};

static inline SecretText *
field_of(const ConduitSecret *secret, int index)
{
	return (SecretText *) ((char *) secret + fields[index].offset);
}

static void
take_part(ConduitSecret *to, const ConduitSecret *from, bool refreshes)
{
	for (int i = 0; i < lengthof(fields); i++)
		if (fields[i].refreshes == refreshes)
			*field_of(to, i) = *field_of(from, i);
}

void
conduit_secret_take_refresh_part(ConduitSecret *to, const ConduitSecret *from)
{
	take_part(to, from, true);
}

void
conduit_secret_take_access_part(ConduitSecret *to, const ConduitSecret *from)
{
	take_part(to, from, false);
}

bool
conduit_secret_has_refresh_part(const ConduitSecret *secret)
{
	return secret->refresh_token.data != NULL || conduit_secret_mints(secret);
}

bool
conduit_secret_mints(const ConduitSecret *secret)
{
	return secret->client_id.data != NULL || secret->private_key.data != NULL;
}

uint8 *
conduit_secret_encode(const ConduitSecret *secret, Size *length)
{
	Size		size = 1;
	uint8	   *record;
	uint8	   *to;

	for (int i = 0; i < lengthof(fields); i++)
		if (field_of(secret, i)->data)
			size += FIELD_HEADER + field_of(secret, i)->length;
	size = TYPEALIGN(RECORD_UNIT, size);

	record = palloc0(size);
	to = record;
	*to++ = RECORD_VERSION;
	for (int i = 0; i < lengthof(fields); i++)
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

		if (tag <= last_tag || tag > lengthof(fields) || end - at < FIELD_HEADER)
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
