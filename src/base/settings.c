/*-------------------------------------------------------------------------
 *
 * settings.c
 *	  Conduit's configuration parameters (conduit.*).
 *
 * Check hooks are absent on purpose: a value that cannot be used must not keep
 * the server from starting or reloading.  Whoever uses it reports it.
 *
 *-------------------------------------------------------------------------
 */
#include "base/settings.h"

#include <limits.h>

#include "utils/guc.h"
#include "utils/timestamp.h"

#define SECOND_MS	1000
#define MINUTE_MS	(60 * SECOND_MS)
#define MINUTE_S	60
#define HOUR_S		(60 * MINUTE_S)
#define DAY_S		(24 * HOUR_S)

char	   *conduit_keyring_file = NULL;
char	   *conduit_ca_file = NULL;
char	   *conduit_egress_allow = NULL;
char	   *conduit_claims_login_roles = NULL;
bool		conduit_refresh_enabled = true;
int			conduit_refresh_lead = 5 * MINUTE_S;
int			conduit_refresh_idle = 0;
int			conduit_vend_timeout = 5 * SECOND_MS;
int			conduit_vend_patience = 1 * SECOND_MS;
int			conduit_http_timeout = 30 * SECOND_MS;
int			conduit_max_response_size = 64;
int			conduit_max_in_flight = 64;
int			conduit_request_timeout = 6 * SECOND_MS;
int			conduit_request_max_size = 10 * 1024;
int			conduit_session_max_ttl = 30 * DAY_S;
int			conduit_session_ttl = 7 * DAY_S;
int			conduit_shutdown_grace = 1 * SECOND_MS;
int			conduit_event_retention = 30 * DAY_S;
double		conduit_clock_offset = 0;

static uint64 settings_epoch = 1;
static TimestampTz reload_seen = 0;

/* Assign hook of settings that somebody parses into something else. */
static void
note_changed_text(const char *newval, void *extra)
{
	settings_epoch++;
}

/*
 * conduit_settings_epoch returns a number that grows with every new value of a
 * parsed setting and with every reload of the configuration.
 *
 * A reload runs assign hooks for the settings that stand in a configuration
 * file, changed or not, but not for one that comes from the command line, while
 * the file a setting names may have changed either way.  The time of the last
 * reload, which each process keeps for itself, tells in both cases.
 */
uint64
conduit_settings_epoch(void)
{
	if (unlikely(reload_seen != PgReloadTime))
	{
		reload_seen = PgReloadTime;
		settings_epoch++;
	}
	return settings_epoch;
}

