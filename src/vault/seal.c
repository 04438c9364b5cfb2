/*-------------------------------------------------------------------------
 *
 * seal.c
 *	  Authenticated envelope encryption of small secrets (blobs).
 *
 * A blob is
 *
 *		magic 2, version 1, algorithm 1, flags 2	what it is
 *		key id 16, zero-padded						the KEK it is sealed under
 *		nonce 12, data key 32, tag 16				the data key, wrapped
 *		commitment 16								to the data key
 *		nonce 12, ciphertext, tag 16				the secret
 *
 * Both encryptions are AES-256-GCM.  The wrap key is
 * HMAC-SHA256(KEK, "conduit/wrap/v1" || connection id): a key of its own for
 * each connection keeps the number of random nonces per key far below what GCM
 * allows.  The commitment is the first half of
 * SHA-256("conduit/commit/v1" || data key): GCM alone would let one ciphertext
 * open under two keys, and a hash of a random key gives nothing of it away.
 *
 * The associated data begins with a letter that tells wrap from data, then what
 * the blob is, then the key id (wrap) or the commitment (data), then the place,
 * each field with its length.  A rewrap changes the key id, so it is
 * authenticated with the wrap alone.
 *
 * Opening is the hot path of the whole product.  The cipher objects are made
 * once per process, at first use, and given new keys from then on.  They keep
 * the key schedule of the data key used last, as the process keeps the KEKs.
 *
 *-------------------------------------------------------------------------
 */
#include "vault/seal.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>

#include "lib/ilist.h"
#include "port/pg_bswap.h"
#include "utils/memutils.h"
#include "vault/kek.h"

#define DEK_LEN		32
#define NONCE_LEN	12
#define TAG_LEN		16
#define COMMIT_LEN	16

typedef struct BlobHeader
{
	uint8		magic[2];
	uint8		version;
	uint8		algorithm;
	uint8		flags[2];
	uint8		key_id[CONDUIT_KEY_ID_LEN];
	uint8		wrap_nonce[NONCE_LEN];
	uint8		wrapped[DEK_LEN];
	uint8		wrap_tag[TAG_LEN];
	uint8		commit[COMMIT_LEN];
	uint8		nonce[NONCE_LEN];
} BlobHeader;

#define KIND_LEN		offsetof(BlobHeader, key_id)
#define BLOB_OVERHEAD	(sizeof(BlobHeader) + TAG_LEN)

StaticAssertDecl(sizeof(BlobHeader) == 110, "the header has no padding");
StaticAssertDecl(CONDUIT_KEY_ID_LEN == COMMIT_LEN, "both kinds of associated data begin alike");

static const uint8 blob_kind[KIND_LEN] = {0xC0, 0xD7, 1, 1, 0, 0};
static const char wrap_label[] = "conduit/wrap/v1";
static const char commit_label[] = "conduit/commit/v1";

/*
 * The associated data of one place.  Most fit on the stack.  The first
 * AAD_FRONT bytes are rewritten between wrap and data.
 */
#define AAD_FRONT	(1 + KIND_LEN + COMMIT_LEN)

typedef struct PlaceData
{
	uint8	   *bytes;
	Size		length;
	uint8		here[512];
} PlaceData;

/*
 * A guard watches over the opened secrets of one memory context, in which it
 * lives itself.  One reset callback per context, because callbacks cannot be
 * taken back.
 */
typedef struct Guard
{
	dlist_node	link;			/* in guards */
	MemoryContext context;
	dlist_head	secrets;
	MemoryContextCallback callback;
} Guard;

typedef struct GuardedSecret
{
	dlist_node	link;			/* in its guard's secrets */
	Size		size;			/* of data */
	uint8		data[FLEXIBLE_ARRAY_MEMBER];
} GuardedSecret;

typedef struct SealCount
{
	char		key_id[CONDUIT_KEY_ID_LEN + 1];
	uint32		count;
} SealCount;

static dlist_head guards = DLIST_STATIC_INIT(guards);
static EVP_CIPHER_CTX *encryption = NULL;
static EVP_CIPHER_CTX *decryption = NULL;
static SealCount seal_counts[4];


/*
 * Guarded memory
 */

static void
cleanse_guarded(void *arg)
{
	Guard	   *guard = arg;
	dlist_iter	iter;

	dlist_foreach(iter, &guard->secrets)
	{
		GuardedSecret *secret = dlist_container(GuardedSecret, link, iter.cur);

		OPENSSL_cleanse(secret->data, secret->size);
	}
	dlist_delete(&guard->link);
}

