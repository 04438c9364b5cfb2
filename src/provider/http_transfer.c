/*-------------------------------------------------------------------------
 *
 * http_transfer.c
 *	  One transfer as libcurl sees it: its options, its callbacks, its end.
 *
 * Callbacks run inside libcurl: a longjmp out of one ruins the multi handle for
 * good.  They note what they find in the transfer, use malloc'd memory and
 * answer by code; errors are made of it afterwards.
 *
 * One request, one sending.  When a connection that is kept alive turns out to
 * be closed after the request was written, libcurl opens another one and sends
 * the request again (seen with 7.88.1: a server that reads a POST on a reused
 * connection and closes it gets the same POST a second time).  A refresh token
 * sent twice is what rotating providers answer by revoking the grant, so the
 * second sending is stopped.  CURLOPT_PREREQFUNCTION is called before each
 * sending, on new and on reused connections, also before one that libcurl
 * repeats; where it finds that a request which is not safe to repeat was let
 * out before, it aborts.  Reuse itself can stay: libcurl drops connections
 * whose close it can see before it sends.
 *
 *-------------------------------------------------------------------------
 */
#include "base/compat.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

#include "base/settings.h"
#include "provider/egress.h"
#include "provider/http_memory.h"
#include "provider/http_transfer.h"

#define CONNECT_TIMEOUT_MS		5000

/* A little less than the idle timeout of most load balancers, which is 60 s. */
#define KEEP_ALIVE_SECONDS		50
#define CONNECTION_LIFETIME		300
#define CA_CACHE_SECONDS		3600

/*
 * Each request has buffers of its own, which are wiped when it is over, used or
 * not.  16 kB to send is the least there is; to receive, what a token endpoint
 * says fits into less.
 */
#define UPLOAD_BUFFER_SIZE		16384L
#define BUFFER_SIZE				16384L
#define SMALL_BUFFER_SIZE		4096L
#define SMALL_RESPONSE			65536

static bool
address_allowed(const HttpTransfer *transfer, const struct sockaddr *address)
{
	return conduit_egress_address_allowed(address, transfer->host_listed) &&
		(transfer->https || conduit_egress_address_loopback(address));
}

