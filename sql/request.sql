-- Calls of providers' APIs, the credential injected and never handed out.

CREATE FUNCTION @extschema@.conduit_request(owner text, connection_id uuid, method text, path text, query jsonb DEFAULT NULL,
	headers jsonb DEFAULT NULL, body jsonb DEFAULT NULL, raw bytea DEFAULT NULL, tenant text DEFAULT '',
	OUT status integer, OUT reply_headers jsonb, OUT reply jsonb, OUT reply_raw bytea)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_request(text, uuid, text, text, jsonb, jsonb, jsonb, bytea, text) IS
'Calls the API of a connection''s provider with its credential, which never leaves the server.

method: GET, HEAD, POST, PUT, PATCH or DELETE. path: below the connector''s api_base_url, percent-encoded, without a query. query: an object of texts, numbers, booleans, or arrays of them. headers: an object of texts; HTTP''s own, and those that carry a credential, cannot be set. body: sent as JSON; raw: sent as it is, as application/octet-stream unless headers says otherwise.
The credential is put in as the connector''s api_auth says. One that is due is refreshed first, as by conduit_vend(). Where the provider answers 401, a newer credential is used if one is stored by now, else it is refreshed, once, and the call is made once more; a second 401 is handed on. Redirects are not followed. Each call draws on the bucket of conduit_rate_take(); a 429 fills none of it until the time it names.
status: of the provider''s answer, whatever it is. reply_headers: those that are safe to hand on. reply: a JSON answer, or one that is text, as a string; reply_raw: any other. All of it takes at most conduit.request_timeout and conduit.request_max_size.
Errors: as conduit_vend(); 22023 invalid method, path, query, headers, body, connector cannot be called; PT429 rate limited (DETAIL retry_after); PT502 bad provider response, also where the answer holds the credential; PT504 provider unavailable.';

CREATE FUNCTION @extschema@.conduit_preview(owner text, connection_id uuid, path text, url_path text, query jsonb DEFAULT NULL,
	tenant text DEFAULT '', OUT content_type text, OUT body bytea)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_preview(text, uuid, text, text, jsonb, text) IS
'Hands out a file that the provider hands out by a presigned URL, without the URL.

path, query: the call that answers with the URL, made as by conduit_request(). url_path: where it stands in the JSON answer, as in data.url. The file is then fetched without any credential, from a host of the connector''s preview_hosts alone. content_type: the file''s media type, application/octet-stream if it names none.
Errors: PT404 not found, where either answer is none of success; PT502 bad provider response (DETAIL no_url, url_refused, too_large); otherwise as conduit_request().';

SELECT conduit.settle_rights('conduit_request', 'app');
SELECT conduit.settle_rights('conduit_preview', 'app');
