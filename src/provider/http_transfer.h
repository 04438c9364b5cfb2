/*-------------------------------------------------------------------------
 *
 * http_transfer.h
 *	  What http.c and http_transfer.c share; nobody else includes it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_HTTP_TRANSFER_H
#define CONDUIT_HTTP_TRANSFER_H

#include "base/compat.h"

#include <curl/curl.h>
#include <time.h>

#include "lib/ilist.h"
#include "provider/http.h"

#define CONDUIT_MAX_CONTENT_TYPE	200
#define CONDUIT_MAX_HEADER_BYTES	65536	/* of a response */

struct HttpTransfer
{
	dlist_node	node;			/* in active or finished */
	bool		linked;			/* it is in one of them */
	CURL	   *easy;			/* NULL once finished */
	struct curl_slist *headers;
	void	   *owner;
	HttpResponse response;

	char	   *body;			/* the request's */
	bool		https;
	bool		host_listed;
	bool		repeatable;		/* may be sent twice without harm */
	Size		max_response;

	char		content_type[CONDUIT_MAX_CONTENT_TYPE + 1]; /* response.content_type */
	char		no_body[1];		/* response.body while capacity is 0 */
	Size		capacity;		/* of response.body */
	Size		header_bytes;
	char	   *kept_headers;	/* response.headers, of MAX_HEADER_BYTES; NULL: not wanted */
	Size		kept_length;
	bool		resolved;		/* the host has an address, good or bad */
	bool		sent;			/* the request was let out */
	bool		denied;			/* an address was refused */
	bool		too_large;
	bool		broken;			/* a header that we do not take */
	double		retry_after;	/* as sent; -1: none */
	time_t		retry_at;		/* -1: none */
	char		server_date[40];	/* as sent; '': none */
	int64		started;		/* milliseconds, monotonic */
	int64		deadline;		/* of the whole, the same */
};

/* Milliseconds of a clock that nobody sets. */
extern int64 conduit_http_now_ms(void);

/* True if method and headers may go out as they are. */
extern bool conduit_http_request_valid(const HttpRequest *request);

/*
 * conduit_http_set_options makes transfer->easy ready to be added to a multi
 * handle; false when memory is out.  settings_changed is when the settings that
 * connections depend on changed last, by conduit_http_now_ms().
 */
extern bool conduit_http_set_options(HttpTransfer *transfer, const HttpRequest *request,
									 int64 settings_changed);

/* conduit_http_verdict tells what libcurl's code means for the transfer. */
extern HttpResult conduit_http_verdict(const HttpTransfer *transfer, CURLcode code);

#endif							/* CONDUIT_HTTP_TRANSFER_H */
