/*-------------------------------------------------------------------------
 *
 * adoption.c
 *	  Telling this database from a copy of it.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/adoption.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "base/clock.h"
#include "lifecycle/commit.h"
#include "lifecycle/direct.h"
#include "lifecycle/key.h"
#include "lifecycle/store.h"
#include "shared/roster.h"
#include "vault/keyring.h"

PG_FUNCTION_INFO_V1(conduit_adopt);

/* NULL while there is no keyring: its name is part of the identity. */
static char *
own_identity(void)
{
	ConduitKeyring *ring = conduit_keyring_get();

	return ring == NULL ? NULL :
		psprintf(UINT64_FORMAT "/%u/%s", GetSystemIdentifier(), MyDatabaseId, ring->name);
}

static char *
stored_identity(void)
{
	static DirectTable settings = {"setting", NULL, 1, {"value"}};
	DirectRow	row;
	char	   *identity = NULL;

	if (conduit_direct_open_texts(&row, &settings, "identity", NULL))
		identity = conduit_direct_text(&row, 0);
	conduit_direct_close(&row);
	return identity;
}

static bool
any_connection(void)
{
	static StoreQuery select = {"SELECT FROM conduit.connection LIMIT 1", 0, {0}};

	return conduit_store_run(&select, NULL) > 0;
}

static bool
any_credential(void)
{
	static StoreQuery select = {"SELECT FROM conduit.credential LIMIT 1", 0, {0}};

	return conduit_store_run(&select, NULL) > 0;
}

static void
store_identity(const char *identity, bool replace)
{
	static StoreQuery insert = {
		"INSERT INTO conduit.setting (name, value, updated_at) VALUES ('identity', $1, $2)"
		" ON CONFLICT (name) DO NOTHING",
		2, {TEXTOID, TIMESTAMPTZOID}
	};
	static StoreQuery upsert = {
		"INSERT INTO conduit.setting (name, value, updated_at) VALUES ('identity', $1, $2)"
		" ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value, updated_at = EXCLUDED.updated_at",
		2, {TEXTOID, TIMESTAMPTZOID}
	};
	StoreArgs	args = {0};

	conduit_arg_text(&args, identity);
	conduit_arg_time(&args, conduit_now());
	conduit_store_run(replace ? &upsert : &insert, &args);
}

void
conduit_adoption_note_use(bool first_connection)
{
	char	   *identity;

	if (stored_identity() != NULL)
		return;
	if (first_connection ? any_connection() : any_credential())
		return;
	identity = own_identity();
	if (identity == NULL)
		return;
	store_identity(identity, false);
	conduit_at_commit(NUDGE_CHECK, DT_NOEND);
}

bool
conduit_adoption_settled(void)
{
	char	   *stored = stored_identity();
	char	   *own;

	if (stored == NULL)
		return !any_credential();
	own = own_identity();
	return own != NULL && strcmp(stored, own) == 0;
}

/* conduit_adopt() */
Datum
conduit_adopt(PG_FUNCTION_ARGS)
{
	StoreScope	scope;
	char	   *identity;

	conduit_store_begin(&scope);
	identity = own_identity();
	if (identity == NULL)
		conduit_key_raise(SEAL_LOCKED, NULL);
	store_identity(identity, true);
	conduit_store_end(&scope);
	conduit_at_commit(NUDGE_CHECK | NUDGE_DUE, DT_NOBEGIN);
	PG_RETURN_VOID();
}
