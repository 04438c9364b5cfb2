/*-------------------------------------------------------------------------
 *
 * base64url.c
 *	  Base64 with the URL-safe alphabet and without padding.
 *
 *-------------------------------------------------------------------------
 */
#include "base/base64url.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

int
conduit_base64url_encode(const void *bytes, int length, char *text)
{
	const uint8 *in = bytes;
	char	   *out = text;
	uint32		bits = 0;
	int			nbits = 0;

	for (int i = 0; i < length; i++)
	{
		bits = bits << 8 | in[i];
		for (nbits += 8; nbits >= 6; nbits -= 6)
			*out++ = alphabet[bits >> (nbits - 6) & 63];
	}
	if (nbits > 0)
		*out++ = alphabet[bits << (6 - nbits) & 63];
	*out = '\0';
	return (int) (out - text);
}

static int
value_of(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '-' ? 62 : c == '_' ? 63 : -1;
}

int
conduit_base64url_decode(const char *text, int length, void *bytes)
{
	uint8	   *out = bytes;
	uint32		bits = 0;
	int			nbits = 0;

	if (length % 4 == 1)
		return -1;
	for (int i = 0; i < length; i++)
	{
		int			value = value_of(text[i]);

		if (value < 0)
			return -1;
		bits = bits << 6 | (uint32) value;
		nbits += 6;
		if (nbits >= 8)
		{
			nbits -= 8;
			*out++ = (uint8) (bits >> nbits);
		}
	}
	if ((bits & ((1U << nbits) - 1)) != 0)
		return -1;
	return (int) (out - (uint8 *) bytes);
}
