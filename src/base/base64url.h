/*-------------------------------------------------------------------------
 *
 * base64url.h
 *	  Base64 with the URL-safe alphabet and without padding (RFC 4648, 5), as
 *	  JWTs (RFC 7515), PKCE (RFC 7636) and our own handles have it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_BASE64URL_H
#define CONDUIT_BASE64URL_H

#include "base/compat.h"

/* Characters that length bytes encode to, bytes that length characters decode to at most. */
#define conduit_base64url_encoded_length(length) (((length) * 4 + 2) / 3)
#define conduit_base64url_decoded_length(length) ((length) / 4 * 3 + 3)

/* conduit_base64url_encode writes the text and a NUL; returns the text's length. */
extern int	conduit_base64url_encode(const void *bytes, int length, char *text);

/*
 * conduit_base64url_decode returns the number of bytes, or -1 where text is not
 * the one encoding of some bytes: padding, white space and bits left over are
 * refused.
 */
extern int	conduit_base64url_decode(const char *text, int length, void *bytes);

#endif							/* CONDUIT_BASE64URL_H */
