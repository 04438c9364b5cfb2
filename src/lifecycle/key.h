/*-------------------------------------------------------------------------
 *
 * key.h
 *	  The keyring's committed check values, and moving blobs to the primary key.
 *
 * Wording:
 *	   - The check value of a key is committed in conduit.key, by the worker
 *		 alone, when somebody first wants to seal under it.  From then on a ring
 *		 that has another key of that name seals nothing.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_LIFECYCLE_KEY_H
#define CONDUIT_LIFECYCLE_KEY_H

#include "base/compat.h"
#include "base/report.h"
#include "vault/seal.h"

/*
 * conduit_key_prepare_to_seal returns once the primary key may seal, asking
 * the worker to commit its check value where it has none; else raises the error
 * that says what is missing.  Outside of conduit_store_begin and _end, with no
 * lock held.
 */
extern void conduit_key_prepare_to_seal(void);

/* For the worker: commit missing check values and verify; within a transaction. */
extern void conduit_key_commit_check_values(void);

/*
 * conduit_key_extend_check_values does so for keys that have come to a ring
 * that is in use; where no key is in use yet, nothing is written, for a restore
 * may be about to fill the table.
 */
extern void conduit_key_extend_check_values(void);

/* conduit_key_trusted is false if the primary is not the key that bears its name. */
extern bool conduit_key_trusted(void);

/* Verify without writing: true if the primary may seal. */
extern bool conduit_key_verify_primary(void);

/* For the worker: add what processes have counted to conduit.key. */
extern void conduit_key_flush_wraps(void);

/* conduit_key_seal_done notes the seals of this process; call after sealing. */
extern void conduit_key_seal_done(void);

/* The error that a seal status other than SEAL_OK means to a caller. */
extern ConduitError conduit_key_error(SealStatus status);

/* conduit_key_raise throws the error for a seal status other than SEAL_OK. */
pg_noreturn extern void conduit_key_raise(SealStatus status, const char *key_id);

#endif							/* CONDUIT_LIFECYCLE_KEY_H */
