-- The built-in connectors.  Only the extension's scripts change these rows; one
-- that must go is retired, never removed.

INSERT INTO conduit.connector (slug, builtin, definition, resolved)
SELECT c.slug, true, c.definition, c.definition
FROM (VALUES
('alpaca', '{
	"name": "Alpaca",
	"auth_type": "api_key",
	"api_base_url": "https://api.alpaca.markets",
	"api_auth": "APCA-API-KEY-ID: {api_key}; APCA-API-SECRET-KEY: {api_secret}",
	"rate_limit_requests": 200,
	"rate_limit_window_s": 60
}'::jsonb),
('binance', '{
	"name": "Binance",
	"auth_type": "api_key",
	"api_base_url": "https://api.binance.com",
	"api_auth": "X-MBX-APIKEY: {api_key}",
	"rate_limit_requests": 6000,
	"rate_limit_window_s": 60
}'),
('coinbase', '{
	"name": "Coinbase",
	"auth_type": "oauth2_code",
	"authorize_url": "https://login.coinbase.com/oauth2/auth",
	"token_url": "https://login.coinbase.com/oauth2/token",
	"revoke_url": "https://login.coinbase.com/oauth2/revoke",
	"client_auth": "post",
	"pkce": true,
	"scope_separator": ",",
	"refresh_rotates": true,
	"access_token_lifetime_s": 3600,
	"refresh_token_lifetime_s": 47304000,
	"dead_statuses": [401],
	"api_base_url": "https://api.coinbase.com",
	"api_auth": "Authorization: Bearer {token}",
	"rate_limit_requests": 10000,
	"rate_limit_window_s": 3600
}'),
('github', '{
	"name": "GitHub",
	"auth_type": "oauth2_code",
	"authorize_url": "https://github.com/login/oauth/authorize",
	"token_url": "https://github.com/login/oauth/access_token",
	"client_auth": "post",
	"pkce": true,
	"scope_separator": " ",
	"refresh_rotates": true,
	"api_base_url": "https://api.github.com",
	"api_auth": "Authorization: Bearer {token}",
	"rate_limit_requests": 5000,
	"rate_limit_window_s": 3600
}'),
('gitlab', '{
	"name": "GitLab",
	"auth_type": "oauth2_code",
	"authorize_url": "https://gitlab.com/oauth/authorize",
	"token_url": "https://gitlab.com/oauth/token",
	"revoke_url": "https://gitlab.com/oauth/revoke",
	"client_auth": "post",
	"pkce": true,
	"scope_separator": " ",
	"refresh_rotates": true,
	"access_token_lifetime_s": 7200,
	"api_base_url": "https://gitlab.com",
	"api_auth": "Authorization: Bearer {token}"
}'),
('google', '{
	"name": "Google",
	"auth_type": "oauth2_code",
	"authorize_url": "https://accounts.google.com/o/oauth2/v2/auth",
	"token_url": "https://oauth2.googleapis.com/token",
	"revoke_url": "https://oauth2.googleapis.com/revoke",
	"client_auth": "post",
	"pkce": true,
	"scope_separator": " ",
	"extra_authorize_params": {"access_type": "offline", "prompt": "consent"},
	"refresh_rotates": false,
	"access_token_lifetime_s": 3600,
	"api_base_url": "https://www.googleapis.com",
	"api_auth": "Authorization: Bearer {token}"
}'),
('microsoft', '{
	"name": "Microsoft",
	"auth_type": "oauth2_code",
	"authorize_url": "https://login.microsoftonline.com/common/oauth2/v2.0/authorize",
	"token_url": "https://login.microsoftonline.com/common/oauth2/v2.0/token",
	"client_auth": "post",
	"pkce": true,
	"scope_separator": " ",
	"refresh_rotates": true,
	"refresh_token_lifetime_s": 7776000,
	"api_base_url": "https://graph.microsoft.com",
	"api_auth": "Authorization: Bearer {token}"
}'),
('slack', '{
	"name": "Slack",
	"auth_type": "oauth2_code",
	"authorize_url": "https://slack.com/oauth/v2/authorize",
	"token_url": "https://slack.com/api/oauth.v2.access",
	"revoke_url": "https://slack.com/api/auth.revoke",
	"client_auth": "post",
	"pkce": false,
	"scope_separator": ",",
	"refresh_rotates": true,
	"access_token_lifetime_s": 43200,
	"dead_errors": ["invalid_refresh_token", "token_revoked", "account_inactive"],
	"api_base_url": "https://slack.com/api",
	"api_auth": "Authorization: Bearer {token}"
}')) c (slug, definition);
