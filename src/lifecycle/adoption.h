/*-------------------------------------------------------------------------
 *
 * adoption.h
 *	  Telling this database from a copy of it.
 *
 * A restored copy that refreshes burns the original's refresh tokens.  So the
 * call that creates the first connection stores who this is: system
 * identifier, database OID and the keyring's name.  Where another identity is
 * stored, or none although there are connections, nothing is sent to providers
 * until conduit_adopt().
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_ADOPTION_H
#define CONDUIT_ADOPTION_H

#include "base/compat.h"

/* All of these: within conduit_store_begin and _end. */

/*
 * conduit_adoption_note_use stores the identity if none is stored and there is
 * no connection yet (or, for credentials, no credential).
 */
extern void conduit_adoption_note_use(bool first_connection);

/* True if this database may refresh; false until conduit_adopt(). */
extern bool conduit_adoption_settled(void);

#endif							/* CONDUIT_ADOPTION_H */
