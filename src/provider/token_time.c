/*-------------------------------------------------------------------------
 *
 * token_time.c
 *	  Points in time as providers write them.
 *
 * PostgreSQL's own input functions raise errors that quote their input, and
 * take far more than anybody sends.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include <ctype.h>
#include <math.h>

#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "base/base64url.h"
#include "provider/token_time.h"
#include "vault/seal.h"

/* Digits from *text, as many as count; false if they are not there. */
static bool
read_digits(const char **text, int count, int *value)
{
	*value = 0;
	for (int i = 0; i < count; i++)
	{
		if (!isdigit((unsigned char) **text))
			return false;
		*value = *value * 10 + (*(*text)++ - '0');
	}
	return true;
}

/* ISO 8601 as providers write it: a date, a time, perhaps a fraction and an offset. */
static bool
read_iso8601(const char *text, TimestampTz *result)
{
	int			year,
				month,
				day;
	int			hour = 0,
				minute = 0,
				second = 0;
	int			offset = 0;
	double		fraction = 0;
	int			y,
				m,
				d;
	int			julian;

	if (!read_digits(&text, 4, &year) || *text++ != '-' ||
		!read_digits(&text, 2, &month) || *text++ != '-' ||
		!read_digits(&text, 2, &day))
		return false;
	if (*text != '\0')
	{
		if ((*text != 'T' && *text != 't' && *text != ' ') ||
			(text++, !read_digits(&text, 2, &hour)) || *text++ != ':' ||
			!read_digits(&text, 2, &minute))
			return false;
		if (*text == ':' && (text++, !read_digits(&text, 2, &second)))
			return false;
		if (*text == '.' || *text == ',')
		{
			double		unit = 0.1;

			if (!isdigit((unsigned char) *++text))
				return false;
			for (; isdigit((unsigned char) *text); text++, unit /= 10)
				fraction += (*text - '0') * unit;
		}
		if (*text == ' ')
			text++;
		if (*text == 'Z' || *text == 'z')
			text++;
		else if (*text == '+' || *text == '-')
		{
			int			sign = *text++ == '-' ? -1 : 1;
			int			hours;
			int			minutes = 0;

			if (!read_digits(&text, 2, &hours))
				return false;
			if (*text == ':')
				text++;
			if (*text != '\0' && !read_digits(&text, 2, &minutes))
				return false;
			if (hours > 15 || minutes > 59)
				return false;
			offset = sign * (hours * 60 + minutes);
		}
		if (*text != '\0')
			return false;
	}

	if (year < 1970 || year > 9999 || month < 1 || month > 12 || day < 1 || day > 31 ||
		hour > 23 || minute > 59 || second > 60)
		return false;
	julian = date2j(year, month, day);
	j2date(julian, &y, &m, &d);
	if (y != year || m != month || d != day)
		return false;

	*result = ((int64) (julian - POSTGRES_EPOCH_JDATE)) * USECS_PER_DAY +
		(((int64) hour * 60 + minute - offset) * 60 + second) * USECS_PER_SEC +
		(int64) (fraction * USECS_PER_SEC);
	return true;
}

bool
conduit_read_time(const ConduitJson *member, TimestampTz *result)
{
	double		epoch;

	if (member == NULL)
		return false;
	if (!conduit_json_double(member, &epoch))
		return conduit_json_string(member) != NULL && read_iso8601(member->text, result);
	if (!isfinite(epoch) || epoch <= 0)
		return false;

	/* 1e11 seconds are the year 5138, 1e11 milliseconds 1973. */
	if (epoch >= 1e14)
		epoch /= 1e6;
	else if (epoch >= 1e11)
		epoch /= 1e3;
	if (epoch >= 1e11)
		epoch = 1e11;
	*result = (TimestampTz) (epoch * USECS_PER_SEC) -
		((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE)) * USECS_PER_DAY;
	return true;
}

bool
conduit_read_jwt_expiry(const SecretText *token, TimestampTz *expires_at, double *lifetime)
{
	const char *dot = memchr(token->data, '.', token->length);
	const char *end;
	char	   *payload;
	int			size;
	int			decoded;
	bool		found = false;

	if (dot == NULL)
		return false;
	dot++;
	end = memchr(dot, '.', token->data + token->length - dot);
	if (end == NULL || end == dot)
		return false;
	size = conduit_base64url_decoded_length(end - dot) + 1;
	payload = palloc0(size);
	decoded = conduit_base64url_decode(dot, end - dot, payload);
	if (decoded > 0)
	{
		const char *problem;
		ConduitJson *claims;
		double		exp;
		double		iat;

		payload[decoded] = '\0';
		claims = conduit_json_parse(payload, decoded, &problem);
		if (claims != NULL && claims->type == CONDUIT_JSON_OBJECT &&
			conduit_json_double(conduit_json_get(claims, "exp"), &exp) &&
			conduit_read_time(conduit_json_get(claims, "exp"), expires_at))
		{
			*lifetime = conduit_json_double(conduit_json_get(claims, "iat"), &iat) && exp > iat ?
				Min(exp - iat, CONDUIT_MAX_LIFETIME_S) : 0;
			found = true;
		}
	}
	conduit_wipe(payload, size);
	pfree(payload);
	return found;
}
