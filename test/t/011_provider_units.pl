# What provider/ makes of URLs, addresses and replies, by tables;
# and libcurl as http.c drives it, against a server that misbehaves.
#
# The SQL functions unit_* are those of test/unit; build that module first.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IO::Socket::INET;
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Utils;
use Test::More;

use Conduit::Unit qw(bytes literal);

my $dir = PostgreSQL::Test::Utils::tempdir();

# What libcurl would listen to in the server's environment, if it was let.
$ENV{$_} = 'http://127.0.0.1:9' for qw(http_proxy https_proxy HTTPS_PROXY all_proxy ALL_PROXY);
$ENV{SSLKEYLOGFILE} = "$dir/keylog";
my $unit = Conduit::Unit->new('provider_units', 'unit_provider.sql');
delete @ENV{qw(http_proxy https_proxy HTTPS_PROXY all_proxy ALL_PROXY SSLKEYLOGFILE)};
my $node = $unit->node;

sub evaluate { return $unit->evaluate(@_); }
sub check_all { return $unit->check_all(@_); }
sub set_conf { return $unit->set_conf(@_); }

# -- Replies of token endpoints. --

my $strict = '{"auth_type":"oauth2_code","authorize_url":"https://p.example/a","token_url":"https://p.example/t"}';
my $with = sub { return substr($strict, 0, -1) . ",$_[0]}" };
my $lifetime = $with->('"access_token_lifetime_s":3600,"refresh_token_lifetime_s":86400');
my $dead = $with->('"dead_errors":["invalid_code","Session Gone"],"dead_statuses":[410,400]');
my ($json, $form, $html, $plain) =
  ('application/json; charset=utf-8', 'application/x-www-form-urlencoded', 'text/html', 'text/plain');
my $defaults = 'type=Bearer scope=- lifetime=0 expires=never';

sub jwt
{
	my $payload = encode_base64($_[0], '');
	$payload =~ tr{+/}{-_};
	$payload =~ s/=+$//;
	return "eyJhbGciOiJub25lIn0.$payload.c2ln";
}
my $jwt = jwt('{"exp":1893459600,"iat":1893456000}');    # 2030-01-01 01:00, issued at 00:00
my $jwt_without_iat = jwt('{"exp":1893459600}');
my $jwt_without_exp = jwt('{"sub":"x"}');

