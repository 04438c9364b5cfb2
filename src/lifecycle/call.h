/*-------------------------------------------------------------------------
 *
 * call.h
 *	  Having the worker send an HTTP request, and waiting for the response.
 *
 * The messages go through shared memory, sealed, each for its own place: the
 * call's id, which is drawn anew for each.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_CALL_H
#define CONDUIT_CALL_H

#include "base/compat.h"
#include "datatype/timestamp.h"
#include "provider/http.h"
#include "vault/seal.h"

typedef enum CallPart
{
	CALL_REQUEST,
	CALL_RESPONSE
} CallPart;

extern SealPlace conduit_call_place(const pg_uuid_t *id, CallPart part);

/*
 * conduit_call sends a request and waits until a time (of the real clock) for
 * the response, whose texts live in the current context until
 * conduit_call_wipe.  connector: whose API it is, '' for none, so that each has
 * its share of the worker's places.  Raises PT504 or PT500 where there is no
 * response to be had; what became of the request otherwise is in
 * response->result.  The primary key must be ready to seal.
 */
typedef struct CallResponse
{
	HttpResponse http;
	OpenedSecret opened;
} CallResponse;

extern void conduit_call(HttpRequest *request, const char *connector, TimestampTz until, CallResponse *response);
extern void conduit_call_wipe(CallResponse *response);

#endif							/* CONDUIT_CALL_H */
