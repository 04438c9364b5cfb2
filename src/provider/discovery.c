/*-------------------------------------------------------------------------
 *
 * discovery.c
 *	  From an authorization server's metadata to a connector's definition.
 *
 * What the metadata says is the server's own word about itself, so that it is
 * believed for the very issuer it was asked for and nothing else (RFC 8414,
 * 3.3).  Its URLs are judged like those of any definition, by whoever
 * registers the result.
 *
 *-------------------------------------------------------------------------
 */
#include "provider/discovery.h"

#include "lib/stringinfo.h"

#include "provider/egress.h"
#include "provider/url.h"

const char *
conduit_discovery_check_issuer(const char *issuer)
{
	ConduitUrl	parts;
	const char *problem;

	if (strlen(issuer) > CONDUIT_URL_MAX / 2)
		return "the URL is too long";
	if (strpbrk(issuer, "?#") != NULL)
		return "an issuer has no query";
	problem = conduit_url_split(issuer, &parts);
	return problem != NULL ? problem : conduit_egress_check_url(issuer);
}

/*
 * OpenID Connect puts its document below the issuer, RFC 8414 between host and
 * path.
 */
char *
conduit_discovery_url(const char *issuer, int place)
{
	const char *host = strstr(issuer, "://") + 3;
	int			origin = (int) (host - issuer) + (int) strcspn(host, "/");
	int			length = (int) strlen(issuer);

	while (length > origin && issuer[length - 1] == '/')
		length--;
	return place == 0 ?
		psprintf("%.*s/.well-known/openid-configuration", length, issuer) :
		psprintf("%.*s/.well-known/oauth-authorization-server%.*s", origin, issuer, length - origin, issuer + origin);
}

/* Whether an array of texts has one. */
static bool
lists(const ConduitJson *metadata, const char *member, const char *text)
{
	const ConduitJson *array = conduit_json_get(metadata, member);

	if (array == NULL || array->type != CONDUIT_JSON_ARRAY)
		return false;
	for (const ConduitJson *element = array->first; element != NULL; element = element->next)
		if (conduit_json_string(element) != NULL && strcmp(element->text, text) == 0)
			return true;
	return false;
}

static void
add_text(StringInfo out, const char *field, const char *text)
{
	if (text == NULL)
		return;
	appendStringInfo(out, "%s\"%s\":", out->len > 1 ? "," : "", field);
	conduit_json_write_string(out, text, (int) strlen(text));
}

static void
add_flag(StringInfo out, const char *field, bool flag)
{
	appendStringInfo(out, "%s\"%s\":%s", out->len > 1 ? "," : "", field, flag ? "true" : "false");
}

static const char *
text_of(const ConduitJson *metadata, const char *member)
{
	return conduit_json_string(conduit_json_get(metadata, member));
}

/*
 * The best that the server takes and we speak: what does not send the secret
 * where it need not, then what RFC 6749 prefers.  Where nothing is said, it is
 * Basic (RFC 8414, 2).
 */
static const char *
choose_client_auth(const ConduitJson *metadata)
{
	static const char *const methods[][2] = {
		{"client_secret_basic", "basic"}, {"client_secret_post", "post"},
		{"private_key_jwt", "private_key_jwt"}, {"none", "none"}
	};

	if (conduit_json_get(metadata, "token_endpoint_auth_methods_supported") == NULL)
		return "basic";
	for (int i = 0; i < lengthof(methods); i++)
		if (lists(metadata, "token_endpoint_auth_methods_supported", methods[i][0]))
			return methods[i][1];
	return NULL;
}

static const char *
choose_algorithm(const ConduitJson *metadata)
{
	static const char *const algorithms[] = {"ES256", "RS256", "PS256", "EdDSA", "ES384", "RS384", "RS512"};

	for (int i = 0; i < lengthof(algorithms); i++)
		if (lists(metadata, "token_endpoint_auth_signing_alg_values_supported", algorithms[i]))
			return algorithms[i];
	return NULL;
}

/* Codes where there is an authorization endpoint, else client credentials; NULL: neither. */
static const char *
choose_auth_type(const ConduitJson *metadata)
{
	bool		said = conduit_json_get(metadata, "grant_types_supported") != NULL;

	if (text_of(metadata, "authorization_endpoint") != NULL &&
		(!said || lists(metadata, "grant_types_supported", "authorization_code")))
		return "oauth2_code";
	return lists(metadata, "grant_types_supported", "client_credentials") ? "oauth2_client_credentials" : NULL;
}

/* What only a connector with codes has. */
static void
add_code_fields(StringInfo out, const ConduitJson *metadata)
{
	const ConduitJson *iss = conduit_json_get(metadata, "authorization_response_iss_parameter_supported");
	const char *userinfo = text_of(metadata, "userinfo_endpoint");
	bool		openid = lists(metadata, "scopes_supported", "openid");

	add_text(out, "authorize_url", text_of(metadata, "authorization_endpoint"));
	if (conduit_json_get(metadata, "code_challenge_methods_supported") != NULL)
		add_flag(out, "pkce", lists(metadata, "code_challenge_methods_supported", "S256"));
	if (iss != NULL && iss->type == CONDUIT_JSON_TRUE)
		add_flag(out, "callback_iss_required", true);
	add_text(out, "account_url", userinfo);
	add_text(out, "account_path", userinfo != NULL ? "sub" : openid ? "id_token.sub" : NULL);
	if (openid)
		appendStringInfo(out, ",\"default_scopes\":[\"openid\"%s]",
						 lists(metadata, "scopes_supported", "offline_access") ? ",\"offline_access\"" : "");
}

char *
conduit_discovery_definition(const char *issuer, const ConduitJson *metadata, const char **problem)
{
	const char *said = text_of(metadata, "issuer");
	const char *auth_type = choose_auth_type(metadata);
	const char *client_auth = choose_client_auth(metadata);
	ConduitUrl	parts;
	StringInfoData out;

	if (said == NULL || strcmp(said, issuer) != 0)
		*problem = "issuer_mismatch";
	else if (text_of(metadata, "token_endpoint") == NULL)
		*problem = "no_token_endpoint";
	else if (auth_type == NULL)
		*problem = "no_grant";
	else if (client_auth == NULL)
		*problem = "no_client_auth";
	else
		*problem = conduit_url_split(issuer, &parts);
	if (*problem != NULL)
		return NULL;

	initStringInfo(&out);
	appendStringInfoChar(&out, '{');
	add_text(&out, "name", parts.host);
	add_text(&out, "auth_type", auth_type);
	add_text(&out, "issuer", issuer);
	if (strcmp(auth_type, "oauth2_code") == 0)
		add_code_fields(&out, metadata);
	add_text(&out, "token_url", text_of(metadata, "token_endpoint"));
	add_text(&out, "revoke_url", text_of(metadata, "revocation_endpoint"));
	add_text(&out, "client_auth", client_auth);
	if (strcmp(client_auth, "private_key_jwt") == 0)
		add_text(&out, "signing_algorithm", choose_algorithm(metadata));
	appendStringInfoChar(&out, '}');
	return out.data;
}
