/*-------------------------------------------------------------------------
 *
 * url_template.h
 *	  Variables in a connector's URLs and the patterns of their values.
 *
 * Wording:
 *	   - A variable is {name} in a template; its name is lower-case letters,
 *		 digits and underscores, and begins with a letter.
 *	   - A pattern is an anchored regular expression of PostgreSQL's own kind.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_URL_TEMPLATE_H
#define CONDUIT_URL_TEMPLATE_H

#include "base/compat.h"
#include "provider/connector.h"

#define CONDUIT_VARIABLE_MAX	63	/* characters of a variable's name */
#define CONDUIT_PATTERN_MAX		256 /* bytes of a pattern */
#define CONDUIT_VALUE_MAX		512 /* bytes of a value */

/* How template_fill treats values. */
typedef enum TemplateFill
{
	TEMPLATE_SAMPLE,			/* every variable becomes "x": to check a template's form */
	TEMPLATE_PLAIN,				/* params or defaults, patterns not matched: to learn the origin */
	TEMPLATE_CHECKED			/* params or defaults, each matched against its pattern */
} TemplateFill;

/* A variable's name at text (just behind a brace): its length, 0 if none is there. */
extern int	conduit_variable_length(const char *text);

/* True if text, as a whole, is the name of a variable. */
extern bool conduit_variable_valid(const char *text);

/*
 * conduit_template_fill replaces the variables of a URL.  Values in the host
 * must be safe there; elsewhere they are percent-encoded.  Returns NULL with
 * *problem a constant and *variable a name or NULL when that cannot be done.
 */
extern char *conduit_template_fill(const ConduitConnector *connector, const char *template_url,
								   const ConduitJson *params, TemplateFill how,
								   const char **problem, const char **variable);

/*
 * conduit_text_variables finds each {variable} in free text (a header, a
 * parameter's value) and calls visit until that returns false, which is then
 * the answer.  Braces around anything else are ordinary characters.
 */
typedef bool (*VariableVisitor) (const char *name, void *argument);
extern bool conduit_text_variables(const char *text, VariableVisitor visit, void *argument);

/* NULL if the pattern is anchored and compiles, else a constant that says what is wrong. */
extern const char *conduit_pattern_check(const char *pattern);

/* True if the whole of value matches.  A pattern that fails to run does not match. */
extern bool conduit_pattern_matches(const char *pattern, const char *value);

#endif							/* CONDUIT_URL_TEMPLATE_H */
