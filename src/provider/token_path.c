/*-------------------------------------------------------------------------
 *
 * token_path.c
 *	  Finding values in a provider's answer: by path, by name, in a JWT.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "base/base64url.h"
#include "provider/token_path.h"
#include "vault/seal.h"

void
conduit_plain_name(const char *key, char plain[CONDUIT_PLAIN_NAME_MAX + 1])
{
	int			length = 0;

	for (; *key != '\0' && length < CONDUIT_PLAIN_NAME_MAX; key++)
	{
		if (*key != '_' && *key != '-' && *key != ' ' && *key != '.')
			plain[length++] = pg_ascii_tolower((unsigned char) *key);
	}
	plain[length] = '\0';
}

const ConduitJson *
conduit_find_member(const ConduitJson *object, const char *name)
{
	const ConduitJson *exact = conduit_json_get(object, name);
	char		wanted[CONDUIT_PLAIN_NAME_MAX + 1];

	if (object == NULL || object->type != CONDUIT_JSON_OBJECT)
		return NULL;
	if (exact != NULL && exact->type != CONDUIT_JSON_NULL)
		return exact;
	conduit_plain_name(name, wanted);
	for (const ConduitJson *m = object->first; m != NULL; m = m->next)
	{
		char		plain[CONDUIT_PLAIN_NAME_MAX + 1];

		conduit_plain_name(m->key, plain);
		if (strcmp(plain, wanted) == 0 && m->type != CONDUIT_JSON_NULL)
			return m;
	}
	return NULL;
}

ConduitJson *
conduit_jwt_claims(const char *text, int length, char **buffer, int *size)
{
	const char *payload = memchr(text, '.', length);
	const char *end;
	const char *problem;
	ConduitJson *claims = NULL;
	int			decoded;

	*buffer = NULL;
	*size = 0;
	if (payload == NULL)
		return NULL;
	payload++;
	end = memchr(payload, '.', text + length - payload);
	if (end == NULL || end == payload)
		return NULL;
	*size = conduit_base64url_decoded_length(end - payload) + 1;
	*buffer = palloc0(*size);
	decoded = conduit_base64url_decode(payload, end - payload, *buffer);
	if (decoded > 0)
	{
		(*buffer)[decoded] = '\0';
		claims = conduit_json_parse(*buffer, decoded, &problem);
	}
	if (claims != NULL && claims->type == CONDUIT_JSON_OBJECT)
		return claims;
	conduit_wipe(*buffer, *size);
	pfree(*buffer);
	*buffer = NULL;
	return NULL;
}

/* Follow path as far as end. */
static const ConduitJson *
follow(const ConduitJson *node, const char *path, const char *end)
{
	while (node != NULL && path < end)
	{
		const char *dot = memchr(path, '.', end - path);
		size_t		length = (dot ? dot : end) - path;
		char	   *step = pnstrdup(path, length);

		if (node->type == CONDUIT_JSON_STRING)
		{
			char	   *buffer;
			int			size;

			node = conduit_jwt_claims(node->text, node->length, &buffer, &size);
		}
		node = conduit_json_path(node, step);
		pfree(step);
		path += length + (dot ? 1 : 0);
	}
	return node != NULL && node->type != CONDUIT_JSON_NULL ? node : NULL;
}

const ConduitJson *
conduit_find_path(const ConduitJson *root, const char *path)
{
	return follow(root, path, path + strlen(path));
}

const ConduitJson *
conduit_find_parent(const ConduitJson *root, const char *path)
{
	const char *last = strrchr(path, '.');

	return last == NULL ? root : follow(root, path, last);
}
