/*-------------------------------------------------------------------------
 *
 * url.c
 *	  A strict splitter of absolute http and https URLs.
 *
 * Wording:
 *	   - The authority is what stands between "//" and the first '/' or '?'.
 *	   - A label is a part of a host name between dots.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "provider/url.h"

/*
 * True if a host's last label makes other parsers take the host for an IPv4
 * address (the "ends in a number" check of the WHATWG URL standard).
 */
static bool
last_label_is_number(const char *label)
{
	if (label[0] == '0' && label[1] == 'x')
		return strspn(label + 2, "0123456789abcdef") == strlen(label + 2);
	return label[0] != '\0' && strspn(label, "0123456789") == strlen(label);
}

/* Labels of letters, digits, hyphens and underscores, as lower-case text. */
static const char *
check_labels(const char *host)
{
	const char *label = host;

	for (;;)
	{
		size_t		length = strcspn(label, ".");

		if (length == 0)
			return label[0] == '\0' && label != host ?
				"the host ends with a dot" : "the host has an empty label";
		if (length > 63)
			return "a label of the host is too long";
		if (strspn(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") < length)
			return "the host has a character that is not allowed";
		if (label[0] == '-' || label[length - 1] == '-')
			return "a label of the host begins or ends with a hyphen";
		if (label[length] == '\0')
			return NULL;
		label += length + 1;
	}
}

bool
conduit_host_name_valid(const char *host)
{
	const char *last = strrchr(host, '.');

	if (strlen(host) > CONDUIT_HOST_MAX || check_labels(host) != NULL)
		return false;
	return !last_label_is_number(last ? last + 1 : host);
}

/* The host without its port into parts; the text is lower-case already. */
static const char *
split_host(ConduitUrl *parts)
{
	struct in_addr v4;
	const char *problem;

	problem = check_labels(parts->host);
	if (problem != NULL)
		return problem;
	if (conduit_host_name_valid(parts->host))
		return NULL;

	/*
	 * glibc's inet_pton takes four decimal numbers and nothing else, but
	 * others read leading zeros as octal: compare with the canonical form.
	 */
	if (inet_pton(AF_INET, parts->host, &v4) == 1)
	{
		char		canonical[INET_ADDRSTRLEN];

		if (inet_ntop(AF_INET, &v4, canonical, sizeof(canonical)) != NULL &&
			strcmp(canonical, parts->host) == 0)
		{
			parts->family = AF_INET;
			return NULL;
		}
	}
	return "the host is not a plain dotted IPv4 address";
}

static const char *
split_port(const char *text, size_t length, ConduitUrl *parts)
{
	int			port = 0;

	if (length == 0 || length > 5 || text[0] == '0')
		return "the port is not valid";
	for (size_t i = 0; i < length; i++)
	{
		if (text[i] < '0' || text[i] > '9')
			return "the port is not valid";
		port = port * 10 + (text[i] - '0');
	}
	if (port > 65535)
		return "the port is not valid";
	parts->port = port;
	return NULL;
}

static const char *
split_authority(const char *authority, size_t length, ConduitUrl *parts)
{
	const char *rest;
	size_t		host_length;

	if (memchr(authority, '@', length) != NULL)
		return "the URL carries a user or password";
	if (memchr(authority, '%', length) != NULL)
		return "the host has a percent sign";
	if (length == 0)
		return "the URL has no host";

	if (authority[0] == '[')
	{
		const char *end = memchr(authority, ']', length);
		struct in6_addr v6;

		if (end == NULL || end - authority - 1 > INET6_ADDRSTRLEN)
			return "the host is not an IPv6 address";
		host_length = end - authority - 1;
		memcpy(parts->host, authority + 1, host_length);
		parts->host[host_length] = '\0';
		if (inet_pton(AF_INET6, parts->host, &v6) != 1)
			return "the host is not an IPv6 address";
		inet_ntop(AF_INET6, &v6, parts->host, sizeof(parts->host));
		parts->family = AF_INET6;
		rest = end + 1;
	}
	else
	{
		const char *colon = memchr(authority, ':', length);
		const char *problem;

		host_length = colon ? colon - authority : length;
		if (host_length == 0)
			return "the URL has no host";
		if (host_length > CONDUIT_HOST_MAX)
			return "the host is too long";
		for (size_t i = 0; i < host_length; i++)
			parts->host[i] = pg_ascii_tolower((unsigned char) authority[i]);
		parts->host[host_length] = '\0';
		problem = split_host(parts);
		if (problem != NULL)
			return problem;
		rest = authority + host_length;
	}

	if (rest == authority + length)
	{
		parts->port = parts->https ? 443 : 80;
		return NULL;
	}
	if (*rest != ':')
		return "the host is not valid";
	return split_port(rest + 1, authority + length - rest - 1, parts);
}

/* Libraries and servers resolve "." and ".." at different times, or not at all. */
static bool
has_dot_segment(const char *path)
{
	while (*path == '/')
	{
		const char *segment = path + 1;
		size_t		length = strcspn(segment, "/?");
		int			dots = 0;
		size_t		i = 0;

		while (i < length)
		{
			if (segment[i] == '.')
				i += 1;
			else if (pg_strncasecmp(segment + i, "%2e", 3) == 0)
				i += 3;
			else
				break;
			dots++;
		}
		if (i == length && (dots == 1 || dots == 2))
			return true;
		path = segment + length;
	}
	return false;
}

const char *
conduit_url_split(const char *url, ConduitUrl *parts)
{
	const char *authority;
	size_t		length;
	const char *problem;

	memset(parts, 0, sizeof(*parts));

	if (strlen(url) > CONDUIT_URL_MAX)
		return "the URL is too long";
	for (const unsigned char *c = (const unsigned char *) url; *c != '\0'; c++)
	{
		if (*c <= ' ' || *c >= 0x7f)
			return "the URL has a space, control or non-ASCII character";
		if (strchr("\"<>\\^`{|}", *c) != NULL)
			return "the URL has a character that is not allowed";
		if (*c == '#')
			return "the URL has a fragment";
	}

	if (pg_strncasecmp(url, "https://", 8) == 0)
	{
		parts->https = true;
		authority = url + 8;
	}
	else if (pg_strncasecmp(url, "http://", 7) == 0)
		authority = url + 7;
	else
		return "the URL does not begin with https://";

	length = strcspn(authority, "/?");
	problem = split_authority(authority, length, parts);
	if (problem != NULL)
		return problem;
	if (has_dot_segment(authority + length))
		return "the path has a dot segment";
	return NULL;
}
