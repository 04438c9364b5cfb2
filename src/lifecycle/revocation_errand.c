/*-------------------------------------------------------------------------
 *
 * revocation_errand.c
 *	  The worker revokes a grant at its provider.
 *
 * The claim puts the next attempt off before anything is sent, so that a worker
 * that ends in between leaves nothing to be cleaned up: to revoke twice does no
 * harm, as long as the rule is asked each time.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/revocation.h"

#include "common/pg_prng.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "base/clock.h"
#include "base/settings.h"
#include "lifecycle/adoption.h"
#include "lifecycle/argument.h"
#include "lifecycle/catalogue.h"
#include "lifecycle/client.h"
#include "lifecycle/store.h"
#include "provider/classify.h"
#include "shared/stats.h"
#include "vault/keyring.h"

/* Seconds. */
#define FIRST_RETRY 60
#define LAST_RETRY (6 * 3600)
#define GIVE_UP_AFTER (7 * 86400)
#define WAIT_FOR_GRANT 60

typedef struct RevocationErrand
{
	Errand		base;			/* first */
	pg_uuid_t	id;
	Revocation	row;
	const ConduitConnector *connector;
	ConduitJson *params;
	ConduitClient *client;		/* NULL: none */
	int			secret;			/* which of the client's is tried */
	TokenOutcome outcome;
} RevocationErrand;

Errand *
conduit_revocation_errand_make(const pg_uuid_t *id, const char *connector)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "conduit revocation", ALLOCSET_SMALL_SIZES);
	RevocationErrand *errand = MemoryContextAllocZero(context, sizeof(RevocationErrand));

	errand->base.kind = &conduit_revocation_errand;
	errand->base.context = context;
	errand->base.connector = MemoryContextStrdup(context, connector);
	errand->id = *id;
	return &errand->base;
}

bool
conduit_revocation_errand_is(const Errand *errand, const void *id)
{
	return memcmp(&((const RevocationErrand *) errand)->id, id, sizeof(pg_uuid_t)) == 0;
}

static void
set_outcome(RevocationErrand *errand, OutcomeClass outcome, const char *code)
{
	memset(&errand->outcome, 0, sizeof(errand->outcome));
	errand->outcome.outcome = outcome;
	errand->outcome.retry_after = -1;
	strlcpy(errand->outcome.code, code, sizeof(errand->outcome.code));
}

static bool
has_outcome(const RevocationErrand *errand)
{
	return errand->outcome.code[0] != '\0';
}

/* When to try again after so many attempts, and not before what the provider has asked for. */
static TimestampTz
next_attempt(int attempts, double retry_after)
{
	double		delay = FIRST_RETRY;

	for (int i = 1; i < attempts && delay < LAST_RETRY; i++)
		delay *= 2;
	delay = Min(delay, LAST_RETRY);
	delay *= 0.8 + 0.4 * pg_prng_double(&pg_global_prng_state);
	return conduit_time_add(conduit_now(), Max(delay, retry_after));
}

/* ---- claim ---- */

static bool
as_client(const ConduitConnector *connector)
{
	return connector->revoke_auth == REVOKE_AUTH_CLIENT || connector->revoke_auth == REVOKE_AUTH_BASIC;
}

/* The client that the grant was made to; its secret alone can revoke it, where one is asked for. */
static void
find_client(RevocationErrand *errand)
{
	const Revocation *row = &errand->row;

	errand->client = conduit_client_find(row->place.tenant, row->place.connector, row->client_id, errand->base.context);
	if (errand->client == NULL)
		errand->client = conduit_client_from_environment(row->place.tenant, errand->connector, row->builtin,
														 row->client_id);
	if (as_client(errand->connector) &&
		(errand->client == NULL ||
		 (errand->client->nsecrets == 0 && conduit_connector_needs_secret(errand->connector))))
		set_outcome(errand, OUTCOME_CONFIG, "client_missing");
}

/* What is needed to send it, or an outcome without. */
static void
prepare(RevocationErrand *errand)
{
	MemoryContext old = MemoryContextSwitchTo(errand->base.context);

	errand->params = conduit_parse_object(errand->row.params, "invalid params");
	if (strcmp(conduit_connector_token_origin(errand->connector, errand->params), errand->row.place.origin) != 0)
		set_outcome(errand, OUTCOME_CONFIG, "origin_changed");
	else
		find_client(errand);
	MemoryContextSwitchTo(old);
}

