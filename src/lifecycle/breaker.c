/*-------------------------------------------------------------------------
 *
 * breaker.c
 *	  A client that its provider refuses is not tried by all of its connections.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/breaker.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "base/clock.h"
#include "lifecycle/alert.h"
#include "lifecycle/commit.h"
#include "lifecycle/store.h"
#include "provider/classify.h"
#include "shared/roster.h"

/* Seconds from a probe to the next. */
#define FIRST_PROBE 300.0
#define LAST_PROBE 900.0

/* Somebody who forces a refresh may probe so long after the last one. */
#define FORCED_PROBE 60.0

/* So many refusals in a row open a breaker: one may be about its connection alone. */
#define REFUSALS_TO_OPEN 2

#define RELEASE_BATCH 1000

typedef struct BreakerKey
{
	const char *connector;
	const char *tenant;			/* the client's: the connection's, or '' */
	const char *client_id;
} BreakerKey;

typedef struct Breaker
{
	BreakerKey	key;
	int			refusals;		/* in a row */
	bool		open;
	bool		changed;		/* client or connector, since it opened */
	char		code[OUTCOME_CODE_LEN + 1];
	double		interval;		/* seconds from the last probe to the next */
	TimestampTz last_probe;		/* when it opened, at first */
	pg_uuid_t	secret;			/* the client's newest, and */
	int64		revision;		/* the connector's, when it was refused */
} Breaker;

/* A client that is let in again. */
typedef struct Released
{
	char	   *connector;
	char	   *client_id;
	char	   *code;
} Released;

static HTAB *breakers = NULL;
static List *released = NIL;

static uint32
hash_text(const char *text)
{
	return hash_bytes((const unsigned char *) text, strlen(text));
}

static uint32
hash_key(const void *key, Size size)
{
	const BreakerKey *k = key;

	return hash_combine(hash_combine(hash_text(k->connector), hash_text(k->tenant)), hash_text(k->client_id));
}

static int
compare_keys(const void *a, const void *b, Size size)
{
	const BreakerKey *x = a;
	const BreakerKey *y = b;

	return strcmp(x->connector, y->connector) != 0 || strcmp(x->tenant, y->tenant) != 0 ||
		strcmp(x->client_id, y->client_id) != 0;
}

static BreakerKey
key_of(const RefreshFlight *flight)
{
	BreakerKey	key = {flight->place.connector, flight->client->tenant, flight->client->client_id};

	return key;
}

static Breaker *
find_breaker(const RefreshFlight *flight)
{
	BreakerKey	key;

	if (breakers == NULL || flight->client == NULL)
		return NULL;
	key = key_of(flight);
	return hash_search(breakers, &key, HASH_FIND, NULL);
}

static Breaker *
make_breaker(const RefreshFlight *flight)
{
	BreakerKey	key = key_of(flight);
	Breaker    *breaker;

	if (breakers == NULL)
	{
		HASHCTL		control = {.keysize = sizeof(BreakerKey),.entrysize = sizeof(Breaker),
			.hash = hash_key,.match = compare_keys};

		breakers = hash_create("conduit breakers", 16, &control, HASH_ELEM | HASH_FUNCTION | HASH_COMPARE);
	}

	/* The key's texts outlive the flight. */
	key.connector = MemoryContextStrdup(TopMemoryContext, key.connector);
	key.tenant = MemoryContextStrdup(TopMemoryContext, key.tenant);
	key.client_id = MemoryContextStrdup(TopMemoryContext, key.client_id);
	breaker = hash_search(breakers, &key, HASH_ENTER, NULL);
	memset((char *) breaker + sizeof(BreakerKey), 0, sizeof(Breaker) - sizeof(BreakerKey));
	return breaker;
}

static void
remove_breaker(Breaker *breaker)
{
	BreakerKey	key = breaker->key;

	hash_search(breakers, &key, HASH_REMOVE, NULL);
	pfree(unconstify(char *, key.connector));
	pfree(unconstify(char *, key.tenant));
	pfree(unconstify(char *, key.client_id));
}

static pg_uuid_t
newest_secret(const RefreshFlight *flight)
{
	static const pg_uuid_t none = {{0}};

	return flight->client->nsecrets > 0 && flight->client->environment_secret == NULL ?
		flight->client->secrets[0].id : none;
}

/* Whether it is another client or connector by now than the one that was refused. */
static bool
has_changed(const Breaker *breaker, const RefreshFlight *flight)
{
	pg_uuid_t	secret = newest_secret(flight);

	return breaker->revision != flight->revision ||
		memcmp(&breaker->secret, &secret, sizeof(secret)) != 0;
}

static void
remember_version(Breaker *breaker, const RefreshFlight *flight)
{
	breaker->secret = newest_secret(flight);
	breaker->revision = flight->revision;
}

bool
conduit_breaker_admit(RefreshFlight *flight, bool forced)
{
	Breaker    *breaker = find_breaker(flight);
	TimestampTz now = conduit_now();
	double		since;

	if (breaker == NULL || !breaker->open)
		return true;
	since = conduit_seconds_between(breaker->last_probe, now);
	if (has_changed(breaker, flight))
	{
		remember_version(breaker, flight);
		breaker->changed = true;
		breaker->interval = FIRST_PROBE;
	}

	/* A clock that was set back is no reason to wait. */
	else if (since >= 0 && since < (forced ? FORCED_PROBE : breaker->interval))
	{
		conduit_refresh_put_off(flight, OUTCOME_CONFIG, breaker->code, breaker->interval - since);
		return false;
	}
	breaker->last_probe = now;
	flight->breaker_probe = true;
	return true;
}

