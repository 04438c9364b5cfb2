/*-------------------------------------------------------------------------
 *
 * identity.c
 *	  Who is asking.
 *
 * PostgREST puts a request's headers into settings that any SQL session can
 * set.  So nothing is believed for standing there: a key, a session and a JWT
 * prove themselves, and the one thing that is taken as it is, the claims where
 * a facade's options say so, only from a login role that web requests come by.
 *
 *-------------------------------------------------------------------------
 */
#include "door/identity.h"

#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/report.h"
#include "base/settings.h"
#include "door/jwt.h"
#include "door/jwt_key.h"
#include "door/session.h"
#include "door/trusted_caller.h"
#include "lifecycle/argument.h"
#include "lifecycle/store.h"

#define SESSION_COOKIE	"__Host-conduit-session"
#define MAX_REQUEST		(128 * 1024)

/* What the request says of itself. */
typedef struct WebRequest
{
	const char *api_key;		/* NULL where there is no such header */
	const char *session;
	const char *owner;
	const char *bearer;
	const char *cookie;
} WebRequest;

pg_noreturn static void
unauthorized(void)
{
	conduit_raise(CONDUIT_ERR_UNAUTHORIZED, NULL);
}

/* A setting of the request that is a JSON object; NULL where there is none. */
static const ConduitJson *
request_object(const char *setting)
{
	const char *text = GetConfigOption(setting, true, false);
	const char *problem;
	char	   *utf8;
	char	   *buffer;
	ConduitJson *object;

	/* Empty after a transaction that had set it. */
	if (text == NULL || text[0] == '\0')
		return NULL;
	if (strlen(text) > MAX_REQUEST)
		unauthorized();
	utf8 = pg_server_to_any(text, strlen(text), PG_UTF8);
	buffer = pstrdup(utf8);
	object = conduit_json_parse(buffer, strlen(buffer), &problem);
	if (object == NULL || object->type != CONDUIT_JSON_OBJECT)
		unauthorized();
	return object;
}

/* A header, by its lower-case name. */
static const char *
header(const ConduitJson *headers, const char *name)
{
	return headers ? conduit_json_string(conduit_json_get(headers, name)) : NULL;
}

static void
read_request(WebRequest *request)
{
	const ConduitJson *headers = request_object("request.headers");
	const ConduitJson *cookies = request_object("request.cookies");
	const char *authorization = header(headers, "authorization");

	request->api_key = header(headers, "x-conduit-key");
	request->session = header(headers, "x-conduit-session");
	request->owner = header(headers, "x-conduit-owner");
	request->bearer = authorization != NULL && pg_strncasecmp(authorization, "bearer ", 7) == 0 ?
		authorization + 7 + strspn(authorization + 7, " ") : NULL;
	request->cookie = header(cookies, SESSION_COOKIE);
}

/* Is this session one that carries the claims of web users? */
static bool
login_role_carries_claims(void)
{
	char	   *list = pstrdup(conduit_claims_login_roles);
	char	   *login = GetUserNameFromId(GetSessionUserId(), false);
	List	   *roles;
	ListCell   *cell;

	if (!SplitIdentifierString(list, ',', &roles))
		return false;
	foreach(cell, roles)
		if (strcmp(lfirst(cell), login) == 0)
			return true;
	return false;
}

/*
 * A Flux tenant, t_<12 hex>_api, shares PostgREST and its key with others, whose
 * functions can take its role and call its facade with a token of their own: a
 * token must name the tenant's role.
 */
static bool
is_of_tenant(const ConduitJson *claims, const char *tenant)
{
	const char *role;

	if (strlen(tenant) != 18 || strncmp(tenant, "t_", 2) != 0 || strcmp(tenant + 14, "_api") != 0 ||
		strspn(tenant + 2, "0123456789abcdef") != 12)
		return true;
	role = conduit_json_string(conduit_json_get(claims, "role"));
	return role != NULL && strncmp(role, tenant, 14) == 0 && strcmp(role + 14, "_role") == 0;
}

/*
 * The claims of this request's token, NULL if it has none that counts.  A token
 * that does not verify under the facade's keys is refused; a facade without
 * keys does not look at tokens.
 */
static ProvenToken
proven_claims(const DoorRules *rules, const WebRequest *request)
{
	ProvenToken token = {NULL, rules->owner_claim};
	JwtProof	proof = request->bearer == NULL ? JWT_NO_KEYS :
		conduit_jwt_prove(rules->schema_name, rules->tenant, request->bearer, conduit_now(), &token);
	const ConduitJson *claims;

	if (proof == JWT_REFUSED || (proof == JWT_PROVEN && !is_of_tenant(token.claims, rules->tenant)))
		unauthorized();
	if (proof == JWT_NO_KEYS && rules->trust_claims && login_role_carries_claims())
	{
		claims = request_object("request.jwt.claims");
		if (claims == NULL || rules->audience == NULL || conduit_jwt_claim_has(claims, "aud", rules->audience))
			token.claims = claims;

		/* A request without a token has claims as well, but names nobody by them. */
		else if (conduit_json_get(claims, rules->owner_claim) != NULL)
			unauthorized();
	}
	return token;
}