my @replies = (
	# successes
	[ 'a plain success', $strict, 200, $json, '{"access_token":"a","refresh_token":"r","expires_in":3600,"token_type":"bearer","scope":"x y"}',
		'refreshed access=a refresh=r type=Bearer scope=x y lifetime=3600 expires=3600' ],
	[ '201 (Sentry)', $strict, 201, $json, '{"access_token":"a"}', "refreshed access=a refresh=- $defaults" ],
	[ 'camelCase (Sentry)', $strict, 200, $json, '{"accessToken":"a","refreshToken":"r","expiresAt":"2030-01-01T01:00:00.000000Z"}',
		'refreshed access=a refresh=r type=Bearer scope=- lifetime=3600 expires=3600' ],
	[ 'CamelCase', $strict, 200, $json, '{"AccessToken":"a","ExpiresIn":60}', 'refreshed access=a refresh=- type=Bearer scope=- lifetime=60 expires=60' ],
	[ 'no refresh token keeps the old', $strict, 200, $json, '{"access_token":"a","expires_in":10}', qr/refresh=- / ],
	[ 'an empty refresh token is none', $strict, 200, $json, '{"access_token":"a","refresh_token":""}', qr/refresh=- / ],
	[ 'a null refresh token is none', $strict, 200, $json, '{"access_token":"a","refresh_token":null}', qr/refresh=- / ],
	[ 'expires_in as string (PayPal)', $strict, 200, $json, '{"access_token":"a","expires_in":"32400"}', qr/lifetime=32400 expires=32400/ ],
	[ 'expires_in as float', $strict, 200, $json, '{"access_token":"a","expires_in":3599.6}', qr/expires=3600/ ],
	[ 'expires_in 0 (Mailchimp)', $strict, 200, $json, '{"access_token":"a","expires_in":0,"scope":null}', "refreshed access=a refresh=- $defaults" ],
	[ 'expires_in negative', $strict, 200, $json, '{"access_token":"a","expires_in":-1}', qr/expires=never/ ],
	[ 'expires_in 0 outweighs the default', $lifetime, 200, $json, '{"access_token":"a","expires_in":0}', qr/expires=never/ ],
	[ 'expires_in is clamped to 10 years', $strict, 200, $json, '{"access_token":"a","expires_in":99999999999}', qr/lifetime=315576000 expires=315576000/ ],
	[ 'expires_in 1e308', $strict, 200, $json, '{"access_token":"a","expires_in":1e308}', qr/expires=315576000/ ],
	[ 'expires_in beyond all numbers', $strict, 200, $json, '{"access_token":"a","expires_in":1e999}', qr/expires=never/ ],
	[ 'expires_in NaN', $strict, 200, $json, '{"access_token":"a","expires_in":"NaN"}', qr/expires=never/ ],
	[ 'expires_in inf', $strict, 200, $json, '{"access_token":"a","expires_in":"inf"}', qr/expires=never/ ],
	[ 'expires_in null', $strict, 200, $json, '{"access_token":"a","expires_in":null}', qr/expires=never/ ],
	[ 'expires_in of a wrong type', $strict, 200, $json, '{"access_token":"a","expires_in":{"a":1}}', qr/expires=never/ ],
	[ 'expires_at ISO with offset', $strict, 200, $json, '{"access_token":"a","expires_at":"2030-01-01T02:00:00+01:00"}', qr/expires=3600/ ],
	[ 'expires_at ISO with short offset', $strict, 200, $json, '{"access_token":"a","expires_at":"2029-12-31 20:00:00-0500"}', qr/expires=3600/ ],
	[ 'expires_at ISO without zone', $strict, 200, $json, '{"access_token":"a","expires_at":"2030-01-01T01:00:00"}', qr/expires=3600/ ],
	[ 'expires_at ISO date', $strict, 200, $json, '{"access_token":"a","expires_at":"2030-01-02"}', qr/expires=86400/ ],
	[ 'expires_at that is no date', $strict, 200, $json, '{"access_token":"a","expires_at":"2030-02-30T00:00:00Z"}', qr/expires=never/ ],
	[ 'expires_at that is no time', $strict, 200, $json, '{"access_token":"a","expires_at":"soon"}', qr/expires=never/ ],
	[ 'expires_at epoch seconds', $strict, 200, $json, '{"access_token":"a","expires_at":1893459600}', qr/lifetime=3600 expires=3600/ ],
	[ 'expires_at epoch as string', $strict, 200, $json, '{"access_token":"a","expires_at":"1893459600"}', qr/expires=3600/ ],
	[ 'expires_at epoch milliseconds', $strict, 200, $json, '{"access_token":"a","expires_at":1893459600000}', qr/expires=3600/ ],
	[ 'expires_at in the far future', $strict, 200, $json, '{"access_token":"a","expires_at":99999999999}', qr/expires=315576000/ ],
	[ 'expires_at in the past', $strict, 200, $json, '{"access_token":"a","expires_at":1893452400}', qr/lifetime=0 expires=never/ ],
	[ 'expires_at in the past: the default', $lifetime, 200, $json, '{"access_token":"a","expires_at":1893452400}', qr/lifetime=3600 expires=3600/ ],
	[ 'expires_at that is a lifetime', $strict, 200, $json, '{"access_token":"a","expires_at":3600}', qr/lifetime=3600 expires=3600/ ],
	[ 'expires_in that is a time', $strict, 200, $json, '{"access_token":"a","expires_in":1893459600}', qr/lifetime=3600 expires=3600/ ],
	[ 'a duration', $strict, 200, $json, '{"access_token":"a","expires_in":"1h"}', qr/lifetime=3600 expires=3600/ ],
	[ 'a duration of two parts', $strict, 200, $json, '{"access_token":"a","expires_in":"1h 30 minutes"}', qr/lifetime=5400 expires=5400/ ],
	[ 'a duration that is none', $strict, 200, $json, '{"access_token":"a","expires_in":"1 fortnight"}', qr/expires=never/ ],
	[ 'expires (old Facebook)', $strict, 200, $form, 'access_token=a&expires=5183999', qr/lifetime=5183999 expires=5183999/ ],
	[ 'expires_in goes before expires_at', $strict, 200, $json, '{"access_token":"a","expires_in":5,"expires_at":1893459600}', qr/expires=5/ ],
	[ 'the exp of a JWT', $strict, 200, $json, qq({"access_token":"$jwt"}), qr/lifetime=3600 expires=3600/ ],
	[ 'the exp of a JWT without iat', $strict, 200, $json, qq({"access_token":"$jwt_without_iat"}), qr/lifetime=3600 expires=3600/ ],
	[ 'a JWT goes before the default', $with->('"access_token_lifetime_s":60'), 200, $json, qq({"access_token":"$jwt"}), qr/expires=3600/ ],
	[ 'a JWT without exp', $lifetime, 200, $json, qq({"access_token":"$jwt_without_exp"}), qr/lifetime=3600 expires=3600/ ],
	[ 'two dots but no JWT', $strict, 200, $json, '{"access_token":"ya29.a0_-.!!"}', qr/expires=never/ ],
	[ 'the default lifetime', $lifetime, 200, $json, '{"access_token":"a","refresh_token":"r"}', 'refreshed access=a refresh=r type=Bearer scope=- lifetime=3600 expires=3600 refresh_expires=86400' ],
	[ 'refresh_token_expires_in (GitHub)', $strict, 200, $json, '{"access_token":"a","refresh_token":"r","refresh_token_expires_in":15811200}', qr/refresh_expires=15811200$/ ],
	[ 'the exp of a refresh token', $lifetime, 200, $json, qq({"access_token":"a","refresh_token":"$jwt"}), qr/refresh_expires=3600$/ ],
	[ 'x_refresh_token_expires_in (QuickBooks)', $strict, 200, $json, '{"access_token":"a","refresh_token":"r","x_refresh_token_expires_in":8726400}', qr/refresh_expires=8726400$/ ],
	[ 'refresh_expires_in 0 (Keycloak, offline)', $lifetime, 200, $json, '{"access_token":"a","refresh_token":"r","refresh_expires_in":0}', qr/expires=3600$/ ],
	[ 'an odd token type (eBay)', $strict, 200, $json, '{"access_token":"a","token_type":"User Access Token"}', qr/type=Bearer / ],
	[ 'another token type', $strict, 200, $json, '{"access_token":"a","token_type":"DPoP"}', qr/type=DPoP / ],
	[ 'a token type that is no string', $strict, 200, $json, '{"access_token":"a","token_type":7}', qr/type=Bearer / ],
	[ 'scope as array', $strict, 200, $json, '{"access_token":"a","scope":["x","y"]}', qr/scope=x y / ],
	[ 'scope as array of junk', $strict, 200, $json, '{"access_token":"a","scope":[1]}', qr/scope=- / ],
	[ 'extra is kept', $strict, 200, $json, '{"access_token":"a","instance_url":"https://x","n":{"k":[1,true,null]}}', "refreshed access=a refresh=- $defaults extra={\"instance_url\":\"https://x\",\"n\":{\"k\":[1,true,null]}}" ],
	[ 'extra never has secrets', $strict, 200, $json,
		'{"access_token":"a","id_token":"i","idToken":"i","client_secret":"c","ClientSecret":"c","u":{"refresh_token":"r","Refresh-Token":"r","ID_TOKEN":"i","user_refresh_token":"r","keep":1,"l":[{"refreshToken":"r"}]}}',
		"refreshed access=a refresh=- $defaults extra={\"u\":{\"keep\":1,\"l\":[{}]}}" ],
	[ 'form-encoded (old GitHub)', $strict, 200, $form, 'access_token=a%2Fb&scope=repo+gist&token_type=bearer&expires_in=28800&refresh_token=r', 'refreshed access=a/b refresh=r type=Bearer scope=repo gist lifetime=28800 expires=28800' ],
	[ 'form-encoded as text/plain', $strict, 200, $plain, "access_token=a&expires_in=60\r\n", qr/refreshed access=a .*expires=60/ ],
	[ 'JSON as text/html', $strict, 200, $html, ' {"access_token":"a"}', qr/refreshed access=a / ],
	[ 'JSON without content type', $strict, 200, '', '{"access_token":"a"}', qr/refreshed access=a / ],
	[ 'JSON behind a byte order mark', $strict, 200, $json, "\xef\xbb\xbf{\"access_token\":\"a\"}", qr/refreshed access=a / ],
	[ 'error null beside a token', $strict, 200, $json, '{"access_token":"a","error":null}', qr/refreshed access=a / ],
	[ 'an error beside a token: the token counts', $strict, 200, $json, '{"access_token":"a","refresh_token":"r","error":"scope_changed"}', qr/refreshed access=a refresh=r/ ],
	[ 'ok true (Slack)', $strict, 200, $json, '{"ok":true,"access_token":"xoxe.xoxb-1","refresh_token":"xoxe-1","expires_in":43200}', qr/refreshed access=xoxe.xoxb-1 refresh=xoxe-1 .*expires=43200/ ],
	[ 'escapes in a token', $strict, 200, $json, '{"access_token":"a\u002fb\/c"}', qr/access=a\/b\/c / ],

	# successes that are none
	[ '200 empty', $strict, 200, $json, '', 'unknown empty' ],
	[ 'status 204', $strict, 204, '', '', 'unknown empty' ],
	[ '200 blanks', $strict, 200, $json, "\r\n ", 'unknown empty' ],
	[ '200 truncated', $strict, 200, $json, '{"access_token":"a","refresh_to', 'unknown bad_json' ],
	[ '200 trailing junk', $strict, 200, $json, '{"access_token":"a"}x', 'unknown bad_json' ],
	[ '200 duplicate keys', $strict, 200, $json, '{"access_token":"a","access_token":"b"}', 'unknown bad_json' ],
	[ '200 not UTF-8', $strict, 200, $json, "{\"access_token\":\"\xff\"}", 'unknown bad_json' ],
	[ '200 NUL', $strict, 200, $json, "{\"access_token\":\"a\0\"}", 'unknown bad_json' ],
	[ '200 escaped NUL', $strict, 200, $json, '{"access_token":"a\u0000"}', 'unknown bad_json' ],
	[ '200 array', $strict, 200, $json, '[{"access_token":"a"}]', 'unknown bad_json' ],
	[ '200 a string', $strict, 200, $json, '"access_token"', 'unknown bad_json' ],
	[ '200 deep nesting', $strict, 200, $json, ('[' x 5000), 'unknown bad_json' ],
	[ '200 JSON type, form body', $strict, 200, 'application/json', 'access_token=a', 'unknown bad_json' ],
	[ '200 prose', $strict, 200, $plain, 'ok', 'unknown bad_json' ],
	[ '200 form with a bad escape', $strict, 200, $form, 'access_token=%zz', 'unknown bad_json' ],
	[ '200 form with a NUL', $strict, 200, $form, 'access_token=a%00b', 'unknown bad_json' ],
	[ '200 form with a control character', $strict, 200, $form, 'access_token=a%0Ab', 'unknown bad_token' ],
	[ '200 form twice the same', $strict, 200, $form, 'access_token=a&access_token=b', 'unknown bad_json' ],
	[ '200 without token', $strict, 200, $json, '{"token_type":"bearer"}', 'unknown no_access_token' ],
	[ '200 refresh token alone', $strict, 200, $json, '{"refresh_token":"r"}', 'unknown no_access_token' ],
	[ '200 empty token', $strict, 200, $json, '{"access_token":""}', 'unknown no_access_token' ],
	[ '200 token is a number', $strict, 200, $json, '{"access_token":7}', 'unknown bad_token' ],
	[ '200 token with a line feed', $strict, 200, $json, '{"access_token":"a\nb"}', 'unknown bad_token' ],
	[ '200 refresh token with a DEL', $strict, 200, $json, "{\"access_token\":\"a\",\"refresh_token\":\"\x7f\"}", 'unknown bad_token' ],
	[ '200 token too long', $strict, 200, $json, '{"access_token":"' . ('a' x 65537) . '"}', 'unknown bad_token' ],
	[ '200 status ok, no token', $strict, 200, $json, '{"status":"ok"}', 'unknown no_access_token' ],
	[ '200 HTML', $strict, 200, $html, '<!doctype html><h1>Maintenance</h1>', 'transient html' ],
	[ '200 HTML as JSON', $strict, 200, $json, "\n<html>", 'transient html' ],

	# errors within a 200
	[ 'GitHub: bad_refresh_token', $strict, 200, $json, '{"error":"bad_refresh_token","error_description":"The refresh token passed is incorrect or expired."}', 'dead bad_refresh_token' ],
	[ 'GitHub, form-encoded', $strict, 200, $form, 'error=bad_refresh_token&error_description=x', 'dead bad_refresh_token' ],
	[ 'GitHub: incorrect_client_credentials', $strict, 200, $json, '{"error":"incorrect_client_credentials"}', 'config incorrect_client_credentials' ],
	[ 'Slack: invalid_refresh_token', $strict, 200, $json, '{"ok":false,"error":"invalid_refresh_token"}', 'dead invalid_refresh_token' ],
	[ 'Slack: token_revoked', $strict, 200, $json, '{"ok":false,"error":"token_revoked"}', 'dead token_revoked' ],
	[ 'Slack: account_inactive', $strict, 200, $json, '{"ok":false,"error":"account_inactive"}', 'dead account_inactive' ],
	[ 'Slack: ratelimited', $strict, 200, $json, '{"ok":false,"error":"ratelimited"}', 'throttled ratelimited' ],
	[ 'Slack: internal_error', $strict, 200, $json, '{"ok":false,"error":"internal_error"}', 'transient internal_error' ],
	[ 'Slack: bad_client_secret', $strict, 200, $json, '{"ok":false,"error":"bad_client_secret"}', 'config bad_client_secret' ],
	[ 'ok false without a word', $strict, 200, $json, '{"ok":false}', 'config http_200' ],
	[ 'ok false with a token', $strict, 200, $json, '{"ok":false,"access_token":"a","error":"x_y"}', 'config x_y' ],
	[ 'an unknown error', $strict, 200, $json, '{"error":"something_else"}', 'config something_else' ],
	[ 'HubSpot: status with 200', $strict, 200, $json, '{"status":"BAD_REFRESH_TOKEN","message":"missing"}', 'dead BAD_REFRESH_TOKEN' ],
	[ 'an odd error type', $strict, 200, $json, '{"error":true}', 'unknown no_access_token' ],

	# dead
	[ 'invalid_grant', $strict, 400, $json, '{"error":"invalid_grant"}', 'dead invalid_grant' ],
	[ 'invalid_grant with 401', $strict, 401, $json, '{"error":"invalid_grant"}', 'dead invalid_grant' ],
	[ 'Atlassian: 403 invalid_grant', $strict, 403, $json, '{"error":"invalid_grant","error_description":"Unknown or invalid refresh token."}', 'dead invalid_grant' ],
	[ 'Atlassian: unauthorized_client', $strict, 403, $json, '{"error":"unauthorized_client","error_description":"refresh_token is invalid"}', 'dead unauthorized_client' ],
	[ 'a sentence without a code', $strict, 403, $json, '{"message":"Unknown or invalid refresh token"}', 'dead invalid_refresh_token' ],
	[ 'HubSpot: 400', $strict, 400, $json, '{"status":"BAD_REFRESH_TOKEN","message":"missing or invalid refresh token"}', 'dead BAD_REFRESH_TOKEN' ],
	[ 'Salesforce: inactive user', $strict, 400, $json, '{"error":"inactive_user","error_description":"user is inactive"}', 'dead inactive_user' ],
	[ 'Salesforce: with a blank', $strict, 400, $json, '{"error":"inactive user"}', 'dead inactive_user' ],
	[ 'Salesforce: expired', $strict, 400, $json, '{"error":"invalid_grant","error_description":"expired access/refresh token"}', 'dead invalid_grant' ],
	[ 'OpenAI: 401', $strict, 401, $json, '{"error":{"message":"Your session has ended.","type":"invalid_request_error","code":"refresh_token_invalidated"}}', 'dead refresh_token_invalidated' ],
	[ 'Google Identity: invalid', $strict, 400, $json, '{"error":{"code":400,"message":"INVALID_REFRESH_TOKEN","status":"INVALID_ARGUMENT"}}', 'dead INVALID_REFRESH_TOKEN' ],
	[ 'Google Identity: expired', $strict, 400, $json, '{"error":{"code":400,"message":"TOKEN_EXPIRED","status":"INVALID_ARGUMENT"}}', 'dead TOKEN_EXPIRED' ],
	[ 'Fitbit: errors[]', $strict, 400, $json, '{"errors":[{"errorType":"invalid_grant","message":"Refresh token invalid"}],"success":false}', 'dead invalid_grant' ],
	[ 'Microsoft: 700082', $strict, 400, $json, '{"error":"invalid_grant","error_description":"AADSTS700082: The refresh token has expired","error_codes":[700082]}', 'dead invalid_grant' ],
	[ 'Microsoft: 70008', $strict, 400, $json, '{"error":"invalid_grant","error_description":"AADSTS70008: expired"}', 'dead invalid_grant' ],
	[ 'Microsoft: 700084', $strict, 400, $json, '{"error":"invalid_grant","error_description":"AADSTS700084: SPA"}', 'dead invalid_grant' ],
	[ 'Microsoft: 50173', $strict, 400, $json, '{"error":"invalid_grant","error_description":"AADSTS50173: revoked"}', 'dead invalid_grant' ],
	[ 'Microsoft: interaction_required', $strict, 400, $json, '{"error":"interaction_required","error_description":"AADSTS50076: MFA"}', 'dead interaction_required' ],
	[ 'Microsoft: 9002313 is not proof', $strict, 400, $json, '{"error":"invalid_grant","error_description":"AADSTS9002313: Invalid request. Request is malformed or invalid."}', 'config AADSTS9002313' ],
	[ 'a code of the connector', $dead, 400, $json, '{"error":"invalid_code"}', 'dead invalid_code' ],
	[ 'a code of the connector, with blanks', $dead, 200, $json, '{"error":"session gone"}', 'dead session_gone' ],
	[ 'a code of the connector in status', $dead, 200, $json, '{"status":"INVALID_CODE"}', 'dead INVALID_CODE' ],
	[ 'a status of the connector', $dead, 410, '', '', 'dead http_410' ],
	[ 'a status of the connector, HTML', $dead, 400, $html, '<p>', 'dead http_400' ],
	[ 'a known code outweighs the status', $dead, 400, $json, '{"error":"invalid_client"}', 'config invalid_client' ],

	[ 'plain words', $strict, 400, $plain, "Invalid refresh token\n", 'dead invalid_refresh_token' ],
	[ 'a plain word', $strict, 400, $plain, 'invalid_grant', 'dead invalid_grant' ],
	[ 'words in error', $strict, 400, $json, '{"error":"The refresh token has expired"}', 'dead invalid_refresh_token' ],
	[ 'Microsoft: a number in error_codes', $strict, 400, $json, '{"error":"invalid_request","error_codes":[700082]}', 'dead AADSTS700082' ],

	# our own fault
	[ 'Salesforce: IP restricted is not proof', $strict, 400, $json, '{"error":"invalid_grant","error_description":"ip restricted or invalid login hours"}', 'config invalid_grant' ],
	[ 'Google: a wrong clock is not proof', $strict, 400, $json, '{"error":"invalid_grant","error_description":"Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."}', 'config invalid_grant' ],
	[ 'plain words that prove nothing', $strict, 401, $plain, 'Unauthorized', 'config http_401' ],
	[ 'invalid_client', $strict, 401, $json, '{"error":"invalid_client"}', 'config invalid_client' ],
	[ 'invalid_client with 400', $strict, 400, $json, '{"error":"invalid_client","error_description":"refresh token is invalid"}', 'config invalid_client' ],
	[ 'unauthorized_client', $strict, 400, $json, '{"error":"unauthorized_client"}', 'config unauthorized_client' ],
	[ 'unsupported_grant_type', $strict, 400, $json, '{"error":"unsupported_grant_type"}', 'config unsupported_grant_type' ],
	[ 'invalid_scope', $strict, 400, $json, '{"error":"invalid_scope"}', 'config invalid_scope' ],
	[ 'invalid_request', $strict, 400, $json, '{"error":"invalid_request"}', 'config invalid_request' ],
	[ 'access_denied', $strict, 403, $json, '{"error":"access_denied"}', 'config access_denied' ],
	[ '400 empty', $strict, 400, '', '', 'config http_400' ],
	[ '400 unreadable', $strict, 400, $json, '{', 'config http_400' ],
	[ '400 another error', $strict, 400, $json, '{"error":"odd","error_description":"x"}', 'config odd' ],
	[ '400 prose in error is cut down', $strict, 400, $json, '{"error":"Something <b>bad</b> happened!"}', 'config Something_b_bad_b_happened' ],
	[ '400 a long error is cut off', $strict, 400, $json, '{"error":"' . ('e' x 100) . '"}', 'config ' . ('e' x 64) ],
	[ '401 empty', $strict, 401, '', '', 'config http_401' ],
	[ '401 numbers are no codes', $strict, 401, $json, '{"status":401,"message":"Unauthorized"}', 'config http_401' ],
	[ '403 JSON', $strict, 403, $json, '{"message":"forbidden"}', 'config http_403' ],
	[ '404 HTML', $strict, 404, $html, '<h1>Not Found</h1>', 'config http_404' ],
	[ 'status 405', $strict, 405, '', '', 'config http_405' ],
	[ 'status 301', $strict, 301, '', '', 'config redirect_refused' ],
	[ '302 with a body', $strict, 302, $json, '{"error":"invalid_grant"}', 'config redirect_refused' ],
	[ 'status 307', $strict, 307, '', '', 'config redirect_refused' ],

	# not now
	[ 'status 429', $strict, 429, '', '', 'throttled http_429' ],
	[ '429 with Retry-After', $strict, 429, $json, '{}', 'throttled http_429 retry_after=30', 30 ],
	[ '429 though invalid_grant', $strict, 429, $json, '{"error":"invalid_grant"}', 'throttled http_429' ],
	[ '503 with Retry-After', $strict, 503, '', '', 'throttled http_503 retry_after=120', 120 ],
	[ 'Retry-After 0', $strict, 503, '', '', 'throttled http_503 retry_after=1', 0 ],
	[ 'Retry-After of a day', $strict, 429, '', '', 'throttled http_429 retry_after=3600', 86400 ],
	[ 'temporarily_unavailable', $strict, 503, $json, '{"error":"temporarily_unavailable"}', 'throttled temporarily_unavailable' ],
	[ 'temporarily_unavailable with 400', $strict, 400, $json, '{"error":"temporarily_unavailable"}', 'throttled temporarily_unavailable' ],
	[ 'slow_down', $strict, 400, $json, '{"error":"slow_down"}', 'throttled slow_down' ],
	[ 'Microsoft: 50196, a loop', $strict, 400, $json, '{"error":"invalid_grant","error_description":"AADSTS50196: The server terminated an operation"}', 'throttled AADSTS50196' ],
	[ 'Zoho: Access Denied', $strict, 400, $json, '{"error":"Access Denied","error_description":"You have made too many requests continuously. Please try again after some time."}', 'throttled Access_Denied' ],
	[ 'invalid_grant for the rate', $strict, 400, $json, '{"error":"invalid_grant","error_description":"login rate exceeded"}', 'throttled invalid_grant' ],

	# outages
	[ 'status 500', $strict, 500, '', '', 'transient http_500' ],
	[ '500 JSON', $strict, 500, $json, '{"error":"server_error"}', 'transient server_error' ],
	[ '500 invalid_grant proves nothing', $strict, 500, $json, '{"error":"invalid_grant"}', 'transient http_500' ],
	[ '500 but the connector says so', $dead, 500, $json, '{"error":"invalid_code"}', 'dead invalid_code' ],
	[ '502 HTML', $strict, 502, $html, '<html>', 'transient http_502' ],
	[ '503 without Retry-After', $strict, 503, $html, '<html>', 'transient http_503' ],
	[ 'status 504', $strict, 504, '', '', 'transient http_504' ],
	[ '403 HTML: a firewall', $strict, 403, $html, '<html>', 'transient http_403' ],
	[ '400 HTML', $strict, 400, $html, '<html>invalid_grant</html>', 'transient http_400' ],
	[ 'status 408', $strict, 408, '', '', 'transient http_408' ],
	[ 'status 425', $strict, 425, '', '', 'transient http_425' ],
);

