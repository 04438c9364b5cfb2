/*-------------------------------------------------------------------------
 *
 * json.c
 *	  A strict JSON reader for texts that hold secrets, and a compact writer.
 *
 * The reader walks the buffer once, unescapes strings where they stand and
 * puts a NUL behind each.  A number has no closing character of its own: its
 * NUL may fall on the delimiter that follows, so it is written only after that
 * delimiter has been read.
 *
 * It works on UTF-8 whatever the server's encoding is; callers convert.
 *
 *-------------------------------------------------------------------------
 */
#include "base/json.h"

#include <math.h>

#include "mb/pg_wchar.h"

#define FIRST_BATCH 16			/* nodes allocated at once: at first ... */
#define LARGEST_BATCH 1024		/* ... and at most */
#define FEW_KEYS 8				/* so many are compared each with each */

typedef struct Reader
{
	char	   *at;				/* next byte to read */
	char	   *end;
	char	   *unterminated;	/* end of a number that still needs its NUL */
	int			depth;
	const char *problem;
	ConduitJson *spare;			/* nodes allocated, not used yet */
	int			nspare;
	int			batch;
} Reader;

static bool read_value(Reader *reader, ConduitJson *node);

static bool
refuse(Reader *reader, const char *problem)
{
	reader->problem = problem;
	return false;
}

static ConduitJson *
new_node(Reader *reader)
{
	if (reader->nspare == 0)
	{
		reader->batch = Min(Max(reader->batch * 2, FIRST_BATCH), LARGEST_BATCH);
		reader->spare = palloc(sizeof(ConduitJson) * reader->batch);
		reader->nspare = reader->batch;
	}
	reader->nspare--;
	memset(reader->spare, 0, sizeof(ConduitJson));
	return reader->spare++;
}

static void
skip_space(Reader *reader)
{
	while (reader->at < reader->end &&
		   (*reader->at == ' ' || *reader->at == '\t' ||
			*reader->at == '\n' || *reader->at == '\r'))
		reader->at++;
}

/*
 * take_token returns the next byte that is not white space, or -1 at the end.
 * Whatever it returns has left the buffer, so a number before it may be
 * terminated now.
 */
static int
take_token(Reader *reader)
{
	int			token;

	skip_space(reader);
	token = reader->at < reader->end ? (unsigned char) *reader->at++ : -1;
	if (reader->unterminated)
	{
		*reader->unterminated = '\0';
		reader->unterminated = NULL;
	}
	return token;
}

/* hex_quad reads four hexadecimal digits; -1 if they are not. */
static int
hex_quad(const char *digits)
{
	int			value = 0;

	for (int i = 0; i < 4; i++)
	{
		char		c = digits[i];

		value <<= 4;
		if (c >= '0' && c <= '9')
			value |= c - '0';
		else if (c >= 'a' && c <= 'f')
			value |= c - 'a' + 10;
		else if (c >= 'A' && c <= 'F')
			value |= c - 'A' + 10;
		else
			return -1;
	}
	return value;
}

/*
 * read_code_point reads the hexadecimal part of \uXXXX, and of the second half
 * of a surrogate pair.  Returns 0, which no string may hold, on bad input.
 */
static pg_wchar
read_code_point(Reader *reader)
{
	int			high;
	int			low;

	if (reader->end - reader->at < 4 || (high = hex_quad(reader->at)) < 0)
	{
		refuse(reader, "invalid escape");
		return 0;
	}
	reader->at += 4;
	if (high == 0)
	{
		refuse(reader, "NUL character");
		return 0;
	}
	if (high < 0xD800 || high > 0xDFFF)
		return high;
	if (high > 0xDBFF ||
		reader->end - reader->at < 6 ||
		reader->at[0] != '\\' || reader->at[1] != 'u' ||
		(low = hex_quad(reader->at + 2)) < 0xDC00 || low > 0xDFFF)
	{
		refuse(reader, "lone surrogate");
		return 0;
	}
	reader->at += 6;
	return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
}

/*
 * read_string reads what follows an opening quote and leaves the unescaped
 * text, which is never longer than what was read, in its place.
 */
