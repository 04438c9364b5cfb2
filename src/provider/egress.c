/*-------------------------------------------------------------------------
 *
 * egress.c
 *	  Which URLs and addresses Conduit may reach.
 *
 * A URL is judged by its text, an address by its bits at the moment of the
 * connect: a name that is resolved twice may have two answers.  Addresses that
 * carry an IPv4 address inside (mapped, NAT64, 6to4, Teredo) are judged by that
 * one too.
 *
 * Wording:
 *	   - The list is conduit.egress_allow in parsed form: names and networks.
 *	   - A listed host may have a private address, but never one that no server
 *		 of a provider has (link-local, multicast, unspecified): those are for
 *		 listed networks alone.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <time.h>

#include "base/settings.h"
#include "provider/egress.h"
#include "provider/url.h"

#define MAX_ENTRIES			128
#define MAX_OWN_ADDRESSES	64
#define OWN_ADDRESSES_AGE	60	/* seconds */

typedef struct Network
{
	uint8		bits[16];		/* an IPv4 network as ::ffff:0:0/96 has it */
	int			prefix;			/* of 128 */
} Network;

static Network networks[MAX_ENTRIES];
static int	nnetworks = 0;
static char hosts[MAX_ENTRIES][CONDUIT_HOST_MAX + 1];
static int	nhosts = 0;
static uint64 list_epoch = 0;
static bool list_parsed = false;
static uint32 list_logged = 0;	/* hash of the setting whose entries were logged */

static Network own_addresses[MAX_OWN_ADDRESSES];
static int	nown_addresses = 0;
static time_t own_addresses_at = 0;

static const uint8 mapped_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

typedef struct DeniedV4
{
	uint32		base;
	int			prefix;
	bool		always;			/* not even for a listed host */
} DeniedV4;

static const DeniedV4 denied_v4[] = {
	{0x00000000, 8, true},		/* 0.0.0.0/8 "this network" */
	{0x0a000000, 8, false},		/* 10.0.0.0/8 private */
	{0x64400000, 10, false},	/* 100.64.0.0/10 carrier-grade NAT */
	{0x7f000000, 8, false},		/* 127.0.0.0/8 loopback */
	{0xa9fe0000, 16, true},		/* 169.254.0.0/16 link-local, cloud metadata */
	{0xac100000, 12, false},	/* 172.16.0.0/12 private */
	{0xc0000000, 24, true},		/* 192.0.0.0/24 protocol assignments */
	{0xc0000200, 24, true},		/* 192.0.2.0/24 documentation */
	{0xc0a80000, 16, false},	/* 192.168.0.0/16 private */
	{0xc6120000, 15, false},	/* 198.18.0.0/15 benchmarks */
	{0xc6336400, 24, true},		/* 198.51.100.0/24 documentation */
	{0xcb007100, 24, true},		/* 203.0.113.0/24 documentation */
	{0xe0000000, 4, true},		/* 224.0.0.0/4 multicast */
	{0xf0000000, 4, true}		/* 240.0.0.0/4 reserved, broadcast */
};

static bool
in_network(const uint8 *address, const uint8 *base, int prefix)
{
	int			whole = prefix / 8;
	int			rest = prefix % 8;

	if (memcmp(address, base, whole) != 0)
		return false;
	return rest == 0 ||
		((address[whole] ^ base[whole]) & (0xff << (8 - rest)) & 0xff) == 0;
}

static uint32
read_v4(const uint8 *bytes)
{
	return ((uint32) bytes[0] << 24) | ((uint32) bytes[1] << 16) |
		((uint32) bytes[2] << 8) | bytes[3];
}

static bool
v4_denied(uint32 address, bool host_listed)
{
	for (int i = 0; i < lengthof(denied_v4); i++)
	{
		uint32		mask = PG_UINT32_MAX << (32 - denied_v4[i].prefix);

		if ((address & mask) == denied_v4[i].base)
			return denied_v4[i].always || !host_listed;
	}
	return false;
}

