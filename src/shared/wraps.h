/*-------------------------------------------------------------------------
 *
 * wraps.h
 *	  How many data keys were wrapped under each key, until the worker has
 *	  added them to conduit.key.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_WRAPS_H
#define CONDUIT_WRAPS_H

#include "base/compat.h"
#include "vault/keyring.h"

extern Size conduit_wraps_size(void);
extern void conduit_wraps_attach(void *memory, bool initialise);

extern void conduit_wraps_add(const char *key_id, uint32 count);

/* conduit_wraps_take returns the next key with a count, false when there is none. */
extern bool conduit_wraps_take(char *key_id, uint64 *count);

#endif							/* CONDUIT_WRAPS_H */
