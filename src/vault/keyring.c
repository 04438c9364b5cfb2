/*-------------------------------------------------------------------------
 *
 * keyring.c
 *	  The key-encryption keys of this process, read from one file.
 *
 * Wording:
 *	   - A locked block is memory of its own pages that is not swapped out and
 *		 not dumped where the system grants that, and is cleared when it is
 *		 given back.  Key material is never anywhere else, but for the stack of
 *		 the function at work.
 *	   - An attempt is one reading of the file.  It ends with a new ring or with
 *		 a problem.
 *
 * Nothing here raises an error: the server runs, and Conduit answers, whatever
 * is in the file.  No memory context is used, for a ring outlives them all.
 *
 *-------------------------------------------------------------------------
 */
#include "vault/keyring.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>

#include "base/settings.h"
#include "postmaster/syslogger.h"
#include "storage/fd.h"
#include "utils/timestamp.h"
#include "vault/kek.h"

#define LARGEST_FILE	(64 * 1024)
#define KEY_TEXT_LEN	44		/* base64 of 32 bytes, with its one '=' */
#define UNASKED_PAUSE_MS 1000	/* between readings that no reload asked for */

static const char kcv_label[] = "conduit/kcv/v1";

typedef struct Attempt
{
	const char *code;			/* NULL = no problem */
	char		problem[MAXPGPATH + 256];
} Attempt;

typedef struct RingBlock
{
	Size		size;			/* of the block this begins */
	ConduitKeyring ring;
} RingBlock;

static RingBlock *block_in_force = NULL;
static bool ever_tried = false;
static uint64 epoch_tried = 0;
static uint64 serial = 0;
static TimestampTz last_unasked = 0;
static Attempt last_attempt;

static EVP_MD_CTX *digest = NULL;


/*
 * Hashing
 */

void
conduit_drop_openssl_errors(void)
{
	if (unlikely(ERR_peek_error() != 0))
		ERR_clear_error();
}

/*
 * ready_digest makes the one digest object of this process at its first use:
 * in the process that uses it, not in the postmaster.
 */
static bool
ready_digest(void)
{
	EVP_MD_CTX *made;

	if (likely(digest != NULL))
		return true;

	made = EVP_MD_CTX_new();
	if (made == NULL || EVP_DigestInit_ex(made, EVP_sha256(), NULL) != 1)
	{
		EVP_MD_CTX_free(made);
		conduit_drop_openssl_errors();
		return false;
	}
	conduit_drop_openssl_errors();
	digest = made;
	return true;
}

/* hash_two hashes two pieces that follow each other. */
static bool
hash_two(const void *first, Size first_length, const void *second, Size second_length,
		 uint8 *hash)
{
	if (EVP_DigestInit_ex(digest, NULL, NULL) == 1 &&
		EVP_DigestUpdate(digest, first, first_length) == 1 &&
		EVP_DigestUpdate(digest, second, second_length) == 1 &&
		EVP_DigestFinal_ex(digest, hash, NULL) == 1)
		return true;

	/* The object may be left in any state: the next caller makes a new one. */
	EVP_MD_CTX_free(digest);
	digest = NULL;
	conduit_drop_openssl_errors();
	return false;
}

bool
conduit_kek_mac(const ConduitKek *kek, const void *message, Size length,
				uint8 mac[SHA256_LEN])
{
	return ready_digest() &&
		hash_two(kek->inner, SHA256_BLOCK, message, length, mac) &&
		hash_two(kek->outer, SHA256_BLOCK, mac, SHA256_LEN, mac);
}

bool
conduit_hash(const char *label, const void *text, Size length, uint8 hash[SHA256_LEN])
{
	return ready_digest() && hash_two(label, strlen(label), text, length, hash);
}


/*
 * Locked blocks
 */