check_all('replies', map {
	my ($name, $definition, $status, $type, $body, $expected, $retry) = @$_;
	[ $name, sprintf('unit_classify(%s, %d, %s, %s, retry_after => %s)',
			literal($definition), $status, literal($type), bytes($body), $retry // -1), $expected ]
} @replies);
cmp_ok(scalar @replies, '>=', 100, 'enough replies');

# -- What a refusal proves depends on what was sent. --

my %kind = (code => 0, refresh => 1, exchange => 2, client => 3, assertion => 4, renew => 5);
check_all('kinds of requests', map {
	my ($kind, $own, $status, $body, $expected) = @$_;
	[ "$kind, own client $own: $body", sprintf('unit_classify(%s, %d, %s, %s, kind => %d, own_client => %s)', literal($strict), $status,
			literal($json), bytes($body), $kind{$kind}, $own ? 'true' : 'false'), $expected ]
} (
	[ 'refresh', 0, 401, '{"error":"invalid_client"}', 'config invalid_client' ],
	[ 'code', 0, 400, '{"error":"invalid_grant"}', 'dead invalid_grant' ],
	[ 'client', 0, 401, '{"error":"invalid_client"}', 'config invalid_client' ],
	[ 'client', 1, 401, '{"error":"invalid_client"}', 'dead invalid_client' ],
	[ 'client', 1, 400, '{"error":"bad_client_secret"}', 'dead bad_client_secret' ],
	[ 'client', 1, 400, '{"error":"unauthorized_client"}', 'config unauthorized_client' ],
	[ 'client', 1, 400, '{"error":"invalid_scope"}', 'config invalid_scope' ],
	[ 'client', 1, 503, '{"error":"invalid_client"}', 'transient http_503' ],
	[ 'client', 0, 400, '{"error":"invalid_grant"}', 'config invalid_grant' ],
	[ 'client', 1, 400, '{"error":"invalid_grant"}', 'dead invalid_grant' ],
	[ 'assertion', 1, 400, '{"error":"invalid_grant","error_description":"Invalid JWT Signature."}', 'dead invalid_grant' ],
	[ 'assertion', 1, 401, '{"error":"invalid_client"}', 'dead invalid_client' ],
	[ 'assertion', 0, 401, '{"error":"invalid_client"}', 'config invalid_client' ],
	[ 'assertion', 1, 400, '{"error":"invalid_grant","error_description":"Invalid JWT: check your iat and exp values"}', 'config invalid_grant' ],
	[ 'client', 1, 200, '{"access_token":"a","refresh_token":"r","refresh_expires_in":60}', "refreshed access=a refresh=- $defaults" ],
	[ 'assertion', 1, 200, '{"access_token":"a","refresh_token":"r"}', "refreshed access=a refresh=- $defaults" ],
	[ 'renew', 0, 200, '{"accessToken":"a","refreshToken":"r"}', "refreshed access=a refresh=r $defaults" ],
));

# -- Whose account it is, and what lives on: both are matters of the reply. --

my $extends = $with->('"refresh_extends":true,"access_token_lifetime_s":60,"success_path":"r","success_value":0');
check_all('accounts', map {
	my ($name, $definition, $body, $expected, $kind) = @$_;
	[ $name, sprintf('unit_classify(%s, 200, %s, %s, kind => %d)', literal($definition), literal($json), bytes($body), $kind{ $kind // 'code' }), $expected ]
} (
	[ 'a text', $with->('"account_path":"user.id","account_label_path":"user.name"'), '{"access_token":"a","user":{"id":"u-1","name":"Ann"}}', qr/ account=u-1 label=Ann$/ ],
	[ 'a number', $with->('"account_path":"user.id"'), '{"access_token":"a","user":{"id":12345678901234567890}}', qr/ account=12345678901234567890$/ ],
	[ 'a claim', $with->('"account_path":"id_token.sub"'), '{"access_token":"a","id_token":"' . jwt('{"sub":"u-1"}') . '"}', qr/ account=u-1$/ ],
	[ 'a claim of what is no JWT', $with->('"account_path":"id_token.sub"'), '{"access_token":"a","id_token":"a.b.c"}', qr/expires=never$/ ],
	[ 'in an array', $with->('"account_path":"orgs.0.id"'), '{"access_token":"a","orgs":[{"id":"o"}]}', qr/ account=o$/ ],
	[ 'empty', $with->('"account_path":"id"'), '{"access_token":"a","id":""}', qr/\}$/ ],
	[ 'an object', $with->('"account_path":"id"'), '{"access_token":"a","id":{"x":1}}', qr/\}$/ ],
	[ 'true', $with->('"account_path":"id"'), '{"access_token":"a","id":true}', qr/\}$/ ],
	[ 'with a line feed', $with->('"account_path":"id"'), '{"access_token":"a","id":"x\\ny"}', qr/\}$/ ],
	[ 'the longest', $with->('"account_path":"id"'), '{"access_token":"a","id":"' . ('x' x 1024) . '"}', qr/ account=x{1024}$/ ],
	[ 'too long', $with->('"account_path":"id"'), '{"access_token":"a","id":"' . ('x' x 1025) . '"}', qr/\}$/ ],
	[ 'with a token in it', $with->('"account_path":"id"'), '{"access_token":"a-long-token","id":"for a-long-token"}', qr/expires=never$/ ],
	[ 'elsewhere to be asked for', $with->('"account_path":"id","account_url":"https://p.example/me"'), '{"access_token":"a","id":"u-1"}', qr/extra=\{"id":"u-1"\}$/ ],
	[ 'a refresh extends', $extends, '{"r":0}', qr/^refreshed access=- .*lifetime=60 .* kept$/, 'refresh' ],
	[ 'a renewal extends', $extends, '{"r":0}', qr/^refreshed access=- .* kept$/, 'renew' ],
	[ 'a code does not', $extends, '{"r":0}', 'unknown no_access_token', 'code' ],
	[ 'an exchange does not', $extends, '{"r":0}', 'unknown no_access_token', 'exchange' ],
));

