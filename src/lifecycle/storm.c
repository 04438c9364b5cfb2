/*-------------------------------------------------------------------------
 *
 * storm.c
 *	  When a provider calls many refresh tokens dead at once.
 *
 * What is doubted is tried again in 10 to 15 minutes (schedule.c), so that it
 * counts about once in each window, and a storm goes on while it does not
 * change.
 *
 *-------------------------------------------------------------------------
 */
#include "lifecycle/storm.h"

#include "utils/hsearch.h"
#include "utils/timestamp.h"

#include "base/clock.h"
#include "lifecycle/alert.h"
#include "shared/stats.h"

/* The window: so many bins of a minute each, the current one among them. */
#define BINS 10

#define LEAST_REFRESHES 20
#define DEAD_PART 5				/* one of so many */

/* Seconds. */
#define LONGEST_STORM 3600.0
#define BELIEVED_FOR 3600.0

typedef struct StormBin
{
	int64		minute;
	int			refreshes;
	int			dead;
} StormBin;

typedef struct Weather
{
	char		connector[CONDUIT_MAX_SLUG_LEN + 1];	/* hash key */
	StormBin	bins[BINS];
	TimestampTz since;			/* DT_NOEND: no storm */
	TimestampTz believed_since; /* the last one lasted its hour; DT_NOEND: not */
} Weather;

static HTAB *weathers = NULL;

static Weather *
get_weather(const char *connector)
{
	bool		found;
	Weather    *weather;

	if (weathers == NULL)
	{
		HASHCTL		control = {.keysize = CONDUIT_MAX_SLUG_LEN + 1,.entrysize = sizeof(Weather)};

		weathers = hash_create("conduit storms", 32, &control, HASH_ELEM | HASH_STRINGS);
	}
	weather = hash_search(weathers, connector, HASH_ENTER, &found);
	if (!found)
	{
		memset(weather->bins, 0, sizeof(weather->bins));
		weather->since = weather->believed_since = DT_NOEND;
	}
	return weather;
}

static int64
minute_of(TimestampTz at)
{
	return at / USECS_PER_MINUTE;
}

/* Whether there were enough refreshes in the window to judge, and whether too many were dead. */
static bool
judge(const Weather *weather, TimestampTz now, bool *too_many)
{
	int64		minute = minute_of(now);
	int			refreshes = 0;
	int			dead = 0;

	for (int i = 0; i < BINS; i++)
	{
		const StormBin *bin = &weather->bins[i];

		if (bin->minute > minute - BINS && bin->minute <= minute)
		{
			refreshes += bin->refreshes;
			dead += bin->dead;
		}
	}
	*too_many = dead * DEAD_PART > refreshes;
	return refreshes >= LEAST_REFRESHES;
}

/* Whether a time lies less than so many seconds back; not if the clock was set back behind it. */
static bool
is_recent(TimestampTz at, double seconds, TimestampTz now)
{
	return !TIMESTAMP_IS_NOEND(at) && at <= now && conduit_seconds_between(at, now) < seconds;
}

static void
begin_storm(Weather *weather, TimestampTz now)
{
	weather->since = now;
	conduit_alert_begin(ALERT_STORM, weather->connector, "", NULL, false);
	ereport(LOG,
			(errmsg("conduit: connector \"%s\" calls many refresh tokens dead; it is not believed for now",
					weather->connector),
			 errhidestmt(true), errhidecontext(true)));
}

static void
end_storm(Weather *weather)
{
	weather->since = DT_NOEND;
	conduit_alert_end(ALERT_STORM, weather->connector, "");
	ereport(LOG,
			(errmsg("conduit: connector \"%s\" is believed again when it calls refresh tokens dead",
					weather->connector),
			 errhidestmt(true), errhidecontext(true)));
}

/* Few refreshes end no storm: those that it keeps back are not tried all the time. */
static void
look_at(Weather *weather, TimestampTz now)
{
	bool		too_many;
	bool		enough = judge(weather, now, &too_many);

	if (TIMESTAMP_IS_NOEND(weather->since))
	{
		if (enough && too_many && !is_recent(weather->believed_since, BELIEVED_FOR, now))
			begin_storm(weather, now);
	}
	else if (!is_recent(weather->since, LONGEST_STORM, now))
	{
		weather->believed_since = now;
		end_storm(weather);
	}
	else if (enough && !too_many)
		end_storm(weather);
}

void
conduit_storm_note(const char *connector, bool dead)
{
	Weather    *weather = get_weather(connector);
	TimestampTz now = conduit_now();
	int64		minute = minute_of(now);
	StormBin   *bin = &weather->bins[minute % BINS];

	if (bin->minute != minute)
	{
		bin->minute = minute;
		bin->refreshes = bin->dead = 0;
	}
	bin->refreshes++;
	if (dead)
		bin->dead++;
	look_at(weather, now);
}

bool
conduit_storm_doubts(const char *connector)
{
	Weather    *weather = get_weather(connector);

	look_at(weather, conduit_now());
	return !TIMESTAMP_IS_NOEND(weather->since);
}

void
conduit_storm_resume(const char *connector, TimestampTz since)
{
	get_weather(connector)->since = since;
}

void
conduit_storm_watch(void)
{
	TimestampTz now = conduit_now();
	HASH_SEQ_STATUS scan;
	Weather    *weather;

	if (weathers == NULL)
		return;
	hash_seq_init(&scan, weathers);
	while ((weather = hash_seq_search(&scan)) != NULL)
		if (!TIMESTAMP_IS_NOEND(weather->since))
			look_at(weather, now);
}
