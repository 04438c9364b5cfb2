/*-------------------------------------------------------------------------
 *
 * pause.c
 *	  Whether there is work for a worker in its database, and whether it may be
 *	  done.
 *
 *-------------------------------------------------------------------------
 */

#include "worker/round.h"

#include "base/settings.h"
#include "lifecycle/adoption.h"
#include "lifecycle/key.h"
#include "lifecycle/store.h"
#include "vault/keyring.h"

/* Milliseconds. */
#define RETRY_CHECK 1000

/*
 * Whether there is work for this worker here: the extension, in a version that
 * the library serves.  An older or newer one is left alone until it is updated.
 */
static bool
extension_present(void)
{
	const ExtensionInfo *extension;
	bool		present;

	conduit_round_begin();
	extension = conduit_extension(true);
	present = OidIsValid(extension->oid);
	if (present && !conduit_version_served(extension->version))
	{
		ereport(LOG,
				(errmsg("conduit: library version %s does not serve extension version %s",
						CONDUIT_VERSION, extension->version),
				 errhint("Restart PostgreSQL to load the new library, or run ALTER EXTENSION conduit UPDATE.")));
		present = false;
	}
	conduit_round_commit();
	return present;
}

static RosterPause
find_pause(void)
{
	RosterPause pause = PAUSE_NONE;
	StoreScope	scope;

	if (!conduit_refresh_enabled)
		return PAUSE_DISABLED;
	if (conduit_keyring_get() == NULL)
		return PAUSE_VAULT_LOCKED;
	conduit_round_begin();
	conduit_key_extend_check_values();
	conduit_round_commit();
	conduit_round_begin();
	if (!conduit_key_trusted())
		pause = PAUSE_VAULT_LOCKED;
	conduit_store_begin(&scope);
	if (pause == PAUSE_NONE && !conduit_adoption_settled())
		pause = PAUSE_NOT_ADOPTED;
	conduit_store_end(&scope);
	conduit_round_commit();
	return pause;
}

static void
check_pause(void)
{
	static const char *const reasons[] = {
		[PAUSE_DISABLED] = "conduit.refresh_enabled is off",
		[PAUSE_NOT_ADOPTED] = "this database is a copy of another one, or was moved; run conduit_adopt() if it is to take over",
		[PAUSE_VAULT_LOCKED] = "the keyring cannot be used"
	};
	RosterPause pause = find_pause();

	/* a restore brings parked replies that this worker has not counted */
	conduit_round.parked = Max(conduit_round.parked, 1);
	conduit_round.errands_parked_at = 0;
	if (pause == conduit_round.pause)
		return;
	conduit_round.pause = pause;
	if (pause == PAUSE_NONE)
	{
		ereport(LOG, (errmsg("conduit: refreshing")));
		conduit_round.full_scan_at = conduit_round.queues_at = 0;
	}
	else
		ereport(LOG, (errmsg("conduit: refresh is paused: %s", reasons[pause])));
}

/*
 * Look again at the extension, the keyring and the identity.  Sets absent, or
 * pause.  Where that fails it is tried again, but not at once.
 */
void
conduit_check(void)
{
	conduit_round.check_at = conduit_real_time_in(RETRY_CHECK);
	if (extension_present())
		check_pause();
	else
		conduit_round.absent = true;
	conduit_round.check = false;
	conduit_round.check_at = 0;
}

RequestAnswer
conduit_pause_answer(void)
{
	return conduit_round.pause == PAUSE_VAULT_LOCKED ? ANSWER_VAULT : ANSWER_PAUSED;
}
