/*-------------------------------------------------------------------------
 *
 * settings.h
 *	  Conduit's configuration parameters (conduit.*).
 *
 * No secret is ever a setting.  Whoever parses a setting into something else
 * (the keyring, the egress list) compares conduit_settings_epoch() with the
 * one it parsed at: it grows whenever such a setting or the files behind it
 * may have changed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_SETTINGS_H
#define CONDUIT_SETTINGS_H

#include "base/compat.h"

extern char *conduit_keyring_file;
extern char *conduit_ca_file;
extern char *conduit_egress_allow;
extern char *conduit_claims_login_roles;
extern bool conduit_refresh_enabled;
extern int	conduit_refresh_lead;		/* seconds */
extern int	conduit_refresh_idle;		/* seconds, 0 = off */
extern int	conduit_vend_timeout;		/* milliseconds */
extern int	conduit_vend_patience;		/* milliseconds */
extern int	conduit_http_timeout;		/* milliseconds */
extern int	conduit_max_response_size;	/* kilobytes */
extern int	conduit_max_in_flight;
extern int	conduit_request_timeout;	/* milliseconds */
extern int	conduit_request_max_size;	/* kilobytes */
extern int	conduit_session_max_ttl;	/* seconds */
extern int	conduit_session_ttl;	/* seconds */
extern int	conduit_shutdown_grace;		/* milliseconds */
extern int	conduit_event_retention;	/* seconds */
extern double conduit_clock_offset; /* seconds */

extern void conduit_settings_define(void);
extern uint64 conduit_settings_epoch(void);

#endif							/* CONDUIT_SETTINGS_H */
