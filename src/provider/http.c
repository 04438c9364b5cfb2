/*-------------------------------------------------------------------------
 *
 * http.c
 *	  libcurl behind one descriptor, a deadline and a pump.
 *
 * libcurl tells by callbacks which sockets it wants watched and when it wants
 * to be called again.  The sockets go into an event set of our own, whose
 * descriptor becomes readable as soon as one of them is ready, so that the
 * caller's loop waits on its latch and on everything libcurl does at once.
 *
 * Wording:
 *	   - A transfer is one request and what became of it.
 *	   - It is finished when its result is known, freed when nobody needs it.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include <signal.h>
#include <unistd.h>

#include "storage/fd.h"

#include "base/settings.h"
#include "provider/egress.h"
#include "provider/event_set.h"
#include "provider/http.h"
#include "provider/http_memory.h"
#include "provider/http_transfer.h"
#include "provider/url.h"

/* Where the event set has failed, everything is looked at this often. */
#define POLL_INTERVAL_MS	100

/* How many descriptors a pump serves. */
#define SERVED 64

/* How often each of them is served before what comes no more counts as in time. */
#define TURNS 8

/* Longer than anything is kept that depends on settings. */
#define LONG_AGO_MS			INT64CONST(86400000)

static CURLM *multi = NULL;
static bool initialized = false;	/* libcurl is, which happens once a process */
static int	event_set = -1;
static bool event_set_failed = false;
static int	reserved_descriptors = 0;
static int64 timer_at = -1;		/* when libcurl wants to be called; -1: not */
static dlist_head active = DLIST_STATIC_INIT(active);
static dlist_head finished = DLIST_STATIC_INIT(finished);
static int	in_flight = 0;
static int64 next_overdue = PG_INT64_MAX;	/* no active one is overdue before */
static int	full_pumps = 0;		/* in a row, each of which may have left something to be read */

static uint64 settings_epoch = 0;
static int64 settings_changed = 0;	/* when it was seen */

int64
conduit_http_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int
on_socket(CURL *easy, curl_socket_t descriptor, int what, void *argument, void *socket_argument)
{
	if (what == CURL_POLL_REMOVE)
		conduit_event_set_forget(event_set, descriptor);
	else if (!conduit_event_set_watch(event_set, descriptor, what))
		event_set_failed = true;
	return 0;
}

static int
on_timer(CURLM *handle, long timeout_ms, void *argument)
{
	timer_at = timeout_ms < 0 ? -1 : conduit_http_now_ms() + timeout_ms;
	return 0;
}

/* -- Life of the whole. -- */

/*
 * libcurl's resolver threads inherit the signal mask of the moment they are
 * started in: with everything blocked, PostgreSQL's handlers keep to the one
 * thread that they were written for.
 */
static void
block_signals(sigset_t *saved)
{
	sigset_t	all;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, saved);
}

static void
restore_signals(const sigset_t *saved)
{
	sigprocmask(SIG_SETMASK, saved, NULL);
}

/*
 * Sockets are opened where fd.c does not see it: take them off its budget
 * beforehand, but leave it most of that.
 */
static void
reserve_descriptors(int wanted)
{
	wanted = Min(wanted, max_safe_fds / 3);
	for (; reserved_descriptors < wanted; reserved_descriptors++)
		ReserveExternalFD();
	for (; reserved_descriptors > wanted; reserved_descriptors--)
		ReleaseExternalFD();
}

void
conduit_http_expect(int transfers)
{
	Assert(multi != NULL);

	/* A connection each, and the event set. */
	reserve_descriptors(transfers + 1);
	curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long) transfers);
}

void
conduit_http_start_up(void)
{
	if (multi != NULL)
		return;

	if (!initialized)
	{
		/* Would make libcurl write the keys of its connections to a file. */
		unsetenv("SSLKEYLOGFILE");

		if (curl_global_init_mem(CURL_GLOBAL_DEFAULT, conduit_http_malloc, conduit_http_release,
								 conduit_http_realloc, conduit_http_strdup,
								 conduit_http_calloc) != CURLE_OK)
			ereport(ERROR,
					(errcode(ERRCODE_SYSTEM_ERROR),
					 errmsg("could not initialize libcurl")));
		initialized = true;
		if (!(curl_version_info(CURLVERSION_NOW)->features & CURL_VERSION_ASYNCHDNS))
			ereport(LOG,
					(errmsg("libcurl resolves host names synchronously"),
					 errdetail("A slow name server holds up every refresh of this database.")));
	}

	event_set = conduit_event_set_create();
	if (event_set < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create an event set: %m")));
	multi = curl_multi_init();
	if (multi == NULL)
	{
		close(event_set);
		event_set = -1;
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	}
	event_set_failed = false;
	timer_at = -1;

	curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket);
	curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timer);
	curl_multi_setopt(multi, CURLMOPT_PIPELINING, (long) CURLPIPE_NOTHING);
	settings_epoch = conduit_settings_epoch();
	settings_changed = conduit_http_now_ms() - LONG_AGO_MS;
	conduit_egress_prepare();
}

