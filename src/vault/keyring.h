/*-------------------------------------------------------------------------
 *
 * keyring.h
 *	  The key-encryption keys (KEKs) of this process.
 *
 * Wording:
 *	   - The keyring is one file, conduit.keyring_file, with lines
 *		 "id:base64 of 32 bytes"; a leading '*' marks the primary (a lone key
 *		 needs no mark), '@name' names the ring, '#' begins a comment.
 *	   - The primary is the key that new data keys are wrapped under.
 *	   - The key check value (KCV) of a key tells a right key from a wrong one
 *		 that bears its name; it reveals nothing of the key.
 *
 * Each process reads the file at first need, again after a reload
 * (conduit_settings_epoch) and once, unasked, on meeting an unknown key id.
 * A file that cannot be used at reload leaves the former ring in force, with a
 * LOG line.  No key ever enters shared memory, a setting or the catalogs.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_KEYRING_H
#define CONDUIT_KEYRING_H

#include "base/compat.h"

#define CONDUIT_KEY_ID_LEN 16	/* 1 to 16 of [A-Za-z0-9_-] */
#define CONDUIT_KEK_LEN 32
#define CONDUIT_KCV_LEN 8

typedef struct ConduitKey
{
	char		id[CONDUIT_KEY_ID_LEN + 1];
	uint8		kcv[CONDUIT_KCV_LEN];
	bool		primary;
	bool		verified;		/* its committed check value matches: may seal */
	struct ConduitKek *kek;		/* private to vault/ */
} ConduitKey;

typedef struct ConduitKeyring
{
	char		name[NAMEDATALEN];	/* '' if the file has no @name line */
	uint64		serial;			/* grows with every (re)load in this process */
	int			nkeys;
	ConduitKey *keys;
} ConduitKeyring;

/*
 * conduit_keyring_get returns the ring in force, reading the file when that is
 * due, or NULL when there is none.  It never raises an error for a bad file.
 * While there is none, it looks for the file again, at most once per second;
 * a setting that was emptied takes the ring out of force.
 *
 * A ring and its keys are valid until the next call of a function that may read
 * the file: those of this header and of seal.h.
 */
extern ConduitKeyring *conduit_keyring_get(void);

/*
 * The key named id or NULL; reads the file once more before it says NULL, unless
 * that was done less than a second ago.
 */
extern ConduitKey *conduit_keyring_find(const char *id);

/* The primary key or NULL. */
extern ConduitKey *conduit_keyring_primary(void);

/*
 * conduit_keyring_problem says why the last attempt to read the file failed,
 * as a text for administrators (setting, path, errno, line number; never the
 * line), or NULL when it succeeded.  conduit_keyring_problem_code is a stable
 * word for the same: "not_set", "unreadable", "permissions",
 * "in_data_directory", "malformed", "no_primary", "unavailable" (memory or
 * OpenSSL fail).
 */
extern const char *conduit_keyring_problem(void);
extern const char *conduit_keyring_problem_code(void);

#endif							/* CONDUIT_KEYRING_H */
