/*-------------------------------------------------------------------------
 *
 * event_set.c
 *	  A set of sockets behind one descriptor: epoll.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include <sys/epoll.h>

#include "provider/event_set.h"

int
conduit_event_set_create(void)
{
	return epoll_create1(EPOLL_CLOEXEC);
}

bool
conduit_event_set_watch(int set, curl_socket_t descriptor, int what)
{
	struct epoll_event event = {0};

	if (what == CURL_POLL_IN || what == CURL_POLL_INOUT)
		event.events |= EPOLLIN;
	if (what == CURL_POLL_OUT || what == CURL_POLL_INOUT)
		event.events |= EPOLLOUT;
	event.data.fd = descriptor;

	/* libcurl closes and reuses numbers without saying so. */
	if (epoll_ctl(set, EPOLL_CTL_MOD, descriptor, &event) == 0)
		return true;
	return errno == ENOENT && epoll_ctl(set, EPOLL_CTL_ADD, descriptor, &event) == 0;
}

void
conduit_event_set_forget(int set, curl_socket_t descriptor)
{
	struct epoll_event event = {0};

	/* A closed descriptor has left the set by itself. */
	(void) epoll_ctl(set, EPOLL_CTL_DEL, descriptor, &event);
}

int
conduit_event_set_ready(int set, curl_socket_t *descriptors, int *bits, int max)
{
	struct epoll_event events[64];
	int			count = epoll_wait(set, events, Min(max, lengthof(events)), 0);

	for (int i = 0; i < count; i++)
	{
		descriptors[i] = events[i].data.fd;
		bits[i] = 0;
		if (events[i].events & EPOLLIN)
			bits[i] |= CURL_CSELECT_IN;
		if (events[i].events & EPOLLOUT)
			bits[i] |= CURL_CSELECT_OUT;
		if (events[i].events & (EPOLLERR | EPOLLHUP))
			bits[i] |= CURL_CSELECT_ERR;
	}
	return Max(count, 0);
}