# -- Transfers that brought no whole response: [ result, sent, status, expected ]. --

my @results = qw(ok denied unresolved unreachable tls timeout too_large broken);
my %result = map { $results[$_] => $_ } 0 .. $#results;
my @failures = (
	[ 'denied', 0, 0, 'transient denied' ],
	[ 'unresolved', 0, 0, 'transient dns' ],
	[ 'unreachable', 0, 0, 'transient refused' ],
	[ 'tls', 0, 0, 'transient tls' ],
	[ 'timeout', 0, 0, 'transient timeout' ],
	[ 'timeout', 1, 0, 'unknown timeout' ],
	[ 'timeout', 1, 200, 'unknown timeout' ],
	[ 'timeout', 1, 500, 'transient http_500' ],
	[ 'broken', 0, 0, 'transient broken' ],
	[ 'broken', 1, 0, 'unknown broken' ],
	[ 'broken', 1, 200, 'unknown broken' ],
	[ 'broken', 1, 400, 'transient http_400' ],
	[ 'broken', 1, 429, 'throttled http_429' ],
	[ 'too_large', 1, 200, 'unknown too_large' ],
	[ 'too_large', 1, 502, 'transient http_502' ],
);
check_all('failures', map {
	my ($result, $sent, $status, $expected) = @$_;
	[ "$result, sent $sent, status $status",
		sprintf(q{unit_classify(%s, %d, '', %s, %s, %d)}, literal($strict), $status,
			bytes('{"access_token":"a"}'), $sent ? 'true' : 'false', $result{$result}), $expected ]
} @failures);

# -- Secrets as applications store them. --

check_all('grants', map {
	[ $_->[0], sprintf('unit_grant(%s, %s)', literal($_->[1]), literal($_->[2])), $_->[3] ]
} (
	[ 'created_at (GitLab)', $strict, '{"access_token":"a","expires_in":7200,"created_at":1893452400}', qr/^ok access=a .*lifetime=7200 expires=3600/ ],
	[ 'issued_at in ms (Salesforce)', $lifetime, '{"access_token":"a","issued_at":"1893455900000"}', qr/lifetime=3600 expires=3500/ ],
	[ 'issued in the future is ignored', $strict, '{"access_token":"a","expires_in":60,"created_at":1999999999}', qr/expires=60$/ ],
	[ 'expires_at alone has no lifetime', $strict, '{"accessToken":"a","expiresAt":"2030-01-01T01:00:00Z"}', qr/lifetime=0 expires=3600/ ],
	[ 'a refresh token alone', $strict, '{"refresh_token":"r"}', qr/^ok access=- refresh=r .*expires=never/ ],
	[ 'neither', $strict, '{"expires_in":1}', '! no_token' ],
	[ 'no object', $strict, '["a"]', '! not_an_object' ],
	[ 'no JSON', $strict, '{', '! not_an_object' ],
	[ 'a bad token', $strict, '{"refresh_token":"a\tb"}', '! token_control_character' ],
));

