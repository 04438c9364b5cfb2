/*-------------------------------------------------------------------------
 *
 * authorize.h
 *	  Authorization by code (RFC 6749 4.1, RFC 7636) from SQL to a connection.
 *
 * Wording:
 *	   - A state is 256 random bits that conduit_authorize() hands out and the
 *		 provider's redirect brings back; a row of conduit.authorize_state, found
 *		 by its hash, says what it stands for.
 *	   - The callback is what the redirect brought.  Its code is exchanged by the
 *		 worker, in an errand: the row is claimed and committed before the code is
 *		 sent, so that no code is ever sent twice, and what the provider grants
 *		 stands in the row, sealed, until it has found its place.
 *
 * authorize.c and authorize_callback.c are the caller's side, authorize_errand.c
 * and authorize_settle.c the worker's; authorize_state.c has the rows.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_AUTHORIZE_H
#define CONDUIT_AUTHORIZE_H

#include "base/compat.h"
#include "base/json.h"
#include "lifecycle/errand.h"
#include "provider/token_response.h"
#include "utils/uuid.h"
#include "vault/digest.h"
#include "vault/seal.h"

/* How long a state is good, and how long its callback may be repeated; seconds. */
#define CONDUIT_STATE_LIFETIME 600
#define CONDUIT_CALLBACK_REPEATS 600

typedef enum AuthorizeStatus
{
	AUTHORIZE_OPEN,
	AUTHORIZE_CLAIMED,			/* its code may have been sent */
	AUTHORIZE_RECEIVED,			/* granted; further requests are to be made */
	AUTHORIZE_PARKED,			/* granted; somebody's open transaction has to end first */
	AUTHORIZE_DONE,
	AUTHORIZE_FAILED
} AuthorizeStatus;

/* What is asked of the provider, in this order. */
typedef enum AuthorizeStep
{
	AUTHORIZE_SEND_CODE,
	AUTHORIZE_EXCHANGE,			/* the access token for another one */
	AUTHORIZE_ACCOUNT,			/* whose it is */
	AUTHORIZE_NOTHING
} AuthorizeStep;

/* A row of conduit.authorize_state, in memory of the context it was read into. */
typedef struct AuthorizeState
{
	pg_uuid_t	id;
	char	   *tenant;
	char	   *owner;
	char	   *connector;
	char	   *origin;			/* of the endpoints, as the connector was then */
	char	   *client_id;
	char	   *redirect_uri;
	char	   *params;			/* JSON object text: the connection's, then those of the
								 * authorization */
	bool		again;			/* a connection is authorized again */
	pg_uuid_t	connection;		/* that one */
	bytea	   *verifier;		/* sealed; NULL: no PKCE */
	TimestampTz expires_at;
	AuthorizeStatus status;
	bytea	   *code_hash;		/* NULL: no code has come */
	TimestampTz closed_at;
	pg_uuid_t	result;
	char	   *outcome;		/* "refused", or the class of the provider's answer; NULL: none */
	char	   *reason;			/* a stable code */
	char	   *token_origin;	/* where the code went */
	bool		builtin;		/* the connector is */
} AuthorizeState;

/* What the provider has granted so far. */
typedef struct AuthorizeGrant
{
	TokenGrant	token;
	const char *account;		/* UTF-8; NULL: not known */
	const char *account_label;
	OpenedSecret opened;		/* what token points into, where it came out of the row */
	bool		is_open;
} AuthorizeGrant;

/* What the redirect brought; one text of all of it goes from caller to worker. */
typedef struct AuthorizeCallback
{
	char	   *owner;
	char	   *tenant;
	char	   *state;
	char	   *code;			/* UTF-8; NULL: none */
	char	   *params;			/* UTF-8: JSON object text; NULL: none */
} AuthorizeCallback;

/* authorize_callback.c: the sealed message of a callback request. */
extern bytea *conduit_callback_seal(const AuthorizeCallback *callback, const pg_uuid_t *id);
extern SealStatus conduit_callback_open(const void *message, Size length, const pg_uuid_t *id,
										OpenedSecret *opened, AuthorizeCallback *callback);

/*
 * authorize_state.c.  All but the hashes between conduit_store_begin and _end.
 *
 * conduit_authorize_hash computes what a state or code is known by in its row.
 */
extern void conduit_authorize_hash(const char *text, uint8 hash[CONDUIT_DIGEST_LEN]);
extern bytea *conduit_authorize_hash_bytea(const char *text);

/*
 * conduit_authorize_find reads the row of a state of this owner and tenant, or
 * returns NULL.  conduit_authorize_lock locks it as well and, where somebody's
 * open transaction holds it, returns NULL with *held.
 */
extern AuthorizeState *conduit_authorize_find(const char *state, const char *owner, const char *tenant,
											  MemoryContext context);
extern AuthorizeState *conduit_authorize_lock(const char *state, const char *owner, const char *tenant,
											  MemoryContext context, bool *held);

/* True if this is the code that the state was claimed with. */
extern bool conduit_authorize_same_code(const AuthorizeState *state, const char *code);

