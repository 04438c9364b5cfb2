/*-------------------------------------------------------------------------
 *
 * unit_fuzz.c
 *	  Replies that no provider has sent yet: mutated ones, for tests.
 *
 * The same seed gives the same replies.  What must hold of every outcome is
 * checked; what does not is an error that names seed and round.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "base/clock.h"
#include "base/json.h"
#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "mb/pg_wchar.h"
#include "provider/account.h"
#include "provider/token_response.h"
#include "provider/token_time.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define MAX_BODY 8192

/* Pieces that parsers stumble over. */
static const char *const pieces[] = {
	"{", "}", "[", "]", "\"", ",", ":", "\\", "\\u0000", "\\ud800", "\\u00e9", "\xff", "\xed\xa0\x80", "\xef\xbb\xbf",
	"null", "true", "false", "0", "-1", "1e308", "1e999", "-1e308", "99999999999999999999", "0.0000001", "NaN",
	"access_token", "refresh_token", "accessToken", "expires_in", "expires_at", "scope", "error", "ok", "data", "id_token",
	"invalid_grant", "2030-01-01T00:00:00Z", "1h", "&", "=", "%", "%00", "%zz", "+", "<", "\n", "\x7f", "."
};

typedef struct Fuzz
{
	pg_prng_state state;
	char		body[MAX_BODY + 1];
	int			length;
	TimestampTz started_at;
	int64		seed;
	int			round;
} Fuzz;

static int
draw(Fuzz *fuzz, int below)
{
	return below <= 1 ? 0 : (int) pg_prng_uint64_range(&fuzz->state, 0, below - 1);
}

static void
insert(Fuzz *fuzz, int at, const char *text, int length)
{
	if (fuzz->length + length > MAX_BODY)
		return;
	memmove(fuzz->body + at + length, fuzz->body + at, fuzz->length - at);
	memcpy(fuzz->body + at, text, length);
	fuzz->length += length;
}

static void
mutate(Fuzz *fuzz)
{
	int			at = draw(fuzz, fuzz->length + 1);
	int			length = draw(fuzz, Min(fuzz->length - at, 40) + 1);
	char		copy[40];
	const char *piece = pieces[draw(fuzz, lengthof(pieces))];

	switch (draw(fuzz, 7))
	{
		case 0:
			if (fuzz->length > 0)
				fuzz->body[draw(fuzz, fuzz->length)] ^= (char) (1 << draw(fuzz, 8));
			break;
		case 1:
			if (fuzz->length > 0)
				fuzz->body[draw(fuzz, fuzz->length)] = (char) draw(fuzz, 256);
			break;
		case 2:
			memmove(fuzz->body + at, fuzz->body + at + length, fuzz->length - at - length);
			fuzz->length -= length;
			break;
		case 3:
			memcpy(copy, fuzz->body + at, length);
			insert(fuzz, draw(fuzz, fuzz->length + 1), copy, length);
			break;
		case 4:
			if (draw(fuzz, 4) == 0)
				fuzz->length = at;
			break;
		default:
			insert(fuzz, at, piece, (int) strlen(piece));
			break;
	}
}

static void
expect(const Fuzz *fuzz, bool holds, const char *what)
{
	if (!holds)
		ereport(ERROR, (errmsg_internal("%s (seed " INT64_FORMAT ", round %d)", what, fuzz->seed, fuzz->round)));
}

/* NULL is fine. */
static void
expect_plain(const Fuzz *fuzz, const char *text, int length, const char *what)
{
	for (int i = 0; text != NULL && i < length; i++)
		expect(fuzz, (unsigned char) text[i] >= ' ' && text[i] != 0x7f, what);
	expect(fuzz, text == NULL || (strlen(text) == length && pg_verify_mbstr(PG_UTF8, text, length, true)), what);
}

