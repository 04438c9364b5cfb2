-- What people can connect: two services, whose OAuth server is the same one.
-- The variables come from start.sh; the last line is the application's API key.

\o /dev/null
SELECT conduit_register_connector('drive', jsonb_build_object(
	'name', 'Drive', 'auth_type', 'oauth2_code', 'client_auth', 'basic',
	'issuer', :'issuer', 'authorize_url', :'issuer' || '/auth', 'token_url', :'issuer' || '/token',
	'revoke_url', :'issuer' || '/token/revocation', 'account_path', 'id_token.sub',
	'default_scopes', jsonb_build_array('openid', 'offline_access'), 'extra_authorize_params', jsonb_build_object('prompt', 'consent'),
	'api_base_url', :'files', 'api_auth', 'Authorization: Bearer {token}', 'preview_hosts', jsonb_build_array('127.0.0.1')));
SELECT conduit_set_client('drive', 'conduit-demo', :'drive_secret', ARRAY[:'redirect_uri']);

SELECT conduit_register_connector('directory', jsonb_build_object(
	'name', 'Staff directory', 'extends', 'drive', 'client_auth', 'post',
	'default_scopes', jsonb_build_array('openid', 'offline_access', 'profile', 'email'), 'api_base_url', :'issuer'));
SELECT conduit_set_client('directory', 'conduit-demo-post', :'directory_secret', ARRAY[:'redirect_uri']);

-- The key may act for anybody, and do what the application does: vending is not among it.
\o
SELECT api_key FROM conduit_create_api_key(NULL, 'web', ARRAY[
	'open_session', 'close_session', 'connectors', 'list_connections', 'get_connection', 'delete_connection',
	'authorize', 'authorize_callback', 'request', 'preview']);