static void
log_shared(const Revocation *row)
{
	char	   *id = DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&row->place.connection)));

	ereport(LOG,
			(errmsg("conduit: the grant of connection %s is not revoked at its provider: another connection may live on it", id),
			 errhidestmt(true), errhidecontext(true)));
}

/* Whether the rule lets the grant be revoked now; else the row is gone or put off. */
static bool
rule_allows(const RevocationErrand *errand)
{
	const Revocation *row = &errand->row;

	if (errand->connector->revokes_token)
		return true;
	switch (conduit_revocation_rule(row))
	{
		case RULE_SHARED:
			log_shared(row);
			conduit_revocation_delete(&row->id);
			return false;
		case RULE_WAIT:
			conduit_revocation_postpone(&row->id, conduit_time_add(conduit_now(), WAIT_FOR_GRANT), row->attempts,
										NULL, NULL);
			return false;
		case RULE_REVOKE:
			break;
	}
	return true;
}

static RequestAnswer
claim(Errand *base)
{
	RevocationErrand *errand = (RevocationErrand *) base;
	Revocation *row = &errand->row;

	if (!conduit_refresh_enabled || conduit_keyring_get() == NULL || !conduit_adoption_settled())
		return ANSWER_PAUSED;
	switch (conduit_revocation_lock(&errand->id, base->context, row))
	{
		case REVOCATION_HELD:
			return ANSWER_DEFERRED;
		case REVOCATION_GONE:
			return ANSWER_DONE;
		case REVOCATION_LOCKED:
			break;
	}
	if (!row->connector_there)
	{
		conduit_revocation_fail(row, "connector_gone");
		return ANSWER_DONE;
	}
	errand->connector = conduit_catalogue_get(row->place.connector, -1);
	if (errand->connector->revoke_url == NULL || errand->connector->auth_type != AUTH_OAUTH2_CODE)
	{
		conduit_revocation_delete(&row->id);
		return ANSWER_DONE;
	}
	if (!rule_allows(errand))
		return ANSWER_DONE;
	prepare(errand);
	row->attempts++;
	conduit_revocation_postpone(&row->id, next_attempt(row->attempts, -1), row->attempts, NULL, NULL);
	return ANSWER_NONE;
}

/* ---- send, receive ---- */

static bool
open_part(RevocationErrand *errand, const char *field, const bytea *blob, OpenedSecret *opened, ConduitSecret *secret)
{
	SealPlace	place = conduit_credential_seal_place(&errand->row.place, field, errand->row.generation);
	SealStatus	status;

	if (blob == NULL)
		return true;
	status = conduit_secret_open(&place, blob, opened, secret, NULL);
	if (status != SEAL_OK)
		set_outcome(errand, OUTCOME_CONFIG,
					status == SEAL_UNKNOWN_KEY ? "unknown_key" :
					status == SEAL_CANNOT_OPEN ? "cannot_open" : "vault_locked");
	return status == SEAL_OK;
}

static bool
open_client_secret(RevocationErrand *errand, OpenedSecret *opened, ConduitSecret *secret)
{
	const ConduitClient *client = errand->client;
	SealStatus	status;

	if (!as_client(errand->connector) || client == NULL || client->nsecrets == 0)
		return true;
	if (client->environment_secret != NULL)
	{
		secret->client_secret.data = client->environment_secret;
		secret->client_secret.length = strlen(client->environment_secret);
		return true;
	}
	status = conduit_client_open_secret(client, errand->secret, errand->connector, opened, secret);
	if (status != SEAL_OK)
		set_outcome(errand, OUTCOME_CONFIG, "vault_locked");
	return status == SEAL_OK;
}

static bool
send_request(Errand *base)
{
	RevocationErrand *errand = (RevocationErrand *) base;
	MemoryContext old = MemoryContextSwitchTo(base->context);
	OpenedSecret opened[3] = {{0}};
	ConduitSecret access = {{0}};
	ConduitSecret refresh = {{0}};
	ConduitSecret client = {{0}};

	if (!has_outcome(errand) &&
		open_part(errand, "access", errand->row.access, &opened[0], &access) &&
		open_part(errand, "refresh", errand->row.refresh, &opened[1], &refresh) &&
		open_client_secret(errand, &opened[2], &client))
	{
		RevokeRequest request = {.connector = errand->connector,.params = errand->params,
			.client_id = errand->client ? errand->client->client_id : errand->row.client_id,
			.client_secret = client.client_secret,.refresh_token = refresh.refresh_token,
			.access_token = access.access_token,.timeout_ms = conduit_http_timeout};

		base->exchange = conduit_exchange_revoke(&request, &base->base);
		conduit_stats_add(base->connector, STATS_IN_FLIGHT, 1);
	}
	for (int i = 0; i < lengthof(opened); i++)
		if (opened[i].data != NULL)
			conduit_wipe_opened(&opened[i]);
	MemoryContextSwitchTo(old);
	return base->exchange != NULL;
}

