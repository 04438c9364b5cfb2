/*-------------------------------------------------------------------------
 *
 * json_array.c
 *	  Taking a JSON array apart without reading its elements.
 *
 *-------------------------------------------------------------------------
 */
#include "base/json_array.h"

static bool
is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static char *
skip_space(char *at, const char *end)
{
	while (at < end && is_space(*at))
		at++;
	return at;
}

/* The place behind a string that begins at "at", or NULL if it does not end. */
static char *
skip_string(char *at, const char *end)
{
	for (at++; at < end; at++)
	{
		if (*at == '\\')
			at++;
		else if (*at == '"')
			return at + 1;
	}
	return NULL;
}

/* The comma or bracket that ends an element, or NULL if there is none. */
static char *
find_end(char *at, const char *end)
{
	int			depth = 0;

	while (at != NULL && at < end)
	{
		switch (*at)
		{
			case '"':
				at = skip_string(at, end);
				continue;
			case '[':
			case '{':
				depth++;
				break;
			case '}':
				if (--depth < 0)
					return NULL;
				break;
			case ']':
				if (depth == 0)
					return at;
				depth--;
				break;
			case ',':
				if (depth == 0)
					return at;
				break;
		}
		at++;
	}
	return NULL;
}

int
conduit_json_split(char *buffer, int length, ConduitJsonPart *parts, int max)
{
	char	   *end = buffer + length;
	char	   *at = skip_space(buffer, end);
	int			n = 0;

	if (at >= end || *at++ != '[')
		return -1;
	at = skip_space(at, end);
	if (at < end && *at == ']')
		return skip_space(at + 1, end) == end ? 0 : -1;

	for (;;)
	{
		char	   *stop;
		char	   *last;

		at = skip_space(at, end);
		stop = find_end(at, end);
		if (stop == NULL || stop == at)
			return -1;
		for (last = stop; is_space(last[-1]); last--)
			;
		if (n < max)
		{
			parts[n].text = at;
			parts[n].length = last - at;
		}
		n = Min(n + 1, max + 1);
		at = stop + 1;
		if (*stop == ']')
			return skip_space(at, end) == end ? n : -1;
	}
}