static bool
tree_holds(const ConduitJson *node, const SecretText *token)
{
	if (token->data == NULL || token->length < 8)
		return false;
	if ((node->key != NULL && strstr(node->key, token->data) != NULL) ||
		(node->type == CONDUIT_JSON_STRING && strstr(node->text, token->data) != NULL))
		return true;
	for (const ConduitJson *child = node->first; child != NULL; child = child->next)
	{
		if (tree_holds(child, token))
			return true;
	}
	return false;
}

/* An object that jsonb takes and that has no token in it. */
static void
expect_object(const Fuzz *fuzz, const TokenGrant *grant, const char *text, int length, const char *what)
{
	const char *problem;
	char	   *copy = pnstrdup(text, length);
	ConduitJson *object;

	(void) DirectFunctionCall1(jsonb_in, CStringGetDatum(copy));
	object = conduit_json_parse(copy, length, &problem);
	expect(fuzz, object != NULL && object->type == CONDUIT_JSON_OBJECT && object->first != NULL, what);
	expect(fuzz, !tree_holds(object, &grant->secret.access_token) &&
		   !tree_holds(object, &grant->secret.refresh_token), what);
}

static void
expect_time(const Fuzz *fuzz, TimestampTz time, bool response, const char *what)
{
	expect(fuzz, TIMESTAMP_IS_NOEND(time) ||
		   ((!response || time > fuzz->started_at) &&
			time <= conduit_time_add(fuzz->started_at, CONDUIT_MAX_LIFETIME_S + 60)), what);
}

static void
check_grant(const Fuzz *fuzz, const TokenGrant *grant, bool response)
{
	const ConduitJson *objects[] = {grant->new_params, grant->new_metadata};

	expect(fuzz, grant->secret.access_token.data != NULL || grant->keeps_access_token ||
		   (!response && grant->secret.refresh_token.data != NULL), "a grant without a token");
	expect_plain(fuzz, grant->secret.access_token.data, grant->secret.access_token.length, "access token");
	expect_plain(fuzz, grant->secret.refresh_token.data, grant->secret.refresh_token.length, "refresh token");
	if (grant->token_type != NULL)
		expect_plain(fuzz, grant->token_type, strlen(grant->token_type), "token type");
	if (grant->scope != NULL)
		expect_plain(fuzz, grant->scope, strlen(grant->scope), "scope");
	if (grant->account != NULL)
		expect_plain(fuzz, grant->account, strlen(grant->account), "account");
	expect_time(fuzz, grant->expires_at, response, "expires_at");
	expect_time(fuzz, grant->refresh_expires_at, false, "refresh_expires_at");
	expect(fuzz, grant->lifetime >= 0 && grant->lifetime <= CONDUIT_MAX_LIFETIME_S, "lifetime");
	if (grant->secret.extra.data != NULL)
		expect_object(fuzz, grant, grant->secret.extra.data, grant->secret.extra.length, "extra");
	for (int i = 0; i < lengthof(objects); i++)
	{
		StringInfoData text;

		if (objects[i] == NULL)
			continue;
		initStringInfo(&text);
		conduit_json_write(&text, objects[i]);
		expect_object(fuzz, grant, text.data, text.len, "params or metadata");
	}
}

