/*-------------------------------------------------------------------------
 *
 * vend.h
 *	  What is handed out of a credential.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_VEND_H
#define CONDUIT_VEND_H

#include "base/compat.h"
#include "lifecycle/credential.h"

/* Columns of a vend, in the order of the SQL declarations. */
enum
{
	VEND_ACCESS_TOKEN,
	VEND_TOKEN_TYPE,
	VEND_SCOPE,
	VEND_API_KEY,
	VEND_API_SECRET,
	VEND_USERNAME,
	VEND_PASSWORD,
	VEND_EXPIRES_AT,
	VEND_EXTRA,
	VEND_GENERATION,
	VEND_NUM_COLUMNS
};

/*
 * conduit_vend_fill opens the access part and fills the columns.  key_id is as
 * of conduit_secret_open(); with a status other than SEAL_OK nothing is filled.
 */
extern SealStatus conduit_vend_fill(const CredentialView *view, Datum *values, bool *nulls, char *key_id);

/* conduit_vend_note counts a vend and notes the use, now. */
extern void conduit_vend_note(const CredentialView *view, TimestampTz now);

#endif							/* CONDUIT_VEND_H */
