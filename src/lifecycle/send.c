/*-------------------------------------------------------------------------
 *
 * send.c
 *	  A claimed refresh: its secrets are opened, it is sent, and the reply is
 *	  read.
 *
 * Not in a transaction, but for what ends a claim.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/refresh.h"

#include "catalog/pg_type.h"
#include "utils/memutils.h"

#include "base/clock.h"
#include "base/settings.h"
#include "lifecycle/store.h"
#include "lifecycle/throttle.h"
#include "provider/classify.h"
#include "shared/stats.h"

static void
set_vault_outcome(RefreshFlight *flight, SealStatus status)
{
	conduit_refresh_set_outcome(flight, OUTCOME_CONFIG,
								status == SEAL_UNKNOWN_KEY ? "unknown_key" :
								status == SEAL_CANNOT_OPEN ? "cannot_open" : "vault_locked", -1);
}

static bool
open_refresh_part(RefreshFlight *flight)
{
	SealPlace	place = conduit_credential_seal_place(&flight->place, "refresh", flight->generation);
	SealStatus	status;

	if (flight->is_open)
		return true;
	status = conduit_secret_open(&place, flight->refresh, &flight->opened, &flight->refresh_part, NULL);
	if (status != SEAL_OK)
		set_vault_outcome(flight, status);
	flight->is_open = status == SEAL_OK;
	return flight->is_open;
}

/* The client's secret that is to be tried, if it has one. */
static bool
open_client_secret(RefreshFlight *flight, OpenedSecret *opened, ConduitSecret *secret)
{
	SealStatus	status;

	memset(opened, 0, sizeof(*opened));
	memset(secret, 0, sizeof(*secret));
	if (flight->client == NULL || flight->client->nsecrets == 0)
		return true;
	if (flight->client->environment_secret != NULL)
	{
		secret->client_secret.data = flight->client->environment_secret;
		secret->client_secret.length = strlen(flight->client->environment_secret);
		return true;
	}
	status = conduit_client_open_secret(flight->client, flight->secret, flight->connector, opened, secret);
	if (status != SEAL_OK)
		set_vault_outcome(flight, status);
	return status == SEAL_OK;
}

/* Scopes as they are asked for, separated by spaces; NULL: none in particular. */
static char *
scope_wanted(const RefreshFlight *flight)
{
	const SecretText *own = &flight->refresh_part.scope;
	StringInfoData joined;
	ListCell   *cell;

	if (own->data != NULL)
		return pnstrdup(own->data, own->length);

	/* A refresh is for what was granted, a new token for what is wanted. */
	if (flight->scope != NULL && !conduit_auth_mints(flight->connector->auth_type))
		return flight->scope;
	if (flight->requested_scopes != NULL || flight->connector->default_scopes == NIL)
		return flight->requested_scopes;
	initStringInfo(&joined);
	foreach(cell, flight->connector->default_scopes)
		appendStringInfo(&joined, "%s%s", joined.len > 0 ? " " : "", (char *) lfirst(cell));
	return joined.data;
}

/* The same with the connector's separator; a plus is how a form has a space. */
static char *
separated(const ConduitConnector *connector, const char *scope)
{
	char	   *text = scope ? pstrdup(scope) : NULL;

	for (char *c = text; c != NULL && *c != '\0' && connector->scope_separator[0] == ','; c++)
		if (*c == ' ')
			*c = ',';
	return text;
}

static TokenRequestKind
request_kind(const ConduitConnector *connector)
{
	switch (connector->auth_type)
	{
		case AUTH_CLIENT_CREDENTIALS:
			return TOKEN_REQUEST_CLIENT_CREDENTIALS;
		case AUTH_JWT_BEARER:
			return TOKEN_REQUEST_JWT_BEARER;
		case AUTH_BEARER_RENEW:
			return TOKEN_REQUEST_BEARER_RENEW;
		default:
			return TOKEN_REQUEST_REFRESH;
	}
}

/* NULL where the secret has no such text. */
static const char *
text_of(const SecretText *text)
{
	return text->data != NULL ? pnstrdup(text->data, text->length) : NULL;
}

