/*-------------------------------------------------------------------------
 *
 * sized_text.c
 *	  Texts that hold secrets, built at their final size.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include <openssl/evp.h>

#include "base/base64url.h"
#include "provider/sized_text.h"
#include "vault/seal.h"

void
conduit_sized_write(SizedText *text, SizedWriter writer, const void *source)
{
	memset(text, 0, sizeof(*text));
	writer(text, source);

	text->capacity = text->length;
	text->length = 0;
	text->data = palloc(text->capacity + 1);
	writer(text, source);
	Assert(text->length == text->capacity);
	text->data[text->length] = '\0';
}

void
conduit_sized_wipe(SizedText *text)
{
	if (text->data == NULL)
		return;
	conduit_wipe(text->data, text->capacity);
	pfree(text->data);
	memset(text, 0, sizeof(*text));
}

void
conduit_append_bytes(SizedText *out, const char *bytes, Size length)
{
	if (out->data != NULL)
	{
		Assert(length <= out->capacity - out->length);
		memcpy(out->data + out->length, bytes, length);
	}
	out->length += length;
}

void
conduit_append_char(SizedText *out, char c)
{
	conduit_append_bytes(out, &c, 1);
}

void
conduit_append_string(SizedText *out, const char *string)
{
	conduit_append_bytes(out, string, strlen(string));
}

/* Octets beyond the unreserved ones of RFC 3986 as %XX. */
static void
append_encoded(SizedText *out, const char *bytes, Size length, bool space_is_plus)
{
	static const char hex[] = "0123456789ABCDEF";

	for (Size i = 0; i < length; i++)
	{
		unsigned char c = (unsigned char) bytes[i];

		if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
			c == '-' || c == '.' || c == '_' || c == '~')
			conduit_append_char(out, (char) c);
		else if (c == ' ' && space_is_plus)
			conduit_append_char(out, '+');
		else
		{
			conduit_append_char(out, '%');
			conduit_append_char(out, hex[c >> 4]);
			conduit_append_char(out, hex[c & 15]);
		}
	}
}

void
conduit_append_form(SizedText *out, const char *bytes, Size length)
{
	append_encoded(out, bytes, length, true);
}

void
conduit_append_percent(SizedText *out, const char *bytes, Size length)
{
	append_encoded(out, bytes, length, false);
}

void
conduit_append_json(SizedText *out, const char *bytes, Size length)
{
	static const char hex[] = "0123456789abcdef";

	conduit_append_char(out, '"');
	for (Size i = 0; i < length; i++)
	{
		unsigned char c = (unsigned char) bytes[i];

		if (c == '"' || c == '\\')
		{
			conduit_append_char(out, '\\');
			conduit_append_char(out, (char) c);
		}
		else if (c < ' ')
		{
			conduit_append_string(out, "\\u00");
			conduit_append_char(out, hex[c >> 4]);
			conduit_append_char(out, hex[c & 15]);
		}
		else
			conduit_append_char(out, (char) c);
	}
	conduit_append_char(out, '"');
}

/* Both encodings end with a NUL, for which there is room. */
void
conduit_append_base64(SizedText *out, const char *bytes, Size length)
{
	if (out->data != NULL)
	{
		Assert((length + 2) / 3 * 4 <= out->capacity - out->length);
		(void) EVP_EncodeBlock((unsigned char *) out->data + out->length,
							   (const unsigned char *) bytes, (int) length);
	}
	out->length += (length + 2) / 3 * 4;
}

void
conduit_append_base64url(SizedText *out, const char *bytes, Size length)
{
	Size		encoded = conduit_base64url_encoded_length(length);

	if (out->data != NULL)
	{
		Assert(encoded <= out->capacity - out->length);
		(void) conduit_base64url_encode(bytes, (int) length, out->data + out->length);
	}
	out->length += encoded;
}
