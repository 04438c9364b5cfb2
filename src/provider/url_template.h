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
	TEMPLATE_SAMPLE,			/* a value that fits anywhere: to check a template's form */
	TEMPLATE_PLAIN,				/* params or defaults, patterns not matched: to learn the origin */
	TEMPLATE_CHECKED			/* params or defaults, each matched against its pattern */
} TemplateFill;

/* The value of a variable that is none of params; a NULL name ends a list of them. */
typedef struct TemplateValue
{
	const char *name;
	const char *value;
} TemplateValue;

/* What revoke_url may have besides params, with values to check its form. */
extern const TemplateValue conduit_revoke_samples[];

/* A variable's name at text (just behind a brace): its length, 0 if none is there. */
extern int	conduit_variable_length(const char *text);

/* True if text, as a whole, is the name of a variable. */
extern bool conduit_variable_valid(const char *text);

/*
 * conduit_template_fill replaces the variables of a URL.  Values in the host
 * must be safe there; elsewhere they are percent-encoded.  values (or NULL) are
 * for variables that are none of params, which may stand behind the host only;
 * one may be a secret: no copy but the result is made.  Returns NULL with
 * *problem a constant and *variable a name or NULL when that cannot be done.
 */
extern char *conduit_template_fill(const ConduitConnector *connector, const char *template_url,
								   const ConduitJson *params, TemplateFill how, const TemplateValue *values,
								   const char **problem, const char **variable);

/*
 * conduit_text_fill replaces the variables of free text: the value of a
 * parameter, a header or a claim.  Those in values (or NULL) are taken as they
 * are, others from params, each by its pattern; nothing is encoded.  The result
 * is allocated at its final size, for it may hold a secret.  Returns NULL, with
 * *problem and *variable set, where a value is missing or does not fit.
 */
extern char *conduit_text_fill(const ConduitConnector *connector, const char *text,
							   const ConduitJson *params, const TemplateValue *values,
							   const char **problem, const char **variable);

/*
 * conduit_text_variables finds each {variable} in free text (a header, a
 * parameter's value) and calls visit until that returns false, which is then
 * the answer.  Braces around anything else are ordinary characters.
 */
typedef bool (*VariableVisitor) (const char *name, void *argument);
extern bool conduit_text_variables(const char *text, VariableVisitor visit, void *argument);

/*
 * conduit_variable_value returns a variable's value from params, else its
 * declaration's default, else NULL with *problem set.
 */
extern const char *conduit_variable_value(const ConduitJson *declaration, const ConduitJson *params,
										  const char *name, const char **problem);

/* NULL, or what is wrong with a value wherever it is used, its pattern apart. */
extern const char *conduit_variable_check(const char *value);

/* True if {name} stands in text. */
extern bool conduit_text_has_variable(const char *text, const char *name);

/*
 * conduit_variable_fit returns a provider's value for a variable of params as
 * it is kept: a copy of the text where that matches the pattern; of the host
 * alone where the text is an https URL of a host that does, for providers name
 * their hosts so; else NULL.
 */
extern char *conduit_variable_fit(const ConduitConnector *connector, const char *name, const char *text);

/* NULL if the pattern is anchored and compiles, else a constant that says what is wrong. */
extern const char *conduit_pattern_check(const char *pattern);

/* True if the whole of value matches.  A pattern that fails to run does not match. */
extern bool conduit_pattern_matches(const char *pattern, const char *value);

#endif							/* CONDUIT_URL_TEMPLATE_H */
