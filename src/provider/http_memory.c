/*-------------------------------------------------------------------------
 *
 * http_memory.c
 *	  An allocator that clears what it gives back.
 *
 * Each block is preceded by its size: malloc_usable_size() is not everywhere,
 * and what compilers make of memory beyond the size asked for is their affair.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include "provider/http_memory.h"
#include "vault/seal.h"

/* As wide as malloc's own alignment, so that blocks keep it. */
typedef union Header
{
	size_t		size;
	long double align;			/* the strictest of C99's types */
} Header;

void *
conduit_http_malloc(size_t size)
{
	Header	   *header;

	if (size > SIZE_MAX - sizeof(Header))
		return NULL;
	header = malloc(sizeof(Header) + size);
	if (header == NULL)
		return NULL;
	header->size = size;
	return header + 1;
}

void *
conduit_http_calloc(size_t count, size_t size)
{
	void	   *pointer;

	if (size != 0 && count > SIZE_MAX / size)
		return NULL;
	pointer = conduit_http_malloc(count * size);
	if (pointer != NULL)
		memset(pointer, 0, count * size);
	return pointer;
}

/* Always moves: realloc() would leave the old place behind as it was. */
void *
conduit_http_realloc(void *pointer, size_t size)
{
	void	   *moved = conduit_http_malloc(size);

	if (moved != NULL && pointer != NULL)
	{
		memcpy(moved, pointer, Min(size, ((Header *) pointer - 1)->size));
		conduit_http_release(pointer);
	}
	return moved;
}

char *
conduit_http_strdup(const char *text)
{
	size_t		size = strlen(text) + 1;
	char	   *copy = conduit_http_malloc(size);

	if (copy != NULL)
		memcpy(copy, text, size);
	return copy;
}

void
conduit_http_release(void *pointer)
{
	Header	   *header;

	if (pointer == NULL)
		return;
	header = (Header *) pointer - 1;
	conduit_wipe(pointer, header->size);
	free(header);
}

void *
conduit_http_allocate(size_t size)
{
	void	   *pointer = conduit_http_calloc(1, size);

	if (pointer == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	return pointer;
}