static bool
read_string(Reader *reader, const char **text, int *length)
{
	char	   *to = reader->at;

	*text = to;
	for (;;)
	{
		unsigned char c;

		if (reader->at >= reader->end)
			return refuse(reader, "unexpected end");
		c = *reader->at;
		if (c == '"')
			break;
		if (c == '\0')
			return refuse(reader, "NUL character");
		if (c < 0x20)
			return refuse(reader, "control character in string");
		if (c >= 0x80)
		{
			int			size = pg_utf_mblen((unsigned char *) reader->at);

			if (reader->end - reader->at < size ||
				!pg_utf8_islegal((unsigned char *) reader->at, size))
				return refuse(reader, "invalid UTF-8");
			memmove(to, reader->at, size);
			reader->at += size;
			to += size;
		}
		else if (c != '\\')
		{
			*to++ = c;
			reader->at++;
		}
		else
		{
			if (reader->end - reader->at < 2)
				return refuse(reader, "unexpected end");
			c = reader->at[1];
			reader->at += 2;
			switch (c)
			{
				case '"':
				case '\\':
				case '/':
					*to++ = c;
					break;
				case 'b':
					*to++ = '\b';
					break;
				case 'f':
					*to++ = '\f';
					break;
				case 'n':
					*to++ = '\n';
					break;
				case 'r':
					*to++ = '\r';
					break;
				case 't':
					*to++ = '\t';
					break;
				case 'u':
					{
						pg_wchar	code_point = read_code_point(reader);

						if (code_point == 0)
							return false;
						unicode_to_utf8(code_point, (unsigned char *) to);
						to += pg_utf_mblen((unsigned char *) to);
						break;
					}
				default:
					return refuse(reader, "invalid escape");
			}
		}
	}
	reader->at++;
	*to = '\0';
	*length = to - *text;
	return true;
}

/*
 * number_length returns the length of the longest number (RFC 8259, section 6)
 * that text begins with, 0 if there is none.
 */
static int
number_length(const char *text, int available)
{
	const char *at = text;
	const char *end = text + available;
	const char *part;

#define DIGIT_AT(p) ((p) < end && *(p) >= '0' && *(p) <= '9')

	if (at < end && *at == '-')
		at++;
	if (!DIGIT_AT(at))
		return 0;
	if (*at++ != '0')
		while (DIGIT_AT(at))
			at++;
	if (at < end && *at == '.' && DIGIT_AT(at + 1))
	{
		at++;
		while (DIGIT_AT(at))
			at++;
	}
	if (at < end && (*at == 'e' || *at == 'E'))
	{
		part = at + 1;
		if (part < end && (*part == '+' || *part == '-'))
			part++;
		if (DIGIT_AT(part))
		{
			at = part;
			while (DIGIT_AT(at))
				at++;
		}
	}

#undef DIGIT_AT

	return at - text;
}

/* read_rest_of_word reads what is left of "true", "false" or "null". */
static bool
read_rest_of_word(Reader *reader, const char *rest)
{
	int			length = strlen(rest);

	if (reader->end - reader->at < length)
		return refuse(reader, "unexpected end");
	if (memcmp(reader->at, rest, length) != 0)
		return refuse(reader, "unexpected character");
	reader->at += length;
	return true;
}

/*
 * has_equal_keys sorts larger objects by merging, so that no choice of keys,
 * however hostile, costs more than n log n comparisons.
 */
static bool
has_equal_keys(const ConduitJson *object, int count)
{
	const char **keys;
	const char **merged;
	const char **space;
	bool		found = false;
	int			n = 0;

	if (count <= FEW_KEYS)
	{
		for (const ConduitJson *a = object->first; a; a = a->next)
			for (const ConduitJson *b = a->next; b; b = b->next)
				if (strcmp(a->key, b->key) == 0)
					return true;
		return false;
	}

	space = palloc_extended(sizeof(char *) * count * 2, MCXT_ALLOC_HUGE);
	keys = space;
	merged = space + count;
	for (const ConduitJson *member = object->first; member; member = member->next)
		keys[n++] = member->key;

	for (Size run = 1; run < count && !found; run *= 2)
	{
		const char **swap;

		for (Size start = 0; start < count && !found; start += run * 2)
		{
			Size		a = start;
			Size		a_end = Min(start + run, count);
			Size		b = a_end;
			Size		b_end = Min(start + run * 2, count);
			Size		to = start;

			while (a < a_end && b < b_end)
			{
				int			order = strcmp(keys[a], keys[b]);

				if (order == 0)
				{
					/* Equal keys meet in the merge of the runs they are in. */
					found = true;
					break;
				}
				merged[to++] = order < 0 ? keys[a++] : keys[b++];
			}
			while (a < a_end)
				merged[to++] = keys[a++];
			while (b < b_end && !found)
				merged[to++] = keys[b++];
		}
		swap = keys;
		keys = merged;
		merged = swap;
	}

	pfree(space);
	return found;
}

static bool
read_array(Reader *reader, ConduitJson *array)
{
	ConduitJson **link = &array->first;

	array->type = CONDUIT_JSON_ARRAY;
	skip_space(reader);
	if (reader->at < reader->end && *reader->at == ']')
	{
		reader->at++;
		return true;
	}
	for (;;)
	{
		ConduitJson *element = new_node(reader);
		int			token;

		if (!read_value(reader, element))
			return false;
		*link = element;
		link = &element->next;

		token = take_token(reader);
		if (token == ']')
			return true;
		if (token != ',')
			return refuse(reader, token < 0 ? "unexpected end" : "unexpected character");
	}
}