static void
end_exchange(Errand *base)
{
	conduit_exchange_free(base->exchange);
	base->exchange = NULL;
	conduit_stats_add(base->connector, STATS_IN_FLIGHT, -1);
}

static bool
receive(Errand *base)
{
	RevocationErrand *errand = (RevocationErrand *) base;
	MemoryContext old = MemoryContextSwitchTo(base->context);

	errand->outcome.retry_after = -1;
	conduit_exchange_read_revocation(base->exchange, &errand->outcome);
	end_exchange(base);
	MemoryContextSwitchTo(old);

	/* Only "this secret is wrong" leads to the client's other one. */
	if (errand->outcome.outcome != OUTCOME_CONFIG || !conduit_classify_refuses_client(errand->outcome.code) ||
		errand->client == NULL || errand->secret + 1 >= errand->client->nsecrets)
		return false;
	errand->secret++;
	memset(&errand->outcome, 0, sizeof(errand->outcome));
	return true;
}

static void
give_up(Errand *base)
{
	if (base->exchange != NULL)
		end_exchange(base);
	set_outcome((RevocationErrand *) base, OUTCOME_TRANSIENT, "internal");
}

/* ---- settle ---- */

static void
settle_failure(RevocationErrand *errand)
{
	const TokenOutcome *outcome = &errand->outcome;
	const Revocation *row = &errand->row;
	TimestampTz now = conduit_now();
	TimestampTz next = next_attempt(row->attempts, outcome->retry_after);
	char	   *id = DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&row->place.connection)));

	/* What has no token of the kind that is asked for will have none later. */
	if (strcmp(outcome->code, "token_missing") == 0 ||
		conduit_seconds_between(row->queued_at, now) >= GIVE_UP_AFTER)
	{
		conduit_revocation_fail(row, outcome->code);
		return;
	}
	conduit_revocation_postpone(&row->id, next, row->attempts, conduit_outcome_name(outcome->outcome), outcome->code);
	ereport(LOG,
			(errmsg("conduit: revoking the grant of connection %s failed: %s, %s, next attempt in %.0f s",
					id, conduit_outcome_name(outcome->outcome), outcome->code, conduit_seconds_between(now, next)),
			 errhidestmt(true), errhidecontext(true)));
}

static bool
settle(Errand *base)
{
	RevocationErrand *errand = (RevocationErrand *) base;
	Revocation	locked;

	base->answer = ANSWER_DONE;
	switch (conduit_revocation_lock(&errand->id, CurrentMemoryContext, &locked))
	{
		case REVOCATION_HELD:
			return false;
		case REVOCATION_GONE:
			return true;
		case REVOCATION_LOCKED:
			break;
	}
	if (errand->outcome.outcome == OUTCOME_REFRESHED)
		conduit_revocation_delete(&errand->id);
	else
		settle_failure(errand);
	return true;
}

/* The worker leaves, and nothing of the request has: the next one begins with it. */
static void
withdraw(Errand *base)
{
	RevocationErrand *errand = (RevocationErrand *) base;
	Revocation	locked;

	if (conduit_revocation_lock(&errand->id, CurrentMemoryContext, &locked) == REVOCATION_LOCKED)
		conduit_revocation_postpone(&errand->id, conduit_now(), errand->row.attempts - 1, NULL, NULL);
}

static void
free_errand(Errand *base)
{
	RevocationErrand *errand = (RevocationErrand *) base;

	if (base->exchange != NULL)
		end_exchange(base);
	if (errand->client != NULL && errand->client->environment_secret != NULL)
		conduit_wipe(errand->client->environment_secret, strlen(errand->client->environment_secret));
	MemoryContextDelete(base->context);
}

const ErrandKind conduit_revocation_errand = {
	.what = "revoking",
	.asked = false,
	.claim = claim,
	.send = send_request,
	.receive = receive,
	.settle = settle,
	.give_up = give_up,
	.withdraw = withdraw,
	.free = free_errand,
};
