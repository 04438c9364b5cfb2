/*-------------------------------------------------------------------------
 *
 * classify.h
 *	  What a refusal of a token endpoint means.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_CLASSIFY_H
#define CONDUIT_CLASSIFY_H

#include "base/compat.h"
#include "provider/token_response.h"

/*
 * conduit_classify_refusal sets outcome and code from the response's status and
 * Retry-After and from body: a JSON object, or NULL where there is none that
 * can be read.  html: the body is a page for people.
 *
 * Returns false, with nothing set, for a 2xx that names no error: then nobody
 * has refused anything.
 */
extern bool conduit_classify_refusal(const ConduitConnector *connector, const HttpResponse *response,
									 const ConduitJson *body, bool html, TokenOutcome *outcome);

/* conduit_classify_failure does the same for a transfer that brought no whole response. */
extern void conduit_classify_failure(const HttpResponse *response, TokenOutcome *outcome);

/*
 * conduit_classify_success tells whether a 2xx with this body is one: the
 * connector's success_path leads to success_value; without one, it does not
 * say "ok": false.
 */
extern bool conduit_classify_success(const ConduitConnector *connector, const ConduitJson *body);

/*
 * conduit_classify_clean_code cuts text down to an error code: characters
 * outside [a-zA-Z0-9_.-] become one '_' a run, none at the ends.
 */
extern void conduit_classify_clean_code(const char *text, char *code);

/* True if the code is a word of our own table, hence no text of a provider's making. */
extern bool conduit_classify_code_known(const char *code);

/* True if the code is known to say that the client's id or secret is wrong. */
extern bool conduit_classify_refuses_client(const char *code);

#endif							/* CONDUIT_CLASSIFY_H */