static bool
read_object(Reader *reader, ConduitJson *object)
{
	ConduitJson **link = &object->first;
	int			count = 0;

	object->type = CONDUIT_JSON_OBJECT;
	skip_space(reader);
	if (reader->at < reader->end && *reader->at == '}')
	{
		reader->at++;
		return true;
	}
	for (;;)
	{
		ConduitJson *member = new_node(reader);
		int			key_length;
		int			token;

		token = take_token(reader);
		if (token != '"')
			return refuse(reader, token < 0 ? "unexpected end" : "unexpected character");
		if (!read_string(reader, &member->key, &key_length))
			return false;
		token = take_token(reader);
		if (token != ':')
			return refuse(reader, token < 0 ? "unexpected end" : "unexpected character");
		if (!read_value(reader, member))
			return false;
		*link = member;
		link = &member->next;
		count++;

		token = take_token(reader);
		if (token == '}')
			break;
		if (token != ',')
			return refuse(reader, token < 0 ? "unexpected end" : "unexpected character");
	}
	if (has_equal_keys(object, count))
		return refuse(reader, "duplicate key");
	return true;
}

/* read_value fills node, whose key is set already; false with the problem set. */
static bool
read_value(Reader *reader, ConduitJson *node)
{
	int			token = take_token(reader);
	bool		good;

	switch (token)
	{
		case -1:
			return refuse(reader, "unexpected end");
		case '{':
		case '[':
			if (reader->depth == CONDUIT_JSON_MAX_DEPTH)
				return refuse(reader, "nested too deeply");
			reader->depth++;
			good = token == '{' ? read_object(reader, node) : read_array(reader, node);
			reader->depth--;
			return good;
		case '"':
			node->type = CONDUIT_JSON_STRING;
			return read_string(reader, &node->text, &node->length);
		case 't':
			node->type = CONDUIT_JSON_TRUE;
			return read_rest_of_word(reader, "rue");
		case 'f':
			node->type = CONDUIT_JSON_FALSE;
			return read_rest_of_word(reader, "alse");
		case 'n':
			node->type = CONDUIT_JSON_NULL;
			return read_rest_of_word(reader, "ull");
		default:
			if (token != '-' && (token < '0' || token > '9'))
				return refuse(reader, "unexpected character");
			reader->at--;
			node->type = CONDUIT_JSON_NUMBER;
			node->text = reader->at;
			node->length = number_length(reader->at, reader->end - reader->at);
			if (node->length == 0)
				return refuse(reader, "invalid number");
			reader->at += node->length;
			reader->unterminated = reader->at;
			return true;
	}
}

ConduitJson *
conduit_json_parse(char *buffer, int length, const char **problem)
{
	Reader		reader = {0};
	ConduitJson *root;

	reader.at = buffer;
	reader.end = buffer + length;
	root = new_node(&reader);

	if (read_value(&reader, root) && take_token(&reader) >= 0)
		refuse(&reader, "trailing characters");
	*problem = reader.problem;
	return reader.problem ? NULL : root;
}

const ConduitJson *
conduit_json_get(const ConduitJson *object, const char *key)
{
	if (object == NULL || object->type != CONDUIT_JSON_OBJECT)
		return NULL;
	for (const ConduitJson *member = object->first; member; member = member->next)
		if (strcmp(member->key, key) == 0)
			return member;
	return NULL;
}

/* find_step returns the child that one step of a path names, or NULL. */
static const ConduitJson *
find_step(const ConduitJson *node, const char *step, int length)
{
	const ConduitJson *child = node->first;

	if (node->type == CONDUIT_JSON_OBJECT)
	{
		while (child && (strncmp(child->key, step, length) != 0 || child->key[length] != '\0'))
			child = child->next;
		return child;
	}
	if (node->type == CONDUIT_JSON_ARRAY)
	{
		int			position = 0;

		/* Nine digits are more elements than a buffer of 1 GB can hold. */
		if (length < 1 || length > 9 || (length > 1 && step[0] == '0'))
			return NULL;
		for (int i = 0; i < length; i++)
		{
			if (step[i] < '0' || step[i] > '9')
				return NULL;
			position = position * 10 + (step[i] - '0');
		}
		while (child && position-- > 0)
			child = child->next;
		return child;
	}
	return NULL;
}

const ConduitJson *
conduit_json_path(const ConduitJson *root, const char *path)
{
	const ConduitJson *node = root;

	while (node)
	{
		int			length = strcspn(path, ".");

		node = find_step(node, path, length);
		if (path[length] == '\0')
			break;
		path += length + 1;
	}
	return node;
}

const char *
conduit_json_string(const ConduitJson *node)
{
	return node && node->type == CONDUIT_JSON_STRING ? node->text : NULL;
}