/* The secrets are those of the flight, which is open, and of its client. */
static void
fill_request(const RefreshFlight *flight, const ConduitSecret *client_secret, TokenRequest *request)
{
	const ConduitSecret *part = &flight->refresh_part;

	request->kind = request_kind(flight->connector);
	request->connector = flight->connector;
	request->params = flight->variables;
	request->endpoint = flight->endpoint;
	if (flight->own_client != NULL)
	{
		request->client_id = text_of(&part->client_id);
		request->client_secret = part->client_secret;
		request->own_client = true;
	}
	else if (flight->client != NULL)
	{
		request->client_id = flight->client->client_id;
		request->client_secret = client_secret->client_secret;
	}
	else
		request->own_client = request->kind == TOKEN_REQUEST_JWT_BEARER;
	request->refresh_token = part->refresh_token;
	request->private_key = part->private_key;
	request->issuer = text_of(&part->issuer);
	request->subject = text_of(&part->subject);
	request->key_id = text_of(&part->key_id);
	request->audience = text_of(&part->audience);
	request->scope = separated(flight->connector, scope_wanted(flight));
	request->timeout_ms = conduit_http_timeout;
}

bool
conduit_refresh_send(RefreshFlight *flight)
{
	TokenRequest request = {0};
	OpenedSecret client_opened;
	ConduitSecret client_secret;
	MemoryContext old;

	if (flight->outcome.code[0] != '\0')
		return false;
	old = MemoryContextSwitchTo(flight->context);
	if (open_refresh_part(flight) && open_client_secret(flight, &client_opened, &client_secret))
	{
		fill_request(flight, &client_secret, &request);
		flight->exchange = conduit_exchange_token(&request, &flight->exchange_owner);
		conduit_stats_add(flight->place.connector, STATS_IN_FLIGHT, 1);
		if (client_opened.data != NULL)
			conduit_wipe_opened(&client_opened);
	}
	MemoryContextSwitchTo(old);
	return flight->exchange != NULL;
}

static void
end_exchange(RefreshFlight *flight)
{
	conduit_exchange_free(flight->exchange);
	flight->exchange = NULL;
	conduit_stats_add(flight->place.connector, STATS_IN_FLIGHT, -1);
}

/*
 * Only "this secret is wrong" leads to the client's other secret: the refresh
 * token has not been looked at then.
 */
static bool
try_next_secret(RefreshFlight *flight)
{
	if (flight->outcome.outcome != OUTCOME_CONFIG ||
		!conduit_classify_refuses_client(flight->outcome.code) ||
		flight->client == NULL || flight->secret + 1 >= flight->client->nsecrets)
		return false;
	flight->secret++;
	memset(&flight->outcome, 0, sizeof(flight->outcome));
	conduit_throttle_repeat(flight);
	return conduit_refresh_send(flight);
}

bool
conduit_refresh_receive(RefreshFlight *flight)
{
	MemoryContext old = MemoryContextSwitchTo(flight->context);

	conduit_exchange_read(flight->exchange, &flight->outcome);
	flight->reply_at = conduit_now();
	end_exchange(flight);

	/* Who grants all that was asked for need not repeat it (RFC 6749, 5.1). */
	if (flight->outcome.outcome == OUTCOME_REFRESHED && conduit_auth_mints(flight->connector->auth_type) &&
		flight->outcome.grant.scope == NULL)
		flight->outcome.grant.scope = scope_wanted(flight);
	conduit_throttle_note(flight);
	conduit_stats_add(flight->place.connector, STATS_MICROSECONDS, (int64) (flight->outcome.seconds * 1e6));
	MemoryContextSwitchTo(old);
	return !try_next_secret(flight);
}

void
conduit_refresh_give_up(RefreshFlight *flight)
{
	bool		sent = flight->exchange != NULL && conduit_exchange_sent(flight->exchange);

	if (flight->exchange != NULL)
		end_exchange(flight);
	conduit_refresh_set_outcome(flight, sent ? OUTCOME_UNKNOWN : OUTCOME_TRANSIENT, "internal", -1);
}

void
conduit_refresh_withdraw(RefreshFlight *flight)
{
	static StoreQuery delete = {
		"DELETE FROM conduit.flight WHERE connection_id = $1 AND generation = $2", 2, {UUIDOID, INT8OID}
	};
	StoreArgs	args = {0};

	if (flight->exchange != NULL)
		end_exchange(flight);
	/* one that takes the place of a flight in doubt leaves it in doubt */
	if (flight->attempt > 1)
		return;
	conduit_arg_uuid(&args, &flight->place.connection);
	conduit_arg(&args, Int64GetDatum(flight->generation));
	conduit_store_run(&delete, &args);
}

void
conduit_refresh_free(RefreshFlight *flight)
{
	if (flight->exchange != NULL)
		end_exchange(flight);
	conduit_token_grant_wipe(&flight->outcome.grant);
	if (flight->is_open)
		conduit_wipe_opened(&flight->opened);
	if (flight->client != NULL && flight->client->environment_secret != NULL)
		conduit_wipe(flight->client->environment_secret, strlen(flight->client->environment_secret));
	MemoryContextDelete(flight->context);
}
