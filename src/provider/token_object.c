/*-------------------------------------------------------------------------
 *
 * token_object.c
 *	  A token object while a grant is made of it: finding its fields.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "provider/token_object.h"
#include "provider/token_path.h"

/*
 * An application passes what the provider answered, or the tokens alone by
 * their usual names: where no path leads to a token, it is the latter.
 */
static bool
paths_count(const ConduitConnector *connector, const ConduitJson *root, bool response)
{
	if (response || (connector->access_token_path == NULL && connector->refresh_token_path == NULL))
		return true;
	return (connector->access_token_path != NULL &&
			conduit_find_path(root, connector->access_token_path) != NULL) ||
		(connector->refresh_token_path != NULL &&
		 conduit_find_path(root, connector->refresh_token_path) != NULL);
}

void
conduit_token_object_open(TokenObject *object, const ConduitConnector *connector,
						  const ConduitJson *root, bool response)
{
	memset(object, 0, sizeof(*object));
	object->connector = connector;
	object->root = root;
	object->home = root;
	object->response = response;
	object->paths = paths_count(connector, root, response);
	if (object->paths && connector->access_token_path != NULL)
	{
		const ConduitJson *parent = conduit_find_parent(root, connector->access_token_path);

		if (parent != NULL && parent->type == CONDUIT_JSON_OBJECT)
			object->home = parent;
	}
}

static const ConduitJson *
take(TokenObject *object, const ConduitJson *node)
{
	if (node != NULL && object->ntaken < CONDUIT_MAX_TAKEN)
		object->taken[object->ntaken++] = node;
	return node;
}

const ConduitJson *
conduit_token_take_secret(TokenObject *object, const char *path, const char *name)
{
	if (path != NULL && object->paths)
		return take(object, conduit_find_path(object->root, path));
	return take(object, conduit_find_member(object->home, name));
}

const ConduitJson *
conduit_token_take(TokenObject *object, const char *path, const char *name)
{
	const ConduitJson *node = NULL;

	if (path != NULL && object->paths)
		node = conduit_find_path(object->root, path);
	if (node == NULL)
		node = conduit_find_member(object->home, name);
	return take(object, node);
}