static void
check_outcome(const Fuzz *fuzz, const TokenOutcome *outcome)
{
	size_t		length = strlen(outcome->code);

	expect(fuzz, length <= OUTCOME_CODE_LEN &&
		   strspn(outcome->code, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") == length,
		   "code");
	expect(fuzz, (length == 0) == (outcome->outcome == OUTCOME_REFRESHED), "a code and a success");
	if (outcome->outcome == OUTCOME_REFRESHED)
		check_grant(fuzz, &outcome->grant, true);
	if (outcome->outcome == OUTCOME_DEAD)
		expect(fuzz, outcome->status <= 299 || (outcome->status >= 400 && outcome->status <= 499 && outcome->status != 429),
			   "dead by a status that proves nothing");
	if (outcome->outcome == OUTCOME_UNKNOWN || outcome->outcome == OUTCOME_REFRESHED)
		expect(fuzz, outcome->status <= 299, "a refusal taken for an answer");
}

/* Both readers see the same body; each changes its copy. */
static void
read_body(const Fuzz *fuzz, ConduitConnector *connector, int status, const char *type, TokenOutcome *outcome)
{
	HttpResponse response = {0};
	TokenGrant	grant;
	const char *problem;
	const char *account;
	const char *label;
	ConduitJson *object;

	response.status = status;
	response.content_type = pstrdup(type);
	response.length = fuzz->length;
	response.body = palloc0(fuzz->length + 1);
	response.sent = true;
	response.retry_after = -1;
	memcpy(response.body, fuzz->body, fuzz->length);
	conduit_token_response_read(connector, TOKEN_REQUEST_REFRESH, false, &response, fuzz->started_at, outcome);
	check_outcome(fuzz, outcome);

	response.body = palloc0(fuzz->length + 1);
	memcpy(response.body, fuzz->body, fuzz->length);
	object = conduit_json_parse(response.body, fuzz->length, &problem);
	if (object == NULL)
		return;
	conduit_account_read(connector, object, &account, &label);
	expect_plain(fuzz, account, account ? strlen(account) : 0, "account");
	if (conduit_token_grant_from_json(connector, object, fuzz->started_at, false, &grant) == NULL)
		check_grant(fuzz, &grant, false);
}

/* unit_fuzz_replies(definition, bodies, seed, rounds): how many outcomes of each class there were */
PG_FUNCTION_INFO_V1(unit_fuzz_replies);
Datum
unit_fuzz_replies(PG_FUNCTION_ARGS)
{
	static const int statuses[] = {200, 200, 200, 201, 400, 400, 401, 403, 429, 500, 503, 302};
	static const char *const types[] = {"application/json", "application/x-www-form-urlencoded", "text/plain", "text/html", ""};
	ConduitConnector *connector = conduit_connector_parse("fuzz", text_to_cstring(PG_GETARG_TEXT_PP(0)));
	int			rounds = PG_GETARG_INT32(3);
	Fuzz	   *fuzz = palloc0(sizeof(Fuzz));
	int			counts[OUTCOME_UNKNOWN + 1] = {0};
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "fuzz", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old;
	Datum	   *bodies;
	int			nbodies;
	StringInfoData out;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), BYTEAOID, -1, false, TYPALIGN_INT, &bodies, NULL, &nbodies);
	fuzz->seed = PG_GETARG_INT64(2);
	fuzz->started_at = PG_GETARG_TIMESTAMPTZ(4);
	pg_prng_seed(&fuzz->state, (uint64) fuzz->seed);
	old = MemoryContextSwitchTo(context);
	for (fuzz->round = 0; fuzz->round < rounds; fuzz->round++)
	{
		bytea	   *body = DatumGetByteaPP(bodies[draw(fuzz, nbodies)]);
		TokenOutcome outcome;

		CHECK_FOR_INTERRUPTS();
		fuzz->length = Min(VARSIZE_ANY_EXHDR(body), MAX_BODY);
		memcpy(fuzz->body, VARDATA_ANY(body), fuzz->length);
		for (int n = draw(fuzz, 5); n > 0; n--)
			mutate(fuzz);
		read_body(fuzz, connector, statuses[draw(fuzz, lengthof(statuses))], types[draw(fuzz, lengthof(types))], &outcome);
		counts[outcome.outcome]++;
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);

	initStringInfo(&out);
	for (int i = 0; i <= OUTCOME_UNKNOWN; i++)
		appendStringInfo(&out, "%s%s=%d", i > 0 ? " " : "", conduit_outcome_name(i), counts[i]);
	PG_RETURN_TEXT_P(cstring_to_text(out.data));
}