# -- URLs. --

my %url = (
	lone => 'the host is not a plain dotted IPv4 address',
	ip => 'the host is an IP address that is not in conduit.egress_allow',
	port => 'a port other than 443 needs the host in conduit.egress_allow',
	http => 'only a loopback host that is in conduit.egress_allow may speak plain http',
	space => 'the URL has a space, control or non-ASCII character',
	char => 'the URL has a character that is not allowed',
	user => 'the URL carries a user or password',
	scheme => 'the URL does not begin with https://',
	badport => 'the port is not valid',
	v6 => 'the host is not an IPv6 address',
	label => 'the host has a character that is not allowed',
	empty => 'the host has an empty label',
	dots => 'the path has a dot segment',
	percent => 'the host has a percent sign',
	nohost => 'the URL has no host',
	internal => 'the host is a name of an internal network that is not in conduit.egress_allow',
);
my @urls = (
	[ 'https://example.com', 'ok' ], [ 'https://example.com/', 'ok' ], [ 'HTTPS://Example.COM/a?b=c', 'ok' ],
	[ 'https://example.com:443/t', 'ok' ], [ 'https://a.b-c.example/oauth2/v1.0/token?x=1&y=%20', 'ok' ],
	[ 'https://xn--bcher-kva.example/', 'ok' ], [ 'https://a_b.example/', 'ok' ], [ 'https://1.2.3.example/', 'ok' ],
	[ 'https://example.com?x=/../', 'ok' ], [ 'https://example.com/..a/.b/c..', 'ok' ],
	[ 'https://example.com:8443/', $url{port} ], [ 'https://example.com:80/', $url{port} ],
	[ 'https://example.com:/', $url{badport} ], [ 'https://example.com:0/', $url{badport} ],
	[ 'https://example.com:0443/', $url{badport} ], [ 'https://example.com:65536/', $url{badport} ],
	[ 'https://example.com:4a/', $url{badport} ], [ 'https://example.com:443:443/', $url{badport} ],
	[ 'http://example.com/', $url{http} ], [ 'http://127.0.0.1/', $url{ip} ], [ 'http://localhost/', $url{http} ],
	[ 'ftp://example.com/', $url{scheme} ], [ 'file:///etc/passwd', $url{scheme} ], [ 'gopher://x/', $url{scheme} ],
	[ '//example.com/', $url{scheme} ], [ 'example.com', $url{scheme} ], [ '', $url{scheme} ],
	[ 'https:/example.com', $url{scheme} ], [ 'https:example.com', $url{scheme} ], [ 'javascript:alert(1)', $url{scheme} ],
	[ ' https://example.com/', $url{space} ], [ "https://example.com/\n", $url{space} ], [ 'https://exa mple.com/', $url{space} ],
	[ "https://example.com/\x01", $url{space} ], [ "https://example.com/\x7f", $url{space} ],
	[ "https://b\xc3\xbccher.example/", $url{space} ], [ "https://example\xe3\x80\x82com/", $url{space} ],
	[ 'https://user@example.com/', $url{user} ], [ 'https://user:pw@example.com/', $url{user} ], [ 'https://@example.com/', $url{user} ],
	[ 'https://example.com@127.0.0.1/', $url{user} ], [ 'https://example.com/@x', 'ok' ],
	[ 'https://example.com\\@evil/', $url{char} ], [ 'https://example.com\\', $url{char} ], [ 'https://example.com/{x}', $url{char} ],
	[ 'https://example.com/<x>', $url{char} ], [ 'https://example.com/"', $url{char} ], [ 'https://example.com/a|b', $url{char} ],
	[ 'https://example.com/#f', 'the URL has a fragment' ], [ 'https://example.com#@evil/', 'the URL has a fragment' ],
	[ 'https:///path', $url{nohost} ], [ 'https://', $url{nohost} ], [ 'https://:443/', $url{nohost} ], [ 'https://?x', $url{nohost} ],
	[ 'https://example.com./', 'the host ends with a dot' ], [ 'https://./', $url{empty} ], [ 'https://a..b/', $url{empty} ], [ 'https://.a/', $url{empty} ],
	[ 'https://example%2ecom/', $url{percent} ], [ 'https://%31%32%37.0.0.1/', $url{percent} ],
	[ 'https://-a.example/', 'a label of the host begins or ends with a hyphen' ], [ 'https://a!b/', $url{label} ],
	[ 'https://' . ('a' x 64) . '.example/', 'a label of the host is too long' ],
	[ 'https://' . join('.', ('a' x 60) x 5) . '/', 'the host is too long' ],
	[ 'https://example.com/' . ('a' x 2048), 'the URL is too long' ],
	[ 'https://127.0.0.1/', $url{ip} ], [ 'https://8.8.8.8/', $url{ip} ], [ 'https://169.254.169.254/latest/', $url{ip} ],
	[ 'https://2130706433/', $url{lone} ], [ 'https://0x7f000001/', $url{lone} ], [ 'https://0x7F.1/', $url{lone} ], [ 'https://017700000001/', $url{lone} ],
	[ 'https://127.1/', $url{lone} ], [ 'https://127.0.1/', $url{lone} ], [ 'https://0177.0.0.1/', $url{lone} ], [ 'https://127.0.0.01/', $url{lone} ],
	[ 'https://0x7f.0.0.1/', $url{lone} ], [ 'https://127.0.0.0x1/', $url{lone} ], [ 'https://256.1.1.1/', $url{lone} ], [ 'https://1.2.3.4.5/', $url{lone} ],
	[ 'https://example.123/', $url{lone} ], [ 'https://0/', $url{lone} ],
	[ 'https://[::1]/', $url{ip} ], [ 'https://[::ffff:127.0.0.1]/', $url{ip} ], [ 'https://[64:ff9b::7f00:1]/', $url{ip} ],
	[ 'https://[fe80::1%25eth0]/', $url{percent} ], [ 'https://[fe80::1%eth0]/', $url{percent} ], [ 'https://[::1/', $url{v6} ], [ 'https://[]/', $url{v6} ],
	[ 'https://[example.com]/', $url{v6} ], [ 'https://[127.0.0.1]/', $url{v6} ], [ 'https://[::1]x/', 'the host is not valid' ], [ 'https://[v1.x]/', $url{v6} ],
	(map { [ "https://$_/", $url{internal} ] } qw(localhost LOCALHOST a.localhost intranet metadata.google.internal printer.local
		router.home.arpa db.localdomain x.intranet x.private x.corp x.home x.lan)),
	[ 'https://internal.example/', 'ok' ], [ 'https://local.example.com/', 'ok' ], [ 'https://xlocal.example/', 'ok' ],
	[ 'https://example.com/../x', $url{dots} ], [ 'https://example.com/a/./b', $url{dots} ], [ 'https://example.com/a/..', $url{dots} ],
	[ 'https://example.com/%2e%2E/x', $url{dots} ], [ 'https://example.com/.%2e?x', $url{dots} ],
);
my $url_cases = sub { return map { [ $_->[0] =~ s/[^ -~]/?/gr, 'unit_check_url(' . literal($_->[0]) . ')', $_->[1] ] } @_ };
check_all('URLs, nothing allowed', $url_cases->(@urls));
cmp_ok(scalar @urls, '>=', 60, 'enough URLs');

check_all('origins', map { [ $_->[0], 'coalesce(unit_origin(' . literal($_->[0]) . "), 'none')", $_->[1] ] } (
	[ 'HTTPS://Example.COM/a?b', 'https://example.com:443' ],
	[ 'http://localhost:81', 'http://localhost:81' ],
	[ 'http://localhost', 'http://localhost:80' ],
	[ 'https://[0:0:0:0:0:0:0:1]:8443/', 'https://[::1]:8443' ],
	[ 'https://u@h/', 'none' ],
));

# -- Addresses: [ address, allowed, allowed for a listed host ]. --

