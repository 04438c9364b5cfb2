/*-------------------------------------------------------------------------
 *
 * api_message.h
 *	  An HTTP request and its response as bytes, for the way between a backend
 *	  and the worker.
 *
 * The bytes hold secrets in clear: they are sealed before they go anywhere, and
 * wiped by whoever has them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_API_MESSAGE_H
#define CONDUIT_API_MESSAGE_H

#include "base/compat.h"
#include "provider/http.h"

/* palloc'd at their final size. */
extern void *conduit_api_message_from_request(const HttpRequest *request, Size *length);
extern void *conduit_api_message_from_response(const HttpResponse *response, Size *length);

/*
 * The other way; texts point into the message, which needs a byte behind it for
 * a NUL.  False if it is no such message.  headers has room for max.
 */
extern bool conduit_api_message_to_request(char *message, Size length, HttpRequest *request,
										   HttpHeader *headers, int max);
extern bool conduit_api_message_to_response(char *message, Size length, HttpResponse *response);

#endif							/* CONDUIT_API_MESSAGE_H */