/* How many refusals with this code open a breaker; 0: it is not about the client. */
static int
refusals_to_open(const char *code)
{
	/* we need no provider to know that */
	if (strcmp(code, "bad_private_key") == 0)
		return 1;
	return conduit_classify_refuses_client(code) || strcmp(code, "unauthorized_client") == 0 ?
		REFUSALS_TO_OPEN : 0;
}

static void
note_refusal(const RefreshFlight *flight, int needed)
{
	Breaker    *breaker = find_breaker(flight);

	if (breaker == NULL)
		breaker = make_breaker(flight);
	strlcpy(breaker->code, flight->outcome.code, sizeof(breaker->code));
	if (breaker->open)
	{
		if (!flight->breaker_probe)
			return;
		if (breaker->changed)
			conduit_alert_begin(ALERT_CLIENT, breaker->key.connector, breaker->key.tenant, breaker->code, true);
		else
			breaker->interval = Min(breaker->interval * 2, LAST_PROBE);
		breaker->changed = false;
		return;
	}

	if (breaker->refusals > 0 && has_changed(breaker, flight))
		breaker->refusals = 0;
	remember_version(breaker, flight);
	if (++breaker->refusals < needed)
		return;
	breaker->open = true;
	breaker->interval = FIRST_PROBE;
	breaker->last_probe = conduit_now();
	conduit_alert_begin(ALERT_CLIENT, breaker->key.connector, breaker->key.tenant, breaker->code, false);
	ereport(LOG,
			(errmsg("conduit: connector \"%s\" refuses its client: %s; its refreshes are kept back",
					breaker->key.connector, breaker->code),
			 errhidestmt(true), errhidecontext(true)));
}

/* An alert is about all clients of a tenant at a connector. */
static void
end_alert(const char *connector, const char *tenant)
{
	HASH_SEQ_STATUS scan;
	Breaker    *breaker;

	if (breakers != NULL)
	{
		hash_seq_init(&scan, breakers);
		while ((breaker = hash_seq_search(&scan)) != NULL)
		{
			if (breaker->open && strcmp(breaker->key.connector, connector) == 0 &&
				strcmp(breaker->key.tenant, tenant) == 0)
			{
				hash_seq_term(&scan);
				return;
			}
		}
	}
	conduit_alert_end(ALERT_CLIENT, connector, tenant);
}

/* The provider has let the client in. */
static void
note_admission(const RefreshFlight *flight)
{
	Breaker    *breaker = find_breaker(flight);

	if (breaker != NULL && breaker->open)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
		Released   *client = palloc(sizeof(Released));

		client->connector = pstrdup(breaker->key.connector);
		client->client_id = pstrdup(breaker->key.client_id);
		client->code = pstrdup(breaker->code);
		released = lappend(released, client);
		MemoryContextSwitchTo(old);
		ereport(LOG,
				(errmsg("conduit: connector \"%s\" accepts its client again", client->connector),
				 errhidestmt(true), errhidecontext(true)));
	}
	if (breaker != NULL)
		remove_breaker(breaker);
	if (flight->client != NULL)
		end_alert(flight->place.connector, flight->client->tenant);

	/* one that was missing was so for the connection's tenant */
	end_alert(flight->place.connector, flight->place.tenant);
}

void
conduit_breaker_note(const RefreshFlight *flight)
{
	const TokenOutcome *outcome = &flight->outcome;
	int			needed;

	if (outcome->outcome == OUTCOME_REFRESHED || outcome->outcome == OUTCOME_DEAD)
		note_admission(flight);
	if (outcome->outcome != OUTCOME_CONFIG)
		return;
	if (strcmp(outcome->code, "client_missing") == 0)
		conduit_alert_begin(ALERT_CLIENT, flight->place.connector, flight->place.tenant, outcome->code, false);
	else if (flight->client != NULL && (needed = refusals_to_open(outcome->code)) > 0)
		note_refusal(flight, needed);
}

bool
conduit_breaker_has_released(void)
{
	return released != NIL;
}

int
conduit_breaker_release(void)
{
	static StoreQuery update = {
		"UPDATE conduit.credential SET next_attempt_at = NULL,"
		" refresh_at = CASE WHEN refresh_at IS NOT NULL THEN LEAST(COALESCE(due_at, $5), refresh_at) END"
		" WHERE connection_id IN ("
		" SELECT c.connection_id FROM conduit.connection n JOIN conduit.credential c ON c.connection_id = n.id"
		" WHERE n.connector = $1 AND n.client_id = $2 AND c.status = 'ACTIVE' AND c.last_error = 'config'"
		" AND c.last_error_code = $3 AND c.next_attempt_at IS NOT NULL AND c.refresh IS NOT NULL"
		" LIMIT $4 FOR NO KEY UPDATE OF n, c SKIP LOCKED)",
		5, {TEXTOID, TEXTOID, TEXTOID, INT4OID, TIMESTAMPTZOID}
	};
	const Released *client = linitial(released);
	StoreArgs	args = {0};
	int			n;

	conduit_arg_text(&args, client->connector);
	conduit_arg_text(&args, client->client_id);
	conduit_arg_text(&args, client->code);
	conduit_arg(&args, Int32GetDatum(RELEASE_BATCH));
	conduit_arg_time(&args, conduit_now());
	n = (int) conduit_store_run(&update, &args);
	if (n > 0)
		conduit_at_commit(NUDGE_DUE, DT_NOBEGIN);
	return n;
}

void
conduit_breaker_released(void)
{
	Released   *client = linitial(released);

	pfree(client->connector);
	pfree(client->client_id);
	pfree(client->code);
	pfree(client);
	released = list_delete_first(released);
}
