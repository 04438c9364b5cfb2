/*-------------------------------------------------------------------------
 *
 * api_auth.c
 *	  How a request to a provider's API carries the credential.
 *
 * api_auth is "Header: value" or "?parameter=value", several separated by
 * "; "; its form was checked when the connector was registered.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "provider/api_auth.h"

static void
add_part(OutgoingRequest *out, const char *part, const TemplateValue *values)
{
	bool		in_url = part[0] == '?';
	size_t		name_length = strcspn(part, in_url ? "=" : ":");
	char	   *name = in_url ? pnstrdup(part + 1, name_length - 1) : pnstrdup(part, name_length);
	const char *value = conduit_outgoing_fill(out, part + name_length + (in_url ? 1 : 2), values);

	if (value == NULL)
		return;
	if (in_url)
		conduit_outgoing_param(out, NULL, name, value, strlen(value));
	else
		conduit_outgoing_header(out, name, value);
}

void
conduit_api_auth_add(OutgoingRequest *out, const SecretText *token, const char *client_id)
{
	const char *part = out->connector->api_auth;
	TemplateValue values[] = {{"token", NULL}, {"client_id", client_id}, {NULL, NULL}};

	if (part == NULL)
	{
		conduit_outgoing_bearer(out, token);
		return;
	}
	conduit_outgoing_secret(out, token);
	values[0].value = conduit_outgoing_copy(out, token);
	while (part != NULL)
	{
		const char *next = strstr(part, "; ");
		char	   *text = next ? pnstrdup(part, next - part) : pstrdup(part);

		if (client_id != NULL || !conduit_text_has_variable(text, "client_id"))
			add_part(out, text, values);
		part = next ? next + 2 : NULL;
	}
}
