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

static void
write_basic(SizedText *out, const void *source)
{
	const SizedText *pair = source;

	conduit_append_base64(out, pair->data, pair->length);
}

static void
write_pair(SizedText *out, const void *source)
{
	const ConduitSecret *secret = source;

	conduit_append_bytes(out, secret->username.data, secret->username.length);
	conduit_append_char(out, ':');
	conduit_append_bytes(out, secret->password.data, secret->password.length);
}

/* base64 of "username:password", with nothing between where there is no password. */
static const char *
basic_value(OutgoingRequest *out, const ConduitSecret *secret)
{
	return conduit_outgoing_text(out, write_basic, conduit_outgoing_text(out, write_pair, secret))->data;
}

/* A secret's text for a template, remembered; NULL where there is none. */
static const char *
secret_value(OutgoingRequest *out, const SecretText *secret)
{
	if (secret->data == NULL)
		return NULL;
	conduit_outgoing_secret(out, secret);
	return conduit_outgoing_copy(out, secret);
}

void
conduit_api_auth_add(OutgoingRequest *out, const ConduitSecret *secret, const char *client_id)
{
	const char *part = out->connector->api_auth;
	TemplateValue values[] = {
		{"token", secret_value(out, &secret->access_token)},
		{"api_key", secret_value(out, &secret->api_key)},
		{"api_secret", secret_value(out, &secret->api_secret)},
		{"username", secret_value(out, &secret->username)},
		{"password", secret_value(out, &secret->password)},
		{"basic", secret->username.data != NULL ? basic_value(out, secret) : NULL},
		{"client_id", client_id},
		{NULL, NULL}
	};

	if (part == NULL && secret->access_token.data != NULL)
	{
		conduit_outgoing_bearer(out, &secret->access_token);
		return;
	}
	if (part == NULL)
		part = "Authorization: Basic {basic}";
	for (int i = 0; values[i].name != NULL; i++)
		if (values[i].value == NULL && strcmp(values[i].name, "client_id") != 0 &&
			conduit_text_has_variable(part, values[i].name))
		{
			conduit_outgoing_fail(out, "no_credential");
			return;
		}
	while (part != NULL)
	{
		const char *next = strstr(part, "; ");
		char	   *text = next ? pnstrdup(part, next - part) : pstrdup(part);

		if (client_id != NULL || !conduit_text_has_variable(text, "client_id"))
			add_part(out, text, values);
		part = next ? next + 2 : NULL;
	}
}