static Guard *
guard_of_current_context(void)
{
	dlist_iter	iter;
	Guard	   *guard;

	dlist_foreach(iter, &guards)
	{
		guard = dlist_container(Guard, link, iter.cur);
		if (guard->context == CurrentMemoryContext)
			return guard;
	}

	guard = palloc0(sizeof(Guard));
	guard->context = CurrentMemoryContext;
	dlist_init(&guard->secrets);
	guard->callback.func = cleanse_guarded;
	guard->callback.arg = guard;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &guard->callback);
	dlist_push_head(&guards, &guard->link);
	return guard;
}

static GuardedSecret *
guarded_alloc(Size size)
{
	Guard	   *guard = guard_of_current_context();
	GuardedSecret *secret = palloc(offsetof(GuardedSecret, data) + size);

	secret->size = size;
	dlist_push_head(&guard->secrets, &secret->link);
	return secret;
}

static void
guarded_free(GuardedSecret *secret)
{
	OPENSSL_cleanse(secret->data, secret->size);
	dlist_delete(&secret->link);
	pfree(secret);
}


/*
 * Associated data
 */

static uint8 *
put_field(uint8 *to, const void *bytes, Size length)
{
	uint32		prefix = pg_hton32((uint32) length);

	memcpy(to, &prefix, sizeof(prefix));
	memcpy(to + sizeof(prefix), bytes, length);
	return to + sizeof(prefix) + length;
}

/* describe_place writes everything but the front; release_place frees it. */
static void
describe_place(PlaceData *data, const SealPlace *place)
{
	const char *texts[] = {place->purpose, place->tenant, place->owner,
	place->connector, place->field, place->origin};
	Size		lengths[lengthof(texts)];
	uint64		generation = pg_hton64((uint64) place->generation);
	uint8	   *to;

	data->length = AAD_FRONT + 3 * sizeof(uint32) + 2 * UUID_LEN + sizeof(generation);
	for (int i = 0; i < lengthof(texts); i++)
	{
		if (texts[i] == NULL)
			texts[i] = "";
		lengths[i] = strlen(texts[i]);
		data->length += sizeof(uint32) + lengths[i];
	}

	data->bytes = data->length <= sizeof(data->here) ? data->here : palloc(data->length);
	to = data->bytes + AAD_FRONT;
	to = put_field(to, place->row->data, UUID_LEN);
	to = put_field(to, place->connection->data, UUID_LEN);
	to = put_field(to, &generation, sizeof(generation));
	for (int i = 0; i < lengthof(texts); i++)
		to = put_field(to, texts[i], lengths[i]);
	Assert(to == data->bytes + data->length);
}

static void
release_place(PlaceData *data)
{
	if (data->bytes != data->here)
		pfree(data->bytes);
}

static void
put_front(PlaceData *data, char letter, const uint8 *particular)
{
	data->bytes[0] = letter;
	memcpy(data->bytes + 1, blob_kind, KIND_LEN);
	memcpy(data->bytes + 1 + KIND_LEN, particular, COMMIT_LEN);
}


/*
 * Ciphers
 */

/* ready_ciphers makes the cipher objects of this process at their first use. */
static bool
ready_ciphers(void)
{
	EVP_CIPHER_CTX *one;
	EVP_CIPHER_CTX *other;

	if (likely(encryption != NULL && decryption != NULL))
		return true;

	one = EVP_CIPHER_CTX_new();
	other = EVP_CIPHER_CTX_new();
	if (one == NULL || other == NULL ||
		EVP_EncryptInit_ex(one, EVP_aes_256_gcm(), NULL, NULL, NULL) != 1 ||
		EVP_DecryptInit_ex(other, EVP_aes_256_gcm(), NULL, NULL, NULL) != 1)
	{
		EVP_CIPHER_CTX_free(one);
		EVP_CIPHER_CTX_free(other);
		conduit_drop_openssl_errors();
		return false;
	}
	conduit_drop_openssl_errors();
	encryption = one;
	decryption = other;
	return true;
}

/* drop_ciphers discards objects that failed and may be left in any state. */
static void
drop_ciphers(void)
{
	EVP_CIPHER_CTX_free(encryption);
	EVP_CIPHER_CTX_free(decryption);
	encryption = NULL;
	decryption = NULL;
	conduit_drop_openssl_errors();
}

