/*-------------------------------------------------------------------------
 *
 * http_memory.h
 *	  An allocator that clears what it gives back.
 *
 * libcurl copies requests and responses as it pleases.  With these functions
 * under it no freed memory of the process holds a token.  Callable from
 * libcurl's resolver threads; NULL when memory is out, as malloc.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_HTTP_MEMORY_H
#define CONDUIT_HTTP_MEMORY_H

#include "base/compat.h"

extern void *conduit_http_malloc(size_t size);
extern void *conduit_http_calloc(size_t count, size_t size);
extern void *conduit_http_realloc(void *pointer, size_t size);
extern char *conduit_http_strdup(const char *text);
extern void conduit_http_release(void *pointer);

/* Zeroed memory, or an out of memory error: not for callbacks. */
extern void *conduit_http_allocate(size_t size);

#endif							/* CONDUIT_HTTP_MEMORY_H */