bool
conduit_json_double(const ConduitJson *node, double *value)
{
	double		number;

	if (node == NULL ||
		(node->type != CONDUIT_JSON_NUMBER && node->type != CONDUIT_JSON_STRING) ||
		node->length == 0 ||
		number_length(node->text, node->length) != node->length)
		return false;

	/* The server keeps LC_NUMERIC at C, so strtod reads what JSON writes. */
	number = strtod(node->text, NULL);
	if (!isfinite(number))
		return false;
	*value = number;
	return true;
}

/* The letter that escapes c, 'u' if it needs the long form, 0 if it needs none. */
static inline char
escape_letter(unsigned char c)
{
	switch (c)
	{
		case '"':
		case '\\':
			return c;
		case '\b':
			return 'b';
		case '\f':
			return 'f';
		case '\n':
			return 'n';
		case '\r':
			return 'r';
		case '\t':
			return 't';
		default:
			return c < 0x20 ? 'u' : 0;
	}
}

static Size
string_size(const char *text, int length)
{
	Size		size = 2;

	for (int i = 0; i < length; i++)
	{
		char		letter = escape_letter(text[i]);

		size += letter == 0 ? 1 : letter == 'u' ? 6 : 2;
	}
	return size;
}

static Size
node_size(const ConduitJson *node)
{
	Size		size = 0;

	switch (node->type)
	{
		case CONDUIT_JSON_NULL:
		case CONDUIT_JSON_TRUE:
			return 4;
		case CONDUIT_JSON_FALSE:
			return 5;
		case CONDUIT_JSON_NUMBER:
			return node->length;
		case CONDUIT_JSON_STRING:
			return string_size(node->text, node->length);
		case CONDUIT_JSON_ARRAY:
		case CONDUIT_JSON_OBJECT:
			size = node->first ? 1 : 2;
			for (const ConduitJson *child = node->first; child; child = child->next)
			{
				size += 1 + node_size(child);
				if (node->type == CONDUIT_JSON_OBJECT)
					size += 1 + string_size(child->key, strlen(child->key));
			}
			return size;
	}
	return size;
}

/*
 * make_room enlarges out once, before anything is written: growing bit by bit
 * would leave copies of secrets in freed memory.
 */
static void
make_room(StringInfo out, Size size)
{
	enlargeStringInfo(out, (int) Min(size, (Size) INT_MAX));
}

static void
append_string(StringInfo out, const char *text, int length)
{
	int			written = 0;

	appendStringInfoChar(out, '"');
	for (int i = 0; i < length; i++)
	{
		char		letter = escape_letter(text[i]);

		if (letter == 0)
			continue;
		appendBinaryStringInfo(out, text + written, i - written);
		if (letter == 'u')
			appendStringInfo(out, "\\u%04x", (unsigned char) text[i]);
		else
		{
			appendStringInfoChar(out, '\\');
			appendStringInfoChar(out, letter);
		}
		written = i + 1;
	}
	appendBinaryStringInfo(out, text + written, length - written);
	appendStringInfoChar(out, '"');
}

static void
append_node(StringInfo out, const ConduitJson *node)
{
	bool		object = node->type == CONDUIT_JSON_OBJECT;

	switch (node->type)
	{
		case CONDUIT_JSON_NULL:
			appendBinaryStringInfo(out, "null", 4);
			break;
		case CONDUIT_JSON_FALSE:
			appendBinaryStringInfo(out, "false", 5);
			break;
		case CONDUIT_JSON_TRUE:
			appendBinaryStringInfo(out, "true", 4);
			break;
		case CONDUIT_JSON_NUMBER:
			appendBinaryStringInfo(out, node->text, node->length);
			break;
		case CONDUIT_JSON_STRING:
			append_string(out, node->text, node->length);
			break;
		case CONDUIT_JSON_ARRAY:
		case CONDUIT_JSON_OBJECT:
			appendStringInfoChar(out, object ? '{' : '[');
			for (const ConduitJson *child = node->first; child; child = child->next)
			{
				if (child != node->first)
					appendStringInfoChar(out, ',');
				if (object)
				{
					append_string(out, child->key, strlen(child->key));
					appendStringInfoChar(out, ':');
				}
				append_node(out, child);
			}
			appendStringInfoChar(out, object ? '}' : ']');
			break;
	}
}

void
conduit_json_write(StringInfo out, const ConduitJson *node)
{
	make_room(out, node_size(node));
	append_node(out, node);
}

char *
conduit_json_text(const ConduitJson *node)
{
	StringInfoData text;

	if (node == NULL)
		return NULL;
	initStringInfo(&text);
	conduit_json_write(&text, node);
	return text.data;
}

void
conduit_json_write_string(StringInfo out, const char *text, int length)
{
	make_room(out, string_size(text, length));
	append_string(out, text, length);
}
