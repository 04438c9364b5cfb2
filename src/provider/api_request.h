/*-------------------------------------------------------------------------
 *
 * api_request.h
 *	  A call of a provider's API: what a caller may ask for, how the credential
 *	  gets in, and what of the answer gets out.
 *
 * Untrusted input on both sides: a caller must not reach another host, nor set
 * what carries the credential; an answer must not carry the credential out.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_API_REQUEST_H
#define CONDUIT_API_REQUEST_H

#include "base/compat.h"
#include "provider/outgoing.h"

#define CONDUIT_MAX_API_HEADERS	64

/* Texts are UTF-8. */
typedef struct ApiRequest
{
	const ConduitConnector *connector;
	const ConduitJson *params;	/* of the connection; NULL: none */
	const ConduitSecret *secret;	/* the credential's access part */
	const char *client_id;		/* some APIs want it beside the token; NULL: none */
	const char *method;
	const char *path;			/* "/user/repos", below api_base_url */
	const ConduitJson *query;	/* object of scalars and arrays of them; NULL: none */
	const ConduitJson *headers; /* object of strings; NULL: none */
	const char *content_type;	/* NULL: no body */
	const char *body;
	Size		body_length;
	int			timeout_ms;
	Size		max_response;
} ApiRequest;

/*
 * conduit_api_request_check returns NULL, or the name of the argument that is
 * wrong ("method", "path", "query", "headers") with *problem a constant.
 */
extern const char *conduit_api_request_check(const ApiRequest *request, const char **problem);

/*
 * conduit_api_request_build makes a checked request whole.  out->problem:
 * "no_api" (the connector has no api_base_url), "invalid_params", "denied"
 * (egress), "no_credential" (api_auth wants what the credential has not).
 */
extern void conduit_api_request_build(const ApiRequest *request, OutgoingRequest *out);

/* True if the answer's headers or body hold the credential, in clear or encoded. */
extern bool conduit_api_answer_leaks(const ConduitSecret *secret, const HttpResponse *response);

/*
 * conduit_api_answer_headers keeps those headers of an answer that may be handed
 * on, as an object of strings; the last of equal names.
 */
extern char *conduit_api_answer_headers(const HttpResponse *response);

/* A plain media type without its parameters, lower-case; NULL if it is none. */
extern char *conduit_media_type(const char *content_type);

#endif							/* CONDUIT_API_REQUEST_H */