static bool
encrypt(const uint8 *key, const uint8 *nonce, const PlaceData *place,
		const uint8 *plaintext, Size length, uint8 *ciphertext, uint8 *tag)
{
	int			written = 0;
	int			rest = 0;

	if (EVP_EncryptInit_ex(encryption, NULL, NULL, key, nonce) == 1 &&
		EVP_EncryptUpdate(encryption, NULL, &rest, place->bytes, (int) place->length) == 1 &&
		(length == 0 ||
		 EVP_EncryptUpdate(encryption, ciphertext, &written, plaintext, (int) length) == 1) &&
		EVP_EncryptFinal_ex(encryption, ciphertext + written, &rest) == 1 &&
		written + rest == length &&
		EVP_CIPHER_CTX_ctrl(encryption, EVP_CTRL_AEAD_GET_TAG, TAG_LEN, tag) == 1)
		return true;

	drop_ciphers();
	return false;
}

/*
 * decrypt returns SEAL_OK, SEAL_CANNOT_OPEN if the tag does not match, in which
 * case what it wrote must be wiped, or SEAL_LOCKED if OpenSSL fails.
 */
static SealStatus
decrypt(const uint8 *key, const uint8 *nonce, const PlaceData *place,
		const uint8 *ciphertext, Size length, const uint8 *tag, uint8 *plaintext)
{
	int			written = 0;
	int			rest = 0;

	if (EVP_DecryptInit_ex(decryption, NULL, NULL, key, nonce) != 1 ||
		EVP_DecryptUpdate(decryption, NULL, &rest, place->bytes, (int) place->length) != 1 ||
		(length > 0 &&
		 EVP_DecryptUpdate(decryption, plaintext, &written, ciphertext, (int) length) != 1) ||
		written != length ||
		EVP_CIPHER_CTX_ctrl(decryption, EVP_CTRL_AEAD_SET_TAG, TAG_LEN, (void *) tag) != 1)
	{
		drop_ciphers();
		return SEAL_LOCKED;
	}
	if (EVP_DecryptFinal_ex(decryption, plaintext + written, &rest) != 1)
	{
		conduit_drop_openssl_errors();
		return SEAL_CANNOT_OPEN;
	}
	return SEAL_OK;
}

static bool
derive_wrap_key(const ConduitKey *key, const pg_uuid_t *connection, uint8 wrap_key[SHA256_LEN])
{
	uint8		message[sizeof(wrap_label) - 1 + UUID_LEN];

	memcpy(message, wrap_label, sizeof(wrap_label) - 1);
	memcpy(message + sizeof(wrap_label) - 1, connection->data, UUID_LEN);
	return conduit_kek_mac(key->kek, message, sizeof(message), wrap_key);
}

/*
 * wrap fills the header's key id and wrapped data key; its wrap_nonce and
 * commit are set already.
 */
static bool
wrap(BlobHeader *header, const ConduitKey *key, const SealPlace *place, PlaceData *data,
	 const uint8 *dek)
{
	uint8		wrap_key[SHA256_LEN];
	bool		done;

	memset(header->key_id, 0, sizeof(header->key_id));
	memcpy(header->key_id, key->id, strlen(key->id));
	put_front(data, 'W', header->key_id);
	done = derive_wrap_key(key, place->connection, wrap_key) &&
		encrypt(wrap_key, header->wrap_nonce, data, dek, DEK_LEN,
				header->wrapped, header->wrap_tag);
	OPENSSL_cleanse(wrap_key, sizeof(wrap_key));
	return done;
}

/* unwrap sets dek, which the caller wipes whatever the outcome is. */
static SealStatus
unwrap(const BlobHeader *header, const ConduitKey *key, const SealPlace *place, PlaceData *data,
	   uint8 *dek)
{
	uint8		wrap_key[SHA256_LEN];
	uint8		commit[SHA256_LEN];
	SealStatus	status = SEAL_LOCKED;

	put_front(data, 'W', header->key_id);
	if (derive_wrap_key(key, place->connection, wrap_key))
		status = decrypt(wrap_key, header->wrap_nonce, data, header->wrapped, DEK_LEN,
						 header->wrap_tag, dek);
	OPENSSL_cleanse(wrap_key, sizeof(wrap_key));
	if (status != SEAL_OK)
		return status;

	if (!conduit_hash(commit_label, dek, DEK_LEN, commit))
		return SEAL_LOCKED;
	if (CRYPTO_memcmp(commit, header->commit, COMMIT_LEN) != 0)
		return SEAL_CANNOT_OPEN;
	return SEAL_OK;
}


/*
 * Blobs
 */

/*
 * read_header returns the header of a blob that is well formed, with the key
 * id as a string, or NULL.
 */