/* Each new connection: the address checked is the address connected to. */
static curl_socket_t
on_open_socket(void *argument, curlsocktype purpose, struct curl_sockaddr *address)
{
	HttpTransfer *transfer = argument;

	transfer->resolved = true;
	if (purpose != CURLSOCKTYPE_IPCXN || !address_allowed(transfer, &address->addr))
	{
		transfer->denied = true;
		return CURL_SOCKET_BAD;
	}
	return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

/* Before each sending, also on a connection that is used again. */
static int
on_send(void *argument, char *remote_ip, char *local_ip, int remote_port, int local_port)
{
	HttpTransfer *transfer = argument;
	struct sockaddr_in v4 = {.sin_family = AF_INET};
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
	bool		allowed = false;

	transfer->resolved = true;
	if (transfer->sent && !transfer->repeatable)
		return CURL_PREREQFUNC_ABORT;

	if (inet_pton(AF_INET, remote_ip, &v4.sin_addr) == 1)
		allowed = address_allowed(transfer, (struct sockaddr *) &v4);
	else if (inet_pton(AF_INET6, remote_ip, &v6.sin6_addr) == 1)
		allowed = address_allowed(transfer, (struct sockaddr *) &v6);
	if (!allowed)
	{
		transfer->denied = true;
		return CURL_PREREQFUNC_ABORT;
	}

	/*
	 * Not a byte has been written yet, but from here on nothing tells surely
	 * that none was.
	 */
	transfer->sent = true;
	return CURL_PREREQFUNC_OK;
}

static size_t
on_body(char *data, size_t size, size_t count, void *argument)
{
	HttpTransfer *transfer = argument;
	HttpResponse *response = &transfer->response;
	size_t		length = size * count;

	if (length > transfer->max_response - response->length)
	{
		transfer->too_large = true;
		return 0;
	}
	if (response->length + length + 1 > transfer->capacity)
	{
		Size		capacity = Max(transfer->capacity * 2, response->length + length + 1);
		char	   *body = conduit_http_realloc(transfer->capacity > 0 ? response->body : NULL, capacity);

		if (body == NULL)
			return 0;
		response->body = body;
		transfer->capacity = capacity;
	}
	memcpy(response->body + response->length, data, length);
	response->length += length;
	response->body[response->length] = '\0';
	return length;
}

/* The value of a header line that begins with name and a colon, blanks trimmed; else -1. */
static int
header_value(const char *line, size_t length, const char *name, char *value, size_t size)
{
	size_t		name_length = strlen(name);
	size_t		n = 0;

	if (length <= name_length || line[name_length] != ':' ||
		pg_strncasecmp(line, name, name_length) != 0)
		return -1;
	line += name_length + 1;
	length -= name_length + 1;
	while (length > 0 && (*line == ' ' || *line == '\t'))
	{
		line++;
		length--;
	}
	while (length > 0 && isspace((unsigned char) line[length - 1]))
		length--;
	for (; n < length && n < size - 1; n++)
		value[n] = line[n] >= ' ' && line[n] < 0x7f ? line[n] : '?';
	value[n] = '\0';
	return (int) n;
}

static void
keep_header(HttpTransfer *transfer, const char *line, size_t length)
{
	char	   *to = transfer->kept_headers + transfer->kept_length;
	const char *colon = memchr(line, ':', length);

	while (length > 0 && (line[length - 1] == '\r' || line[length - 1] == '\n'))
		length--;
	if (colon == NULL || memchr(line, '\0', length) != NULL)
		return;
	for (size_t j = 0; j < length; j++)
		*to++ = line + j < colon ? pg_ascii_tolower((unsigned char) line[j]) : line[j];
	*to++ = '\n';
	*to = '\0';
	transfer->kept_length = to - transfer->kept_headers;
}

static size_t
on_header(char *line, size_t size, size_t count, void *argument)
{
	HttpTransfer *transfer = argument;
	size_t		length = size * count;
	char		value[CONDUIT_MAX_CONTENT_TYPE + 1];

	transfer->header_bytes += length;
	if (transfer->header_bytes > CONDUIT_MAX_HEADER_BYTES)
	{
		transfer->too_large = true;
		return 0;
	}

	/* A status line: what an interim response (1xx) said is void. */
	if (length >= 5 && memcmp(line, "HTTP/", 5) == 0)
	{
		transfer->response.content_type[0] = '\0';
		transfer->retry_after = -1;
		transfer->retry_at = -1;
		transfer->server_date[0] = '\0';
		if (transfer->kept_headers != NULL)
			transfer->kept_headers[transfer->kept_length = 0] = '\0';
		return length;
	}
	if (transfer->kept_headers != NULL)
		keep_header(transfer, line, length);
	if (header_value(line, length, "content-type", value, sizeof(value)) >= 0)
		strlcpy(transfer->response.content_type, value, CONDUIT_MAX_CONTENT_TYPE + 1);
	else if (header_value(line, length, "content-encoding", value, sizeof(value)) >= 0)
	{
		/* None was asked for; a small body that unfolds is an attack. */
		if (value[0] != '\0' && pg_strcasecmp(value, "identity") != 0)
		{
			transfer->broken = true;
			return 0;
		}
	}
	else if (header_value(line, length, "date", value, sizeof(value)) >= 0)
		strlcpy(transfer->server_date, value, sizeof(transfer->server_date));
	else if (header_value(line, length, "retry-after", value, sizeof(value)) > 0)
	{
		if (strspn(value, "0123456789.") == strlen(value))
			transfer->retry_after = Min(strtod(value, NULL), 1e9);
		else
			transfer->retry_at = curl_getdate(value, NULL);
	}
	return length;
}

static CURLcode
on_tls_context(CURL *easy, void *context, void *argument)
{
#ifdef SSL_OP_CLEANSE_PLAINTEXT
	SSL_CTX_set_options((SSL_CTX *) context, SSL_OP_CLEANSE_PLAINTEXT);
#endif
	return CURLE_OK;
}

/* A name of token characters, a value without control characters. */
static bool
header_valid(const HttpHeader *header)
{
	size_t		length = strlen(header->name);

	if (length == 0 || strspn(header->name,
							  "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") < length)
		return false;
	for (const unsigned char *c = (const unsigned char *) header->value; *c != '\0'; c++)
	{
		if (*c < ' ' || *c == 0x7f)
			return false;
	}
	return true;
}

/* Append "name: value"; false when memory is out. */
static bool
add_header(HttpTransfer *transfer, const char *name, const char *value)
{
	size_t		size = strlen(name) + strlen(value) + 3;
	char	   *line = conduit_http_malloc(size);
	struct curl_slist *list;

	if (line == NULL)
		return false;

	/* An empty value is "name:", which takes away what libcurl would send. */
	snprintf(line, size, value[0] != '\0' ? "%s: %s" : "%s:%s", name, value);
	list = curl_slist_append(transfer->headers, line);
	conduit_http_release(line);
	if (list == NULL)
		return false;
	transfer->headers = list;
	return true;
}

/* The URL with the request's query; libcurl copies it, and clears its copy. */
static bool
set_url(CURL *easy, const HttpRequest *request)
{
	const char *query = request->query;
	size_t		length = strlen(request->url);
	const char *joint = "?";
	size_t		size;
	char	   *url;
	bool		ok;

	if (query == NULL || query[0] == '\0')
		return curl_easy_setopt(easy, CURLOPT_URL, request->url) == CURLE_OK;
	if (strchr(request->url, '?') != NULL)
		joint = request->url[length - 1] == '?' || request->url[length - 1] == '&' ? "" : "&";
	size = length + strlen(joint) + strlen(query) + 1;
	url = conduit_http_malloc(size);
	if (url == NULL)
		return false;
	snprintf(url, size, "%s%s%s", request->url, joint, query);
	ok = curl_easy_setopt(easy, CURLOPT_URL, url) == CURLE_OK;
	conduit_http_release(url);
	return ok;
}

/*
 * What concerns connections.  After a change of settings none from before is
 * used again: those are as old as the change at least.  libcurl counts in whole
 * seconds, so the first ones are bridged by not reusing any.
 */
static bool
set_connection_options(CURL *easy, int64 settings_changed)
{
	int64		since = (conduit_http_now_ms() - settings_changed) / 1000;
	bool		ok = true;

#define SET(option, value) ok = ok && curl_easy_setopt(easy, option, value) == CURLE_OK
	SET(CURLOPT_FRESH_CONNECT, since < 3 ? 1L : 0L);
	SET(CURLOPT_MAXLIFETIME_CONN, (long) Max(Min(CONNECTION_LIFETIME, since - 2), 1));
	SET(CURLOPT_MAXAGE_CONN, (long) KEEP_ALIVE_SECONDS);
	SET(CURLOPT_CA_CACHE_TIMEOUT, (long) Min(CA_CACHE_SECONDS, since));
	if (conduit_ca_file != NULL && conduit_ca_file[0] != '\0')
	{
		SET(CURLOPT_CAINFO, conduit_ca_file);
		SET(CURLOPT_CAPATH, NULL);
	}
#undef SET
	return ok;
}

bool
conduit_http_set_options(HttpTransfer *transfer, const HttpRequest *request, int64 settings_changed)
{
	CURL	   *easy = transfer->easy;
	bool		post = strcmp(request->method, "POST") == 0;
	bool		ok = true;

#define SET(option, value) ok = ok && curl_easy_setopt(easy, option, value) == CURLE_OK
	SET(CURLOPT_PRIVATE, transfer);
	SET(CURLOPT_NOSIGNAL, 1L);
	SET(CURLOPT_QUICK_EXIT, 1L);	/* never wait for a resolver thread */

	/* Where it goes. */
	ok = ok && set_url(easy, request);
	SET(CURLOPT_PATH_AS_IS, 1L);
	SET(CURLOPT_DISALLOW_USERNAME_IN_URL, 1L);
	SET(CURLOPT_PROTOCOLS_STR, transfer->https ? "https" : "http");
	SET(CURLOPT_REDIR_PROTOCOLS_STR, "https");
	SET(CURLOPT_FOLLOWLOCATION, 0L);
	SET(CURLOPT_MAXREDIRS, 0L);
	SET(CURLOPT_UNRESTRICTED_AUTH, 0L);
	SET(CURLOPT_PROXY, "");
	SET(CURLOPT_NOPROXY, "*");
	SET(CURLOPT_NETRC, (long) CURL_NETRC_IGNORED);
	SET(CURLOPT_OPENSOCKETFUNCTION, on_open_socket);
	SET(CURLOPT_OPENSOCKETDATA, transfer);
	SET(CURLOPT_PREREQFUNCTION, on_send);
	SET(CURLOPT_PREREQDATA, transfer);

	/* How. */
	SET(CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_1_1);
	SET(CURLOPT_HTTP09_ALLOWED, 0L);
	SET(CURLOPT_ACCEPT_ENCODING, NULL);
	SET(CURLOPT_USERAGENT, "conduit/" CONDUIT_VERSION);
	SET(CURLOPT_SSL_VERIFYPEER, 1L);
	SET(CURLOPT_SSL_VERIFYHOST, 2L);
	SET(CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
	SET(CURLOPT_SSL_CTX_FUNCTION, on_tls_context);
	ok = ok && set_connection_options(easy, settings_changed);

	/* How long, until it is connected (http.c has the rest), and how much. */
	SET(CURLOPT_CONNECTTIMEOUT_MS, (long) CONNECT_TIMEOUT_MS);
	SET(CURLOPT_UPLOAD_BUFFERSIZE, UPLOAD_BUFFER_SIZE);
	SET(CURLOPT_BUFFERSIZE, request->max_response > SMALL_RESPONSE ? BUFFER_SIZE : SMALL_BUFFER_SIZE);
	SET(CURLOPT_WRITEFUNCTION, on_body);
	SET(CURLOPT_WRITEDATA, transfer);
	SET(CURLOPT_HEADERFUNCTION, on_header);
	SET(CURLOPT_HEADERDATA, transfer);

	/* What. */
	if (post)
		SET(CURLOPT_POST, 1L);
	else if (strcmp(request->method, "HEAD") == 0)
		SET(CURLOPT_NOBODY, 1L);
	else if (strcmp(request->method, "GET") == 0 && transfer->body == NULL)
		SET(CURLOPT_HTTPGET, 1L);
	else
		SET(CURLOPT_CUSTOMREQUEST, request->method);
	if (transfer->body != NULL || post)
	{
		SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) (transfer->body ? request->body_length : 0));
		SET(CURLOPT_POSTFIELDS, transfer->body ? transfer->body : "");
	}
	ok = ok && add_header(transfer, "Expect", "");
	/* libcurl calls even an empty body a form, which some providers refuse. */
	ok = ok && add_header(transfer, "Content-Type", request->content_type ? request->content_type : "");
	for (int i = 0; i < request->nheaders; i++)
		ok = ok && add_header(transfer, request->headers[i].name, request->headers[i].value);
	SET(CURLOPT_HTTPHEADER, transfer->headers);
#undef SET
	return ok;
}