my @addresses = (
	[ '8.8.8.8', 1, 1 ], [ '1.1.1.1', 1, 1 ], [ '9.255.255.255', 1, 1 ], [ '11.0.0.0', 1, 1 ], [ '172.15.255.255', 1, 1 ], [ '172.32.0.0', 1, 1 ],
	[ '100.63.255.255', 1, 1 ], [ '100.128.0.0', 1, 1 ], [ '192.0.1.1', 1, 1 ], [ '192.169.0.1', 1, 1 ], [ '198.17.255.255', 1, 1 ], [ '198.20.0.0', 1, 1 ],
	[ '223.255.255.255', 1, 1 ],
	[ '0.0.0.0', 0, 0 ], [ '0.1.2.3', 0, 0 ], [ '10.0.0.0', 0, 1 ], [ '10.255.255.255', 0, 1 ], [ '100.64.0.0', 0, 1 ], [ '100.127.255.255', 0, 1 ],
	[ '127.0.0.1', 0, 1 ], [ '127.255.255.254', 0, 1 ], [ '169.254.169.254', 0, 0 ], [ '169.254.0.1', 0, 0 ], [ '172.16.0.1', 0, 1 ], [ '172.31.255.255', 0, 1 ],
	[ '192.0.0.1', 0, 0 ], [ '192.0.2.1', 0, 0 ], [ '192.168.0.1', 0, 1 ], [ '192.168.255.255', 0, 1 ], [ '198.18.0.1', 0, 1 ], [ '198.19.255.255', 0, 1 ],
	[ '198.51.100.7', 0, 0 ], [ '203.0.113.7', 0, 0 ], [ '224.0.0.1', 0, 0 ], [ '239.255.255.255', 0, 0 ], [ '240.0.0.1', 0, 0 ], [ '255.255.255.255', 0, 0 ],
	[ '2606:4700::1111', 1, 1 ], [ '2a00:1450:4001::1', 1, 1 ], [ '2001:4860:4860::8888', 1, 1 ],
	[ '::', 0, 0 ], [ '::1', 0, 1 ], [ '::7f00:1', 0, 0 ], [ '::ffff:127.0.0.1', 0, 1 ], [ '::ffff:10.1.1.1', 0, 1 ], [ '::ffff:169.254.169.254', 0, 0 ], [ '::ffff:8.8.8.8', 1, 1 ],
	[ '64:ff9b::7f00:1', 0, 1 ], [ '64:ff9b::a9fe:a9fe', 0, 0 ], [ '64:ff9b::808:808', 1, 1 ], [ '64:ff9b:1::808:808', 0, 0 ],
	[ '2002:7f00:1::1', 0, 0 ], [ '2002:a00:1::', 0, 0 ], [ '2002:808:808::1', 1, 1 ],
	[ '2001:0:7f00:1::1', 0, 0 ], [ '2001:0:808:808::80ff:fffe', 0, 0 ], [ '2001:0:808:808:0:0:f7f7:f7f7', 1, 1 ], [ '2001:2::1', 0, 0 ], [ '2001:10::1', 0, 0 ],
	[ 'fc00::1', 0, 1 ], [ 'fdff::1', 0, 1 ], [ 'fe80::1', 0, 0 ], [ 'febf::1', 0, 0 ], [ 'fec0::1', 0, 0 ], [ 'ff02::1', 0, 0 ],
	[ '2001:db8::1', 0, 0 ], [ '100::1', 0, 0 ], [ '3fff::1', 0, 0 ], [ '4000::1', 0, 0 ],
);
check_all('addresses, nothing allowed', map {
	my ($address, @allowed) = @$_;
	map { [ "$address, host " . ($_ ? 'listed' : 'not listed'), "unit_address_allowed('$address', " . ($_ ? 'true' : 'false') . ')', $allowed[$_] ? 't' : 'f' ] } 0, 1
} @addresses);
cmp_ok(scalar @addresses, '>=', 40, 'enough addresses');

# -- With conduit.egress_allow; bad entries are skipped and logged. --

my $offset = -s $node->logfile;
set_conf('conduit.egress_allow', '127.0.0.0/8, ::1/128 ,IDP.internal,10.1.0.0/16,10.9.9.9, 10.0.0.1/8, bad host, 300.1.1.1, *.x, 1.2.3.4/33, [::1], a:1,,fd00::/8');
check_all('URLs, some allowed', $url_cases->(
	[ 'http://127.0.0.1/', 'ok' ], [ 'http://127.0.0.1:8080/x', 'ok' ], [ 'https://127.9.9.9:1/', 'ok' ], [ 'http://[::1]:8080/', 'ok' ],
	[ 'http://localhost:8080/', 'ok' ], [ 'http://a.localhost/', 'ok' ], [ 'https://localhost:8443/', 'ok' ], [ 'http://[::ffff:127.0.0.1]/', $url{http} ],
	[ 'https://idp.internal:8443/', 'ok' ], [ 'https://IDP.INTERNAL/', 'ok' ], [ 'http://idp.internal/', $url{http} ], [ 'https://x.idp.internal:8443/', $url{port} ],
	[ 'https://10.1.2.3:99/', 'ok' ], [ 'http://10.1.2.3/', $url{http} ], [ 'https://10.2.0.1/', $url{ip} ], [ 'https://10.9.9.9/', 'ok' ], [ 'https://10.9.9.8/', $url{ip} ],
	[ 'https://[fd00::1]/', 'ok' ], [ 'https://8.8.8.8/', $url{ip} ], [ 'https://example.com:8443/', $url{port} ], [ 'https://127.1/', $url{lone} ],
	[ 'http://xlocalhost/', $url{http} ], [ 'https://intranet/', 'ok' ], [ 'https://x.idp.internal/', 'ok' ],
));
set_conf('conduit.egress_allow', '10.0.0.0/8');
check_all('internal names, another network allowed', $url_cases->(
	[ 'https://localhost/', $url{internal} ], [ 'https://idp.internal/', 'ok' ],
));
set_conf('conduit.egress_allow', 'intranet, a.internal');
check_all('internal names, some allowed', $url_cases->(
	[ 'https://intranet/', 'ok' ], [ 'https://a.internal/', 'ok' ], [ 'https://b.a.internal/', $url{internal} ], [ 'https://other/', $url{internal} ],
));
set_conf('conduit.egress_allow', '127.0.0.0/8, ::1/128 ,IDP.internal,10.1.0.0/16,10.9.9.9, 10.0.0.1/8, bad host, 300.1.1.1, *.x, 1.2.3.4/33, [::1], a:1,,fd00::/8');
check_all('addresses, some allowed', map { [ $_->[0], "unit_address_allowed('$_->[0]', false)", $_->[1] ] } (
	[ '127.0.0.1', 't' ], [ '::1', 't' ], [ '::ffff:127.0.0.1', 't' ], [ '10.1.255.255', 't' ], [ '10.2.0.0', 'f' ], [ '10.9.9.9', 't' ],
	[ '10.0.0.1', 'f' ], [ '64:ff9b::7f00:1', 'f' ], [ 'fd00::5', 't' ], [ 'fc00::5', 'f' ], [ '169.254.169.254', 'f' ], [ '1.2.3.4', 't' ],
));

# -- HTTP. --

my $server_script = "$dir/server.mjs";
append_to_file($server_script, <<'SERVER');
import net from 'node:net';
import tls from 'node:tls';
import fs from 'node:fs';

const dir = process.argv[2];
const counts = {};
let last = '';
let connections = 0;

function answer(socket, id, nth, head, body) {
  const [line] = head.split('\r\n');
  const path = line.split(' ')[1];
  counts[path] = (counts[path] ?? 0) + 1;
  const say = (text) => socket.write(text);
  const ok = (text, more = '') => say(`HTTP/1.1 200 OK\r\n${more}Content-Type: text/plain\r\nContent-Length: ${text.length}\r\n\r\n${text}`);
  switch (path.split('?')[0]) {
    case '/count': return ok(String(counts[path.split('?')[1]] ?? 0));
    case '/connection': return ok(String(id));
    case '/echo': return ok(`${head.replaceAll('\r\n', '|')}||${body}`);
    case '/hang': return undefined;
    case '/drip': {
      say('HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n');
      const timer = setInterval(() => say('x'), 50);
      socket.on('close', () => clearInterval(timer));
      return undefined;
    }
    case '/reset': say('HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc'); return setTimeout(() => socket.resetAndDestroy(), 50);
    case '/reset-early': return socket.resetAndDestroy();
    case '/close': return socket.end();
    case '/truncated': return socket.end('HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc');
    case '/truncated-500': return socket.end('HTTP/1.1 500 Oh\r\nContent-Length: 1000\r\n\r\nabc');
    case '/huge': return ok('x'.repeat(1 << 20));
    case '/huge-chunked':
      say('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n');
      for (let i = 0; i < 64; i++) say(`4000\r\n${'x'.repeat(0x4000)}\r\n`);
      return say('0\r\n\r\n');
    case '/header-bomb':
      say('HTTP/1.1 200 OK\r\n');
      for (let i = 0; i < 2000; i++) say(`X-Bomb-${i}: ${'x'.repeat(64)}\r\n`);
      return say('Content-Length: 0\r\n\r\n');
    case '/header-long': return ok('', `X-Bomb: ${'x'.repeat(200000)}\r\n`);
    case '/redirect': return say('HTTP/1.1 307 Elsewhere\r\nLocation: /target\r\nContent-Length: 0\r\n\r\n');
    case '/gzip': return ok('\x1f\x8b', 'Content-Encoding: gzip\r\n');
    case '/identity': return ok('fine', 'Content-Encoding: identity\r\n');
    case '/chunked': return say('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n');
    case '/chunk-garbage': return say('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n');
    case '/not-http': return socket.end('220 smtp.example ESMTP\r\n');
    case '/interim': say('HTTP/1.1 103 Early\r\nRetry-After: 9\r\nContent-Type: x/y\r\n\r\n'); return ok('after');
    case '/retry-seconds': return say('HTTP/1.1 503 No\r\nRetry-After: 17\r\nContent-Length: 0\r\n\r\n');
    case '/retry-date': return say('HTTP/1.1 503 No\r\nDate: Tue, 01 Jan 2030 00:00:00 GMT\r\nRetry-After: Tue, 01 Jan 2030 00:01:30 GMT\r\nContent-Length: 0\r\n\r\n');
    case '/retry-past': return say('HTTP/1.1 503 No\r\nDate: Tue, 01 Jan 2030 00:00:00 GMT\r\nRetry-After: Mon, 31 Dec 2029 00:00:00 GMT\r\nContent-Length: 0\r\n\r\n');
    case '/retry-junk': return say('HTTP/1.1 503 No\r\nRetry-After: soon\r\nContent-Length: 0\r\n\r\n');
    case '/close-on-reuse':
      if (nth > 1) return socket.end();
      return ok('first');
    case '/close-after': ok('then closed'); return socket.end();
    case '/record':
      last = `${head.replaceAll('\r\n', '|')}||${body}`;
      return ok('');
    case '/last': return ok(last.replace(/Host: \S+?\||User-Agent: \S+?\|/g, ''));
    case '/cookie': return ok('x', 'Set-Cookie: a=b\r\n');
    case '/token': {
      const text = '{"access_token":"new","refresh_token":"next","expires_in":60}';
      return say(`HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ${text.length}\r\n\r\n${text}`);
    }
    case '/quote': {
      const token = decodeURIComponent(/refresh_token=([^&]*)/.exec(body)[1]);
      const text = JSON.stringify({ error: `bad token ${token}` });
      return say(`HTTP/1.1 400 No\r\nContent-Type: application/json\r\nContent-Length: ${text.length}\r\n\r\n${text}`);
    }
    default: return ok('default');
  }
}

