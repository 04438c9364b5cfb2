/*-------------------------------------------------------------------------
 *
 * multi.c
 *	  A bare libcurl multi loop: what HTTPS costs without Conduit.
 *
 *	  multi URL CA_FILE REQUESTS IN_FLIGHT BODY
 *	  multi URL CA_FILE REQUESTS 1
 *
 * Sends so many POST requests with the body, or GET requests without, and so
 * many at a time, and prints requests per second, the median latency and the
 * processor time of each, in microseconds.  It does what any user of libcurl would who is in a hurry:
 * connections are kept alive, handles are used again, sockets are watched by
 * epoll.  TLS and HTTP versions and verification are Conduit's.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>

#include <curl/curl.h>

static CURLM *multi;
static int	event_set;
static long timer_ms = -1;
static long requests;
static long started = 0;
static long finished = 0;
static long failed = 0;
static double *begun;			/* of each handle */
static double *latencies;

static double
now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

static size_t
on_body(char *data, size_t size, size_t count, void *argument)
{
	return size * count;
}

static int
on_socket(CURL *easy, curl_socket_t descriptor, int what, void *argument, void *socket_argument)
{
	struct epoll_event event = {.data.fd = descriptor};

	if (what == CURL_POLL_REMOVE)
		epoll_ctl(event_set, EPOLL_CTL_DEL, descriptor, NULL);
	else
	{
		event.events = (what & CURL_POLL_IN ? EPOLLIN : 0) | (what & CURL_POLL_OUT ? EPOLLOUT : 0);
		if (epoll_ctl(event_set, EPOLL_CTL_MOD, descriptor, &event) != 0)
			epoll_ctl(event_set, EPOLL_CTL_ADD, descriptor, &event);
	}
	return 0;
}

static int
on_timer(CURLM *handle, long timeout_ms, void *argument)
{
	timer_ms = timeout_ms;
	return 0;
}

static void
start(CURL *easy, long index)
{
	begun[index] = now();
	started++;
	curl_multi_add_handle(multi, easy);
}

static void
take_finished(void)
{
	CURLMsg    *message;
	int			left;

	while ((message = curl_multi_info_read(multi, &left)) != NULL)
	{
		CURL	   *easy = message->easy_handle;
		CURLcode	result = message->data.result;
		long		status = 0;
		char	   *index;

		curl_easy_getinfo(easy, CURLINFO_PRIVATE, &index);
		curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
		curl_multi_remove_handle(multi, easy);
		latencies[finished++] = now() - begun[(long) index];
		if (result != CURLE_OK || status != 200)
			failed++;
		if (started < requests)
			start(easy, (long) index);
	}
}

static CURL *
make_handle(char **argv, long index)
{
	CURL	   *easy = curl_easy_init();
	const char *body = argv[5];

	curl_easy_setopt(easy, CURLOPT_URL, argv[1]);
	curl_easy_setopt(easy, CURLOPT_CAINFO, argv[2]);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(easy, CURLOPT_PRIVATE, (char *) index);
	if (body != NULL)
		curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body);
	return easy;
}

static void
run(void)
{
	while (finished < requests)
	{
		struct epoll_event events[64];
		int			running;
		int			n = epoll_wait(event_set, events, 64, timer_ms < 0 ? 1000 : (int) timer_ms);

		for (int i = 0; i < n; i++)
			curl_multi_socket_action(multi, events[i].data.fd,
									 (events[i].events & EPOLLIN ? CURL_CSELECT_IN : 0) |
									 (events[i].events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
									 (events[i].events & (EPOLLERR | EPOLLHUP) ? CURL_CSELECT_ERR : 0), &running);
		if (n == 0 || timer_ms == 0)
		{
			timer_ms = -1;
			curl_multi_socket_action(multi, CURL_SOCKET_TIMEOUT, 0, &running);
		}
		take_finished();
	}
}

static int
compare(const void *a, const void *b)
{
	double		left = *(const double *) a;
	double		right = *(const double *) b;

	return (left > right) - (left < right);
}

int
main(int argc, char **argv)
{
	long		in_flight;
	double		begin;
	double		end;
	struct rusage usage;

	if (argc < 5)
	{
		fprintf(stderr, "usage: multi URL CA_FILE REQUESTS IN_FLIGHT [BODY]\n");
		return 2;
	}
	requests = atol(argv[3]);
	in_flight = atol(argv[4]);
	begun = calloc(in_flight, sizeof(double));
	latencies = calloc(requests, sizeof(double));
	if (begun == NULL || latencies == NULL || curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
		return 1;
	multi = curl_multi_init();
	event_set = epoll_create1(EPOLL_CLOEXEC);
	curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket);
	curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timer);
	curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, in_flight);

	begin = now();
	for (long i = 0; i < in_flight && started < requests; i++)
		start(make_handle(argv, i), i);
	run();
	end = now();
	qsort(latencies, requests, sizeof(double), compare);
	getrusage(RUSAGE_SELF, &usage);
	printf("%.0f %.0f %.1f\n", requests / ((end - begin) / 1e6), latencies[requests / 2],
		   (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6) * 1e6 / requests);
	if (failed > 0)
		fprintf(stderr, "%ld requests failed\n", failed);
	return failed > 0;
}