static const BlobHeader *
read_header(const bytea *blob, char *key_id)
{
	const BlobHeader *header;
	int			length = 0;

	key_id[0] = '\0';
	if (VARSIZE_ANY_EXHDR(blob) < BLOB_OVERHEAD)
		return NULL;
	header = (const BlobHeader *) VARDATA_ANY(blob);
	if (memcmp(header, blob_kind, KIND_LEN) != 0)
		return NULL;

	while (length < CONDUIT_KEY_ID_LEN && header->key_id[length] != 0)
	{
		char		c = header->key_id[length++];

		if (!((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
			  c == '_' || c == '-'))
			return NULL;
	}
	if (length == 0)
		return NULL;
	for (int i = length; i < CONDUIT_KEY_ID_LEN; i++)
		if (header->key_id[i] != 0)
			return NULL;

	memcpy(key_id, header->key_id, length);
	key_id[length] = '\0';
	return header;
}

/* find_key finds the key a blob names, or says what is missing. */
static SealStatus
find_key(const char *key_id, ConduitKey **key)
{
	*key = conduit_keyring_find(key_id);
	if (likely(*key != NULL))
		return SEAL_OK;
	return conduit_keyring_get() == NULL ? SEAL_LOCKED : SEAL_UNKNOWN_KEY;
}

/* find_sealing_key finds the key to seal under, or says why there is none. */
static SealStatus
find_sealing_key(ConduitKey **key)
{
	*key = conduit_keyring_primary();
	if (*key == NULL)
		return SEAL_LOCKED;
	return (*key)->verified ? SEAL_OK : SEAL_UNVERIFIED;
}

/* count_wrap notes one more use of a key; a primary seldom changes. */
static void
count_wrap(const char *key_id)
{
	SealCount  *unused = NULL;

	for (int i = 0; i < lengthof(seal_counts); i++)
	{
		if (seal_counts[i].count == 0)
			unused = unused ? unused : &seal_counts[i];
		else if (strcmp(seal_counts[i].key_id, key_id) == 0)
		{
			seal_counts[i].count++;
			return;
		}
	}
	if (unused == NULL)
		unused = &seal_counts[0];
	strlcpy(unused->key_id, key_id, sizeof(unused->key_id));
	unused->count = 1;
}

SealStatus
conduit_seal(const SealPlace *place, const uint8 *plaintext, Size length, bytea **blob)
{
	ConduitKey *key;
	SealStatus	status;
	PlaceData	data;
	bytea	   *sealed;
	BlobHeader *header;
	struct
	{
		uint8		dek[DEK_LEN];
		uint8		wrap_nonce[NONCE_LEN];
		uint8		nonce[NONCE_LEN];
	}			fresh;
	uint8		commit[SHA256_LEN];
	bool		done;

	*blob = NULL;
	status = find_sealing_key(&key);
	if (status != SEAL_OK)
		return status;
	if (!ready_ciphers())
		return SEAL_LOCKED;

	/* All memory first: from here on no error can leave a key behind. */
	describe_place(&data, place);
	sealed = palloc(VARHDRSZ + BLOB_OVERHEAD + length);
	SET_VARSIZE(sealed, VARHDRSZ + BLOB_OVERHEAD + length);
	header = (BlobHeader *) VARDATA(sealed);

	done = pg_strong_random(&fresh, sizeof(fresh)) &&
		conduit_hash(commit_label, fresh.dek, DEK_LEN, commit);
	if (done)
	{
		memcpy(header, blob_kind, KIND_LEN);
		memcpy(header->wrap_nonce, fresh.wrap_nonce, NONCE_LEN);
		memcpy(header->commit, commit, COMMIT_LEN);
		memcpy(header->nonce, fresh.nonce, NONCE_LEN);
		done = wrap(header, key, place, &data, fresh.dek);
	}
	if (done)
	{
		uint8	   *ciphertext = (uint8 *) (header + 1);

		put_front(&data, 'D', header->commit);
		done = encrypt(fresh.dek, header->nonce, &data, plaintext, length,
					   ciphertext, ciphertext + length);
	}
	OPENSSL_cleanse(&fresh, sizeof(fresh));
	release_place(&data);
	if (!done)
	{
		conduit_drop_openssl_errors();
		pfree(sealed);
		return SEAL_LOCKED;
	}
	count_wrap(key->id);
	*blob = sealed;
	return SEAL_OK;
}

SealStatus
conduit_open(const SealPlace *place, const bytea *blob, OpenedSecret *opened, char *key_id)
{
	char		own_key_id[CONDUIT_KEY_ID_LEN + 1];
	const BlobHeader *header;
	ConduitKey *key;
	SealStatus	status;
	PlaceData	data;
	GuardedSecret *secret;
	const uint8 *ciphertext;
	Size		length;
	uint8		dek[DEK_LEN];

	memset(opened, 0, sizeof(*opened));
	if (key_id == NULL)
		key_id = own_key_id;
	header = read_header(blob, key_id);
	if (header == NULL)
		return SEAL_CANNOT_OPEN;
	status = find_key(key_id, &key);
	if (status != SEAL_OK)
		return status;
	if (!ready_ciphers())
		return SEAL_LOCKED;

	/* All memory first, with one byte more: a NUL behind what was opened. */
	length = VARSIZE_ANY_EXHDR(blob) - BLOB_OVERHEAD;
	ciphertext = (const uint8 *) (header + 1);
	describe_place(&data, place);
	secret = guarded_alloc(length + 1);

	status = unwrap(header, key, place, &data, dek);
	if (status == SEAL_OK)
	{
		put_front(&data, 'D', header->commit);
		status = decrypt(dek, header->nonce, &data, ciphertext, length,
						 ciphertext + length, secret->data);
	}
	OPENSSL_cleanse(dek, sizeof(dek));
	release_place(&data);
	if (status != SEAL_OK)
	{
		guarded_free(secret);
		return status;
	}
	secret->data[length] = '\0';
	opened->data = secret->data;
	opened->length = length;
	opened->private_data = secret;
	return SEAL_OK;
}

void
conduit_wipe_opened(OpenedSecret *opened)
{
	if (opened->private_data)
		guarded_free(opened->private_data);
	memset(opened, 0, sizeof(*opened));
}

SealStatus
conduit_rewrap_blob(const SealPlace *place, const bytea *blob, bytea **rewrapped)
{
	char		key_id[CONDUIT_KEY_ID_LEN + 1];
	const BlobHeader *header;
	BlobHeader *new_header;
	ConduitKey *key;
	ConduitKey *primary;
	SealStatus	status;
	PlaceData	data;
	bytea	   *copy;
	Size		length = VARSIZE_ANY_EXHDR(blob);
	uint8		dek[DEK_LEN];

	*rewrapped = NULL;
	header = read_header(blob, key_id);
	if (header == NULL)
		return SEAL_CANNOT_OPEN;
	status = find_key(key_id, &key);
	if (status != SEAL_OK)
		return status;

	/* No reload comes between: finding a key that is there reads no file. */
	status = find_sealing_key(&primary);
	if (status != SEAL_OK)
		return status;
	if (key == primary)
		return SEAL_OK;
	if (!ready_ciphers())
		return SEAL_LOCKED;

	describe_place(&data, place);
	copy = palloc(VARHDRSZ + length);
	SET_VARSIZE(copy, VARHDRSZ + length);
	memcpy(VARDATA(copy), header, length);
	new_header = (BlobHeader *) VARDATA(copy);

	status = unwrap(header, key, place, &data, dek);
	if (status == SEAL_OK &&
		(!pg_strong_random(new_header->wrap_nonce, NONCE_LEN) ||
		 !wrap(new_header, primary, place, &data, dek)))
		status = SEAL_LOCKED;
	OPENSSL_cleanse(dek, sizeof(dek));
	release_place(&data);
	if (status != SEAL_OK)
	{
		conduit_drop_openssl_errors();
		pfree(copy);
		return status;
	}
	count_wrap(primary->id);
	*rewrapped = copy;
	return SEAL_OK;
}

bool
conduit_blob_key_id(const bytea *blob, char *key_id)
{
	return read_header(blob, key_id) != NULL;
}

void
conduit_random(void *buffer, Size length)
{
	if (!pg_strong_random(buffer, length))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random bytes"),
				 errhidestmt(true), errhidecontext(true)));
}

void
conduit_wipe(void *buffer, Size length)
{
	if (buffer)
		OPENSSL_cleanse(buffer, length);
}

uint32
conduit_seal_take_count(char *key_id)
{
	for (int i = 0; i < lengthof(seal_counts); i++)
	{
		uint32		count = seal_counts[i].count;

		if (count > 0)
		{
			strlcpy(key_id, seal_counts[i].key_id, CONDUIT_KEY_ID_LEN + 1);
			seal_counts[i].count = 0;
			return count;
		}
	}
	key_id[0] = '\0';
	return 0;
}