/* Where the blobs of a state belong: field "verifier" or "granted". */
extern SealPlace conduit_authorize_place(const AuthorizeState *state, const char *field);

/*
 * conduit_authorize_claim writes that the code is about to be sent, with what
 * the redirect said for the connection (JSON object texts, NULL: nothing).
 */
extern void conduit_authorize_claim(const AuthorizeState *state, const char *code, const char *token_origin,
									const ConduitJson *params, const ConduitJson *metadata);

/*
 * Ends of a claim, from any status that is not closed.  conduit_authorize_reopen: the
 * code has not left, and may come again.  conduit_authorize_fail closes the
 * state; conduit_authorize_refuse does so without a claim, for a code that is
 * not sent (NULL: none came); conduit_authorize_done, with the connection that
 * came of it.
 */
extern void conduit_authorize_reopen(const AuthorizeState *state, const char *outcome, const char *reason);
extern void conduit_authorize_fail(const AuthorizeState *state, const char *outcome, const char *reason);
extern void conduit_authorize_refuse(const AuthorizeState *state, const char *code, const char *reason);
extern void conduit_authorize_done(const AuthorizeState *state, const pg_uuid_t *connection);

/* conduit_authorize_note writes what an answer said for the connection; NULL: nothing. */
extern void conduit_authorize_note(const AuthorizeState *state, const ConduitJson *params, const ConduitJson *metadata);

/*
 * conduit_authorize_keep seals what has been granted into the row, as RECEIVED
 * if there is a next request, else as PARKED; raises PT500 if the vault is
 * locked.
 */
extern void conduit_authorize_keep(const AuthorizeState *state, const AuthorizeGrant *grant, AuthorizeStep next);

/* conduit_authorize_park makes a row that was kept RECEIVED one that is settled as it is. */
extern void conduit_authorize_park(const AuthorizeState *state);

/*
 * conduit_authorize_relock locks a row that this worker has claimed or parked
 * before; false if somebody's open transaction holds it, or it is gone (*gone).
 */
extern bool conduit_authorize_relock(const AuthorizeState *state, bool *gone);

/*
 * conduit_authorize_load reads up to max rows of a status after an id, in that
 * order, with what they have been granted and their next request.
 */
typedef struct AuthorizeLoaded
{
	AuthorizeState *state;
	AuthorizeGrant grant;
	bytea	   *granted;		/* sealed */
	AuthorizeStep next;
} AuthorizeLoaded;

extern List *conduit_authorize_load(AuthorizeStatus status, const pg_uuid_t *after, int max, MemoryContext context);

/* conduit_authorize_unseal opens what a loaded row has been granted, into the context that it was loaded into. */
extern SealStatus conduit_authorize_unseal(AuthorizeLoaded *loaded);

/* Claims of workers that are gone have failed; returns how many. */
extern int	conduit_authorize_void_claims(void);

/*
 * conduit_authorize_forget removes the states of an owner, but for those under
 * way: they are the worker's.  It marks them, so that nothing comes of what is
 * granted yet; conduit_authorize_forgotten tells of a locked one whether it is
 * marked.
 */
extern void conduit_authorize_forget(const char *owner, const char *tenant);
extern bool conduit_authorize_forgotten(const AuthorizeState *state);

/*
 * conduit_authorize_purge removes closed and expired states a day later, a
 * batch; not between conduit_store_begin and _end.
 */
extern int	conduit_authorize_purge(void);

/* authorize_settle.c */
typedef enum AuthorizeSettle
{
	AUTHORIZE_SETTLED,			/* closed, one way or another */
	AUTHORIZE_HELD				/* somebody's open transaction has to end first */
} AuthorizeSettle;

/*
 * conduit_authorize_settle moves a grant to its connection and closes the
 * state, whose row is locked.  Waits for nobody.
 */
extern AuthorizeSettle conduit_authorize_settle(const AuthorizeState *state, AuthorizeGrant *grant);

/* conduit_authorize_free_grant wipes what a grant holds. */
extern void conduit_authorize_free_grant(AuthorizeGrant *grant);

/* authorize_errand.c: for the worker. */
extern const ErrandKind conduit_authorize_errand;

/*
 * conduit_authorize_errand_make makes the errand of a callback request, or
 * returns NULL with the answer for who asked.
 */
extern Errand *conduit_authorize_errand_make(const pg_uuid_t *id, const void *message, Size length,
											 RequestAnswer *answer);

/* Whether an errand is another's of the same state and code, for conduit_errands_find. */
extern bool conduit_authorize_errand_same(const Errand *errand, const void *other);

/*
 * conduit_authorize_errand_resume makes an errand of a row whose worker is gone,
 * and whose next request is to be made; NULL if that is not possible.  Between
 * conduit_store_begin and _end.  The context that loaded was read into becomes
 * the errand's.
 */
extern Errand *conduit_authorize_errand_resume(AuthorizeLoaded *loaded, MemoryContext context);

#endif							/* CONDUIT_AUTHORIZE_H */
