-- Authorization: from a button to a connection.

CREATE FUNCTION @extschema@.conduit_authorize(owner text, connector text, redirect_uri text DEFAULT NULL,
	scopes text[] DEFAULT NULL, params jsonb DEFAULT NULL, connection_id uuid DEFAULT NULL, metadata jsonb DEFAULT NULL,
	tenant text DEFAULT '', OUT authorize_url text, OUT state text)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_authorize(text, text, text, text[], jsonb, uuid, jsonb, text) IS
'Begins an authorization: says where to send the owner''s browser, and the state that will come back with it.

redirect_uri: one of the client''s, as given to conduit_set_client(); NULL is the first. scopes: NULL is the connector''s default_scopes. params: values for the connector''s variables, and no other names. metadata: an object of yours that the connection will have. connection_id: a connection of the owner''s that is authorized again, and that nothing changes for until the new token is stored; connector may be NULL then, params are the connection''s own, scopes NULL are those last requested, and others are united with those granted.
The state is of 256 random bits, good for 10 minutes from the commit, for one callback by this owner. Where the connector says so, the request has a code challenge (RFC 7636, S256). At most 300 are begun for an owner in 10 minutes.
Errors: PT404 connection not found; PT410 connection revoked; PT429 rate limited; PT500 connector is not configured, vault is locked; PT504 on a standby; 22023.';

CREATE FUNCTION @extschema@.conduit_authorize_callback(owner text, state text, code text DEFAULT NULL,
	params text DEFAULT NULL, tenant text DEFAULT '') RETURNS uuid
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_authorize_callback(text, text, text, text, text) IS
'Completes an authorization with what the provider''s redirect brought, and returns the connection''s id.

owner: the one who began it. params: all parameters of the redirect as a JSON object of strings; code may be among them, and iss (RFC 9207), which must be the provider''s. The worker exchanges the code and commits: a ROLLBACK of the caller loses nothing. It makes a connection, or renews the owner''s connection of the same account. A reply without a refresh token keeps the stored one of the same account. Bind state, code and params.
Same state and code by the same owner return the same id for 10 minutes, so that a callback may be repeated: after PT504 with DETAIL pending, which says that the provider has not answered within conduit.vend_timeout, or that another transaction holds the connection. A code is sent once.
Errors: PT400 authorization failed, DETAIL invalid_state (wrong, used or expired state, another owner), denied or the provider''s error, issuer_mismatch, code_rejected, account_mismatch (another account than the connection''s), connection_gone, connection_revoked, owner_deleted, params_changed, connector_changed, lost (the worker ended while the code was out); PT502 bad provider response; PT504 provider unavailable; PT500 conduit worker is not running, connector is not configured, vault is locked; 22023.';

SELECT conduit.settle_rights('conduit_authorize', 'app');
SELECT conduit.settle_rights('conduit_authorize_callback', 'app');