/* An owner as the tables have it: in the server's encoding, of a form that an owner may have. */
static char *
owner_text(const char *text)
{
	char	   *owner = pg_any_to_server(text, strlen(text), PG_UTF8);

	if (owner[strspn(owner, " ")] == '\0' || strlen(owner) > CONDUIT_MAX_OWNER_LEN || conduit_has_control(owner))
		unauthorized();
	return owner == text ? pstrdup(owner) : owner;
}

static char *
claimed_owner(const ProvenToken *token)
{
	const char *text = token->claims ? conduit_json_string(conduit_json_get(token->claims, token->owner_claim)) : NULL;

	return text != NULL && text[0] != '\0' ? owner_text(text) : NULL;
}

/* Two proofs must not name different owners. */
static char *
agreed(char *a, char *b)
{
	if (a != NULL && b != NULL && strcmp(a, b) != 0)
		unauthorized();
	return a != NULL ? a : b;
}

static char *
join_session(const WebRequest *request, const char *tenant, bool cookie, Identity *identity)
{
	const char *key = request->session != NULL ? request->session : cookie ? request->cookie : NULL;
	ConduitSession session;

	if (key == NULL)
		return NULL;
	if (!conduit_session_verify(key, tenant, &session))
		unauthorized();
	identity->bound = session.bound;
	identity->connection = session.connection;
	return session.owner;
}

/*
 * The owner of an application's function of further owners, and its name as it
 * can stand in a query.  It must be what the name says, (text) -> setof text.
 */
static char *
find_owners_function(const char *function, Oid *owner)
{
	Datum		oid = DirectFunctionCall1(regprocedurein, CStringGetDatum(psprintf("%s(text)", function)));
	HeapTuple	tuple = SearchSysCache1(PROCOID, oid);
	Form_pg_proc form;
	char	   *name;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", DatumGetObjectId(oid));
	form = (Form_pg_proc) GETSTRUCT(tuple);
	if (!form->proretset || form->prorettype != TEXTOID || form->prokind != PROKIND_FUNCTION)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("the function of further owners does not return setof text"),
				 errdetail("owners"),
				 errhint("Create it as documented for conduit_expose()."),
				 errhidestmt(true), errhidecontext(true)));
	*owner = form->proowner;
	name = quote_qualified_identifier(get_namespace_name(form->pronamespace), NameStr(form->proname));
	ReleaseSysCache(tuple);
	return name;
}

/*
 * Whether the application's function lists an owner for a subject.  It runs as
 * its own owner, under restrictions: nothing that a tenant can change runs
 * with the facade's rights.
 */
static bool
may_act_as(const char *function, const char *subject, const char *owner)
{
	Oid			function_owner;
	char	   *name = find_owners_function(function, &function_owner);
	char	   *query = psprintf("SELECT FROM %s($1) AS o (owner) WHERE o.owner OPERATOR(pg_catalog.=) $2 LIMIT 1", name);
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		values[2];
	Oid			user;
	int			security_context;
	int			guc_level;
	bool		listed;

	values[0] = CStringGetTextDatum(subject);
	values[1] = CStringGetTextDatum(owner);

	GetUserIdAndSecContext(&user, &security_context);
	SetUserIdAndSecContext(function_owner, security_context | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	if (SPI_execute_with_args(query, 2, types, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not ask for further owners");
	listed = SPI_processed > 0;
	AtEOXact_GUC(true, guc_level);
	SetUserIdAndSecContext(user, security_context);
	return listed;
}

void
conduit_identify(const DoorRules *rules, bool cookie, Identity *identity)
{
	WebRequest	request;
	ProvenToken token;
	bool		trusted;
	char	   *subject;
	char	   *session_owner;

	memset(identity, 0, sizeof(*identity));
	read_request(&request);

	if (request.api_key != NULL)
	{
		if (!conduit_api_key_verify(request.api_key, rules->tenant, &identity->key))
			unauthorized();
		identity->has_key = true;
	}
	token = proven_claims(rules, &request);
	trusted = token.claims != NULL && conduit_trusted_caller_matches(rules->tenant, token.claims);
	identity->backend = identity->has_key || trusted;
	session_owner = join_session(&request, rules->tenant, cookie, identity);
	subject = claimed_owner(&token);

	if (identity->backend)
	{
		/* A trusted caller's own subject is a service, and gives way. */
		char	   *named = request.owner != NULL ? owner_text(request.owner) : NULL;
		char	   *proofs = agreed(session_owner, trusted ? NULL : subject);

		identity->owner = agreed(agreed(identity->has_key ? identity->key.owner : NULL, named), proofs);
		if (identity->owner == NULL)
			identity->owner = subject;
		return;
	}
	identity->owner = agreed(session_owner, subject);
	if (request.owner != NULL)
	{
		char	   *named = owner_text(request.owner);

		if (identity->owner == NULL || identity->bound || rules->owners == NULL ||
			!may_act_as(rules->owners, identity->owner, named))
			unauthorized();
		identity->owner = named;
	}
}
