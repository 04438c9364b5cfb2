/*-------------------------------------------------------------------------
 *
 * token_time.c
 *	  Points in time and lifetimes as providers write them.
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

#include "base/clock.h"
#include "provider/token_path.h"
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

/* The unit that text begins with, in seconds; 0 if it is none. *length: of its name. */
static double
read_unit(const char *text, size_t *length)
{
	static const struct
	{
		const char *name;
		double		seconds;
	}			units[] =
	{
		{"ms", 0.001}, {"millisecond", 0.001}, {"milliseconds", 0.001},
		{"s", 1}, {"sec", 1}, {"secs", 1}, {"second", 1}, {"seconds", 1},
		{"m", 60}, {"min", 60}, {"mins", 60}, {"minute", 60}, {"minutes", 60},
		{"h", 3600}, {"hr", 3600}, {"hrs", 3600}, {"hour", 3600}, {"hours", 3600},
		{"d", 86400}, {"day", 86400}, {"days", 86400},
		{"w", 604800}, {"week", 604800}, {"weeks", 604800}
	};

	*length = 0;
	while (isalpha((unsigned char) text[*length]))
		(*length)++;
	for (int i = 0; i < lengthof(units); i++)
	{
		if (strlen(units[i].name) == *length && pg_strncasecmp(text, units[i].name, *length) == 0)
			return units[i].seconds;
	}
	return 0;
}

/* "1h", "90 days", "1h30m": numbers, each with a unit. */
static bool
read_duration(const char *text, double *seconds)
{
	double		sum = 0;

	if (*text == '\0')
		return false;
	while (*text != '\0')
	{
		double		number = 0;
		double		unit;
		size_t		length;

		if (!isdigit((unsigned char) *text))
			return false;
		for (; isdigit((unsigned char) *text); text++)
			number = number * 10 + (*text - '0');
		if (*text == '.')
		{
			double		digit = 0.1;

			for (text++; isdigit((unsigned char) *text); text++, digit /= 10)
				number += (*text - '0') * digit;
		}
		while (*text == ' ')
			text++;
		unit = read_unit(text, &length);
		if (unit == 0)
			return false;
		sum += number * unit;
		for (text += length; *text == ' ';)
			text++;
	}
	*seconds = sum;
	return true;
}

bool
conduit_read_end(const ConduitJson *member, TimeMeaning meaning, TimestampTz from,
				 TimestampTz *end, double *lifetime)
{
	double		number;

	*end = DT_NOEND;
	*lifetime = 0;
	if (conduit_json_double(member, &number))
	{
		/*
		 * No token lives for 30 years and none has died before 2001 (where a
		 * point in time is expected, 1973), so a number tells what it is.
		 */
		if (number >= (meaning == TIME_POINT ? 1e8 : meaning == TIME_MILLISECONDS ? 1e12 : 1e9))
			return conduit_read_time(member, end);
		if (meaning == TIME_MILLISECONDS)
			number /= 1000;
	}
	else if (conduit_read_time(member, end))
		return true;
	else if (conduit_json_string(member) == NULL || !read_duration(member->text, &number))
		return false;

	if (number > 0)
	{
		*lifetime = Min(number, CONDUIT_MAX_LIFETIME_S);
		*end = conduit_time_add(from, *lifetime);
	}
	return true;
}

bool
conduit_read_jwt_expiry(const SecretText *token, TimestampTz *expires_at, double *lifetime)
{
	char	   *buffer;
	int			size;
	ConduitJson *claims = conduit_jwt_claims(token->data, token->length, &buffer, &size);
	double		exp;
	double		iat;
	bool		found;

	if (claims == NULL)
		return false;
	found = conduit_json_double(conduit_json_get(claims, "exp"), &exp) &&
		conduit_read_time(conduit_json_get(claims, "exp"), expires_at);
	if (found)
		*lifetime = conduit_json_double(conduit_json_get(claims, "iat"), &iat) && exp > iat ?
			Min(exp - iat, CONDUIT_MAX_LIFETIME_S) : 0;
	conduit_wipe(buffer, size);
	pfree(buffer);
	return found;
}
