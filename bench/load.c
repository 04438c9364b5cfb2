/*-------------------------------------------------------------------------
 *
 * load.c
 *	  Runs prepared statements against a server, in turns, and counts.
 *
 * pgbench draws numbers only, so a script of its has to find a uuid by one
 * first, and what that costs blurs what is measured.  Here the parameters of a
 * statement, $1 text and $2 uuid, are drawn from a file.
 *
 *	  load CONNINFO CLIENTS ROUNDS SECONDS PARAMETERS STATEMENTS
 *
 * PARAMETERS has a line of two fields for each row, STATEMENTS a line for each
 * statement: its name and its text; fields are parted by a tab.  In every round
 * each statement has its turn of SECONDS, with CLIENTS sessions that were
 * connected and have prepared it before; the order is turned about from round
 * to round, so that no statement always follows the same one.
 *
 * Prints a line for each turn: round, name, executions a second, and the
 * 50th and 99th percentile of an execution in microseconds.
 *
 *-------------------------------------------------------------------------
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <libpq-fe.h>

#define OID_TEXT	25
#define OID_UUID	2950
#define MAX_CLIENTS 1024
#define MAX_STATEMENTS 32
#define SAMPLES		(1 << 16)	/* of a client's turn; later ones replace them by chance */

typedef struct Fields
{
	char	   *first;
	char	   *second;
} Fields;

typedef struct Client
{
	PGconn	   *conn;
	pthread_t	thread;
	uint64_t	seed;
	long		done;
	int			nsamples;
	float	   *samples;
} Client;

static Fields *parameters;
static int	nparameters;
static Fields statements[MAX_STATEMENTS];
static int	nstatements;

/* What the clients' present turn is. */
static int	turn_statement;
static double turn_ends;
static pthread_barrier_t turn_begins;
static pthread_barrier_t turn_is_over;
static bool no_more_turns = false;

