/*-------------------------------------------------------------------------
 *
 * url.h
 *	  A strict splitter of absolute http and https URLs.
 *
 * Backends and the worker use the same one, so that both mean the same host.
 * Whatever two parsers might read differently is refused rather than guessed:
 * userinfo, backslashes, percent-encoded hosts, short, octal or hexadecimal
 * IPv4 addresses, zone ids, dot segments, fragments, empty labels, a trailing
 * dot, anything that is not printable ASCII.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_URL_H
#define CONDUIT_URL_H

#include "base/compat.h"

#define CONDUIT_URL_MAX		2048
#define CONDUIT_HOST_MAX	253

typedef struct ConduitUrl
{
	bool		https;
	char		host[CONDUIT_HOST_MAX + 1]; /* lower-case; an IPv6 address has no
											 * brackets */
	int			family;			/* AF_INET or AF_INET6 for an IP literal, else 0 */
	int			port;			/* always set */
} ConduitUrl;

/*
 * conduit_url_split returns NULL and fills *parts if url is an absolute URL
 * without ambiguity, else a constant text that says what is wrong with it.
 */
extern const char *conduit_url_split(const char *url, ConduitUrl *parts);

/* conduit_host_name_valid: a plain DNS name, which an IPv4 address is not. */
extern bool conduit_host_name_valid(const char *host);

#endif							/* CONDUIT_URL_H */