static void
drop_body(HttpTransfer *transfer)
{
	if (transfer->capacity > 0)
		conduit_http_release(transfer->response.body);
	transfer->response.body = transfer->no_body;
	transfer->response.length = 0;
	transfer->capacity = 0;
}

/* Detach from libcurl and wipe what was to be sent; the response stays. */
static void
detach(HttpTransfer *transfer)
{
	sigset_t	saved;

	if (transfer->easy != NULL)
	{
		block_signals(&saved);
		curl_multi_remove_handle(multi, transfer->easy);
		curl_easy_cleanup(transfer->easy);
		restore_signals(&saved);
		transfer->easy = NULL;
		in_flight--;
	}
	curl_slist_free_all(transfer->headers);
	transfer->headers = NULL;
	conduit_http_release(transfer->body);
	transfer->body = NULL;
}

/* The result is known: to the finished ones. */
static void
finish(HttpTransfer *transfer, HttpResult result)
{
	HttpResponse *response = &transfer->response;

	detach(transfer);
	response->result = result;
	response->sent = transfer->sent;
	response->seconds = (conduit_http_now_ms() - transfer->started) / 1000.0;
	response->retry_after = -1;
	if (transfer->retry_after >= 0)
		response->retry_after = transfer->retry_after;
	else if (transfer->retry_at != -1)
	{
		/* The server's own clock, where it gives one, is what it reckons with. */
		time_t		now = transfer->server_date[0] != '\0' ? curl_getdate(transfer->server_date, NULL) : -1;

		if (now == -1)
			now = time(NULL);
		response->retry_after = Max(difftime(transfer->retry_at, now), 0);
	}
	dlist_delete(&transfer->node);
	dlist_push_tail(&finished, &transfer->node);
}

void
conduit_http_shut_down(void)
{
	sigset_t	saved;

	if (multi == NULL)
		return;

	/* Owners may still hold them and free them; there is nothing left in them. */
	while (!dlist_is_empty(&active))
	{
		HttpTransfer *transfer = dlist_head_element(HttpTransfer, node, &active);

		finish(transfer, transfer->sent ? HTTP_BROKEN : HTTP_UNREACHABLE);
		drop_body(transfer);
	}

	block_signals(&saved);
	curl_multi_cleanup(multi);
	restore_signals(&saved);
	multi = NULL;
	close(event_set);
	event_set = -1;
	reserve_descriptors(0);
}

/*
 * Whether what had come when it became too late has been read: the last pump was
 * not full, or so many before it were that each descriptor has had its turns.
 * More can come than is ever read, and of some of it libcurl keeps and counts
 * nothing (extensions of chunks).  Who sends that must not outlast its time, nor
 * have others outlast theirs.
 */
static bool
has_read_all(int count)
{
	full_pumps = count < SERVED ? 0 : full_pumps + 1;
	return full_pumps == 0 || full_pumps > TURNS * (in_flight / SERVED + 1);
}

/* libcurl, or the clock, is through with a transfer. */
static void
conclude(HttpTransfer *transfer, CURLcode code)
{
	HttpResult	result = conduit_http_verdict(transfer, code);
	long		status = 0;

	curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
	transfer->response.status = (int) status;
	finish(transfer, result);
}

static HttpTransfer *
new_transfer(void *owner)
{
	HttpTransfer *transfer = conduit_http_allocate(sizeof(HttpTransfer));

	transfer->response.content_type = transfer->content_type;
	transfer->response.headers = "";
	drop_body(transfer);
	transfer->owner = owner;
	transfer->retry_after = -1;
	transfer->retry_at = -1;
	transfer->started = conduit_http_now_ms();
	dlist_push_tail(&active, &transfer->node);
	transfer->linked = true;
	return transfer;
}

HttpTransfer *
conduit_http_refuse(void *owner)
{
	HttpTransfer *transfer = new_transfer(owner);

	finish(transfer, HTTP_DENIED);
	return transfer;
}

