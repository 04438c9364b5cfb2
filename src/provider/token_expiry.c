/*-------------------------------------------------------------------------
 *
 * token_expiry.c
 *	  When the tokens of a grant die.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "utils/timestamp.h"

#include "base/clock.h"
#include "provider/token_object.h"
#include "provider/token_path.h"
#include "provider/token_time.h"

static TimestampTz
clamp_expiry(TimestampTz expires_at, TimestampTz from)
{
	return Min(expires_at, conduit_time_add(from, CONDUIT_MAX_LIFETIME_S));
}

/*
 * A stored secret may be old, and says when it was issued.  A response is
 * fresh: to count from our own clock is safer than to believe in another.
 */
static TimestampTz
read_issue(TokenObject *object, TimestampTz received_at)
{
	const ConduitJson *issued = conduit_find_member(object->home, "issued_at");
	TimestampTz stated;

	if (issued == NULL)
		issued = conduit_find_member(object->home, "created_at");
	if (!object->response && conduit_read_time(issued, &stated) && stated < received_at)
		return stated;
	return received_at;
}

/*
 * What one value says of the access token's end.  False if it says nothing, or
 * what cannot be: a token that has just been handed out is not dead, so such
 * a time is of a wrong clock or another zone.
 */
static bool
state_expiry(const TokenObject *object, const ConduitJson *member, TimeMeaning meaning,
			 TimestampTz received_at, TokenGrant *grant)
{
	TimestampTz end;
	double		lifetime;

	if (!conduit_read_end(member, meaning, grant->issued_at, &end, &lifetime) ||
		(object->response && end <= received_at))
		return false;
	grant->expires_at = end;
	grant->lifetime = lifetime;
	if (TIMESTAMP_IS_NOEND(end))
		return true;
	grant->expires_at = clamp_expiry(end, received_at);

	/* That it is good until then does not tell how old it is. */
	if (lifetime == 0 && (object->response || grant->issued_at != received_at))
		grant->lifetime = Max(conduit_seconds_between(grant->issued_at, grant->expires_at), 0);
	return true;
}

/* From the best source there is.  That it does not expire is a statement, too. */
static void
read_access_expiry(TokenObject *object, TimestampTz received_at, TokenGrant *grant)
{
	const ConduitConnector *connector = object->connector;
	TimeMeaning lifetime = connector->expires_in_ms ? TIME_MILLISECONDS : TIME_SECONDS;
	const SecretText *token = &grant->secret.access_token;
	TimestampTz stated;
	double		seconds;

	grant->expires_at = DT_NOEND;
	grant->lifetime = 0;
	if (connector->expires_path != NULL && object->paths &&
		state_expiry(object, conduit_token_take(object, connector->expires_path, "expires_in"),
					 connector->expires_is_time ? TIME_POINT : lifetime, received_at, grant))
		return;
	if (state_expiry(object, conduit_token_take(object, NULL, "expires_in"), lifetime, received_at, grant) ||
		state_expiry(object, conduit_token_take(object, NULL, "expires_at"), TIME_POINT, received_at, grant) ||
		state_expiry(object, conduit_token_take(object, NULL, "expires"), lifetime, received_at, grant))
		return;
	if (token->data == NULL && !grant->keeps_access_token)
		return;
	if (token->data != NULL && conduit_read_jwt_expiry(token, &stated, &seconds) &&
		!(object->response && stated <= received_at))
	{
		grant->expires_at = clamp_expiry(stated, received_at);
		grant->lifetime = seconds;
		if (object->response && seconds == 0)
			grant->lifetime = conduit_seconds_between(received_at, grant->expires_at);
		return;
	}
	if (connector->access_token_lifetime_s > 0)
	{
		grant->lifetime = connector->access_token_lifetime_s;
		grant->expires_at = conduit_time_add(grant->issued_at, grant->lifetime);
	}
}

/* The refresh token's end as the object or the token itself says it; false if neither does. */
static bool
state_refresh_expiry(TokenObject *object, TokenGrant *grant, TimestampTz *end)
{
	static const char *const names[] = {
		"refresh_token_expires_in", "refresh_expires_in", "x_refresh_token_expires_in",
		"refresh_token_expires_at"
	};
	const ConduitConnector *connector = object->connector;
	TimeMeaning lifetime = connector->expires_in_ms ? TIME_MILLISECONDS : TIME_SECONDS;
	double		seconds;

	if (connector->refresh_expires_path != NULL && object->paths &&
		conduit_read_end(conduit_token_take(object, connector->refresh_expires_path, names[0]),
						 connector->expires_is_time ? TIME_POINT : lifetime,
						 grant->issued_at, end, &seconds))
		return true;
	for (int i = 0; i < lengthof(names); i++)
	{
		if (conduit_read_end(conduit_find_member(object->home, names[i]), lifetime,
							 grant->issued_at, end, &seconds))
			return true;
	}
	return grant->secret.refresh_token.data != NULL && !connector->refresh_by_access_token &&
		conduit_read_jwt_expiry(&grant->secret.refresh_token, end, &seconds);
}

/*
 * Where nobody says when the refresh token dies, it is the earliest of what the
 * connector knows: how long one lives, and how long one may lie unused, for it
 * has just been used.  An access token that renews itself must do so alive.
 */
static void
read_refresh_expiry(TokenObject *object, TokenGrant *grant)
{
	const ConduitConnector *connector = object->connector;
	bool		has_token = grant->secret.refresh_token.data != NULL;
	TimestampTz end = DT_NOEND;

	if (!state_refresh_expiry(object, grant, &end))
	{
		end = DT_NOEND;
		if (connector->refresh_token_lifetime_s > 0 && has_token)
			end = conduit_time_add(grant->issued_at, connector->refresh_token_lifetime_s);
		if (connector->refresh_idle_limit_s > 0 && (has_token || object->response))
			end = Min(end, conduit_time_add(grant->issued_at, connector->refresh_idle_limit_s));
		if (connector->refresh_by_access_token)
			end = Min(end, grant->expires_at);
	}
	grant->refresh_expires_at = TIMESTAMP_IS_NOEND(end) ? end : clamp_expiry(end, grant->issued_at);
}

void
conduit_token_read_expiry(TokenObject *object, TimestampTz received_at, TokenGrant *grant)
{
	grant->issued_at = read_issue(object, received_at);
	read_access_expiry(object, received_at, grant);
	read_refresh_expiry(object, grant);
}

const char *
conduit_token_expiry_from_json(const ConduitJson *object, TimestampTz received_at, TokenGrant *grant)
{
	const ConduitJson *member = conduit_find_member(object, "expires_at");
	TimestampTz stated;

	grant->issued_at = received_at;
	grant->expires_at = DT_NOEND;
	grant->lifetime = 0;
	if (member == NULL)
		return NULL;
	if (!conduit_read_time(member, &stated))
		return "bad_expires_at";
	grant->expires_at = clamp_expiry(stated, received_at);
	return NULL;
}
