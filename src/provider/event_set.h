/*-------------------------------------------------------------------------
 *
 * event_set.h
 *	  A set of sockets behind one descriptor that becomes readable as soon as
 *	  one of them is ready.
 *
 * Linux' epoll; kqueue would fit behind the same four functions.  They raise
 * nothing and allocate nothing, for libcurl calls them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_EVENT_SET_H
#define CONDUIT_EVENT_SET_H

#include "base/compat.h"

#include <curl/curl.h>

/* The set's descriptor, closed by close(); -1 with errno set if there is none. */
extern int	conduit_event_set_create(void);

/* Watch for what (CURL_POLL_*), anew or otherwise than before; false if that cannot be done. */
extern bool conduit_event_set_watch(int set, curl_socket_t descriptor, int what);
extern void conduit_event_set_forget(int set, curl_socket_t descriptor);

/* The number of ready descriptors, with CURL_CSELECT_* bits for each; never waits. */
extern int	conduit_event_set_ready(int set, curl_socket_t *descriptors, int *bits, int max);

#endif							/* CONDUIT_EVENT_SET_H */