function serve(socket) {
  const id = ++connections;
  let nth = 0;
  let buffer = '';
  socket.on('error', () => {});
  socket.on('data', (data) => {
    buffer += data.toString('latin1');
    for (;;) {
      const end = buffer.indexOf('\r\n\r\n');
      if (end < 0) return;
      const head = buffer.slice(0, end);
      const length = Number(/content-length: (\d+)/i.exec(head)?.[1] ?? 0);
      if (buffer.length < end + 4 + length) return;
      const body = buffer.slice(end + 4, end + 4 + length);
      buffer = buffer.slice(end + 4 + length);
      answer(socket, id, ++nth, head, body);
    }
  });
}

const ports = [];
const listen = (server) => new Promise((done) => server.listen(0, '127.0.0.1', () => { ports.push(server.address().port); done(); }));
await listen(net.createServer(serve));
for (const name of ['good', 'expired', 'wrong', 'self']) {
  const server = tls.createServer({ key: fs.readFileSync(`${dir}/${name}.key`), cert: fs.readFileSync(`${dir}/${name}.pem`) }, serve);
  server.on('tlsClientError', () => {});
  await listen(server);
}
/* Takes connections and says nothing, not even in the handshake. */
await listen(net.createServer((socket) => socket.on('error', () => {})));
await listen(net.createServer((socket) => socket.on('error', () => {}).once('data', () => socket.end('no such thing\r\n'))));
await listen(tls.createServer({ key: fs.readFileSync(`${dir}/good.key`), cert: fs.readFileSync(`${dir}/good.pem`), maxVersion: 'TLSv1.1', minVersion: 'TLSv1', ciphers: 'DEFAULT:@SECLEVEL=0' }, serve).on('tlsClientError', () => {}));
fs.writeFileSync(`${dir}/ports.tmp`, ports.join(' '));
fs.renameSync(`${dir}/ports.tmp`, `${dir}/ports`);
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
SERVER

sub openssl
{
	my @command = ('openssl', @_);
	my ($out, $err);
	IPC::Run::run(\@command, '>', \$out, '2>', \$err) or die "@command: $err";
	return;
}

sub certificate
{
	my ($name, $names, $days, $signed) = @_;
	my @key = ('-newkey', 'rsa:2048', '-nodes', '-keyout', "$dir/$name.key", '-subj', "/CN=$name");
	if (!$signed)
	{
		openssl('req', '-x509', @key, '-days', $days, '-out', "$dir/$name.pem", '-addext', "subjectAltName=$names");
		return;
	}
	append_to_file("$dir/$name.ext", "subjectAltName=$names\n");
	openssl('req', @key, '-out', "$dir/$name.csr");
	openssl('x509', '-req', '-in', "$dir/$name.csr", '-CA', "$dir/ca.pem", '-CAkey', "$dir/ca.key", '-CAcreateserial',
		'-days', $days, '-extfile', "$dir/$name.ext", '-out', "$dir/$name.pem");
	return;
}
certificate('ca', 'DNS:ca', 30, 0);
certificate('good', 'IP:127.0.0.1,DNS:localhost', 30, 1);
certificate('expired', 'IP:127.0.0.1', -1, 1);
certificate('wrong', 'DNS:elsewhere.example', 30, 1);
certificate('self', 'IP:127.0.0.1', 30, 0);

# The server ends when its standard input does, whatever ends this test.
my $server = IPC::Run::start([ 'node', $server_script, $dir ], '<pipe', \*SERVER_IN, '>', "$dir/server.out", '2>', "$dir/server.err");
for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
{
	last if -f "$dir/ports";
	select undef, undef, undef, 0.1;
}
die 'the server did not start: ' . slurp_file("$dir/server.err") unless -f "$dir/ports";
my ($port, $good, $expired, $wrong, $self, $mute, $rude, $old_tls) = split / /, slurp_file("$dir/ports");
my $http = "http://127.0.0.1:$port";

# A port that nobody listens at.
my $closed_port = do {
	my $socket = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1') or die $!;
	$socket->sockport;
};

sub http { my ($url, @more) = @_; return 'unit_http(' . join(', ', literal($url), @more) . ')'; }
my $quick = 'timeout_ms => 300';