/* conduit_settings_define defines all settings; called once, when the library is loaded. */
void
conduit_settings_define(void)
{
	DefineCustomStringVariable("conduit.ca_file",
							   "Sets the file of certificate authorities that providers are verified against.",
							   "An empty value means the system's own.",
							   &conduit_ca_file,
							   "",
							   PGC_SIGHUP,
							   0,
							   NULL, note_changed_text, NULL);

	DefineCustomStringVariable("conduit.claims_login_roles",
							   "Sets the login roles whose sessions may carry claims of web users.",
							   "Roles that such a session may become are refused the profiles that vend.",
							   &conduit_claims_login_roles,
							   "authenticator",
							   PGC_SIGHUP,
							   GUC_LIST_INPUT,
							   NULL, note_changed_text, NULL);

	DefineCustomRealVariable("conduit.clock_offset",
							 "Sets the seconds by which Conduit takes the clock to be fast.",
							 "For tests.",
							 &conduit_clock_offset,
							 0, -(double) INT_MAX, (double) INT_MAX,
							 PGC_SIGHUP,
							 GUC_SUPERUSER_ONLY | GUC_UNIT_S,
							 NULL, NULL, NULL);

	DefineCustomStringVariable("conduit.egress_allow",
							   "Sets the hosts and networks that may be reached at private addresses.",
							   "A loopback host listed here may also be reached without TLS.",
							   &conduit_egress_allow,
							   "",
							   PGC_SIGHUP,
							   GUC_LIST_INPUT | GUC_SUPERUSER_ONLY,
							   NULL, note_changed_text, NULL);

	DefineCustomIntVariable("conduit.event_retention",
							"Sets how long events are kept.",
							NULL,
							&conduit_event_retention,
							30 * DAY_S, MINUTE_S, INT_MAX,
							PGC_SIGHUP,
							GUC_UNIT_S,
							NULL, NULL, NULL);

	DefineCustomIntVariable("conduit.http_timeout",
							"Sets how long a request to a token endpoint may take.",
							NULL,
							&conduit_http_timeout,
							30 * SECOND_MS, 100, 10 * MINUTE_MS,
							PGC_SIGHUP,
							GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomStringVariable("conduit.keyring_file",
							   "Sets the file that holds the key-encryption keys.",
							   "It must lie outside the data directory and be readable by the server alone.",
							   &conduit_keyring_file,
							   "",
							   PGC_SIGHUP,
							   GUC_SUPERUSER_ONLY,
							   NULL, note_changed_text, NULL);

	DefineCustomIntVariable("conduit.max_in_flight",
							"Sets how many requests to providers one worker has outstanding at most.",
							NULL,
							&conduit_max_in_flight,
							64, 1, 1024,
							PGC_SIGHUP,
							0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("conduit.max_response_size",
							"Sets the largest answer that is accepted from a token endpoint.",
							NULL,
							&conduit_max_response_size,
							64, 1, 512,
							PGC_SIGHUP,
							GUC_UNIT_KB,
							NULL, NULL, NULL);

	DefineCustomBoolVariable("conduit.refresh_enabled",
							 "Sets whether credentials are refreshed.",
							 "While off, tokens that are still valid are vended.",
							 &conduit_refresh_enabled,
							 true,
							 PGC_SUSET,
							 0,
							 NULL, NULL, NULL);

	DefineCustomIntVariable("conduit.refresh_idle",
							"Sets after how long without use a connection is no longer refreshed ahead of time.",
							"0 means that all connections are.",
							&conduit_refresh_idle,
							0, 0, INT_MAX,
							PGC_SIGHUP,
							GUC_UNIT_S,
							NULL, NULL, NULL);

	DefineCustomIntVariable("conduit.refresh_lead",
							"Sets how long before its expiry a token is due for refresh.",
							"A token that lives shorter than twice as long is due at half its life.",
							&conduit_refresh_lead,
							5 * MINUTE_S, 0, DAY_S,
							PGC_SIGHUP,
							GUC_UNIT_S,
							NULL, NULL, NULL);

	DefineCustomIntVariable("conduit.request_max_size",
							"Sets the largest body that conduit_request() sends or takes.",
							NULL,
							&conduit_request_max_size,
							10 * 1024, 1, 15 * 1024,
							PGC_SIGHUP,
							GUC_UNIT_KB,
							NULL, NULL, NULL);

	DefineCustomIntVariable("conduit.request_timeout",
							"Sets how long conduit_request() may take, refresh and second try included.",
							NULL,
							&conduit_request_timeout,
							6 * SECOND_MS, 100, 10 * MINUTE_MS,
							PGC_SIGHUP,
							GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomIntVariable("conduit.session_max_ttl",
							"Sets how long a session lives at most, however much it is used.",
							NULL,
							&conduit_session_max_ttl,
							30 * DAY_S, HOUR_S, INT_MAX,
							PGC_SIGHUP,
							GUC_UNIT_S,
							NULL, NULL, NULL);

	DefineCustomIntVariable("conduit.session_ttl",
							"Sets how long a session lives after its last use.",
							NULL,
							&conduit_session_ttl,
							7 * DAY_S, 5 * MINUTE_S, INT_MAX,
							PGC_SIGHUP,
							GUC_UNIT_S,
							NULL, NULL, NULL);

	DefineCustomIntVariable("conduit.shutdown_grace",
							"Sets how long a worker told to stop waits for requests already sent.",
							NULL,
							&conduit_shutdown_grace,
							1 * SECOND_MS, 0, MINUTE_MS,
							PGC_SIGHUP,
							GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomIntVariable("conduit.vend_patience",
							"Sets how long a caller waits for a refresh while a valid token is at hand.",
							"0 means not to wait.",
							&conduit_vend_patience,
							1 * SECOND_MS, 0, 10 * MINUTE_MS,
							PGC_USERSET,
							GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomIntVariable("conduit.vend_timeout",
							"Sets how long a caller waits for a refresh when no valid token is at hand.",
							"0 means not to wait.",
							&conduit_vend_timeout,
							5 * SECOND_MS, 0, 10 * MINUTE_MS,
							PGC_USERSET,
							GUC_UNIT_MS,
							NULL, NULL, NULL);

	MarkGUCPrefixReserved("conduit");
}