static bool
v6_denied(const uint8 *a, bool host_listed)
{
	static const uint8 loopback[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
	static const uint8 nat64[12] = {0x00, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0};

	if (memcmp(a, mapped_prefix, 12) == 0 || memcmp(a, nat64, 12) == 0)
		return v4_denied(read_v4(a + 12), host_listed);
	if (memcmp(a, loopback, 16) == 0 || (a[0] & 0xfe) == 0xfc)	/* ::1, fc00::/7 */
		return !host_listed;

	/*
	 * Global unicast is 2000::/3.  What lies outside has no place on the
	 * Internet: ::, IPv4-compatible, 64:ff9b:1::/48, 100::/64, fe80::/10,
	 * fec0::/10, ff00::/8, and what is not assigned yet.
	 */
	if ((a[0] & 0xe0) != 0x20)
		return true;
	if (a[0] == 0x20 && a[1] == 0x02)	/* 6to4 */
		return v4_denied(read_v4(a + 2), false);
	if (a[0] == 0x20 && a[1] == 0x01)
	{
		if (a[2] == 0 && a[3] == 0) /* Teredo: server, and client inverted */
			return v4_denied(read_v4(a + 4), false) ||
				v4_denied(~read_v4(a + 12), false);
		if ((a[2] & 0xfe) == 0) /* 2001::/23 protocol assignments */
			return true;
		if (a[2] == 0x0d && a[3] == 0xb8)	/* documentation */
			return true;
	}
	if (a[0] == 0x3f && a[1] == 0xff && (a[2] & 0xf0) == 0) /* documentation */
		return true;
	return false;
}

/* Sixteen bytes, IPv4 in mapped form.  False for other families. */
static bool
address_bits(const struct sockaddr *address, uint8 *bits)
{
	if (address->sa_family == AF_INET)
	{
		memcpy(bits, mapped_prefix, 12);
		memcpy(bits + 12, &((const struct sockaddr_in *) address)->sin_addr, 4);
		return true;
	}
	if (address->sa_family == AF_INET6)
	{
		memcpy(bits, &((const struct sockaddr_in6 *) address)->sin6_addr, 16);
		return true;
	}
	return false;
}

static bool
bits_listed(const uint8 *bits)
{
	for (int i = 0; i < nnetworks; i++)
	{
		if (in_network(bits, networks[i].bits, networks[i].prefix))
			return true;
	}
	return false;
}

/* Text of an address into sixteen bytes; false if it is none. */
static bool
text_bits(const char *text, uint8 *bits, int *width)
{
	if (inet_pton(AF_INET6, text, bits) == 1)
	{
		*width = 128;
		return true;
	}
	if (inet_pton(AF_INET, text, bits + 12) == 1)
	{
		memcpy(bits, mapped_prefix, 12);
		*width = 32;
		return true;
	}
	return false;
}

/* One entry of conduit.egress_allow, blanks trimmed; false if it is no good. */
static bool
add_entry(char *entry)
{
	char	   *slash = strchr(entry, '/');
	uint8		bits[16];
	int			width;
	int			prefix;

	if (slash != NULL)
		*slash = '\0';

	if (text_bits(entry, bits, &width))
	{
		prefix = width;
		if (slash != NULL)
		{
			if (slash[1] == '\0' || strlen(slash + 1) > 3 ||
				strspn(slash + 1, "0123456789") != strlen(slash + 1))
				return false;
			prefix = atoi(slash + 1);
			if (prefix > width)
				return false;
		}
		prefix += 128 - width;

		/* Bits beyond the prefix are a typing error more often than not. */
		for (int bit = prefix; bit < 128; bit++)
		{
			if (bits[bit / 8] & (0x80 >> (bit % 8)))
				return false;
		}
		if (nnetworks >= MAX_ENTRIES)
			return false;
		memcpy(networks[nnetworks].bits, bits, 16);
		networks[nnetworks].prefix = prefix;
		nnetworks++;
		return true;
	}

	if (slash != NULL)
		return false;
	for (char *c = entry; *c != '\0'; c++)
		*c = pg_ascii_tolower((unsigned char) *c);
	if (!conduit_host_name_valid(entry) || nhosts >= MAX_ENTRIES)
		return false;
	strlcpy(hosts[nhosts], entry, sizeof(hosts[nhosts]));
	nhosts++;
	return true;
}

/* FNV-1a, to tell whether a setting's text is the one already complained about. */
static uint32
text_hash(const char *text)
{
	uint32		hash = 2166136261u;

	for (; *text != '\0'; text++)
		hash = (hash ^ (unsigned char) *text) * 16777619u;
	return hash;
}

static void
parse_list(void)
{
	const char *setting = conduit_egress_allow ? conduit_egress_allow : "";
	uint64		epoch = conduit_settings_epoch();
	bool		complain;

	if (list_parsed && list_epoch == epoch)
		return;

	nnetworks = 0;
	nhosts = 0;
	list_epoch = epoch;
	list_parsed = true;
	complain = text_hash(setting) != list_logged;
	list_logged = text_hash(setting);

	for (int position = 1; *setting != '\0'; position++)
	{
		size_t		length = strcspn(setting, ",");
		const char *next = setting + length + (setting[length] == ',' ? 1 : 0);
		char		entry[CONDUIT_HOST_MAX + 8];

		while (length > 0 && isspace((unsigned char) *setting))
		{
			setting++;
			length--;
		}
		while (length > 0 && isspace((unsigned char) setting[length - 1]))
			length--;

		if (length > 0)
		{
			bool		good = false;

			if (length < sizeof(entry))
			{
				memcpy(entry, setting, length);
				entry[length] = '\0';
				good = add_entry(entry);
			}

			/* Sessions have a list too; the workers' lines are enough. */
			if (!good && complain)
				ereport(conduit_in_background_worker() ? LOG : DEBUG1,
						(errmsg("entry %d of \"conduit.egress_allow\" is ignored", position),
						 errdetail("It is neither a host name nor an address or network in CIDR notation."),
						 errhidestmt(true), errhidecontext(true)));
		}
		setting = next;
	}
}

/* A provider is never this very host, whatever public address it has. */
static void
learn_own_addresses(void)
{
	struct ifaddrs *list;

	nown_addresses = 0;
	own_addresses_at = time(NULL);
	if (getifaddrs(&list) != 0)
		return;
	for (struct ifaddrs *i = list; i != NULL; i = i->ifa_next)
	{
		if (i->ifa_addr == NULL || nown_addresses >= MAX_OWN_ADDRESSES)
			continue;
		if (address_bits(i->ifa_addr, own_addresses[nown_addresses].bits))
			own_addresses[nown_addresses++].prefix = 128;
	}
	freeifaddrs(list);
}

void
conduit_egress_prepare(void)
{
	bool		stale = !list_parsed || list_epoch != conduit_settings_epoch();

	parse_list();
	if (stale || own_addresses_at == 0 ||
		time(NULL) - own_addresses_at >= OWN_ADDRESSES_AGE)
		learn_own_addresses();
}

bool
conduit_egress_host_listed(const char *host)
{
	parse_list();
	for (int i = 0; i < nhosts; i++)
	{
		if (pg_strcasecmp(hosts[i], host) == 0)
			return true;
	}
	return false;
}

bool
conduit_egress_address_loopback(const struct sockaddr *address)
{
	static const uint8 loopback[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
	uint8		bits[16];

	if (!address_bits(address, bits))
		return false;
	return memcmp(bits, loopback, 16) == 0 ||
		(memcmp(bits, mapped_prefix, 12) == 0 && bits[12] == 127);
}

bool
conduit_egress_address_allowed(const struct sockaddr *address, bool host_listed)
{
	uint8		bits[16];

	if (!address_bits(address, bits))
		return false;
	if (bits_listed(bits))
		return true;
	if (v6_denied(bits, host_listed))
		return false;
	if (!host_listed)
	{
		for (int i = 0; i < nown_addresses; i++)
		{
			if (memcmp(bits, own_addresses[i].bits, 16) == 0)
				return false;
		}
	}
	return true;
}

/*
 * True for names that public DNS does not have: a single label, and what is
 * under a name set aside for private networks.
 */
static bool
host_is_internal(const char *host)
{
	static const char *const private_names[] = {".local", ".internal", ".home.arpa", ".localdomain", ".intranet",
	".private", ".corp", ".home", ".lan"};
	size_t		length = strlen(host);

	if (strchr(host, '.') == NULL)
		return true;
	for (int i = 0; i < lengthof(private_names); i++)
	{
		size_t		suffix = strlen(private_names[i]);

		if (length > suffix && strcmp(host + length - suffix, private_names[i]) == 0)
			return true;
	}
	return false;
}

const char *
conduit_egress_check_url(const char *url)
{
	ConduitUrl	parts;
	const char *problem = conduit_url_split(url, &parts);
	uint8		bits[16];
	int			width;
	bool		listed;
	bool		loopback;

	if (problem != NULL)
		return problem;

	listed = conduit_egress_host_listed(parts.host);
	if (parts.family != 0)
	{
		text_bits(parts.host, bits, &width);
		listed = bits_listed(bits);
		loopback = strcmp(parts.host, "::1") == 0 ||
			(parts.family == AF_INET && bits[12] == 127);
		if (!listed)
			return "the host is an IP address that is not in conduit.egress_allow";
	}
	else
	{
		size_t		length = strlen(parts.host);

		loopback = strcmp(parts.host, "localhost") == 0 ||
			(length > 10 && strcmp(parts.host + length - 10, ".localhost") == 0);

		/* Who lists the loopback network means its name as well. */
		if (loopback && !listed && text_bits("127.0.0.1", bits, &width))
			listed = bits_listed(bits);
	}

	if (!parts.https && !(loopback && listed))
		return "only a loopback host that is in conduit.egress_allow may speak plain http";
	if (parts.https && parts.port != 443 && !listed)
		return "a port other than 443 needs the host in conduit.egress_allow";

	/* Where a network is listed, such a name may lead there; the address will tell. */
	if (!listed && (loopback || (host_is_internal(parts.host) && nnetworks == 0)))
		return "the host is a name of an internal network that is not in conduit.egress_allow";
	return NULL;
}

char *
conduit_egress_origin(const char *url)
{
	ConduitUrl	parts;

	if (conduit_url_split(url, &parts) != NULL)
		return NULL;
	return psprintf(parts.family == AF_INET6 ? "%s://[%s]:%d" : "%s://%s:%d",
					parts.https ? "https" : "http", parts.host, parts.port);
}