HttpTransfer *
conduit_http_start(const HttpRequest *request, void *owner)
{
	HttpTransfer *transfer;
	ConduitUrl	parts;
	sigset_t	saved;
	bool		ok;

	Assert(multi != NULL);
	conduit_egress_prepare();
	if (settings_epoch != conduit_settings_epoch())
	{
		settings_epoch = conduit_settings_epoch();
		settings_changed = conduit_http_now_ms();
	}

	transfer = new_transfer(owner);
	transfer->max_response = request->max_response;
	transfer->deadline = transfer->started + Max(request->timeout_ms, 1);
	if (request->keep_headers)
	{
		/* A line's copy is never longer than the line; two more for the last one's ends. */
		transfer->kept_headers = conduit_http_calloc(CONDUIT_MAX_HEADER_BYTES + 2, 1);
		if (transfer->kept_headers == NULL)
		{
			finish(transfer, HTTP_UNREACHABLE);
			return transfer;
		}
		transfer->response.headers = transfer->kept_headers;
	}
	if (conduit_egress_check_url(request->url) != NULL || !conduit_http_request_valid(request) ||
		conduit_url_split(request->url, &parts) != NULL)
	{
		finish(transfer, HTTP_DENIED);
		return transfer;
	}
	transfer->https = parts.https;
	transfer->host_listed = conduit_egress_host_listed(parts.host);
	transfer->repeatable = !request->once &&
		(strcmp(request->method, "GET") == 0 || strcmp(request->method, "HEAD") == 0);

	block_signals(&saved);
	ok = true;
	if (request->content_type != NULL)
	{
		transfer->body = conduit_http_malloc(request->body_length + 1);
		ok = transfer->body != NULL;
		if (ok)
		{
			memcpy(transfer->body, request->body, request->body_length);
			transfer->body[request->body_length] = '\0';
		}
	}
	if (ok && (transfer->easy = curl_easy_init()) != NULL)
	{
		in_flight++;
		ok = conduit_http_set_options(transfer, request, settings_changed) &&
			curl_multi_add_handle(multi, transfer->easy) == CURLM_OK;
	}
	else
		ok = false;
	restore_signals(&saved);

	if (ok)
		next_overdue = Min(next_overdue, transfer->deadline);
	else
		finish(transfer, HTTP_UNREACHABLE);
	return transfer;
}

static void
collect_finished(void)
{
	CURLMsg    *message;
	int			left;

	while ((message = curl_multi_info_read(multi, &left)) != NULL)
	{
		HttpTransfer *transfer = NULL;

		if (message->msg == CURLMSG_DONE &&
			curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &transfer) == CURLE_OK)
			conclude(transfer, message->data.result);
	}
}

/*
 * The time of a request is kept here, not by libcurl, which looks at the clock
 * before it looks at its sockets.  A worker may have been away for longer than
 * any request may take, at a commit that waits for a synchronous standby, say;
 * the answers that came in the meantime hold tokens that there is no other copy
 * of.  So what has come is read first, and only then is it too late.
 */
static void
end_overdue(int64 now)
{
	dlist_mutable_iter iter;

	if (now < next_overdue)
		return;
	next_overdue = PG_INT64_MAX;
	dlist_foreach_modify(iter, &active)
	{
		HttpTransfer *transfer = dlist_container(HttpTransfer, node, iter.cur);

		if (transfer->deadline <= now)
			conclude(transfer, CURLE_OPERATION_TIMEDOUT);
		else
			next_overdue = Min(next_overdue, transfer->deadline);
	}
}

void
conduit_http_pump(void)
{
	curl_socket_t descriptors[SERVED];
	int			bits[SERVED];
	int			count;
	int			running;
	sigset_t	saved;

	if (multi == NULL)
		return;
	conduit_egress_prepare();

	block_signals(&saved);
	count = conduit_event_set_ready(event_set, descriptors, bits, lengthof(descriptors));
	for (int i = 0; i < count; i++)
		curl_multi_socket_action(multi, descriptors[i], bits[i], &running);
	if (event_set_failed)
		curl_multi_perform(multi, &running);
	else if (timer_at >= 0 && timer_at <= conduit_http_now_ms())
	{
		/* libcurl sets the next one from within, or none. */
		timer_at = -1;
		curl_multi_socket_action(multi, CURL_SOCKET_TIMEOUT, 0, &running);
	}
	restore_signals(&saved);

	collect_finished();

	if (has_read_all(count))
		end_overdue(conduit_http_now_ms());
	if (in_flight == 0)
		event_set_failed = false;
}

int
conduit_http_descriptor(void)
{
	return event_set;
}

long
conduit_http_deadline(void)
{
	int64		next;
	int64		left = -1;

	if (!dlist_is_empty(&finished))
		return 0;
	if (multi == NULL)
		return -1;
	next = dlist_is_empty(&active) ? PG_INT64_MAX : next_overdue;
	if (timer_at >= 0)
		next = Min(next, timer_at);
	if (next < PG_INT64_MAX)
		left = Max(next - conduit_http_now_ms(), 0);
	if (event_set_failed)
		left = left < 0 ? POLL_INTERVAL_MS : Min(left, POLL_INTERVAL_MS);
	return (long) left;
}

int
conduit_http_in_flight(void)
{
	return in_flight;
}

HttpTransfer *
conduit_http_next_finished(void)
{
	HttpTransfer *transfer;

	if (dlist_is_empty(&finished))
		return NULL;
	transfer = dlist_container(HttpTransfer, node, dlist_pop_head_node(&finished));

	transfer->linked = false;
	return transfer;
}

HttpResponse *
conduit_http_response(HttpTransfer *transfer)
{
	return &transfer->response;
}

void *
conduit_http_owner(HttpTransfer *transfer)
{
	return transfer->owner;
}

bool
conduit_http_sent(HttpTransfer *transfer)
{
	return transfer->sent;
}

void
conduit_http_free(HttpTransfer *transfer)
{
	if (transfer == NULL)
		return;
	detach(transfer);
	if (transfer->linked)
		dlist_delete(&transfer->node);
	drop_body(transfer);
	conduit_http_release(transfer->kept_headers);
	conduit_http_release(transfer);
}
