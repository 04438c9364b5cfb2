/*-------------------------------------------------------------------------
 *
 * outgoing.h
 *	  A request about to be sent: its parameters, its headers, its secrets.
 *
 * Wording:
 *	   - A parameter has a canonical name; a connector's names say what the
 *		 provider calls it, or that it wants none of it.
 *	   - A problem is the stable code of why a request cannot be sent.
 *	   - The secrets it carries are remembered, for an answer may quote them.
 *
 * Texts with secrets are made at their final size and wiped by
 * conduit_outgoing_wipe, which whoever has a request calls on every way out.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_OUTGOING_H
#define CONDUIT_OUTGOING_H

#include "base/compat.h"
#include "nodes/pg_list.h"
#include "provider/connector.h"
#include "provider/http.h"
#include "provider/sized_text.h"
#include "provider/url_template.h"

typedef struct OutgoingRequest
{
	HttpRequest http;			/* whole after conduit_outgoing_finish */
	const char *problem;		/* NULL: none */
	const ConduitConnector *connector;
	const ConduitJson *values;	/* of the connection's params; NULL: none */
	List	   *params;			/* to be sent, in order */
	List	   *headers;		/* HttpHeader * */
	List	   *texts;			/* SizedText *: to be wiped */
	List	   *secrets;		/* SecretText *: carried, in clear or encoded */
} OutgoingRequest;

/* Where a request's client is to be authenticated, and as whom. */
typedef struct OutgoingClient
{
	ClientAuth	method;
	const char *client_id;		/* NULL: none */
	SecretText	secret;			/* data NULL: none; a PEM key where the connector signs */
	const char *endpoint;		/* whom an assertion is for, if the connector does not say */
} OutgoingClient;

extern void conduit_outgoing_start(OutgoingRequest *out, const ConduitConnector *connector,
								   const ConduitJson *values, int timeout_ms);

/* conduit_outgoing_fail notes the first problem there is. */
extern void conduit_outgoing_fail(OutgoingRequest *out, const char *problem);

/* conduit_outgoing_text is a text of the request's own, wiped with it. */
extern SizedText *conduit_outgoing_text(OutgoingRequest *out, SizedWriter writer, const void *source);

/* conduit_outgoing_secret remembers a secret that the request carries. */
extern void conduit_outgoing_secret(OutgoingRequest *out, const SecretText *secret);

/* conduit_outgoing_copy is a copy of a secret with a NUL behind it, wiped with the request. */
extern const char *conduit_outgoing_copy(OutgoingRequest *out, const SecretText *secret);

/* conduit_outgoing_adopt makes a palloc'd text one of the request's own. */
extern void conduit_outgoing_adopt(OutgoingRequest *out, char *text);

/*
 * conduit_outgoing_fill is conduit_text_fill by the connection's params; NULL,
 * which is a problem of the request, where a variable has no value.
 */
extern const char *conduit_outgoing_fill(OutgoingRequest *out, const char *text, const TemplateValue *values);

/*
 * conduit_outgoing_param adds a parameter under the name that names has for the
 * canonical one, or leaves it out.  The value is not copied.
 */
extern void conduit_outgoing_param(OutgoingRequest *out, const ConduitJson *names, const char *canonical,
								   const char *value, Size length);

/* The same for a secret, which is remembered. */
extern void conduit_outgoing_secret_param(OutgoingRequest *out, const ConduitJson *names, const char *canonical,
										  const SecretText *value);

/* An object of strings with variables; its names are the provider's. */
extern void conduit_outgoing_extra_params(OutgoingRequest *out, const ConduitJson *extra);

/*
 * conduit_outgoing_header adds a header, in the place of one of that name that
 * there is; name and value are not copied.
 */
extern void conduit_outgoing_header(OutgoingRequest *out, const char *name, const char *value);

/*
 * conduit_outgoing_headers adds what every request to a token endpoint and
 * every revocation has: Accept, and the connector's token_headers, but those
 * that want a client_id or client_secret which there is not.
 */
extern void conduit_outgoing_headers(OutgoingRequest *out, const char *client_id, const SecretText *client_secret);

/* "Authorization: Bearer ..." */
extern void conduit_outgoing_bearer(OutgoingRequest *out, const SecretText *token);

/*
 * conduit_outgoing_client authenticates the client: in the Authorization header
 * or among the parameters, never in both (RFC 6749, 2.3).
 */
extern void conduit_outgoing_client(OutgoingRequest *out, const OutgoingClient *client, const ConduitJson *names);

/*
 * conduit_outgoing_finish puts the parameters where the format has them and
 * makes out->http whole.  Without parameters there is no body but the empty
 * object of JSON, and that with POST alone.
 */
extern void conduit_outgoing_finish(OutgoingRequest *out, const char *method, const char *url, BodyFormat format);

extern void conduit_outgoing_wipe(OutgoingRequest *out);

#endif							/* CONDUIT_OUTGOING_H */
