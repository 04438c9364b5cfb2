/*-------------------------------------------------------------------------
 *
 * http.h
 *	  libcurl behind one descriptor, a deadline and a pump.
 *
 * For worker processes only: libcurl is initialised there, after the fork, and
 * never in a backend or the postmaster.  The caller's loop waits on its latch
 * and conduit_http_descriptor() with WaitLatchOrSocket until
 * conduit_http_deadline(), then calls conduit_http_pump() and takes finished
 * transfers with conduit_http_next_finished().  Callbacks never raise errors
 * and use malloc'd, bounded, wiped buffers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_HTTP_H
#define CONDUIT_HTTP_H

#include "base/compat.h"
#include "datatype/timestamp.h"

typedef enum HttpResult
{
	HTTP_OK,					/* a whole response came; see status */
	HTTP_DENIED,				/* egress rules */
	HTTP_UNRESOLVED,
	HTTP_UNREACHABLE,			/* refused, no route, lost before the request was sent */
	HTTP_TLS,					/* handshake or certificate */
	HTTP_TIMEOUT,				/* connecting, in the handshake (not sent then) or waiting */
	HTTP_TOO_LARGE,
	HTTP_BROKEN					/* reset, truncated, encoded, not HTTP */
} HttpResult;

typedef struct HttpHeader
{
	const char *name;
	const char *value;
} HttpHeader;

typedef struct HttpRequest
{
	const char *method;			/* "POST", "GET", "DELETE", ... */
	const char *url;
	const char *query;			/* more of the URL's query, encoded; NULL: none.  For secrets:
								 * copied, the copy is wiped, and length is no matter */
	const char *content_type;	/* NULL: no body */
	const char *body;			/* copied; the copy is wiped */
	Size		body_length;
	const HttpHeader *headers;	/* copied; values with control characters are refused */
	int			nheaders;
	int			timeout_ms;
	Size		max_response;	/* bytes */
	bool		keep_headers;	/* those of the response are wanted */
	bool		once;			/* sending it twice may do harm, even a GET */
} HttpRequest;

typedef struct HttpResponse
{
	HttpResult	result;
	bool		sent;			/* the request may have reached the provider: at least
								 * one byte of it was written */
	int			status;
	char	   *content_type;	/* '' if none; lives as long as the transfer */
	char	   *body;			/* the same; NUL-terminated beyond length; may be changed
								 * in place */
	Size		length;
	const char *headers;		/* lines of "name: value", names in lower case; ''
								 * unless they were wanted; lives as long as the
								 * transfer */
	double		retry_after;	/* seconds, from Retry-After as seconds or HTTP-date
								 * (against the Date header where given); -1: none */
	double		seconds;		/* from start to end */
} HttpResponse;

typedef struct HttpTransfer HttpTransfer;

/* conduit_http_start_up makes ready; raises an error if libcurl or TLS cannot be used. */
extern void conduit_http_start_up(void);

/*
 * conduit_http_expect makes room for so many transfers at a time, once started
 * up; to be called again when there may be more or fewer.
 */
extern void conduit_http_expect(int transfers);

/*
 * conduit_http_shut_down ends all transfers and wipes what they had to send and
 * had received; safe to call twice, never blocks.  They count as finished then,
 * and their owners may still free them.
 */
extern void conduit_http_shut_down(void);

/*
 * conduit_http_start begins a transfer.  owner is handed back with it.  What is
 * wrong with the request comes back as a finished transfer; the only error it
 * raises is out of memory.  It does not queue: callers start no more at a time
 * than they said they would.
 */
extern HttpTransfer *conduit_http_start(const HttpRequest *request, void *owner);

/* conduit_http_refuse makes a finished transfer of a request that cannot be made: HTTP_DENIED. */
extern HttpTransfer *conduit_http_refuse(void *owner);

extern int	conduit_http_descriptor(void);
extern long conduit_http_deadline(void);	/* milliseconds from now, -1: none */
extern void conduit_http_pump(void);
extern int	conduit_http_in_flight(void);

/* conduit_http_next_finished returns a finished transfer or NULL. */
extern HttpTransfer *conduit_http_next_finished(void);
extern HttpResponse *conduit_http_response(HttpTransfer *transfer);
extern void *conduit_http_owner(HttpTransfer *transfer);

/*
 * True as soon as a byte of the request may have left: from the moment that
 * libcurl, connected and past the TLS handshake, was let send it.
 */
extern bool conduit_http_sent(HttpTransfer *transfer);

/* conduit_http_free wipes and frees; an unfinished transfer is aborted. */
extern void conduit_http_free(HttpTransfer *transfer);

#endif							/* CONDUIT_HTTP_H */