bool
conduit_http_request_valid(const HttpRequest *request)
{
	HttpHeader	content_type = {"Content-Type", request->content_type ? request->content_type : ""};
	size_t		length = strlen(request->method);

	if (length == 0 || strspn(request->method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") < length ||
		!header_valid(&content_type))
		return false;
	for (int i = 0; i < request->nheaders; i++)
	{
		if (!header_valid(&request->headers[i]))
			return false;
	}
	return true;
}

HttpResult
conduit_http_verdict(const HttpTransfer *transfer, CURLcode code)
{
	if (transfer->too_large)
		return HTTP_TOO_LARGE;
	if (transfer->broken)
		return HTTP_BROKEN;

	switch (code)
	{
		case CURLE_OK:
			return HTTP_OK;
		case CURLE_COULDNT_RESOLVE_HOST:
			return HTTP_UNRESOLVED;
		case CURLE_COULDNT_CONNECT:
			return transfer->denied ? HTTP_DENIED : HTTP_UNREACHABLE;
		case CURLE_OPERATION_TIMEDOUT:
			return transfer->resolved ? HTTP_TIMEOUT : HTTP_UNRESOLVED;
		case CURLE_SSL_CONNECT_ERROR:
		case CURLE_PEER_FAILED_VERIFICATION:
		case CURLE_SSL_CERTPROBLEM:
		case CURLE_SSL_CIPHER:
		case CURLE_SSL_CACERT_BADFILE:
		case CURLE_SSL_ISSUER_ERROR:
		case CURLE_SSL_INVALIDCERTSTATUS:
		case CURLE_SSL_ENGINE_INITFAILED:
		case CURLE_USE_SSL_FAILED:
			return transfer->sent ? HTTP_BROKEN : HTTP_TLS;
		case CURLE_UNSUPPORTED_PROTOCOL:
		case CURLE_URL_MALFORMAT:
		case CURLE_LOGIN_DENIED:

			/* The first of them is said of an answer that is not HTTP, too. */
			return transfer->sent ? HTTP_BROKEN : HTTP_DENIED;
		default:

			/* Reset, truncated, not HTTP, or stopped by one of our callbacks. */
			if (transfer->sent)
				return HTTP_BROKEN;
			return transfer->denied ? HTTP_DENIED : HTTP_UNREACHABLE;
	}
}
