/*-------------------------------------------------------------------------
 *
 * alert.c
 *	  What is wrong with a connector rather than with one of its connections.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/alert.h"

#include "utils/hsearch.h"

#include "lifecycle/event.h"
#include "lifecycle/store.h"
#include "provider/token_response.h"
#include "shared/flight.h"

#define STORM_REASON "storm"

typedef struct AlertKey
{
	AlertKind	kind;
	char		connector[CONDUIT_MAX_SLUG_LEN + 1];
	char		tenant[CONDUIT_MAX_TENANT_LEN + 1];
} AlertKey;

typedef struct Alert
{
	AlertKey	key;
	bool		open;
	bool		told;			/* the log says that it is open */
	bool		again;			/* and is to say so once more */
	char		reason[OUTCOME_CODE_LEN + 1];
} Alert;

static HTAB *alerts = NULL;
static bool pending = false;

static Alert *
find_alert(AlertKind kind, const char *connector, const char *tenant, HASHACTION action)
{
	AlertKey	key;
	bool		found;
	Alert	   *alert;

	if (alerts == NULL && action == HASH_FIND)
		return NULL;
	if (alerts == NULL)
	{
		HASHCTL		control = {.keysize = sizeof(AlertKey),.entrysize = sizeof(Alert)};

		alerts = hash_create("conduit alerts", 16, &control, HASH_ELEM | HASH_BLOBS);
	}
	memset(&key, 0, sizeof(key));
	key.kind = kind;
	strlcpy(key.connector, connector, sizeof(key.connector));
	strlcpy(key.tenant, tenant, sizeof(key.tenant));
	alert = hash_search(alerts, &key, action, &found);
	if (alert != NULL && !found)
	{
		alert->open = alert->told = alert->again = false;
		alert->reason[0] = '\0';
	}
	return alert;
}

int
conduit_alert_read(OpenAlert **open_alerts)
{
	static StoreQuery select = {
		"SELECT connector, tenant, reason, at FROM ("
		" SELECT DISTINCT ON (connector, tenant, reason = '" STORM_REASON "') connector, tenant, reason, at, kind"
		" FROM conduit.event WHERE kind = ANY ('{connector_alert,connector_recovered}')"
		" ORDER BY connector, tenant, reason = '" STORM_REASON "', id DESC) last"
		" WHERE kind = 'connector_alert'",
		0, {0}
	};
	MemoryContext context = CurrentMemoryContext;
	int			n = (int) conduit_store_run(&select, NULL);

	*open_alerts = MemoryContextAlloc(context, sizeof(OpenAlert) * (n + 1));
	for (int i = 0; i < n; i++)
	{
		OpenAlert  *alert = &(*open_alerts)[i];

		alert->connector = conduit_row_text(i, 1, context);
		alert->tenant = conduit_row_text(i, 2, context);
		alert->reason = conduit_row_text(i, 3, context);
		alert->since = conduit_row_time(i, 4);
		alert->kind = strcmp(alert->reason, STORM_REASON) == 0 ? ALERT_STORM : ALERT_CLIENT;
	}
	return n;
}

int
conduit_alert_load(OpenAlert **open_alerts)
{
	int			n = conduit_alert_read(open_alerts);

	for (int i = 0; i < n; i++)
	{
		OpenAlert  *read = &(*open_alerts)[i];
		Alert	   *alert = find_alert(read->kind, read->connector, read->tenant, HASH_ENTER);

		alert->open = alert->told = true;
		strlcpy(alert->reason, read->reason, sizeof(alert->reason));
	}
	return n;
}

void
conduit_alert_begin(AlertKind kind, const char *connector, const char *tenant, const char *reason, bool again)
{
	Alert	   *alert = find_alert(kind, connector, tenant, HASH_ENTER);

	if (alert->open && !again)
		return;
	alert->open = true;
	alert->again |= again;
	strlcpy(alert->reason, kind == ALERT_STORM ? STORM_REASON : reason, sizeof(alert->reason));
	pending = true;
}

void
conduit_alert_end(AlertKind kind, const char *connector, const char *tenant)
{
	Alert	   *alert = find_alert(kind, connector, tenant, HASH_FIND);

	if (alert == NULL || !alert->open)
		return;
	alert->open = alert->again = false;
	pending = true;
}

bool
conduit_alert_pending(void)
{
	return pending;
}

void
conduit_alert_write(void)
{
	HASH_SEQ_STATUS scan;
	Alert	   *alert;

	hash_seq_init(&scan, alerts);
	while ((alert = hash_seq_search(&scan)) != NULL)
	{
		ConduitEvent event = {
			.tenant = alert->key.tenant,.connector = alert->key.connector,.reason = alert->reason
		};

		event.kind = alert->open && (!alert->told || alert->again) ? "connector_alert" :
			alert->told && !alert->open ? "connector_recovered" : NULL;
		if (event.kind != NULL)
			conduit_event_write(&event);
	}
}

void
conduit_alert_written(void)
{
	HASH_SEQ_STATUS scan;
	Alert	   *alert;

	if (!pending)
		return;
	hash_seq_init(&scan, alerts);
	while ((alert = hash_seq_search(&scan)) != NULL)
	{
		alert->told = alert->open;
		alert->again = false;
		if (!alert->open)
			hash_search(alerts, &alert->key, HASH_REMOVE, NULL);
	}
	pending = false;
}
