/*-------------------------------------------------------------------------
 *
 * connector_field.h
 *	  Readers of single fields of a connector's definition.
 *
 * Wording:
 *	   - A field is a member of the definition, described by a row of a table:
 *		 its name, what may use it, how it is read, what it fills.
 *	   - A member, without more words, is one of ConduitConnector.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_CONNECTOR_FIELD_H
#define CONDUIT_CONNECTOR_FIELD_H

#include "base/compat.h"
#include "provider/connector.h"

/* What is being read. */
typedef struct DefinitionReader
{
	ConduitConnector *connector;
	const ConduitJson *root;
	bool		check_egress;
	const ConduitJson *token_params;	/* extra_token_params, before they are merged */
} DefinitionReader;

/* A value that is one of some words. */
typedef struct FieldWord
{
	const char *word;			/* NULL ends a list */
	int			value;			/* of an enum or a bool */
	const char *text;			/* of a string */
} FieldWord;

typedef struct ConnectorField ConnectorField;

/*
 * A reader takes a value, which is not null, and fills the field's member, or
 * refuses the definition in the field's name.
 */
typedef void (*FieldReader) (DefinitionReader *reader, const ConnectorField *field, const ConduitJson *value);

struct ConnectorField
{
	const char *name;
	int			auth_types;		/* bits, 1 << AuthType: who may have it */
	FieldReader read;
	size_t		offset;			/* of the member */
	int			min;			/* of a number */
	int			max;			/* of a number; bytes of a text */
	const FieldWord *words;
	const char *const *names;	/* what an object's keys may be; NULL ends them */
};

/*
 * conduit_field_refuse raises 22023 "invalid connector definition" with DETAIL
 * "field: problem".  Of the definition no more is quoted than names that
 * conduit_field_quotable lets through.
 */
pg_noreturn extern void conduit_field_refuse(const char *field, const char *problem, const char *hint);

/* name if it is fit for an error text, else otherwise. */
extern const char *conduit_field_quotable(const char *name, const char *otherwise);

/* The definition's value of a field; NULL where it is absent or null. */
extern const ConduitJson *conduit_field_get(const DefinitionReader *reader, const char *field);

/* The same as a string of 1 to max bytes without control characters. */
extern char *conduit_field_text(const char *field, const ConduitJson *value, int max);

/* An object of strings that may have variables, also written "a=b&c=d". */
extern const ConduitJson *conduit_field_pairs(const DefinitionReader *reader, const char *field,
											  const ConduitJson *value);

/* A list that ends with NULL; -1 if text is not in it. */
extern int	conduit_field_position(const char *text, const char *const *list);

/* Readers of many fields, by what fills the member. */
extern void conduit_field_read_string(DefinitionReader *, const ConnectorField *, const ConduitJson *);	/* char * */
extern void conduit_field_read_template(DefinitionReader *, const ConnectorField *, const ConduitJson *);	/* char *, with variables */
extern void conduit_field_read_url(DefinitionReader *, const ConnectorField *, const ConduitJson *);	/* char *, a URL template */
extern void conduit_field_read_path(DefinitionReader *, const ConnectorField *, const ConduitJson *);	/* char * */
extern void conduit_field_read_integer(DefinitionReader *, const ConnectorField *, const ConduitJson *);	/* int */
extern void conduit_field_read_flag(DefinitionReader *, const ConnectorField *, const ConduitJson *);	/* bool; words besides true and false */
extern void conduit_field_read_flag_word(DefinitionReader *, const ConnectorField *, const ConduitJson *);	/* bool, by words alone */
extern void conduit_field_read_word(DefinitionReader *, const ConnectorField *, const ConduitJson *);	/* an enum */
extern void conduit_field_read_choice(DefinitionReader *, const ConnectorField *, const ConduitJson *);	/* char *, a word's text */
extern void conduit_field_read_scalar(DefinitionReader *, const ConnectorField *, const ConduitJson *);	/* const ConduitJson * */
extern void conduit_field_read_names(DefinitionReader *, const ConnectorField *, const ConduitJson *);	/* List of char *, parameters of the redirect */
extern void conduit_field_read_hosts(DefinitionReader *, const ConnectorField *, const ConduitJson *); /* List of char * */
extern void conduit_field_read_scopes(DefinitionReader *, const ConnectorField *, const ConduitJson *);	/* List of char * */
extern void conduit_field_read_pairs(DefinitionReader *, const ConnectorField *, const ConduitJson *);	/* object of strings, with variables */
extern void conduit_field_read_renames(DefinitionReader *, const ConnectorField *, const ConduitJson *);	/* canonical name -> text or null */
extern void conduit_field_read_paths(DefinitionReader *, const ConnectorField *, const ConduitJson *);	/* object of paths */
extern void conduit_field_read_variables(DefinitionReader *, const ConnectorField *, const ConduitJson *);	/* redirect parameter -> variable */

/* Readers of one field each. */
extern void conduit_field_read_params(DefinitionReader *, const ConnectorField *, const ConduitJson *);
extern void conduit_field_read_api_auth(DefinitionReader *, const ConnectorField *, const ConduitJson *);
extern void conduit_field_read_token_headers(DefinitionReader *, const ConnectorField *, const ConduitJson *);
extern void conduit_field_read_meanings(DefinitionReader *, const ConnectorField *, const ConduitJson *);	/* error_codes, error_phrases */
extern void conduit_field_read_dead_errors(DefinitionReader *, const ConnectorField *, const ConduitJson *);
extern void conduit_field_read_dead_statuses(DefinitionReader *, const ConnectorField *, const ConduitJson *);

#endif							/* CONDUIT_CONNECTOR_FIELD_H */
