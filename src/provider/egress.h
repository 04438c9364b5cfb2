/*-------------------------------------------------------------------------
 *
 * egress.h
 *	  Which URLs and addresses Conduit may reach.
 *
 * https only, except to loopback hosts listed in conduit.egress_allow; public
 * addresses only, except those listed there (hosts or CIDRs).  URLs are checked
 * when a connector is registered and again before each request; addresses at
 * connect time, on the address that is really connected to.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_EGRESS_H
#define CONDUIT_EGRESS_H

#include "base/compat.h"
#include <sys/socket.h>

/*
 * conduit_egress_check_url returns NULL if the URL is acceptable, else a
 * constant text that says why not: scheme, userinfo, fragment, control or
 * non-ASCII characters, trailing dot, an IP literal, internal name or port that
 * is not listed.
 */
extern const char *conduit_egress_check_url(const char *url);

/* scheme://host:port in lower case with the port always written, or NULL if it is no URL. */
extern char *conduit_egress_origin(const char *url);

/* True if host (as written in a URL) is listed in conduit.egress_allow by name. */
extern bool conduit_egress_host_listed(const char *host);

/*
 * conduit_egress_address_allowed is called inside libcurl's callbacks: it uses
 * a list parsed beforehand, allocates nothing and raises nothing.
 */
extern bool conduit_egress_address_allowed(const struct sockaddr *address, bool host_listed);

/* True for 127.0.0.0/8 and ::1: all that plain http may ever reach. */
extern bool conduit_egress_address_loopback(const struct sockaddr *address);

/* Parse conduit.egress_allow anew if the settings changed.  Call between requests. */
extern void conduit_egress_prepare(void);

#endif							/* CONDUIT_EGRESS_H */