static void
die(const char *what, const char *detail)
{
	fprintf(stderr, "load: %s: %s\n", what, detail);
	exit(1);
}

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static uint64_t
draw(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

/* read_fields reads a file of tab-parted pairs, up to max of them; -1: no limit. */
static int
read_fields(const char *path, Fields **fields, int max)
{
	FILE	   *file = fopen(path, "r");
	char	   *line = NULL;
	size_t		size = 0;
	ssize_t		length;
	int			n = 0;

	if (file == NULL)
		die("cannot read", path);
	while ((length = getline(&line, &size, file)) > 0)
	{
		char	   *tab = strchr(line, '\t');

		if (line[length - 1] == '\n')
			line[length - 1] = '\0';
		if (tab == NULL || n == max)
			die("not a file of pairs, or too many", path);
		*tab = '\0';
		if (max < 0 && (n & (n - 1)) == 0)
			*fields = realloc(*fields, sizeof(Fields) * (n ? n * 2 : 1));
		(*fields)[n].first = strdup(line);
		(*fields)[n++].second = strdup(tab + 1);
	}
	free(line);
	fclose(file);
	return n;
}

static void
prepare(Client *client, const char *conninfo)
{
	static const Oid types[2] = {OID_TEXT, OID_UUID};

	client->conn = PQconnectdb(conninfo);
	if (PQstatus(client->conn) != CONNECTION_OK)
		die("cannot connect", PQerrorMessage(client->conn));
	for (int i = 0; i < nstatements; i++)
	{
		PGresult   *result = PQprepare(client->conn, statements[i].first, statements[i].second, 2, types);

		if (PQresultStatus(result) != PGRES_COMMAND_OK)
			die(statements[i].first, PQerrorMessage(client->conn));
		PQclear(result);
	}
}

static void
take_sample(Client *client, double seconds)
{
	if (client->nsamples < SAMPLES)
		client->samples[client->nsamples++] = seconds * 1e6;
	else if (draw(&client->seed) % client->done < SAMPLES)
		client->samples[draw(&client->seed) % SAMPLES] = seconds * 1e6;
}

static void
execute(Client *client)
{
	const Fields *drawn = &parameters[draw(&client->seed) % nparameters];
	const char *values[2] = {drawn->first, drawn->second};
	PGresult   *result = PQexecPrepared(client->conn, statements[turn_statement].first, 2, values, NULL, NULL, 0);

	/* A row that is not there, or a null, would be fast and mean nothing. */
	if (PQresultStatus(result) != PGRES_TUPLES_OK || PQntuples(result) != 1 || PQgetisnull(result, 0, 0))
		die(statements[turn_statement].first, PQresultErrorMessage(result));
	PQclear(result);
}

static void *
run_client(void *arg)
{
	Client	   *client = arg;

	for (;;)
	{
		double		begin;

		pthread_barrier_wait(&turn_begins);
		if (no_more_turns)
			return NULL;
		client->done = client->nsamples = 0;
		begin = now();
		while (begin < turn_ends)
		{
			double		end;

			execute(client);
			end = now();
			client->done++;
			take_sample(client, end - begin);
			begin = end;
		}
		pthread_barrier_wait(&turn_is_over);
	}
}

static int
compare_samples(const void *a, const void *b)
{
	float		x = *(const float *) a;
	float		y = *(const float *) b;

	return (x > y) - (x < y);
}

static void
print_turn(const Client *clients, int nclients, int round, double seconds)
{
	static float *all = NULL;
	long		done = 0;
	int			n = 0;

	if (all == NULL)
		all = malloc(sizeof(float) * SAMPLES * nclients);
	for (int i = 0; i < nclients; i++)
	{
		memcpy(all + n, clients[i].samples, sizeof(float) * clients[i].nsamples);
		n += clients[i].nsamples;
		done += clients[i].done;
	}
	qsort(all, n, sizeof(float), compare_samples);
	printf("%d\t%s\t%.1f\t%.1f\t%.1f\n", round, statements[turn_statement].first,
		   done / seconds, n ? all[n / 2] : 0.0, n ? all[n * 99L / 100] : 0.0);
	fflush(stdout);
}

int
main(int argc, char **argv)
{
	static Client clients[MAX_CLIENTS];
	Fields	   *texts = statements;
	int			nclients = argc == 7 ? atoi(argv[2]) : 0;
	int			rounds = argc == 7 ? atoi(argv[3]) : 0;
	double		seconds = argc == 7 ? atof(argv[4]) : 0;

	if (nclients < 1 || nclients > MAX_CLIENTS || rounds < 1 || seconds <= 0)
		die("usage", "load CONNINFO CLIENTS ROUNDS SECONDS PARAMETERS STATEMENTS");
	nparameters = read_fields(argv[5], &parameters, -1);
	nstatements = read_fields(argv[6], &texts, MAX_STATEMENTS);
	if (nparameters == 0 || nstatements == 0)
		die("nothing in", nparameters == 0 ? argv[5] : argv[6]);

	pthread_barrier_init(&turn_begins, NULL, nclients + 1);
	pthread_barrier_init(&turn_is_over, NULL, nclients + 1);
	for (int i = 0; i < nclients; i++)
	{
		clients[i].seed = UINT64_C(0x9E3779B97F4A7C15) * (i + 1);
		clients[i].samples = malloc(sizeof(float) * SAMPLES);
		prepare(&clients[i], argv[1]);
		pthread_create(&clients[i].thread, NULL, run_client, &clients[i]);
	}
	for (int round = 0; round < rounds; round++)
		for (int i = 0; i < nstatements; i++)
		{
			double		begin = now();

			turn_statement = round % 2 ? nstatements - 1 - i : (i + round / 2) % nstatements;
			turn_ends = begin + seconds;
			pthread_barrier_wait(&turn_begins);
			pthread_barrier_wait(&turn_is_over);
			print_turn(clients, nclients, round, now() - begin);
		}
	no_more_turns = true;
	pthread_barrier_wait(&turn_begins);
	for (int i = 0; i < nclients; i++)
	{
		pthread_join(clients[i].thread, NULL);
		PQfinish(clients[i].conn);
	}
	return 0;
}
