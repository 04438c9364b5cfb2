/*-------------------------------------------------------------------------
 *
 * argument.h
 *	  Reading and checking what callers pass.
 *
 * Everything here raises 22023 on a bad value, in words that never repeat it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_ARGUMENT_H
#define CONDUIT_ARGUMENT_H

#include "base/compat.h"
#include "base/json.h"
#include "provider/account.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#define CONDUIT_MAX_OWNER_LEN 1024
#define CONDUIT_MAX_CLIENT_ID_LEN 1024
#define CONDUIT_MAX_JSON_LEN (64 * 1024)

/* NULL where the argument is null. */
extern char *conduit_text_argument(FunctionCallInfo fcinfo, int n);

/* A required owner: not blank, no control characters, not too long. */
extern char *conduit_owner_argument(FunctionCallInfo fcinfo, int n);

/* The tenant: null means ''. */
extern char *conduit_tenant_argument(FunctionCallInfo fcinfo, int n);

/* A required connection id. */
extern const pg_uuid_t *conduit_connection_argument(FunctionCallInfo fcinfo, int n);

/* A required slug, checked for its form. */
extern char *conduit_slug_argument(FunctionCallInfo fcinfo, int n);

/* Text that must be there, without control characters, of at most max bytes. */
extern char *conduit_name_argument(FunctionCallInfo fcinfo, int n, const char *message, int max);

/*
 * What is wrong with such a text (NULL: it is not there) as a stable code, with
 * *hint set; NULL if nothing is.
 */
extern const char *conduit_name_problem(const char *text, int max, const char **hint);

/* As conduit_name_argument, but null and '' come back as NULL. */
extern char *conduit_optional_name_argument(FunctionCallInfo fcinfo, int n, const char *message, int max);

/* An int argument between min and max; null means the default. */
extern int	conduit_count_argument(FunctionCallInfo fcinfo, int n, int standard, int min, int max, const char *message);

/* An interval that must not be negative, in microseconds; null means 0. */
extern int64 conduit_interval_argument(FunctionCallInfo fcinfo, int n, const char *message, const char *hint);

/*
 * A jsonb argument that must be an object, as its text; null gives NULL.
 */
extern char *conduit_object_argument(FunctionCallInfo fcinfo, int n, const char *message);

/* conduit_parse_object reads a JSON object's text (of ours or jsonb_out's) into nodes. */
extern ConduitJson *conduit_parse_object(const char *text, const char *message);

/*
 * conduit_try_jsonb makes jsonb of a text that the JSON reader has let
 * through, in the server's encoding.  Returns NULL where jsonb has narrower
 * limits, such as numeric's.
 */
extern Jsonb *conduit_try_jsonb(char *json);

/* True if text has a control character. */
extern bool conduit_has_control(const char *text);

#endif							/* CONDUIT_ARGUMENT_H */