static void *
locked_alloc(Size size)
{
	void	   *block = mmap(NULL, size, PROT_READ | PROT_WRITE,
							 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (block == MAP_FAILED)
		return NULL;

	/* Best effort: the limit for locked memory may be small. */
	(void) mlock(block, size);
#ifdef MADV_DONTDUMP
	(void) madvise(block, size, MADV_DONTDUMP);
#endif
	return block;
}

static void
locked_free(void *block, Size size)
{
	OPENSSL_cleanse(block, size);
	(void) munmap(block, size);
}

static void
drop_ring(RingBlock *block)
{
	if (block)
		locked_free(block, block->size);
}


/*
 * Problems
 */

static void pg_attribute_printf(3, 4)
fail(Attempt *attempt, const char *code, const char *format,...)
{
	int			save_errno = errno;
	va_list		arguments;

	attempt->code = code;
	errno = save_errno;			/* for %m */
	va_start(arguments, format);
	vsnprintf(attempt->problem, sizeof(attempt->problem), format, arguments);
	va_end(arguments);
}


/*
 * The file
 */

/* lies_within says whether path, both being resolved, is directory or in it. */
static bool
lies_within(const char *path, const char *directory)
{
	Size		length = strlen(directory);

	if (strncmp(path, directory, length) != 0)
		return false;
	return length == 1 || path[length] == '/' || path[length] == '\0';
}

static bool
lies_within_unresolved(const char *path, const char *directory)
{
	char		resolved[PATH_MAX];

	return realpath(directory, resolved) != NULL && lies_within(path, resolved);
}

/*
 * in_data_directory says whether path, resolved, lies where backups and
 * replication take the data from: the data directory, what it links to
 * (tablespaces, WAL), or the logs.
 */
static bool
in_data_directory(const char *path)
{
	char		inside[MAXPGPATH * 2];
	DIR		   *tablespaces;
	struct dirent *entry;
	bool		found;

	if (lies_within_unresolved(path, DataDir))
		return true;
	snprintf(inside, sizeof(inside), "%s/pg_wal", DataDir);
	if (lies_within_unresolved(path, inside))
		return true;
	if (Log_directory && is_absolute_path(Log_directory))
		found = lies_within_unresolved(path, Log_directory);
	else
	{
		snprintf(inside, sizeof(inside), "%s/%s", DataDir, Log_directory ? Log_directory : "");
		found = lies_within_unresolved(path, inside);
	}
	if (found)
		return true;

	snprintf(inside, sizeof(inside), "%s/pg_tblspc", DataDir);
	tablespaces = opendir(inside);
	if (tablespaces == NULL)
		return false;
	while (!found && (entry = readdir(tablespaces)) != NULL)
	{
		if (entry->d_name[0] == '.')
			continue;
		snprintf(inside, sizeof(inside), "%s/pg_tblspc/%s", DataDir, entry->d_name);
		found = lies_within_unresolved(path, inside);
	}
	closedir(tablespaces);
	return found;
}

/* check_file judges an open file by what it is, who may read it and where it is. */
static bool
check_file(const char *path, int fd, Attempt *attempt)
{
	struct stat opened;
	struct stat found;
	char		resolved[PATH_MAX];
	bool		open_to_others;

	if (fstat(fd, &opened) != 0)
	{
		fail(attempt, "unreadable", "could not stat keyring file \"%s\": %m", path);
		return false;
	}
	if (!S_ISREG(opened.st_mode))
	{
		fail(attempt, "unreadable", "keyring file \"%s\" is not a regular file", path);
		return false;
	}

	if (opened.st_uid == geteuid())
		open_to_others = (opened.st_mode & 0077) != 0;
	else if (opened.st_uid == 0)
		open_to_others = (opened.st_mode & 0037) != 0;
	else
	{
		fail(attempt, "permissions",
			 "keyring file \"%s\" must be owned by the server's user or root", path);
		return false;
	}
	if (open_to_others)
	{
		fail(attempt, "permissions",
			 "keyring file \"%s\" has mode %04o; it must be 0600 or less, or 0640 or less if root owns it",
			 path, (unsigned) (opened.st_mode & 07777));
		return false;
	}

	/* The name may have been given to another file since it was opened. */
	if (realpath(path, resolved) == NULL || stat(resolved, &found) != 0)
	{
		fail(attempt, "unreadable", "could not resolve keyring file \"%s\": %m", path);
		return false;
	}
	if (found.st_dev != opened.st_dev || found.st_ino != opened.st_ino)
	{
		fail(attempt, "unreadable", "keyring file \"%s\" was replaced while it was read", path);
		return false;
	}
	if (in_data_directory(resolved))
	{
		fail(attempt, "in_data_directory",
			 "keyring file \"%s\" lies in the data directory or in what belongs to it", path);
		return false;
	}
	return true;
}

/*
 * read_file reads the file into buffer, of LARGEST_FILE + 1 bytes, and returns
 * its length or -1 with the attempt's problem set.
 */
static int
read_file(const char *path, char *buffer, Attempt *attempt)
{
	int			length = 0;
	int			fd;

	if (path == NULL || path[0] == '\0')
	{
		fail(attempt, "not_set", "conduit.keyring_file is not set");
		return -1;
	}
	if (!is_absolute_path(path))
	{
		fail(attempt, "unreadable", "keyring file \"%s\" is not an absolute path", path);
		return -1;
	}

	/* O_NONBLOCK because opening a FIFO would wait for somebody to write. */
	fd = BasicOpenFile(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | PG_BINARY);
	if (fd < 0)
	{
		if (errno == ELOOP)
			fail(attempt, "unreadable", "keyring file \"%s\" is a symbolic link", path);
		else
			fail(attempt, "unreadable", "could not open keyring file \"%s\": %m", path);
		return -1;
	}
	if (!check_file(path, fd, attempt))
	{
		close(fd);
		return -1;
	}

	while (length <= LARGEST_FILE)
	{
		ssize_t		got = read(fd, buffer + length, LARGEST_FILE + 1 - length);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
		{
			fail(attempt, "unreadable", "could not read keyring file \"%s\": %m", path);
			close(fd);
			return -1;
		}
		if (got == 0)
			break;
		length += got;
	}
	close(fd);

	if (length > LARGEST_FILE)
	{
		fail(attempt, "malformed", "keyring file \"%s\" is larger than %d kB",
			 path, LARGEST_FILE / 1024);
		return -1;
	}
	return length;
}


/*
 * The text
 */

/* decode_key reads exactly the base64 text of 32 bytes, without white space. */
static bool
decode_key(const char *text, Size length, uint8 *key)
{
	static const char alphabet[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	uint32		bits = 0;
	int			nbits = 0;
	int			written = 0;

	if (length != KEY_TEXT_LEN || text[KEY_TEXT_LEN - 1] != '=')
		return false;
	for (int i = 0; i < KEY_TEXT_LEN - 1; i++)
	{
		const char *found = text[i] ? strchr(alphabet, text[i]) : NULL;

		if (found == NULL)
			return false;
		bits = (bits << 6) | (uint32) (found - alphabet);
		nbits += 6;
		if (nbits >= 8)
		{
			nbits -= 8;
			key[written++] = (uint8) (bits >> nbits);
		}
	}

	/* Two bits are left over, and only one text per key is accepted. */
	return (bits & 3) == 0;
}

static bool
is_word(const char *text, Size length, Size longest, const char *more)
{
	if (length == 0 || length > longest)
		return false;
	for (Size i = 0; i < length; i++)
	{
		char		c = text[i];

		if (!((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
			  (c != '\0' && strchr(more, c) != NULL)))
			return false;
	}
	return true;
}

/* prepare_key computes what is used of the key whose bytes are in place. */
static bool
prepare_key(ConduitKey *key)
{
	ConduitKek *kek = key->kek;
	uint8		mac[SHA256_LEN];

	memset(kek->inner, 0x36, SHA256_BLOCK);
	memset(kek->outer, 0x5c, SHA256_BLOCK);
	for (int i = 0; i < CONDUIT_KEK_LEN; i++)
	{
		kek->inner[i] ^= kek->bytes[i];
		kek->outer[i] ^= kek->bytes[i];
	}
	if (!conduit_kek_mac(kek, kcv_label, strlen(kcv_label), mac))
		return false;
	memcpy(key->kcv, mac, CONDUIT_KCV_LEN);
	return true;
}

/* read_key_line adds the key of one line, "id:base64" or "*id:base64", to ring. */
static bool
read_key_line(ConduitKeyring *ring, ConduitKek *kek, const char *line, Size length,
			  int number, Attempt *attempt)
{
	ConduitKey *key = &ring->keys[ring->nkeys];
	const char *colon;
	Size		id_length;

	if (length > 0 && line[0] == '*')
	{
		key->primary = true;
		line++;
		length--;
	}
	colon = memchr(line, ':', length);
	id_length = colon ? colon - line : 0;
	if (!is_word(line, id_length, CONDUIT_KEY_ID_LEN, "_-"))
	{
		fail(attempt, "malformed",
			 "keyring line %d does not begin with a key id of 1 to %d letters, digits, \"_\" or \"-\" and a colon",
			 number, CONDUIT_KEY_ID_LEN);
		return false;
	}
	memcpy(key->id, line, id_length);

	key->kek = kek;
	if (!decode_key(colon + 1, length - id_length - 1, kek->bytes))
	{
		fail(attempt, "malformed", "keyring line %d does not hold 32 bytes in base64", number);
		return false;
	}
	for (int i = 0; i < ring->nkeys; i++)
	{
		if (strcmp(ring->keys[i].id, key->id) == 0)
		{
			fail(attempt, "malformed", "keyring line %d repeats the id of an earlier key", number);
			return false;
		}
		if (key->primary && ring->keys[i].primary)
		{
			fail(attempt, "malformed", "keyring line %d marks a second primary key", number);
			return false;
		}
	}
	if (!prepare_key(key))
	{
		fail(attempt, "unavailable", "OpenSSL cannot compute HMAC-SHA256");
		return false;
	}
	ring->nkeys++;
	return true;
}

/*
 * read_ring makes a ring of a file's text, or returns NULL with the attempt's
 * problem set.
 */
static RingBlock *
read_ring(char *text, int length, Attempt *attempt)
{
	RingBlock  *block;
	ConduitKeyring *ring;
	ConduitKek *keks;
	const char *end = text + length;
	bool		primary_found = false;
	int			most_keys = 1;
	int			number = 0;
	Size		size;

	for (const char *at = text; at < end; at++)
		most_keys += *at == '\n';

	/* Key material last: nothing but bytes, so it needs no alignment. */
	size = MAXALIGN(sizeof(RingBlock)) + most_keys * (sizeof(ConduitKey) + sizeof(ConduitKek));
	block = locked_alloc(size);
	if (block == NULL)
	{
		fail(attempt, "unavailable", "could not allocate memory for the keyring: %m");
		return NULL;
	}
	block->size = size;
	ring = &block->ring;
	ring->keys = (ConduitKey *) ((char *) block + MAXALIGN(sizeof(RingBlock)));
	keks = (ConduitKek *) (ring->keys + most_keys);

	for (const char *line = text; line < end;)
	{
		const char *newline = memchr(line, '\n', end - line);
		const char *next = newline ? newline + 1 : end;
		Size		line_length = (newline ? newline : end) - line;

		number++;
		while (line_length > 0 && strchr(" \t\r", line[line_length - 1]) && line[line_length - 1])
			line_length--;
		if (line_length == 0 || line[0] == '#')
		{
			line = next;
			continue;
		}
		if (line[0] == '@')
		{
			if (ring->name[0] != '\0' ||
				!is_word(line + 1, line_length - 1, NAMEDATALEN - 1, "_-."))
			{
				fail(attempt, "malformed",
					 "keyring line %d is not the only name, of 1 to %d letters, digits, \"_\", \"-\" or \".\"",
					 number, NAMEDATALEN - 1);
				drop_ring(block);
				return NULL;
			}
			memcpy(ring->name, line + 1, line_length - 1);
		}
		else if (!read_key_line(ring, &keks[ring->nkeys], line, line_length, number, attempt))
		{
			drop_ring(block);
			return NULL;
		}
		line = next;
	}

	if (ring->nkeys == 1)
		ring->keys[0].primary = true;
	for (int i = 0; i < ring->nkeys; i++)
		primary_found |= ring->keys[i].primary;
	if (!primary_found)
	{
		fail(attempt, "no_primary",
			 ring->nkeys == 0 ? "the keyring file holds no key" :
			 "no key of the keyring file is marked primary with \"*\"");
		drop_ring(block);
		return NULL;
	}
	return block;
}

/* attempt_ring reads the file that is set; NULL with the attempt's problem set. */
static RingBlock *
attempt_ring(Attempt *attempt)
{
	char	   *buffer = locked_alloc(LARGEST_FILE + 1);
	RingBlock  *block = NULL;
	int			length;

	if (buffer == NULL)
	{
		fail(attempt, "unavailable", "could not allocate memory for the keyring: %m");
		return NULL;
	}
	length = read_file(conduit_keyring_file, buffer, attempt);
	if (length >= 0)
		block = read_ring(buffer, length, attempt);
	locked_free(buffer, LARGEST_FILE + 1);
	return block;
}


/*
 * The ring in force
 */

/* A key that is unchanged stays as far verified as it was. */
static void
carry_verified(const ConduitKeyring *former, ConduitKeyring *ring)
{
	for (int i = 0; i < former->nkeys; i++)
		for (int j = 0; j < ring->nkeys; j++)
			if (strcmp(former->keys[i].id, ring->keys[j].id) == 0 &&
				CRYPTO_memcmp(former->keys[i].kek->bytes, ring->keys[j].kek->bytes,
							  CONDUIT_KEK_LEN) == 0)
				ring->keys[j].verified = former->keys[i].verified;
}

static void
log_attempt(const Attempt *attempt)
{
	/* The path is for administrators: to the log, never to a client. */
	if (attempt->code == NULL)
		ereport(LOG_SERVER_ONLY,
				(errmsg_internal("conduit keyring is loaded"),
				 errhidestmt(true), errhidecontext(true)));
	else
		ereport(LOG_SERVER_ONLY,
				(errmsg_internal("conduit keyring is not loaded%s: %s",
								 block_in_force ? ", the former one stays in force" : "",
								 attempt->problem),
				 errhidestmt(true), errhidecontext(true)));
}

/*
 * load_ring puts the file's ring in force, or leaves the former one there and
 * logs the problem if it is not the one logged last.
 *
 * A setting that was emptied is no accident of a file: it takes the ring out
 * of force.
 */
static void
load_ring(void)
{
	Attempt		attempt = {NULL, ""};
	RingBlock  *block;
	bool		news;

	/* First, lest a reload in between be missed. */
	epoch_tried = conduit_settings_epoch();
	ever_tried = true;

	block = attempt_ring(&attempt);
	if (block)
	{
		block->ring.serial = ++serial;
		if (block_in_force)
			carry_verified(&block_in_force->ring, &block->ring);
		drop_ring(block_in_force);
		block_in_force = block;
		news = last_attempt.code != NULL;
	}
	else
	{
		bool		not_set = strcmp(attempt.code, "not_set") == 0;

		news = strcmp(last_attempt.problem, attempt.problem) != 0;
		if (not_set)
		{
			/* Where nothing was ever set, nothing went wrong. */
			if (block_in_force == NULL)
				news = false;
			drop_ring(block_in_force);
			block_in_force = NULL;
		}
	}
	last_attempt = attempt;
	if (news)
		log_attempt(&last_attempt);
}

/* may_read_unasked grants one reading per pause, so that no row can cause many. */
static bool
may_read_unasked(void)
{
	TimestampTz now = GetCurrentTimestamp();

	if (last_unasked != 0 && now >= last_unasked &&
		now - last_unasked < UNASKED_PAUSE_MS * INT64CONST(1000))
		return false;
	last_unasked = now;
	return true;
}

static ConduitKey *
find_in_force(const char *id)
{
	if (block_in_force == NULL)
		return NULL;
	for (int i = 0; i < block_in_force->ring.nkeys; i++)
		if (strcmp(block_in_force->ring.keys[i].id, id) == 0)
			return &block_in_force->ring.keys[i];
	return NULL;
}

ConduitKeyring *
conduit_keyring_get(void)
{
	if (unlikely(!ever_tried || epoch_tried != conduit_settings_epoch()) ||
		(unlikely(block_in_force == NULL) && may_read_unasked()))
		load_ring();
	return block_in_force ? &block_in_force->ring : NULL;
}

ConduitKey *
conduit_keyring_find(const char *id)
{
	ConduitKey *key;

	if (conduit_keyring_get() == NULL)
		return NULL;
	key = find_in_force(id);
	if (likely(key != NULL) || !may_read_unasked())
		return key;
	load_ring();
	return find_in_force(id);
}

ConduitKey *
conduit_keyring_primary(void)
{
	ConduitKeyring *ring = conduit_keyring_get();

	for (int i = 0; ring && i < ring->nkeys; i++)
		if (ring->keys[i].primary)
			return &ring->keys[i];
	return NULL;
}

const char *
conduit_keyring_problem(void)
{
	return last_attempt.code ? last_attempt.problem : NULL;
}

const char *
conduit_keyring_problem_code(void)
{
	return last_attempt.code;
}
