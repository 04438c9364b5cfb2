/*-------------------------------------------------------------------------
 *
 * report.h
 *	  The error contract: one table of SQLSTATE, message and hint.
 *
 * Every error that Conduit raises on purpose goes through here, so that equal
 * conditions are equal to the byte and no input is ever echoed: messages are
 * constants, a detail is a stable code followed by numbers.  Statement and
 * context are hidden, for either may carry a secret that a caller wrote as a
 * literal.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_REPORT_H
#define CONDUIT_REPORT_H

#include "base/compat.h"

typedef enum ConduitError
{
	CONDUIT_ERR_UNAUTHORIZED,
	CONDUIT_ERR_FORBIDDEN,
	CONDUIT_ERR_RATE_LIMITED,
	CONDUIT_ERR_NOT_FOUND,
	CONDUIT_ERR_CONNECTION_NOT_FOUND,
	CONDUIT_ERR_CREDENTIAL_NOT_FOUND,
	CONDUIT_ERR_NEEDS_REAUTH,
	CONDUIT_ERR_LACKS_SCOPE,
	CONDUIT_ERR_REVOKED,
	CONDUIT_ERR_BAD_RESPONSE,
	CONDUIT_ERR_UNAVAILABLE,
	CONDUIT_ERR_NO_WORKER,
	CONDUIT_ERR_PAUSED,
	CONDUIT_ERR_VAULT_LOCKED,
	CONDUIT_ERR_UNKNOWN_KEY,
	CONDUIT_ERR_CANNOT_OPEN,
	CONDUIT_ERR_NOT_CONFIGURED,
	CONDUIT_ERR_NOT_COMMITTED,
	CONDUIT_ERR_AUTHORIZATION_FAILED,
	CONDUIT_ERR_OLD_LIBRARY,	/* SQL newer than library */
	CONDUIT_ERR_OLD_SQL			/* library newer than SQL */
} ConduitError;

/*
 * conduit_raise throws the error of the table; detail may be NULL and is never
 * shown for PT401 and PT404.
 */
pg_noreturn extern void conduit_raise(ConduitError error, const char *detail);

/* conduit_warn sends the same text as a WARNING to the client. */
extern void conduit_warn(ConduitError error, const char *detail);

/* The SQLSTATE and the message of an error, for who reports it as a value. */
extern const char *conduit_error_state(ConduitError error);
extern const char *conduit_error_message(ConduitError error);

/*
 * What stands in the way of a result, for who must not raise it at once: an
 * error, or a warning that goes with the result.
 */
typedef struct ConduitProblem
{
	enum
	{
		PROBLEM_NONE,
		PROBLEM_WARNING,
		PROBLEM_ERROR
	}			level;
	ConduitError error;
	const char *detail;			/* or NULL */
} ConduitProblem;

/* conduit_report_problem raises an error, sends a warning or does nothing. */
extern void conduit_report_problem(const ConduitProblem *problem);

/*
 * conduit_bad_argument throws 22023.  message is a constant ("invalid owner"),
 * detail NULL or free of input beyond names that the caller chose as
 * identifiers; hint says what is expected, or NULL.
 */
pg_noreturn extern void conduit_bad_argument(const char *message, const char *detail, const char *hint);

#endif							/* CONDUIT_REPORT_H */
