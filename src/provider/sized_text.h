/*-------------------------------------------------------------------------
 *
 * sized_text.h
 *	  Texts that hold secrets, built at their final size.
 *
 * A text that grows leaves copies of itself behind.  So each of these is
 * written twice by the same function: once to be measured, then, into memory
 * of just that size, in earnest.  Whoever has one wipes it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_SIZED_TEXT_H
#define CONDUIT_SIZED_TEXT_H

#include "base/compat.h"
#include "vault/secret.h"

typedef struct SizedText
{
	char	   *data;			/* NUL-terminated; NULL: only measured so far */
	Size		length;
	Size		capacity;
} SizedText;

/* Writes to out what source describes; the same each time that it is called. */
typedef void (*SizedWriter) (SizedText *out, const void *source);

/* conduit_sized_write makes the text, in memory of the current context. */
extern void conduit_sized_write(SizedText *text, SizedWriter writer, const void *source);

/* conduit_sized_wipe clears and frees it; one that was never written, too. */
extern void conduit_sized_wipe(SizedText *text);

/* For writers: append as it is, ... */
extern void conduit_append_char(SizedText *out, char c);
extern void conduit_append_bytes(SizedText *out, const char *bytes, Size length);
extern void conduit_append_string(SizedText *out, const char *string);

/* ... as application/x-www-form-urlencoded has it (a space is '+'), ... */
extern void conduit_append_form(SizedText *out, const char *bytes, Size length);

/* ... percent-encoded for any place in a path or query (RFC 3986), ... */
extern void conduit_append_percent(SizedText *out, const char *bytes, Size length);

/* ... as a quoted JSON string of what is UTF-8, ... */
extern void conduit_append_json(SizedText *out, const char *bytes, Size length);

/* ... and in base64 with padding, or without and URL-safe. */
extern void conduit_append_base64(SizedText *out, const char *bytes, Size length);
extern void conduit_append_base64url(SizedText *out, const char *bytes, Size length);

#endif							/* CONDUIT_SIZED_TEXT_H */
