/*-------------------------------------------------------------------------
 *
 * api_message.c
 *	  An HTTP request and its response as bytes.
 *
 * Numbers are eight bytes of this machine's, for both sides are of one server;
 * a text is its length, its bytes and a NUL, an absent one the length -1.
 *
 *-------------------------------------------------------------------------
 */
#include "provider/api_message.h"

/* Writing: data NULL measures. */
typedef struct Writer
{
	char	   *data;
	Size		length;
} Writer;

static void
put_bytes(Writer *writer, const void *bytes, Size length)
{
	if (writer->data != NULL)
		memcpy(writer->data + writer->length, bytes, length);
	writer->length += length;
}

static void
put_number(Writer *writer, int64 number)
{
	put_bytes(writer, &number, sizeof(number));
}

static void
put_text(Writer *writer, const char *text, Size length)
{
	put_number(writer, text != NULL ? (int64) length : -1);
	if (text == NULL)
		return;
	put_bytes(writer, text, length);
	put_bytes(writer, "", 1);
}

static void
put_string(Writer *writer, const char *text)
{
	put_text(writer, text, text != NULL ? strlen(text) : 0);
}

static void
write_request(Writer *writer, const HttpRequest *request)
{
	put_string(writer, request->method);
	put_string(writer, request->url);
	put_string(writer, request->query);
	put_string(writer, request->content_type);
	put_text(writer, request->content_type != NULL ? request->body : NULL, request->body_length);
	put_number(writer, request->timeout_ms);
	put_number(writer, (int64) request->max_response);
	put_number(writer, request->once);
	put_number(writer, request->nheaders);
	for (int i = 0; i < request->nheaders; i++)
	{
		put_string(writer, request->headers[i].name);
		put_string(writer, request->headers[i].value);
	}
}

static void
write_response(Writer *writer, const HttpResponse *response)
{
	put_number(writer, response->result);
	put_number(writer, response->sent);
	put_number(writer, response->status);
	put_number(writer, (int64) (response->retry_after < 0 ? -1 : Min(response->retry_after, 1e9)));
	put_string(writer, response->content_type);
	put_string(writer, response->headers);
	put_text(writer, response->body, response->length);
}

void *
conduit_api_message_from_request(const HttpRequest *request, Size *length)
{
	Writer		writer = {NULL, 0};

	write_request(&writer, request);
	*length = writer.length;
	writer.data = palloc_extended(writer.length, MCXT_ALLOC_HUGE);
	writer.length = 0;
	write_request(&writer, request);
	return writer.data;
}

void *
conduit_api_message_from_response(const HttpResponse *response, Size *length)
{
	Writer		writer = {NULL, 0};

	write_response(&writer, response);
	*length = writer.length;
	writer.data = palloc_extended(writer.length, MCXT_ALLOC_HUGE);
	writer.length = 0;
	write_response(&writer, response);
	return writer.data;
}

/* Reading: whole is false once something did not fit. */
typedef struct Reader
{
	char	   *at;
	char	   *end;
	bool		whole;
} Reader;

static int64
get_number(Reader *reader)
{
	int64		number = 0;

	if (reader->end - reader->at < sizeof(number))
		reader->whole = false;
	else
	{
		memcpy(&number, reader->at, sizeof(number));
		reader->at += sizeof(number);
	}
	return number;
}

static char *
get_text(Reader *reader, Size *length)
{
	int64		size = get_number(reader);
	char	   *text = reader->at;

	*length = 0;
	if (!reader->whole || size < 0)
		return NULL;
	if (size >= reader->end - reader->at || text[size] != '\0')
	{
		reader->whole = false;
		return NULL;
	}
	reader->at += size + 1;
	*length = (Size) size;
	return text;
}

static char *
get_string(Reader *reader)
{
	Size		ignored;

	return get_text(reader, &ignored);
}

bool
conduit_api_message_to_request(char *message, Size length, HttpRequest *request, HttpHeader *headers, int max)
{
	Reader		reader = {message, message + length, true};

	memset(request, 0, sizeof(*request));
	request->method = get_string(&reader);
	request->url = get_string(&reader);
	request->query = get_string(&reader);
	request->content_type = get_string(&reader);
	request->body = get_text(&reader, &request->body_length);
	request->timeout_ms = (int) get_number(&reader);
	request->max_response = (Size) get_number(&reader);
	request->once = get_number(&reader) != 0;
	request->nheaders = (int) get_number(&reader);
	request->headers = headers;
	request->keep_headers = true;
	for (int i = 0; i < request->nheaders && i < max; i++)
	{
		headers[i].name = get_string(&reader);
		headers[i].value = get_string(&reader);
		reader.whole &= headers[i].name != NULL && headers[i].value != NULL;
	}
	return reader.whole && reader.at == reader.end && request->nheaders <= max &&
		request->method != NULL && request->url != NULL;
}

bool
conduit_api_message_to_response(char *message, Size length, HttpResponse *response)
{
	Reader		reader = {message, message + length, true};

	memset(response, 0, sizeof(*response));
	response->result = (HttpResult) get_number(&reader);
	response->sent = get_number(&reader) != 0;
	response->status = (int) get_number(&reader);
	response->retry_after = (double) get_number(&reader);
	response->content_type = get_string(&reader);
	response->headers = get_string(&reader);
	response->body = get_text(&reader, &response->length);
	return reader.whole && reader.at == reader.end && response->content_type != NULL &&
		response->headers != NULL && response->body != NULL;
}
