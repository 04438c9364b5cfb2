/*-------------------------------------------------------------------------
 *
 * json_array.h
 *	  Taking a JSON array apart without reading its elements.
 *
 * A caller who reads many records wants a bad one to spoil no other.  The
 * elements are found by their brackets and quotes alone; whether each is
 * JSON is for conduit_json_parse() to say, which may then change them in place.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONDUIT_JSON_ARRAY_H
#define CONDUIT_JSON_ARRAY_H

#include "base/compat.h"

/* One element, in the array's buffer: there is a byte behind it. */
typedef struct ConduitJsonPart
{
	char	   *text;
	int			length;
} ConduitJsonPart;

/*
 * conduit_json_split finds up to max elements of the array that the buffer
 * holds.  Returns how many there are, -1 if it holds no array, or max + 1 if
 * there are more.
 */
extern int	conduit_json_split(char *buffer, int length, ConduitJsonPart *parts, int max);

#endif							/* CONDUIT_JSON_ARRAY_H */