check_all('transfers', map { [ $_->[0], http($_->[0] =~ /^\// ? "$http$_->[0]" : @$_[0], @$_[ 2 .. $#$_ ]), $_->[1] ] } (
	[ '/', qr/^ok sent=1 status=200 type=text\/plain retry_after=-1 length=7 body=default$/ ],
	[ '/chunked', qr/^ok .*length=6 body=abcdef/ ],
	[ '/identity', qr/^ok .*body=fine/ ],
	[ '/interim', qr/^ok sent=1 status=200 type=text\/plain retry_after=-1 length=5 body=after/ ],
	[ '/retry-seconds', qr/^ok sent=1 status=503 .*retry_after=17 / ],
	[ '/retry-date', qr/ retry_after=90 / ],
	[ '/retry-past', qr/ retry_after=0 / ],
	[ '/retry-junk', qr/ retry_after=-1 / ],
	[ '/hang', qr/^timeout sent=1 status=0 /, $quick ],
	[ '/drip', qr/^timeout sent=1 status=200 /, $quick ],
	[ '/reset', qr/^broken sent=1 status=200 / ],
	[ '/reset-early', qr/^broken sent=1 status=0 / ],
	[ '/close', qr/^broken sent=1 status=0 / ],
	[ '/truncated', qr/^broken sent=1 status=200 / ],
	[ '/truncated-500', qr/^broken sent=1 status=500 / ],
	[ '/huge', qr/^too_large sent=1 status=200 .*length=(\d{1,5}) / ],
	[ '/huge-chunked', qr/^too_large sent=1 status=200 / ],
	[ '/huge', qr/^ok .*length=1048576 /, 'max_response => 1048576' ],
	[ '/header-bomb', qr/^too_large sent=1 / ],
	[ '/header-long', qr/^(too_large|broken) sent=1 / ],
	[ '/redirect', qr/^ok sent=1 status=307 / ],
	[ '/count?/target', qr/body=0$/ ],
	[ '/gzip', qr/^broken sent=1 status=200 .*length=0 / ],
	[ '/chunk-garbage', qr/^broken sent=1 / ],
	[ '/not-http', qr/^broken sent=1 / ],
	[ "https://127.0.0.1:$port/", qr/^timeout sent=0 /, $quick ],
	[ "https://127.0.0.1:$rude/", qr/^tls sent=0 / ],
	[ "http://127.0.0.1:$rude/", qr/^broken sent=1 / ],
	[ "http://127.0.0.1:$closed_port/", qr/^unreachable sent=0 / ],
	[ "https://127.0.0.1:$mute/", qr/^timeout sent=0 /, $quick ],
	[ "http://127.0.0.1:$mute/", qr/^timeout sent=1 /, $quick ],
	[ 'https://name.invalid/', qr/^unresolved sent=0 / ],
	[ 'http://example.com/', qr/^denied sent=0 / ],
	[ 'https://169.254.169.254/', qr/^denied sent=0 / ],
	[ 'file:///etc/passwd', qr/^denied sent=0 / ],
	[ '/', qr/^denied sent=0 /, q{headers => array['X-A', E'b\r\nX-Evil: c']} ],
	[ '/', qr/^denied sent=0 /, q{headers => array[E'X-A: b\r\nX', 'c']} ],
	[ '/', qr/^denied sent=0 /, q{method => E'GET / HTTP/1.1\r\nX:'} ],
	[ "http://localhost:$port/", qr/^ok sent=1 status=200 / ],
));

check_all('what is sent', (
	[ 'a form', http("$http/echo?x=%2e%20", q{body => 'a=b&c=d'}, q{headers => array['Accept', 'application/json', 'X-Empty', '']}),
		qr{body=POST /echo\?x=%2e%20 HTTP/1\.1\|Host: 127\.0\.0\.1:$port\|User-Agent: conduit/unit\|Content-Type: application/x-www-form-urlencoded\|Accept: application/json\|Content-Length: 7} ],
	[ 'a GET', http("$http/echo", q{method => 'GET'}, q{body => ''}), qr{body=GET /echo HTTP/1\.1\|(?!.*Content-)} ],
	[ 'a DELETE', http("$http/echo", q{method => 'DELETE'}, q{body => ''}), qr{body=DELETE /echo } ],
	[ 'an empty POST', http("$http/echo", q{body => ''}), qr{body=POST /echo .*Content-Length: 0} ],
	[ 'a cookie comes', http("$http/cookie"), qr/^ok/ ],
	[ 'and does not go', http("$http/echo"), qr/^(?!.*Cookie)/ ],
));

# Connections are kept; a request that may have been read is never sent twice.
{
	my @answers = evaluate(
		http("$http/connection"), http("$http/connection"),
		http("$http/close-after"), http("$http/connection"),
		"pg_sleep(0)");
	my @first = map { /body=(\d+)/ ? $1 : '' } @answers[ 0, 1, 3 ];
	# Reuse is off for the first seconds after a change of settings only; a new
	# session has seen none.
	is($first[1], $first[0], 'a connection is used again');
	isnt($first[2], $first[0], 'but not one that the server has closed');

	my ($one, $two, $count, $three) = evaluate(
		http("$http/close-on-reuse"), http("$http/close-on-reuse"),
		http("$http/count?/close-on-reuse", q{method => 'GET'}, q{body => ''}), http("$http/close-on-reuse"));
	like($one, qr/^ok sent=1 .*body=first/, 'the first POST on a connection is answered');
	like($two, qr/^broken sent=1 status=0/, 'the second is read and not answered: broken, and sent');
	like($count, qr/body=2$/, 'the server has seen two, not three');

	($one, $two, $count) = evaluate(
		http("$http/close-on-reuse?get", q{method => 'GET'}, q{body => ''}), http("$http/close-on-reuse?get", q{method => 'GET'}, q{body => ''}),
		http("$http/count?/close-on-reuse?get", q{method => 'GET'}, q{body => ''}));
	like($two, qr/^ok .*body=first/, 'a GET is repeated on a new connection');
}

# TLS.
set_conf('conduit.ca_file', "$dir/ca.pem");
check_all('TLS', map { [ $_->[0], http(@$_[ 0, 2 .. $#$_ ]), $_->[1] ] } (
	[ "https://127.0.0.1:$good/", qr/^ok sent=1 status=200/ ],
	[ "https://localhost:$good/", qr/^ok sent=1 status=200/ ],
	[ "https://127.0.0.1:$expired/", qr/^tls sent=0 / ],
	[ "https://127.0.0.1:$wrong/", qr/^tls sent=0 / ],
	[ "https://127.0.0.1:$self/", qr/^tls sent=0 / ],
	[ "https://127.0.0.1:$old_tls/", qr/^tls sent=0 / ],
	[ "https://127.0.0.1:$good/close-on-reuse", qr/^broken sent=1 / ],
	[ "https://127.0.0.1:$good/close-on-reuse", qr/^ok / ],
	[ "https://127.0.0.1:$good/count?/close-on-reuse", qr/body=5$/, q{method => 'GET'}, q{body => ''} ],
));
ok(!-e "$dir/keylog", 'no TLS keys are written');

# A session that lives through changes of settings: no connection from before is
# used again, and no trust either.
{
	my ($in, $out, $err) = ('', '', '');
	my $psql = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-f', '-' ],
		'<', \$in, '>', \$out, '2>', \$err, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	my $ask = sub {
		my ($expression) = @_;
		$out = '';
		$in .= "SELECT $expression;\n\\echo -done-\n";
		$psql->pump until $out =~ /-done-\n/;
		return $out =~ s/\n-done-\n//r;
	};
	my $wait = sub {
		my ($name, $value) = @_;
		for (1 .. 10000) { return if $ask->("current_setting('$name')") eq $value; }
		die "$name did not change";
	};
	my $first = $ask->(http("https://127.0.0.1:$good/connection"));
	is($ask->(http("https://127.0.0.1:$good/connection")), $first, 'a TLS connection is used again');
	set_conf('conduit.ca_file', "$dir/self.pem");
	$wait->('conduit.ca_file', "$dir/self.pem");
	like($ask->(http("https://127.0.0.1:$good/")), qr/^tls sent=0/, 'another CA: not any more');
	like($ask->(http("https://127.0.0.1:$self/")), qr/^ok/, 'who is trusted now is reached');
	my $plain = $ask->(http("$http/connection"));
	$node->safe_psql('postgres', 'ALTER SYSTEM RESET conduit.ca_file');
	set_conf('conduit.egress_allow', '10.0.0.0/8');
	$wait->('conduit.egress_allow', '10.0.0.0/8');
	like($ask->(http("$http/connection")), qr/^denied sent=0/, 'no longer allowed: no longer reached');
	set_conf('conduit.egress_allow', '127.0.0.0/8,::1');
	$wait->('conduit.egress_allow', '127.0.0.0/8,::1');
	isnt($ask->(http("$http/connection")), $plain, 'allowed again: a new connection');
	set_conf('conduit.egress_allow', 'localhost');
	$wait->('conduit.egress_allow', 'localhost');
	like($ask->(http("http://localhost:$port/")), qr/^ok/, 'a name that is listed is reached at its private address');
	like($ask->(http("$http/")), qr/^denied/, 'its address alone is not');
	$in .= "\\q\n";
	$psql->finish;
	set_conf('conduit.egress_allow', '127.0.0.0/8');
}

# Ends.
{
	my ($by_free) = evaluate("unit_http_abandon('$http/hang', true)");
	cmp_ok($by_free, '<', 200, 'freeing a transfer does not wait');
	my ($by_end, $again) = evaluate("unit_http_abandon('$http/hang', false)", http("$http/"));
	cmp_ok($by_end, '<', 200, 'shutting down does not wait');
	like($again, qr/^ok/, 'and all can be started up again');
	($by_end) = evaluate("unit_http_abandon('https://127.0.0.1:$mute/', false)");
	cmp_ok($by_end, '<', 200, 'nor in a handshake');
	# How long it takes to be sent is the machine's.
	my $late = '';
	for (my $timeout = 250; $late eq '' && $timeout < 60_000; $timeout *= 2)
	{
		($late) = evaluate("unit_http_late('$http/', $timeout)");
	}
	like($late, qr/^ok sent=1 status=200 /, 'an answer that came in time counts, however late it is looked at');
	my ($many) = evaluate("unit_http_many('$http/', 64, 5000)");
	is($many, 64, '64 at once');
	is(join(' ', evaluate('unit_http_flooded(64, 2000, 100)')), 0, 'of those that always have more to say none outlasts its time');
}

# -- The exchange. --

{
	my $loop = sub {
		my ($auth, $more) = @_;
		return literal(qq({"auth_type":"oauth2_code","authorize_url":"$http/a","token_url":"$http/token","client_auth":"$auth"$more}));
	};
	my $refresh = sub {
		my ($definition, $path, $id, $secret, $token, @more) = @_;
		return 'unit_refresh(' . join(', ', $definition, literal("$http$path"), literal($id), literal($secret), literal($token), @more) . ')';
	};
	check_all('exchanges', (
		[ 'a refresh', $refresh->($loop->('post', ''), '/token', 'id', 's', 'rt'), qr/^sent=1 refreshed access=new refresh=next .*expires=60$/ ],
		[ 'hangs', $refresh->($loop->('post', ''), '/hang', 'id', 's', 'rt', 300), 'sent=1 unknown timeout' ],
		[ 'is redirected', $refresh->($loop->('post', ''), '/redirect', 'id', 's', 'rt'), 'sent=1 config redirect_refused' ],
		[ 'is throttled', $refresh->($loop->('post', ''), '/retry-seconds', 'id', 's', 'rt'), 'sent=1 throttled http_503 retry_after=17' ],
		[ 'an error that quotes the token', $refresh->($loop->('post', ''), '/quote', 'id', 's', '1//0gSECRET/token+value'), 'sent=1 config http_400' ],
		[ 'a whole that is too large', $refresh->($loop->('post', ''), '/huge', 'id', 's', 'rt'), 'sent=1 unknown too_large' ],
	));

	my $seen = sub {
		my ($auth, $more, @request) = @_;
		my @answers = evaluate($refresh->($loop->($auth, $more), '/record', @request), http("$http/last", q{method => 'GET'}, q{body => ''}));
		return $answers[1] =~ s/.*? body=//r;
	};
	like($seen->('post', '', 'i d', 's&=+ü', 'r/t+1'),
		qr{^POST /record .*\|Accept: application/json.*\|\|grant_type=refresh_token&refresh_token=r%2Ft%2B1&client_id=i\+d&client_secret=s%26%3D%2B%C3%BC$},
		'client_auth post');
	my $saw = $seen->('basic', '', 'i d:', 's&=+', 'rt');
	like($saw, qr/\|\|grant_type=refresh_token&refresh_token=rt$/, 'client_auth basic: nothing in the body');
	my $header = encode_base64('i+d%3A:s%26%3D%2B', '');
	like($saw, qr/\|Authorization: Basic \Q$header\E\|/, 'form-encoded before base64');
	$saw = $seen->('none', ',"extra_token_params":{"a b":"c&d","scope":"x"}', 'id', 's', 'rt');
	like($saw, qr/\|\|grant_type=refresh_token&refresh_token=rt&client_id=id&a\+b=c%26d&scope=x$/, 'client_auth none, further parameters');
	unlike($saw, qr/Authorization/, 'no Authorization');
}

close SERVER_IN;
$server->finish;

# -- The log. --

{
	my $log = slurp_file($node->logfile, $offset);
	unlike($log, qr/SECRET/, 'no secret in the log');
	unlike($log, qr/TRAP|PANIC|terminated by signal/, 'nothing crashed');
}

done_testing();
