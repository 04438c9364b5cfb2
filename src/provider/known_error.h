/*-------------------------------------------------------------------------
 *
 * known_error.h
 *	  Refusals that providers are known for, and what they mean.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_KNOWN_ERROR_H
#define CONDUIT_KNOWN_ERROR_H

#include "base/compat.h"
#include "provider/connector.h"

typedef enum ErrorSignal
{
	SIGNAL_CODE,				/* an error code, whatever its case; '-', '.' and '_' are one */
	SIGNAL_PHRASE,				/* part of a description, whatever its case */
	SIGNAL_AADSTS,				/* Microsoft's number within a description */
	SIGNAL_STATUS				/* the HTTP status, where no code is known */
} ErrorSignal;

typedef struct KnownError
{
	ErrorSignal signal;
	const char *text;
	OutcomeClass outcome;
	bool		refuses_client; /* it is the client's id or secret that is wrong */
} KnownError;

/* The code, the number or the status of that text; NULL if it is not known. */
extern const KnownError *conduit_known_error(ErrorSignal signal, const char *text);

/* The first phrase of that meaning that description contains, or NULL. */
extern const KnownError *conduit_known_phrase(const char *description, OutcomeClass outcome);

/* Equal as error codes. */
extern bool conduit_same_error_code(const char *a, const char *b);

/* Does text, of any case, contain the (lower-case) phrase?  NULL contains none. */
extern bool conduit_contains_phrase(const char *text, const char *phrase);

#endif							/* CONDUIT_KNOWN_ERROR_H */
