/*-------------------------------------------------------------------------
 *
 * account.c
 *	  Whose account it is, as the provider says.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "provider/account.h"
#include "provider/token_path.h"

static const char *
read_name(const ConduitJson *answer, const char *path)
{
	const ConduitJson *node = path ? conduit_find_path(answer, path) : NULL;

	if (node == NULL || (node->type != CONDUIT_JSON_STRING && node->type != CONDUIT_JSON_NUMBER) ||
		node->length == 0 || node->length > CONDUIT_MAX_ACCOUNT_LEN)
		return NULL;
	for (int i = 0; i < node->length; i++)
	{
		unsigned char c = (unsigned char) node->text[i];

		if (c < ' ' || c == 0x7f)
			return NULL;
	}
	return pnstrdup(node->text, node->length);
}

void
conduit_account_read(const ConduitConnector *connector, const ConduitJson *answer,
					 const char **account, const char **label)
{
	*account = read_name(answer, connector->account_path);
	*label = read_name(answer, connector->account_label_path);
}
