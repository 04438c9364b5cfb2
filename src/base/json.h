/*-------------------------------------------------------------------------
 *
 * json.h
 *	  A strict JSON reader for texts that hold secrets.
 *
 * PostgreSQL's own input functions quote the text in their errors, keep the
 * last of two equal keys and scatter copies over memory contexts.  This one
 * works in place on one buffer that its caller owns and can wipe, refuses
 * duplicate keys, NUL, invalid UTF-8, more than CONDUIT_JSON_MAX_DEPTH levels
 * and anything RFC 8259 does not allow, and never raises an error: bad input
 * is an answer.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_JSON_H
#define CONDUIT_JSON_H

#include "base/compat.h"
#include "lib/stringinfo.h"

#define CONDUIT_JSON_MAX_DEPTH 32

typedef enum ConduitJsonType
{
	CONDUIT_JSON_NULL,
	CONDUIT_JSON_FALSE,
	CONDUIT_JSON_TRUE,
	CONDUIT_JSON_NUMBER,		/* text is the number as it was written */
	CONDUIT_JSON_STRING,		/* text is unescaped */
	CONDUIT_JSON_ARRAY,
	CONDUIT_JSON_OBJECT
} ConduitJsonType;

typedef struct ConduitJson
{
	ConduitJsonType type;
	const char *key;			/* within an object, NUL-terminated; else NULL */
	const char *text;			/* STRING, NUMBER: NUL-terminated, in the buffer */
	int			length;			/* of text */
	struct ConduitJson *first;	/* ARRAY, OBJECT: first child */
	struct ConduitJson *next;	/* sibling */
} ConduitJson;

/*
 * conduit_json_parse reads length bytes at buffer, which it changes and into
 * which the result points, and which must have one more byte for a final NUL.
 * Nodes are palloc'd in the current context.  Returns NULL on bad input, with
 * *problem a constant text ("duplicate key", "nested too deeply", ...).
 */
extern ConduitJson *conduit_json_parse(char *buffer, int length, const char **problem);

/* conduit_json_get returns an object's member or NULL (also when not an object). */
extern const ConduitJson *conduit_json_get(const ConduitJson *object, const char *key);

/* conduit_json_path follows "a.b.0.c" through objects and arrays; NULL if absent. */
extern const ConduitJson *conduit_json_path(const ConduitJson *root, const char *path);

/* The string's text, or NULL if node is NULL or not a string. */
extern const char *conduit_json_string(const ConduitJson *node);

/* True and *value set if node is a finite number, or a string that is one. */
extern bool conduit_json_double(const ConduitJson *node, double *value);

/* conduit_json_write appends node as compact JSON text. */
extern void conduit_json_write(StringInfo out, const ConduitJson *node);

/* conduit_json_text returns that, or NULL for NULL. */
extern char *conduit_json_text(const ConduitJson *node);

/* conduit_json_write_string appends a quoted and escaped string. */
extern void conduit_json_write_string(StringInfo out, const char *text, int length);

#endif							/* CONDUIT_JSON_H */
