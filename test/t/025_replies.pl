# What providers answer, by a table: for each reply the class, the code, what is
# stored of it, and when it is tried again.
#
# Each row has a connector, a client and a connection of its own; all of them
# are due at once, and the worker alone refreshes them.  Then each is refreshed
# once more, which shows which refresh token was kept, and that all that was not
# dead recovers.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Conduit::Cluster;
use Conduit::Provider;
use Encode ();
use JSON::PP ();
use List::Util qw(max min);
use MIME::Base64 qw(encode_base64);
use POSIX qw(strftime);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($true, $false, $null) = (JSON::PP::true, JSON::PP::false, undef);
my $canonical = JSON::PP->new->canonical->utf8;
my $provider = Conduit::Provider->start('scripted');
my $cluster = Conduit::Cluster->new('main', settings => <<"CONF");
conduit.max_response_size = '512kB'
CONF

# The stored token lives for an hour; a minute before its end all are due.
my $shift = 3540;
my $now = time + $shift;

# ---- the words of the table ----

my ($new_token, $new_refresh) = ('the-new-access-token', 'the-new-refresh-token');

# A JSON reply; one as it is written; one in another form; one of any bytes.
sub json  { my ($status, $object, @more) = @_; return { status => $status, json => $object, @more }; }
sub text  { my ($status, $text, $type) = @_; return { status => $status, body => $text, headers => { 'content-type' => $type // 'application/json' } }; }
sub form  { return text(@_, 'application/x-www-form-urlencoded'); }
sub bytes { my ($status, $bytes, $type) = @_; return { status => $status, body_base64 => encode_base64($bytes, ''), headers => { 'content-type' => $type // 'application/json' } }; }
sub error { my ($status, $error, $description) = @_; return json($status, { error => $error, defined $description ? (error_description => $description) : () }); }

# A token response, and the same with a lifetime that is left as it is written.
sub token    { return json(200, { access_token => $new_token, refresh_token => $new_refresh, @_ }); }
sub lifetime { return text(200, qq({"access_token":"$new_token","refresh_token":"$new_refresh","expires_in":$_[0]})); }

sub iso { my ($seconds, $format) = @_; return strftime($format // '%Y-%m-%dT%H:%M:%SZ', gmtime($now + $seconds)); }

sub http_date
{
	my @t = gmtime($_[0]);
	return sprintf('%s, %02d %s %04d %02d:%02d:%02d GMT', (qw(Sun Mon Tue Wed Thu Fri Sat))[ $t[6] ], $t[3],
		(qw(Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec))[ $t[4] ], $t[5] + 1900, @t[ 2, 1, 0 ]);
}

sub retry { my ($after, $reply) = @_; return { %$reply, headers => { %{ $reply->{headers} // {} }, 'retry-after' => $after } }; }

sub jwt
{
	my $payload = encode_base64($canonical->encode({@_}), '');
	$payload =~ tr{+/}{-_};
	$payload =~ s/=+$//;
	return "eyJhbGciOiJub25lIn0.$payload.c2ln";
}
my $jwt = jwt(exp => $now + 7200, iat => $now, sub => 'user-9');

my $ten_years = 315576000;
my $day = 86400;

# ---- the table ----

# [ title, expected, reply, fields of the connector ].  A reply may be a
# function of the grant that is refreshed.  What is expected is
# 'class code', perhaps with the seconds until the next attempt; or a hash:
#   expires          seconds from the reply (default: none)
#   refresh_expires  likewise, of the refresh token
#   scope, type      as stored (the stored grant has 'read write', Bearer)
#   extra            as vended
#   token, refresh   what is stored (default: $new_token, $new_refresh)
#   params, metadata of the connection
my $has_token = {};
my @table = (

	# -- tokens --

	[ 'a plain success', { expires => 3600, scope => 'a b' }, token(expires_in => 3600, token_type => 'bearer', scope => 'a b') ],
	[ 'no refresh token: the old one stays', { refresh => 'old' }, json(200, { access_token => $new_token }) ],
	[ 'an empty refresh token is none', { refresh => 'old' }, token(refresh_token => '') ],
	[ 'a null refresh token is none', { refresh => 'old' }, token(refresh_token => $null) ],
	[ '201 (Sentry)', $has_token, json(201, { token => $new_token, refreshToken => $new_refresh }), access_token_path => 'token', refresh_token_path => 'refreshToken' ],
	[ 'status 202', $has_token, { %{ token() }, status => 202 } ],
	[ 'status 299', $has_token, { %{ token() }, status => 299 } ],
	[ 'camelCase', { expires => 1800, scope => 'c' }, json(200, { accessToken => $new_token, refreshToken => $new_refresh, expiresIn => 1800, tokenType => 'Bearer', scope => 'c' }) ],
	[ 'CamelCase (plentymarkets)', { expires => 1800 }, json(200, { AccessToken => $new_token, RefreshToken => $new_refresh, ExpiresIn => 1800 }) ],
	[ 'kebab-case', $has_token, json(200, { 'access-token' => $new_token, 'refresh-token' => $new_refresh }) ],
	[ 'two spellings: the exact one counts', $has_token, json(200, { accessToken => 'another-access-token', access_token => $new_token, refresh_token => $new_refresh }) ],
	[ 'two spellings, the exact one null', $has_token, json(200, { access_token => $null, accessToken => $new_token, refresh_token => $new_refresh }) ],
	[ 'form-encoded (GitHub)', { expires => 28800, scope => 'repo gist', refresh_expires => 15897600 },
		form(200, "access_token=$new_token&expires_in=28800&refresh_token=$new_refresh&refresh_token_expires_in=15897600&scope=repo%2Cgist&token_type=bearer") ],
	[ 'form-encoded, as text/plain', { expires => 60 * 60 }, text(200, "access_token=$new_token&refresh_token=$new_refresh&expires_in=3600\r\n", 'text/plain; charset=utf-8') ],
	[ 'form-encoded, an escaped token', { token => 'a/b+c=d e&f' }, form(200, "access_token=a%2Fb%2Bc%3Dd+e%26f&refresh_token=$new_refresh") ],
	[ 'form-encoded (old Facebook)', { expires => 5183999, refresh => 'old' }, text(200, "access_token=$new_token&expires=5183999", 'text/plain') ],
	[ 'JSON as text/html', $has_token, text(200, qq({"access_token":"$new_token","refresh_token":"$new_refresh"}), 'text/html') ],
	[ 'JSON as text/javascript', $has_token, text(200, qq({"access_token":"$new_token","refresh_token":"$new_refresh"}), 'text/javascript') ],
	[ 'JSON as a form', $has_token, form(200, qq({"access_token":"$new_token","refresh_token":"$new_refresh"})) ],
	[ 'JSON as no type at all', $has_token, text(200, qq({"access_token":"$new_token","refresh_token":"$new_refresh"}), '') ],
	[ 'JSON behind a byte order mark', $has_token, bytes(200, qq(\xef\xbb\xbf{"access_token":"$new_token","refresh_token":"$new_refresh"})) ],
	[ 'JSON between blanks', $has_token, text(200, qq(\r\n\t {"access_token" : "$new_token" ,\n"refresh_token":\n"$new_refresh"}\n\n)) ],
	[ 'JSON in chunks', $has_token, { %{ token() }, chunked => $true } ],
	[ 'JSON, byte by byte', $has_token, { %{ token() }, drip_ms => 1 } ],
	[ 'escapes in a token', { token => "a/b\"c\\d\x{e9}" }, text(200, qq({"access_token":"a\\/b\\"c\\\\d\\u00e9","refresh_token":"$new_refresh"})) ],
	[ 'a token of 8 kB (Microsoft)', { token => 'm' x 8192 }, token(access_token => 'm' x 8192) ],
	[ 'the longest token', { token => 'm' x 65536 }, token(access_token => 'm' x 65536) ],
	[ 'a refresh token of 4 kB', { refresh => 'r' x 4096 }, token(refresh_token => 'r' x 4096) ],
	[ 'error null beside a token', $has_token, token(error => $null) ],
	[ 'an error beside a token: the token counts', $has_token, token(error => 'scope_changed') ],
	[ 'ok true (Slack)', { expires => 43200, extra => { ok => $true, team => { id => 'T1' } } }, token(ok => $true, expires_in => 43200, team => { id => 'T1' }) ],

	# -- lifetimes --

	[ 'a lifetime as string (PayPal)', { expires => 32400 }, token(expires_in => '32400') ],
	[ 'a lifetime with a fraction', { expires => 3600 }, lifetime('3599.6') ],
	[ 'a lifetime in exponents', { expires => 3600 }, lifetime('3.6e3') ],
	[ 'lifetime 0 (Mailchimp): no end', { scope => 'read write' }, token(expires_in => 0, scope => $null) ],
	[ 'lifetime 0 outweighs the default', $has_token, token(expires_in => 0), access_token_lifetime_s => 3600 ],
	[ 'lifetime -1', $has_token, lifetime('-1') ],
	[ 'lifetime -1e308', $has_token, lifetime('-1e308') ],
	[ 'lifetime 1e308', { expires => $ten_years }, lifetime('1e308') ],
	[ 'lifetime 99999999999', { expires => $ten_years }, lifetime('99999999999') ],
	[ 'lifetime 2147483647', { expires => min($ten_years, 2147483647 - $now) }, lifetime('2147483647') ],
	[ 'lifetime 1e999 is no number: the default', { expires => 7200 }, lifetime('1e999'), access_token_lifetime_s => 7200 ],
	[ 'lifetime "NaN"', $has_token, lifetime('"NaN"') ],
	[ 'lifetime "inf"', $has_token, lifetime('"inf"') ],
	[ 'lifetime "0x10"', $has_token, lifetime('"0x10"') ],
	[ 'lifetime ""', $has_token, lifetime('""') ],
	[ 'lifetime null', { expires => 7200 }, lifetime('null'), access_token_lifetime_s => 7200 ],
	[ 'lifetime true', $has_token, lifetime('true') ],
	[ 'a lifetime that is an object', $has_token, lifetime('{"seconds":60}') ],
	[ 'a lifetime that is an array', $has_token, lifetime('[60]') ],
	[ 'lifetime "1h"', { expires => 3600 }, lifetime('"1h"') ],
	[ 'lifetime "2 days"', { expires => 2 * $day }, lifetime('"2 days"') ],
	[ 'lifetime "1h30m0s"', { expires => 5400 }, lifetime('"1h30m0s"') ],
	[ 'a lifetime that is a time', { expires => 5000 }, token(expires_in => $now + 5000) ],
	[ 'a lifetime that is a date', { expires => 5000 }, token(expires_in => iso(5000)) ],
	[ 'milliseconds (Fiserv)', { expires => 3600, refresh_expires => 7200 }, token(expires_in => 3600000, refresh_expires_in => 7200000), expires_unit => 'ms' ],
	[ 'a short lifetime', { expires => 1200 }, token(expires_in => 1200), refresh_lead_s => 60 ],
	[ 'a lifetime of five seconds', { expires => 5 }, token(expires_in => 5) ],
	[ 'expires_at in ISO 8601 (Sentry)', { expires => 4000 }, token(expiresAt => iso(4000, '%Y-%m-%dT%H:%M:%S.123456Z')) ],
	[ 'expires_at with an offset', { expires => 4000 }, token(expires_at => iso(4000 + 5400, '%Y-%m-%dT%H:%M:%S+01:30')) ],
	[ 'expires_at without a zone', { expires => 4000 }, token(expires_at => iso(4000, '%Y-%m-%d %H:%M:%S')) ],
	[ 'expires_at in seconds', { expires => 4000 }, token(expires_at => $now + 4000) ],
	[ 'expires_at as string', { expires => 4000 }, token(expires_at => '' . ($now + 4000)) ],
	[ 'expires_at in milliseconds', { expires => 4000 }, token(expires_at => ($now + 4000) * 1000) ],
	[ 'expires_at in microseconds', { expires => 4000 }, token(expires_at => ($now + 4000) * 1000000) ],
	[ 'expires_at that is a lifetime', { expires => 4000 }, token(expires_at => 4000) ],
	[ 'expires_at in the past is no word of a new token', { expires => 7200 }, token(expires_at => $now - 4000), access_token_lifetime_s => 7200 ],
	[ 'expires_at in the far future', { expires => $ten_years }, token(expires_at => 99999999999) ],
	[ 'expires_at 0', $has_token, token(expires_at => 0) ],
	[ 'expires_at that is none', { expires => 7200 }, token(expires_at => '2030-02-30T00:00:00Z'), access_token_lifetime_s => 7200 ],
	[ 'expires_in goes before expires_at', { expires => 1000 }, token(expires_in => 1000, expires_at => $now + 4000) ],
	[ 'expires_path, a time (Clover)', { expires => 1800, refresh_expires => 9000, extra => $null },
		token(access_token_expiration => $now + 1800, refresh_token_expiration => $now + 9000),
		expires_path => 'access_token_expiration', expires_kind => 'at', refresh_expires_path => 'refresh_token_expiration' ],
	[ 'expires_path, a lifetime', { expires => 1800 }, token(limits => { ttl => 1800 }, expires_in => 60), expires_path => 'limits.ttl' ],
	[ 'expires_path, and nothing there', { expires => 1500 }, token(expires_in => 1500), expires_path => 'limits.ttl' ],
	[ 'no expiry: the default (Salesforce)', { expires => 7200, extra => { instance_url => 'https://eu1.my.salesforce.com', signature => 'c2ln' } },
		token(issued_at => '1278448832702', instance_url => 'https://eu1.my.salesforce.com', signature => 'c2ln'), access_token_lifetime_s => 7200 ],
	[ 'the exp of a JWT', { token => $jwt, expires => 7200 }, token(access_token => $jwt) ],
	[ 'a JWT goes before the default', { token => $jwt, expires => 7200 }, token(access_token => $jwt), access_token_lifetime_s => 60 ],
	[ 'a JWT that has expired', { token => jwt(exp => 1000000000), expires => 600 }, token(access_token => jwt(exp => 1000000000)), access_token_lifetime_s => 600 ],
	[ 'a JWT without exp', { token => jwt(sub => 'x') }, token(access_token => jwt(sub => 'x')) ],
	[ 'a JWT whose exp is junk', { token => jwt(exp => 'soon') }, token(access_token => jwt(exp => 'soon')) ],
	[ 'two dots, but no JWT', { token => 'ya29.a0AfB_.!!' }, token(access_token => 'ya29.a0AfB_.!!') ],

	# -- how long the refresh token lives --

	[ 'x_refresh_token_expires_in (QuickBooks)', { expires => 3600, refresh_expires => 8726400 }, token(expires_in => 3600, x_refresh_token_expires_in => 8726400) ],
	[ 'refresh_expires_in 0 (Keycloak): no end', $has_token, token(refresh_expires_in => 0), refresh_token_lifetime_s => 3600 ],
	[ 'refresh_token_expires_at', { refresh_expires => 5000 }, token(refresh_token_expires_at => iso(5000)) ],
	[ 'a refresh token that is a JWT', { refresh => $jwt, refresh_expires => 7200 }, token(refresh_token => $jwt), refresh_token_lifetime_s => 100000 ],
	[ 'the connector knows how long it lives', { refresh_expires => 9 * $day }, token(), refresh_token_lifetime_s => 9 * $day ],
	[ 'how long it may lie unused', { refresh_expires => 5 * $day }, token(), refresh_idle_limit_s => 5 * $day, refresh_token_lifetime_s => 9 * $day ],
	[ 'used again, it may lie again', { refresh_expires => 5 * $day, refresh => 'old' }, json(200, { access_token => $new_token }), refresh_idle_limit_s => 5 * $day ],
	[ 'better known than by its idleness', { refresh_expires => 5000 }, token(refresh_token_expires_in => 5000), refresh_idle_limit_s => 100 ],

	# -- type and scope --

	[ 'an odd token type (eBay)', $has_token, token(token_type => 'User Access Token') ],
	[ 'another token type', { type => 'DPoP' }, token(token_type => 'DPoP') ],
	[ 'a token type that is none', $has_token, token(token_type => 7) ],
	[ 'token_type_path', { type => 'MAC' }, token(meta => { kind => 'MAC' }), token_type_path => 'meta.kind' ],
	[ 'scopes as an array', { scope => 'a b c' }, token(scope => [qw(a b c)]) ],
	[ 'scopes with commas (Slack)', { scope => 'a:read b:write' }, token(scope => 'a:read,b:write'), scope_separator => 'comma' ],
	[ 'scopes with pluses', { scope => 'a b' }, token(scope => 'a+b'), scope_separator => 'plus' ],
	[ 'no scope left (GitHub App)', { scope => '' }, token(scope => '') ],
	[ 'scope null: as it was', { scope => 'read write' }, token(scope => $null) ],
	[ 'a scope of a wrong type', { scope => 'read write' }, token(scope => { a => 1 }) ],
	[ 'scopes, not all of them texts', { scope => 'read write' }, token(scope => [ 'a', 1 ]) ],
	[ 'a scope with a line feed', { scope => 'read write' }, token(scope => "a\nb") ],
	[ 'a scope of 9 kB', { scope => 'read write' }, token(scope => 's' x 9000) ],
	[ 'scope_path', { scope => 'x y' }, token(granted => { list => [ 'x', 'y' ] }), scope_path => 'granted.list' ],

	# -- what else there is --

	[ 'the rest is extra', { extra => { instance_url => 'https://x.example', n => { k => [ 1, $true, $null ] } } }, token(instance_url => 'https://x.example', n => { k => [ 1, $true, $null ] }) ],
	[ 'but nothing named like a secret', { extra => { user => { keep => 1 } } },
		token(id_token => 'i', idToken => 'i', client_secret => 'c', user => { keep => 1, refreshToken => 'r', old_refresh_token => 'r', ID_TOKEN => 'i' }, only => { refresh_token => 'r' }) ],
	[ 'nor what holds a token of the grant', { extra => { l => [ 'x' ], keep => 1 } },
		token(copy => $new_token, link => "https://x.example/?t=$new_refresh", l => [ $new_token, 'x', "a $new_refresh b" ], $new_token => 1, keep => 1) ],
	[ 'numbers that jsonb cannot hold', { extra => { n => '1e999999', m => '1' x 500 } }, text(200, qq({"access_token":"$new_token","refresh_token":"$new_refresh","n":1e999999,"m":) . ('1' x 500) . '}') ],
	[ 'texts of all the world', { extra => { n => "\x{1F600} \x{e9} \x{4e2d}", s => "\x{1F4A9}" } }, text(200, qq({"access_token":"$new_token","refresh_token":"$new_refresh","n":"\\ud83d\\ude00 \\u00e9 \\u4e2d","s":"\\ud83d\\udca9"})) ],
	[ 'control characters', { extra => { n => "a\x01\x1f\x7fb" } }, text(200, qq({"access_token":"$new_token","refresh_token":"$new_refresh","n":"a\\u0001\\u001f\x7fb"})) ],
	[ 'as deep as it goes', { extra => { n => nested(32) } }, token(n => nested(32)) ],
	[ 'extra of 60 kB', { extra => { n => 'x' x 60000 } }, token(n => 'x' x 60000) ],
	[ 'a member with an empty name', { extra => { '' => 1 } }, token('' => 1) ],

	# -- tokens elsewhere, by path --

	[ 'Slack: the token of the user', { token => 'xoxe.xoxp-user', refresh => 'xoxe-1-user', expires => 43200, scope => 'chat:write files:read', type => 'user',
			extra => { ok => $true, access_token => 'xoxe.xoxb-bot', scope => 'bot', token_type => 'bot', expires_in => 600, authed_user => { id => 'U1' } } },
		json(200, { ok => $true, access_token => 'xoxe.xoxb-bot', token_type => 'bot', scope => 'bot', expires_in => 600, refresh_token => 'xoxe-1-bot',
				authed_user => { id => 'U1', access_token => 'xoxe.xoxp-user', refresh_token => 'xoxe-1-user', expires_in => 43200, scope => 'chat:write,files:read', token_type => 'user' } }),
		access_token_path => 'authed_user.access_token', scope_separator => 'comma' ],
	[ 'Slack: no token of the user is no token', 'unknown no_access_token', json(200, { ok => $true, access_token => 'xoxb-bot', refresh_token => 'xoxe-1-bot', authed_user => { id => 'U1' } }),
		access_token_path => 'authed_user.access_token' ],
	[ "Slack: nor is the bot's refresh token the user's", { token => 'xoxp-user', refresh => 'old', extra => { access_token => 'xoxb-bot', authed_user => { id => 'U1' } } },
		json(200, { access_token => 'xoxb-bot', refresh_token => 'xoxe-1-bot', authed_user => { id => 'U1', access_token => 'xoxp-user' } }), access_token_path => 'authed_user.access_token' ],
	[ 'TikTok Business: within data', { expires => 86400, extra => { code => 0, message => 'OK', data => { advertiser_ids => ['1'] } } },
		json(200, { code => 0, message => 'OK', data => { access_token => $new_token, refresh_token => $new_refresh, expires_in => 86400, advertiser_ids => ['1'] } }),
		access_token_path => 'data.access_token', success_path => 'code', success_value => 0 ],
	[ 'Withings: within body', { expires => 10800, scope => 'user.info user.metrics', extra => { status => 0, body => { userid => '363' } } },
		json(200, { status => 0, body => { userid => '363', access_token => $new_token, refresh_token => $new_refresh, expires_in => 10800, scope => 'user.info,user.metrics' } }),
		access_token_path => 'body.access_token', success_path => 'status', success_value => 0 ],
	[ 'Shopline: within data, a time', { expires => 36000, extra => { code => 200 } },
		json(200, { code => 200, data => { accessToken => $new_token, refreshToken => $new_refresh, expireTime => iso(36000, '%Y-%m-%dT%H:%M:%S.000+00:00') } }),
		access_token_path => 'data.accessToken', expires_path => 'data.expireTime', expires_kind => 'at' ],
	[ 'GitHub App: an installation token', { expires => 3600, refresh => 'old', extra => { permissions => { contents => 'read' } } },
		json(201, { token => $new_token, expires_at => iso(3600), permissions => { contents => 'read' } }), access_token_path => 'token' ],
	[ 'Braintree: within credentials', { expires => 86400, scope => 'shared_vault_transactions' },
		json(200, { credentials => { accessToken => $new_token, refreshToken => $new_refresh, expiresAt => iso(86400), tokenType => 'bearer', scope => 'shared_vault_transactions' } }),
		access_token_path => 'credentials.accessToken' ],
	[ 'a login that answers a jwt', { token => $jwt, expires => 7200, refresh => 'old' }, json(200, { jwt => $jwt }), access_token_path => 'jwt' ],
	[ 'in an array', { expires => 600 }, json(200, { tokens => [ { access_token => $new_token, refresh_token => $new_refresh, expires_in => 600 }, { access_token => 'x' } ] }),
		access_token_path => 'tokens.0.access_token', extra_ok => 1 ],
	[ 'each elsewhere', { expires => 900, refresh_expires => 9000, scope => 's', type => 'T', extra => $null },
		json(200, { a => { t => $new_token }, b => { r => $new_refresh, x => 9000 }, c => { e => 900, s => 's', k => 'T' } }),
		access_token_path => 'a.t', refresh_token_path => 'b.r', refresh_expires_path => 'b.x', expires_path => 'c.e', scope_path => 'c.s', token_type_path => 'c.k' ],
	[ 'a path that leads to an object', 'unknown bad_token', json(200, { data => { access_token => $new_token } }), access_token_path => 'data' ],
	[ 'a path that leads nowhere, and a usual name', 'unknown no_access_token', token(), access_token_path => 'data.token' ],
	[ 'a path through a text', 'unknown no_access_token', json(200, { data => 'x.y.z' }), access_token_path => 'data.access_token' ],

	# -- success predicates --

	[ 'success: a text', { extra => { result => '0000', msg => 'OK' } }, token(result => '0000', msg => 'OK'), success_path => 'result', success_value => '0000' ],
	[ 'success: a number for a text', { extra => { errcode => 0 } }, token(errcode => 0), success_path => 'errcode', success_value => '0' ],
	[ 'success: true', { extra => { success => $true } }, token(success => $true), success_path => 'success', success_value => $true ],
	[ 'no success: another text', 'config 5006', json(200, { result => '5006', access_token => $new_token }), success_path => 'result', success_value => '0000', error_path => 'result' ],
	[ 'no success: nothing there', 'config http_200', token(), success_path => 'result', success_value => '0000' ],
	[ 'no success: false', 'config http_200', token(success => $false), success_path => 'success', success_value => $true ],
	[ 'no success: "true" is not true', 'config http_200', token(success => 'true'), success_path => 'success', success_value => $true ],
	[ 'no success, and a code that is dead', 'dead invalid_refresh_token', json(200, { code => 40110, message => 'refresh token has expired' }), success_path => 'code', success_value => 0, error_path => 'code' ],
	[ 'ok false is no refusal where another predicate holds', { extra => { ok => $false, result => 0 } }, token(ok => $false, result => 0), success_path => 'result', success_value => 0 ],

	# -- what extends what is stored --

	[ 'Coros: the same token lives on', { token => 'old', refresh => 'old', expires => 2592000, extra => { result => '0000', message => 'OK' } }, json(200, { result => '0000', message => 'OK' }),
		success_path => 'result', success_value => '0000', refresh_extends => $true, access_token_lifetime_s => 2592000, error_path => 'result' ],
	[ 'Coros: no success', 'config 5006', json(200, { result => '5006', message => 'x' }), success_path => 'result', success_value => '0000', refresh_extends => $true, access_token_lifetime_s => 2592000, error_path => 'result' ],
	[ 'extended, for as long as it says', { token => 'old', refresh => 'old', expires => 5000 }, json(200, { expires_in => 5000 }), refresh_extends => $true, access_token_lifetime_s => 7200 ],
	[ 'extended, with another refresh token', { token => 'old', expires => 5000 }, json(200, { expires_in => 5000, refresh_token => $new_refresh }), refresh_extends => $true, access_token_lifetime_s => 7200 ],
	[ 'or replaced', { expires => 5000 }, token(expires_in => 5000), refresh_extends => $true, access_token_lifetime_s => 7200 ],
	[ 'not extended by an error', 'dead invalid_grant', error(200, 'invalid_grant'), refresh_extends => $true, access_token_lifetime_s => 7200 ],
	[ 'not extended by nothing', 'unknown empty', text(200, ''), refresh_extends => $true, access_token_lifetime_s => 7200 ],
	[ 'not extended by a page', 'transient html', text(200, '<p>', 'text/html'), refresh_extends => $true, access_token_lifetime_s => 7200 ],
	[ 'Instagram: the access token renews itself', { expires => 5184000, refresh => $new_token, refresh_expires => 5184000 }, json(200, { access_token => $new_token, token_type => 'bearer', expires_in => 5184000 }), refresh_credential => 'access_token' ],
	[ 'and no refresh token beside it counts', { expires => 5184000, refresh => $new_token, refresh_expires => 5184000 }, token(expires_in => 5184000), refresh_credential => 'access_token' ],

	# -- what belongs to the connection --

	[ 'Zoho: the host of the API', { refresh => 'old', expires => 3600, params => { api_domain => 'www.zohoapis.eu' }, extra => { api_domain => 'www.zohoapis.eu' } },
		json(200, { access_token => $new_token, api_domain => 'www.zohoapis.eu', token_type => 'Bearer', expires_in => 3600 }),
		params => { api_domain => { pattern => '^www\.zohoapis\.[a-z.]+$' } }, api_base_url => 'https://{api_domain}', response_params => { api_domain => 'api_domain' } ],
	[ 'a host that does not match its pattern', { params => {}, extra => { api_domain => 'evil.example/www.zohoapis.eu' } }, token(api_domain => 'evil.example/www.zohoapis.eu'),
		params => { api_domain => { pattern => '^www\.zohoapis\.[a-z.]+$' } }, api_base_url => 'https://{api_domain}', response_params => { api_domain => 'api_domain' } ],
	[ 'a host that is no text', { params => {} }, token(api_domain => ['www.zohoapis.eu']),
		params => { api_domain => { pattern => '^.*$' } }, api_base_url => 'https://{api_domain}', response_params => { api_domain => 'api_domain' }, extra_ok => 1 ],
	[ 'a number for a variable', { params => { shard => '12' } }, token(shard => 12),
		params => { shard => { pattern => '^[0-9]+$' } }, api_base_url => 'https://api{shard}.example.com', response_params => { shard => 'shard' }, extra_ok => 1 ],
	[ 'Gong, Bullhorn: metadata', { metadata => { host => 'https://eu.api.gong.io', rest => { url => 'https://rest9' } } }, token(api_base_url_for_customer => 'https://eu.api.gong.io', rest => { url => 'https://rest9' }),
		response_metadata => { host => 'api_base_url_for_customer', rest => 'rest', nothing => 'nowhere.at.all' }, extra_ok => 1 ],
	[ 'Teamwork: nested metadata', { metadata => { api => 'https://x.teamwork.com/' } }, token(installation => { apiEndPoint => 'https://x.teamwork.com/', name => 'x' }), response_metadata => { api => 'installation.apiEndPoint' }, extra_ok => 1 ],
	[ 'metadata from an id_token', { metadata => { user => 'user-9' } }, token(id_token => $jwt), response_metadata => { user => 'id_token.sub' } ],
	[ 'metadata never holds a token', { metadata => { keep => { a => 1 } } },
		token(raw => $new_token, link => "x$new_refresh", keep => { a => 1, access_token => 'of-another', password => 'p', Secret => 's', b => $new_token }),
		response_metadata => { b => 'raw', c => 'link', keep => 'keep' }, extra_ok => 1 ],
	[ 'nor what was sent for it, which extra does not hold either', { metadata => {}, extra => $null },
		sub { token(before => { was => "<$_[0]{refresh_token}>" }, keep => 1) }, response_metadata => { before => 'before', keep => 'keep' } ],
	[ 'metadata of 20 kB is left out', { metadata => {} }, token(big => 'x' x 20000), response_metadata => { big => 'big' }, extra_ok => 1 ],
	[ 'metadata, a number beyond jsonb', { metadata => { n => '1e999999' } }, text(200, qq({"access_token":"$new_token","refresh_token":"$new_refresh","n":1e999999})), response_metadata => { n => 'n' }, extra_ok => 1 ],
	[ "whose account it is, is not the refresh's to say", { account => $null }, token(user => 'somebody'), account_path => 'user', extra_ok => 1 ],

	# -- a success that nobody can read --

	[ 'nothing with 200', 'unknown empty', text(200, '') ],
	[ 'nothing with 201', 'unknown empty', text(201, '') ],
	[ 'nothing with 204', 'unknown empty', { status => 204, body => '' } ],
	[ 'blanks', 'unknown empty', text(200, "\r\n \t") ],
	[ 'a byte order mark', 'unknown empty', bytes(200, "\xef\xbb\xbf") ],
	[ 'truncated', 'unknown bad_json', text(200, qq({"access_token":"$new_token","refresh_to)) ],
	[ 'more behind it', 'unknown bad_json', text(200, qq({"access_token":"$new_token"}{})) ],
	[ 'duplicate keys', 'unknown bad_json', text(200, qq({"access_token":"$new_token","access_token":"b"})) ],
	[ 'duplicate keys, deep inside', 'unknown bad_json', text(200, qq({"access_token":"$new_token","a":[{"b":1,"b":2}]})) ],
	[ 'duplicate keys, one escaped', 'unknown bad_json', text(200, qq({"access_token":"$new_token","\\u0061ccess_token":"b"})) ],
	[ 'single quotes', 'unknown bad_json', text(200, "{'access_token':'$new_token'}") ],
	[ 'a comment', 'unknown bad_json', text(200, qq({"access_token":"$new_token" /* new */})) ],
	[ 'a trailing comma', 'unknown bad_json', text(200, qq({"access_token":"$new_token",})) ],
	[ 'NaN', 'unknown bad_json', text(200, qq({"access_token":"$new_token","expires_in":NaN})) ],
	[ 'not UTF-8', 'unknown bad_json', bytes(200, qq({"access_token":"\xff\xfe"})) ],
	[ 'Latin-1', 'unknown bad_json', bytes(200, qq({"access_token":"$new_token","name":"Jos\xe9"})) ],
	[ 'overlong UTF-8', 'unknown bad_json', bytes(200, qq({"access_token":"\xc0\xaf"})) ],
	[ 'a surrogate in UTF-8', 'unknown bad_json', bytes(200, qq({"access_token":"\xed\xa0\x80"})) ],
	[ 'UTF-16', 'unknown bad_json', bytes(200, join("\0", split(//, '{"access_token":"a"}'), '')) ],
	[ 'a NUL', 'unknown bad_json', bytes(200, qq({"access_token":"a\0b"})) ],
	[ 'an escaped NUL', 'unknown bad_json', text(200, '{"access_token":"a\u0000b"}') ],
	[ 'a lone high surrogate', 'unknown bad_json', text(200, '{"access_token":"a\ud800b"}') ],
	[ 'a lone low surrogate', 'unknown bad_json', text(200, '{"access_token":"a\udc00b"}') ],
	[ 'surrogates the wrong way round', 'unknown bad_json', text(200, '{"access_token":"a\udc00\ud800b"}') ],
	[ 'a bare line feed in a string', 'unknown bad_json', text(200, qq({"access_token":"a\nb"})) ],
	[ 'an escape that is none', 'unknown bad_json', text(200, '{"access_token":"a\qb"}') ],
	[ 'an array', 'unknown bad_json', json(200, [ { access_token => $new_token } ]) ],
	[ 'a string', 'unknown bad_json', text(200, qq("$new_token")) ],
	[ 'a number', 'unknown bad_json', text(200, '42') ],
	[ 'true', 'unknown bad_json', text(200, 'true') ],
	[ 'null', 'unknown bad_json', text(200, 'null') ],
	[ 'very deep', 'unknown bad_json', text(200, '{"a":' x 20000) ],
	[ 'very deep, and whole', 'unknown bad_json', text(200, ('{"a":' x 5000) . '1' . ('}' x 5000)) ],
	[ 'one level too deep', 'unknown bad_json', token(n => nested(33)) ],
	[ 'a form that says JSON', 'unknown bad_json', text(200, "access_token=$new_token") ],
	[ 'a form with a bad escape', 'unknown bad_json', form(200, 'access_token=%zz') ],
	[ 'a form with a NUL', 'unknown bad_json', form(200, 'access_token=a%00b') ],
	[ 'a form that is not UTF-8', 'unknown bad_json', form(200, 'access_token=%ff') ],
	[ 'a form, twice the same', 'unknown bad_json', form(200, "access_token=$new_token&access_token=b") ],
	[ 'a form without a value', 'unknown bad_json', form(200, "access_token=$new_token&flag") ],
	[ 'words', 'unknown bad_json', text(200, 'OK, done.', 'text/plain') ],
	[ 'a picture', 'unknown bad_json', bytes(200, "\x89PNG\r\n\x1a\n\0\0\0\rIHDR", 'image/png') ],
	[ 'no token', 'unknown no_access_token', json(200, { token_type => 'Bearer' }) ],
	[ 'an empty object', 'unknown no_access_token', json(200, {}) ],
	[ 'a refresh token alone', 'unknown no_access_token', json(200, { refresh_token => $new_refresh }) ],
	[ 'an empty token', 'unknown no_access_token', token(access_token => '') ],
	[ 'a null token', 'unknown no_access_token', token(access_token => $null) ],
	[ 'a token that is a number', 'unknown bad_token', token(access_token => 7) ],
	[ 'a token that is true', 'unknown bad_token', token(access_token => $true) ],
	[ 'a token that is an object', 'unknown bad_token', token(access_token => { value => 'a' }) ],
	[ 'a token that is an array', 'unknown bad_token', token(access_token => ['a']) ],
	[ 'a token with a line feed', 'unknown bad_token', token(access_token => "a\nb") ],
	[ 'a token with a tab', 'unknown bad_token', token(access_token => "a\tb") ],
	[ 'a refresh token with a DEL', 'unknown bad_token', token(refresh_token => "a\x7f") ],
	[ 'a refresh token that is a number', 'unknown bad_token', token(refresh_token => 7) ],
	[ 'a token too long', 'unknown bad_token', token(access_token => 'm' x 65537) ],
	[ 'a form with a line feed in the token', 'unknown bad_token', form(200, 'access_token=a%0Ab') ],
	[ 'a body that is too large', 'unknown too_large', { %{ token() }, huge => 600_000 } ],
	[ 'a status beside nothing', 'unknown no_access_token', json(200, { status => 'ok' }) ],
	[ 'an odd error', 'unknown no_access_token', json(200, { error => $true }) ],
	[ 'a page', 'transient html', text(200, '<!DOCTYPE html><title>Log in</title>', 'text/html') ],
	[ 'a page that says JSON', 'transient html', text(200, "\n<html>") ],
	[ 'XML', 'transient html', text(200, '<?xml version="1.0"?><error/>', 'text/xml') ],

	# -- refusals with 200 --

	[ 'GitHub: bad_refresh_token', 'dead bad_refresh_token', error(200, 'bad_refresh_token', 'The refresh token passed is incorrect or expired.') ],
	[ 'GitHub, form-encoded', 'dead bad_refresh_token', form(200, 'error=bad_refresh_token&error_description=The+refresh+token+passed+is+incorrect+or+expired.') ],
	[ 'GitHub: the client', 'config incorrect_client_credentials', error(200, 'incorrect_client_credentials') ],
	[ 'GitHub: a code of no meaning here', 'config bad_verification_code', error(200, 'bad_verification_code') ],
	[ 'Slack: invalid_refresh_token', 'dead invalid_refresh_token', json(200, { ok => $false, error => 'invalid_refresh_token' }) ],
	[ 'Slack: token_revoked', 'dead token_revoked', json(200, { ok => $false, error => 'token_revoked' }) ],
	[ 'Slack: token_expired', 'dead token_expired', json(200, { ok => $false, error => 'token_expired' }) ],
	[ 'Slack: account_inactive', 'dead account_inactive', json(200, { ok => $false, error => 'account_inactive' }) ],
	[ 'Slack: bad_client_secret', 'config bad_client_secret', json(200, { ok => $false, error => 'bad_client_secret' }) ],
	[ 'Slack: ratelimited', 'throttled ratelimited', json(200, { ok => $false, error => 'ratelimited' }) ],
	[ 'Slack: ratelimited, until', 'throttled ratelimited 30 33.1', retry(30, json(200, { ok => $false, error => 'ratelimited' })) ],
	[ 'Slack: fatal_error', 'transient fatal_error', json(200, { ok => $false, error => 'fatal_error' }) ],
	[ 'Slack: without a word', 'config http_200', json(200, { ok => $false }) ],
	[ 'Slack: not ok beside a token', 'config missing_scope', token(ok => $false, error => 'missing_scope') ],
	[ 'HubSpot: in status, with 200', 'dead BAD_REFRESH_TOKEN', json(200, { status => 'BAD_REFRESH_TOKEN', message => 'missing or invalid refresh token' }) ],
	[ 'Zoho: invalid_code', 'dead invalid_code', json(200, { error => 'invalid_code' }), dead_errors => ['invalid_code'] ],
	[ 'Zoho: invalid_client', 'config invalid_client', json(200, { error => 'invalid_client' }), dead_errors => ['invalid_code'] ],
	[ 'Withings: an invalid refresh token', 'dead 503', json(200, { status => 503, body => {}, error => 'Invalid Params: invalid refresh_token' }),
		access_token_path => 'body.access_token', success_path => 'status', success_value => 0, error_path => 'status', error_description_path => 'error', error_phrases => { 'invalid refresh_token' => 'dead' } ],
	[ 'Withings: other params', 'config 503', json(200, { status => 503, body => {}, error => 'Invalid Params: invalid nonce' }),
		access_token_path => 'body.access_token', success_path => 'status', success_value => 0, error_path => 'status', error_description_path => 'error', error_phrases => { 'invalid refresh_token' => 'dead' } ],
	[ 'Withings: too many requests', 'throttled 601', json(200, { status => 601, error => 'Too Many Request' }),
		success_path => 'status', success_value => 0, error_path => 'status', error_codes => { 601 => 'throttled' } ],
	[ 'TikTok Business: a code for dead', 'dead 40105', json(200, { code => 40105, message => 'Access token is incorrect or has been revoked.', data => {} }),
		access_token_path => 'data.access_token', success_path => 'code', success_value => 0, error_path => 'code', error_codes => { 40105 => 'dead', 40100 => 'throttled', 50000 => 'transient' } ],
	[ 'TikTok Business: and one for not now', 'throttled 40100', json(200, { code => 40100, message => 'Too many requests.', data => {} }),
		access_token_path => 'data.access_token', success_path => 'code', success_value => 0, error_path => 'code', error_codes => { 40105 => 'dead', 40100 => 'throttled', 50000 => 'transient' } ],
	[ 'an error object with 200', 'config http_200', json(200, { error => { message => 'no' } }) ],
	[ 'errors with 200', 'dead invalid_grant', json(200, { errors => [ { code => 'invalid_grant' } ] }) ],

	# -- providers and their words --

	[ 'Google: revoked', 'dead invalid_grant', error(400, 'invalid_grant', 'Token has been expired or revoked.') ],
	[ 'Google: a clock is wrong', 'config invalid_grant', error(400, 'invalid_grant', 'Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim.') ],
	[ 'Google: iat and exp', 'config invalid_grant', error(400, 'invalid_grant', 'Check your iat and exp values in the JWT claim.') ],
	[ 'Google Identity: INVALID_REFRESH_TOKEN', 'dead INVALID_REFRESH_TOKEN', json(400, { error => { code => 400, message => 'INVALID_REFRESH_TOKEN', status => 'INVALID_ARGUMENT' } }) ],
	[ 'Google Identity: TOKEN_EXPIRED', 'dead TOKEN_EXPIRED', json(400, { error => { code => 400, message => 'TOKEN_EXPIRED', errors => [ { message => 'TOKEN_EXPIRED', domain => 'global', reason => 'invalid' } ] } }) ],
	[ 'Google Identity: another', 'config INVALID_ARGUMENT', json(400, { error => { code => 400, message => 'API key not valid. Please pass a valid API key.', status => 'INVALID_ARGUMENT' } }) ],
	[ 'Google: quota', 'throttled RESOURCE_EXHAUSTED', json(403, { error => { code => 403, message => 'Quota exceeded.', status => 'RESOURCE_EXHAUSTED' } }) ],
	[ 'Microsoft: expired by disuse', 'dead invalid_grant', json(400, { error => 'invalid_grant', error_description => "AADSTS700082: The refresh token has expired due to inactivity.\r\nTrace ID: x", error_codes => [700082] }) ],
	[ 'Microsoft: a malformed request', 'config AADSTS9002313', json(400, { error => 'invalid_grant', error_description => 'AADSTS9002313: Invalid request. Request is malformed or invalid.', error_codes => [9002313] }) ],
	[ 'Microsoft: the number alone', 'dead AADSTS50173', json(400, { error => 'invalid_request', error_codes => [50173] }) ],
	[ 'Microsoft: a loop', 'throttled AADSTS50196', json(400, { error => 'invalid_grant', error_description => 'AADSTS50196: The server terminated an operation because it encountered a client request loop.' }) ],
	[ 'Microsoft: the secret has expired', 'config invalid_client', json(401, { error => 'invalid_client', error_description => 'AADSTS7000222: The provided client secret keys are expired.', error_codes => [7000222] }) ],
	[ 'Microsoft: a second factor', 'dead interaction_required', json(400, { error => 'interaction_required', error_description => 'AADSTS50076: you must use multi-factor authentication', suberror => 'basic_action' }) ],
	[ 'Salesforce: expired', 'dead invalid_grant', error(400, 'invalid_grant', 'expired access/refresh token') ],
	[ 'Salesforce: expired, by its words alone', 'dead invalid_refresh_token', json(400, { error_description => 'expired access/refresh token' }) ],
	[ 'Salesforce: inactive user', 'dead inactive_user', error(400, 'inactive user', 'user is inactive') ],
	[ 'Salesforce: IP restricted', 'config invalid_grant', error(400, 'invalid_grant', 'ip restricted or invalid login hours') ],
	[ 'Salesforce: login rate', 'throttled invalid_grant', error(400, 'invalid_grant', 'login rate exceeded') ],
	[ 'Salesforce: the audience', 'config invalid_grant', error(400, 'invalid_grant', 'Audience validation failed') ],
	[ 'Salesforce: an unknown host', 'config unknown_error', error(400, 'unknown_error', 'retry your request') ],
	[ 'Atlassian: 403', 'dead invalid_grant', error(403, 'invalid_grant', 'Unknown or invalid refresh token.') ],
	[ 'Atlassian: by its words', 'dead unauthorized_client', error(403, 'unauthorized_client', 'refresh_token is invalid') ],
	[ 'Atlassian: unauthorized', 'config unauthorized_client', error(403, 'unauthorized_client', 'client is not allowed') ],
	[ 'OpenAI: invalidated', 'dead refresh_token_invalidated', json(401, { error => { message => 'Your refresh token has been invalidated.', type => 'invalid_request_error', code => 'refresh_token_invalidated' } }) ],
	[ 'OpenAI: used before', 'dead refresh_token_reused', json(401, { error => { message => 'Please sign in again.', type => 'invalid_request_error', code => 'refresh_token_reused' } }) ],
	[ 'HubSpot: BAD_REFRESH_TOKEN', 'dead BAD_REFRESH_TOKEN', json(400, { status => 'BAD_REFRESH_TOKEN', message => 'missing or invalid refresh token', correlationId => 'x' }) ],
	[ 'HubSpot: BAD_CLIENT_ID', 'config BAD_CLIENT_ID', json(400, { status => 'BAD_CLIENT_ID', message => 'missing or unknown client id' }) ],
	[ 'HubSpot: something', 'config error', json(400, { status => 'error', message => 'Something', category => 'VALIDATION_ERROR' }) ],
	[ 'Zoho: called a denial', 'throttled Access_Denied', json(400, { error => 'Access Denied', error_description => 'You have made too many requests continuously. Please try again after some time.', status => 'failure' }) ],
	[ 'Zoho: a denial', 'config Access_Denied', json(400, { error => 'Access Denied', error_description => 'You are not allowed.' }) ],
	[ 'Fitbit: errors', 'dead invalid_grant', json(400, { errors => [ { errorType => 'invalid_grant', message => 'Refresh token invalid: x.' } ], success => $false }) ],
	[ 'Fitbit: the client', 'config invalid_client', json(401, { errors => [ { errorType => 'invalid_client', message => 'Invalid authorization header.' } ], success => $false }) ],
	[ 'Fitbit: the server', 'transient http_500', json(500, { errors => [ { errorType => 'system', message => 'x' } ] }) ],
	[ 'Facebook: no word for it', 'config OAuthException', json(400, { error => { message => 'Error validating access token: Session has expired.', type => 'OAuthException', code => 190, error_subcode => 463, fbtrace_id => 'A' } }) ],
	(map { [ "Facebook: code $_->[0]", "$_->[1] $_->[0]", json(400, { error => { message => 'x', type => 'OAuthException', code => $_->[0], fbtrace_id => 'A' } }),
			error_path => 'error.code', error_codes => { 190 => 'dead', 4 => 'throttled', 17 => 'throttled', 2 => 'transient', 101 => 'config' } ] }
		([ 190, 'dead' ], [ 4, 'throttled' ], [ 17, 'throttled' ], [ 2, 'transient' ], [ 101, 'config' ], [ 100, 'config' ])),
	[ 'Instagram: flat', 'config OAuthException', json(400, { error_type => 'OAuthException', code => 400, error_message => 'Invalid platform app' }) ],
	[ 'Twitch: by its words', 'dead invalid_refresh_token', json(400, { error => 'Bad Request', status => 400, message => 'Invalid refresh token' }) ],
	[ 'Reddit: by its status', 'dead http_400', json(400, { message => 'Bad Request', error => 400 }), dead_statuses => [400] ],
	[ 'Reddit: the client', 'config http_401', json(401, { message => 'Unauthorized', error => 401 }), dead_statuses => [400] ],
	[ 'Strava: which field is wrong', 'dead refresh_token', json(400, { message => 'Bad Request', errors => [ { resource => 'RefreshToken', field => 'refresh_token', code => 'invalid' } ] }), error_path => 'errors.0.field', dead_errors => ['refresh_token'] ],
	[ 'Cognito: by its words', 'dead invalid_refresh_token', json(400, { __type => 'NotAuthorizedException', message => 'Refresh Token has been revoked' }) ],
	[ 'Discord: rate limited', 'throttled http_429', json(429, { message => 'You are being rate limited.', retry_after => 1.2, global => $false }) ],
	[ 'Coinbase: by its status', 'dead http_401', json(401, {}), dead_statuses => [401] ],
	[ 'the renewal of a platform: 400', 'dead http_400', text(400, ''), dead_statuses => [ 400, 401, 403 ] ],
	[ 'the renewal of a platform: 403', 'dead http_403', json(403, { message => 'blocked' }), dead_statuses => [ 400, 401, 403 ] ],
	[ 'Notion: a code of its own', 'config unauthorized', json(401, { object => 'error', status => 401, code => 'unauthorized', message => 'API token is invalid.' }) ],
	[ 'Okta: errorCode', 'config E0000011', json(401, { errorCode => 'E0000011', errorSummary => 'Invalid token provided' }) ],
	[ 'Dropbox: revoked', 'dead invalid_grant', error(400, 'invalid_grant', 'refresh token is invalid or revoked') ],
	[ 'FastAPI: detail', 'dead invalid_refresh_token', json(401, { detail => 'Refresh token has expired' }) ],
	[ 'JSON:API: errors with detail', 'dead invalid_refresh_token', json(401, { errors => [ { status => '401', title => 'Unauthorized', detail => 'The refresh token is invalid' } ] }) ],
	[ 'texts for errors', 'dead invalid_grant', json(400, { errors => ['invalid_grant'] }) ],
	[ 'an error within the error', 'dead invalid_grant', json(400, { error => { error => 'invalid_grant' } }) ],
	[ 'plain words that are proof', 'dead invalid_refresh_token', text(400, "Invalid refresh token\n", 'text/plain') ],
	[ 'a plain word that is proof', 'dead invalid_grant', text(400, 'invalid_grant', 'text/plain') ],
	[ 'plain words that are none', 'config http_401', text(401, 'Unauthorized', 'text/plain') ],
	[ 'plain words of the rate', 'throttled http_403', text(403, 'Developer Over Rate Limit', 'text/plain') ],
	[ 'a form for an error', 'dead invalid_grant', form(400, 'error=invalid_grant&error_description=expired') ],
	[ 'device flow: pending', 'config authorization_pending', error(400, 'authorization_pending') ],
	[ 'device flow: expired_token', 'config expired_token', error(400, 'expired_token') ],

	# -- bodies of refusals that nobody can read --

	(map { [ "nothing with $_", "config http_$_", { status => $_, body => '' } ] } 400, 401, 402, 403, 404, 405, 409, 410, 422),
	[ 'broken JSON with 400', 'config http_400', text(400, '{"error":"invalid_gr') ],
	[ 'duplicate keys with 400', 'config http_400', text(400, '{"error":"x","error":"invalid_grant"}') ],
	[ 'a NUL with 400', 'config http_400', bytes(400, qq({"error":"invalid_grant\0"})) ],
	[ 'not UTF-8 with 400', 'config http_400', bytes(400, qq({"error":"invalid_grant","x":"\xff"})) ],
	[ 'words that are not UTF-8', 'config http_400', bytes(400, "invalid refresh token \xff", 'text/plain') ],
	[ 'an array with 400', 'config http_400', json(400, ['invalid_grant']) ],
	[ 'an error that is a number', 'config http_400', json(400, { error => 42 }) ],
	[ 'an error that is prose is cut down', 'config Something_b_bad_b_happened', error(400, 'Something <b>bad</b> happened!') ],
	[ 'an error that is long is cut off', 'config ' . ('e' x 64), error(400, 'e' x 200) ],
	[ 'an error of control characters', 'config http_400', error(400, "\x01\x02") ],
	[ 'an error in another script', 'config http_400', json(400, { error => "\x{4e2d}\x{6587}" }) ],
	[ 'a page with 400', 'transient http_400', text(400, '<html>invalid_grant</html>', 'text/html') ],
	[ 'a page with 403: a firewall', 'transient http_403', text(403, '<html>blocked</html>', 'text/html') ],
	[ 'a page with 404', 'config http_404', text(404, '<h1>Not Found</h1>', 'text/html') ],
	[ 'a page, and a status that means dead', 'dead http_410', text(410, '<p>', 'text/html'), dead_statuses => [410] ],

	# -- statuses --

	(map { [ "status $_", "config redirect_refused", { status => $_, headers => { location => $provider->url . '/token/elsewhere' }, body => '' } ] } 301, 302, 303, 307, 308),
	[ 'a redirect with an error', 'config redirect_refused', error(302, 'invalid_grant') ],
	(map { [ "status $_", "transient http_$_", { status => $_, body => '' } ] } 408, 421, 425, 500, 501, 502, 503, 504, 520, 529, 599),
	[ '500 with an error', 'transient server_error', error(500, 'server_error') ],
	[ '500 with invalid_grant proves nothing', 'transient http_500', error(500, 'invalid_grant') ],
	[ '500 with words proves nothing', 'transient http_500', json(500, { message => 'invalid refresh token' }) ],
	[ '503 with a page', 'transient http_503', text(503, '<html>Maintenance</html>', 'text/html') ],
	[ '500 with a code for the rate', 'throttled too_many_requests', error(500, 'too_many_requests') ],
	[ '401 with invalid_grant', 'dead invalid_grant', error(401, 'invalid_grant') ],
	[ 'status 429', 'throttled http_429', { status => 429, body => '' } ],
	[ '429 with invalid_grant', 'throttled http_429', error(429, 'invalid_grant') ],
	[ '429 with a page', 'throttled http_429', text(429, '<html>', 'text/html') ],
	[ '429 with a code', 'throttled rate_limit_exceeded', error(429, 'rate_limit_exceeded') ],

	# -- Retry-After --

	[ 'Retry-After in seconds', 'throttled http_429 120 132.1', retry(120, { status => 429, body => '' }) ],
	[ 'Retry-After as a date', 'throttled http_503 600 660.1', { status => 503, body => '', headers => { date => http_date(1_700_000_000), 'retry-after' => http_date(1_700_000_600) } } ],
	[ 'Retry-After, a date that is past', 'throttled http_503 1 1.2', { status => 503, body => '', headers => { date => http_date(1_700_000_600), 'retry-after' => http_date(1_700_000_000) } } ],
	[ 'Retry-After 0', 'throttled http_429 1 1.2', retry('0', { status => 429, body => '' }) ],
	[ 'Retry-After of days', 'throttled http_429 3600 3960.1', retry('864000', { status => 429, body => '' }) ],
	[ 'Retry-After beyond numbers', 'throttled http_429 3600 3960.1', retry('9' x 30, { status => 429, body => '' }) ],
	[ 'Retry-After that is none', 'throttled http_429', retry('soon', { status => 429, body => '' }) ],
	[ 'Retry-After below zero', 'throttled http_429', retry('-5', { status => 429, body => '' }) ],
	[ 'Retry-After with 500', 'transient http_500 600 660.1', retry(600, { status => 500, body => '' }) ],
	[ 'Retry-After with 400', 'throttled slow_down 90 99.1', retry(90, error(400, 'slow_down')) ],
	[ 'Retry-After sooner than we would', 'config invalid_client', retry(5, error(401, 'invalid_client')) ],
	[ 'Retry-After later than we would', 'config invalid_client 3000 3300.1', retry(3000, error(401, 'invalid_client')) ],

	# -- the connector's own meanings --

	(map { [ "error_codes: $_", "$_ E_$_", error(400, "E $_"), error_codes => { "E-$_" => $_ } ] } qw(dead config throttled transient)),
	(map { [ "error_phrases: $_", "$_ odd", error(400, 'odd', "It is, as they say, $_ Now."), error_phrases => { "$_ now" => $_ } ] } qw(dead config throttled transient)),
	[ 'a code of the connector before ours', 'config invalid_grant', error(400, 'invalid_grant'), error_codes => { invalid_grant => 'config' } ],
	[ 'its sentence before its code', 'transient invalid_grant', error(400, 'invalid_grant', 'try again in a minute'), error_codes => { invalid_grant => 'dead' }, error_phrases => { 'try again' => 'transient' } ],
	[ 'its sentence before ours', 'config invalid_grant', error(400, 'invalid_grant', 'too many requests'), error_phrases => { 'too many requests' => 'config' } ],
	[ 'its code, even with 500', 'dead session_gone', error(500, 'session gone'), dead_errors => ['Session Gone'] ],
	[ 'but not with 429', 'throttled http_429', error(429, 'session gone'), dead_errors => ['Session Gone'] ],
	[ 'its code with 200', 'dead SESSION_GONE', json(200, { status => 'SESSION_GONE' }), dead_errors => ['session_gone'] ],
	[ 'a status that means dead', 'dead http_410', { status => 410, body => '' }, dead_statuses => [410] ],
	[ 'a code that is known outweighs it', 'config invalid_client', error(400, 'invalid_client'), dead_statuses => [400] ],
	[ 'and so does a sentence', 'throttled http_400', json(400, { message => 'rate limit' }), dead_statuses => [400] ],
	[ 'a code that is not does not', 'dead http_400', error(400, 'odd'), dead_statuses => [400] ],
	[ 'error_path', 'dead invalid_grant', json(400, { error => 'http_error', fault => { detail => { code => 'invalid_grant' } } }), error_path => 'fault.detail.code' ],
	[ 'error_path that leads nowhere', 'dead invalid_grant', error(400, 'invalid_grant'), error_path => 'fault.detail.code' ],
	[ 'error_path to a number', 'config 1234', json(400, { fault => 1234 }), error_path => 'fault' ],
	[ 'error_description_path', 'dead odd', json(400, { error => 'odd', fault => { why => 'The session is over' } }), error_description_path => 'fault.why', error_phrases => { 'session is over' => 'dead' } ],
	[ 'a sentence without a code', 'dead http_400', json(400, { message => 'The session is over' }), error_phrases => { 'session is over' => 'dead' } ]);

sub nested { my ($depth) = @_; my $value = 1; $value = { d => $value } for 2 .. $depth; return $value; }

# ---- everything that is known must be in the table: with its class ----

my %known = (
	code => {
		dead => [qw(invalid_grant bad_refresh_token invalid_refresh_token token_expired token_revoked account_inactive inactive_user
			  refresh_token_invalidated refresh_token_expired refresh_token_revoked refresh_token_reused expired_refresh_token
			  revoked_refresh_token interaction_required login_required consent_required)],
		config => [qw(invalid_client incorrect_client_credentials invalid_client_id invalid_client_secret bad_client_id bad_client_secret
			  unauthorized_client unsupported_grant_type invalid_scope invalid_request invalid_target redirect_uri_mismatch access_denied)],
		throttled => [qw(temporarily_unavailable slow_down ratelimited rate_limited rate_limit_exceeded too_many_requests throttled resource_exhausted)],
		transient => [qw(server_error internal_error internal_failure internal_server_error backend_error service_unavailable fatal_error request_timeout)] },
	phrase => {
		throttled => [ 'too many requests', 'rate limit', 'rate exceeded' ],
		config => [ 'ip restricted', 'must be a short-lived token', 'check your iat and exp', 'audience validation failed' ],
		dead => [ 'invalid refresh token', 'refresh_token is invalid', 'refresh token is invalid', 'expired access/refresh token',
			'refresh token has expired', 'refresh token has been revoked' ] },
	aadsts => { dead => [qw(70008 700082 700084 50173 50076)], config => ['9002313'], throttled => ['50196'] },
	status => { transient => [qw(408 421 425)] });

foreach my $class (sort keys %{ $known{code} })
{
	foreach my $code (@{ $known{code}{$class} })
	{
		push @table, [ "known: $code", "$class $code", error(400, $code) ];
		(my $other = uc $code) =~ tr/_/-/;
		push @table, [ "known: $other with 401", "$class $other", json(401, { error => { code => $other } }) ];
	}
}
foreach my $class (sort keys %{ $known{phrase} })
{
	# Those that contradict invalid_grant, and those that need no code.
	push @table, $class eq 'dead' ?
	  [ "known: $_", 'dead invalid_refresh_token', json(403, { message => "Sorry, \u$_!" }) ] :
	  [ "known: $_", "$class invalid_grant", error(400, 'invalid_grant', "Sorry, \u$_!") ] foreach @{ $known{phrase}{$class} };
}
foreach my $class (sort keys %{ $known{aadsts} })
{
	push @table, [ "known: AADSTS$_", $class . ($class eq 'dead' ? ' invalid_grant' : " AADSTS$_"), error(400, 'invalid_grant', "AADSTS$_: x") ] foreach @{ $known{aadsts}{$class} };
}

{
	my $source = slurp_file("$FindBin::RealBin/../../src/provider/known_error.c");
	my @rows = $source =~ /\{SIGNAL_(\w+), "([^"]+)", OUTCOME_(\w+)/g;
	my (@stated, @tested);

	push @stated, lc("$rows[0] $rows[2]") . " $rows[1]" and splice(@rows, 0, 3) while @rows;
	foreach my $signal (keys %known)
	{
		foreach my $class (keys %{ $known{$signal} })
		{
			push @tested, "$signal $class $_" foreach @{ $known{$signal}{$class} };
		}
	}
	is_deeply([ sort @stated ], [ sort @tested ], 'all that is known of errors is in the table');
}
cmp_ok(scalar @table, '>=', 200, 'and the table is long: ' . @table);

# ---- set up ----

my @granted = $provider->issue(scalar @table, expires_in => 3600);
my $setup = '';
my @scripts;
my %row;    # by slug

foreach my $i (0 .. $#table)
{
	my ($title, $expected, $reply, %fields) = @{ $table[$i] };
	my $slug = "r$i";
	my %row_of = (title => $title, slug => $slug, path => "/token/$slug", grant => $granted[$i], extra_ok => delete $fields{extra_ok},
		fields => [ keys %fields ], shaped => scalar grep { /_path$|^success|refresh_credential|refresh_extends/ } keys %fields);

	if (ref $expected) { $row_of{success} = $expected; }
	else { @row_of{qw(class code least most)} = split / /, $expected; }
	# What is tried again within seconds meets the same reply.
	$row_of{soon} = defined $row_of{most} && $row_of{most} < 10;
	push @scripts, { path => $row_of{path}, steps => [ ref $reply eq 'CODE' ? $reply->($granted[$i]) : $reply ], repeat_last => $row_of{soon} ? $true : $false };
	$granted[$i]{expires_in} *= 1000 if ($fields{expires_unit} // 's') eq 'ms';
	$row{$slug} = \%row_of;

	my $definition = $canonical->encode({
		auth_type => 'oauth2_code', authorize_url => 'https://provider.example.com/authorize', client_auth => 'post',
		token_url => $provider->url . $row_of{path}, %fields });
	my $secret = $canonical->encode($granted[$i]);
	$setup .= "SELECT conduit_register_connector('$slug', \$json\$$definition\$json\$);\n"
	  . "SELECT conduit_set_client('$slug', 'cid', 'the-client-secret');\n"
	  . "SELECT conduit_store_credential(conduit_create_connection('alice', '$slug'), NULL, \$json\$$secret\$json\$);\n";
}
$provider->scripts(@scripts);
{
	my $file = PostgreSQL::Test::Utils::tempdir() . '/setup.sql';
	my ($out, $err) = ('', '');

	append_to_file($file, $setup);
	my $rc = $cluster->node->psql('app', "\\i $file", stdout => \$out, stderr => \$err, on_error_stop => 0);
	is($err, '', 'every connector of the table is registered') or BAIL_OUT($err);
}
$cluster->sql(q{
	CREATE FUNCTION vended(id uuid) RETURNS jsonb LANGUAGE plpgsql AS $$
	BEGIN
		RETURN (SELECT to_jsonb(v) FROM conduit_vend('alice', id) v);
	EXCEPTION WHEN OTHERS THEN
		RETURN to_jsonb(SQLSTATE);
	END $$});

# ---- all are due, and refreshed ----

my $pid = $cluster->worker_pid;
my $logged = -s $cluster->node->logfile;
$cluster->set_clock($shift);
ok($cluster->poll("SELECT bool_and(attempts > 0 OR generation > 1 OR status <> 'ACTIVE') FROM conduit.credential"), 'the worker has tried all of them')
  or diag $cluster->sql("SELECT string_agg(connector, ' ') FROM conduit.credential WHERE attempts = 0 AND generation = 1 AND status = 'ACTIVE'");

# Everything of a row in one object.
sub states
{
	my $json = $cluster->sql(q{
		SELECT json_object_agg(c.connector, json_build_object(
			'id', c.connection_id, 'status', n.status, 'reason', n.status_reason, 'class', c.last_error, 'code', c.last_error_code,
			'attempts', c.attempts, 'generation', c.generation, 'in_doubt', c.in_doubt,
			'next', extract(epoch FROM c.refresh_at - COALESCE(c.last_error_at, c.refreshed_at)),
			'expires', extract(epoch FROM c.expires_at - c.refreshed_at),
			'refresh_expires', extract(epoch FROM c.refresh_expires_at - c.refreshed_at),
			'scope', c.scope, 'type', c.token_type, 'account', n.account, 'params', n.params, 'metadata', n.metadata,
			'vended', vended(c.connection_id)))
		FROM conduit.credential c JOIN conduit.connection n ON n.id = c.connection_id});
	return JSON::PP->new->utf8->decode(Encode::encode_utf8(Encode::decode_utf8($json)));
}
my $state = states();

# Seconds that a machine may be late, and that clocks of text have no parts of.
my $slack = 60;

sub near
{
	my ($got, $expected, $title) = @_;
	return is($got, undef, "$title: none") unless defined $expected;
	return ok(defined $got && abs($got - $expected) <= min($slack, $expected / 2), "$title: $expected s") || diag($got // 'none');
}

sub same
{
	my ($got, $expected, $title) = @_;
	return is($canonical->encode([$got]), $canonical->encode([$expected]), $title);
}

sub check_success
{
	my ($row, $is) = @_;
	my $want = $row->{success};
	my $expires = $want->{expires};

	is(join(' ', $is->{status}, $is->{generation}, $is->{attempts}, $is->{in_doubt} ? 'in doubt' : 'sure', $is->{class} // 'no error'), 'ACTIVE 2 0 sure no error', 'refreshed')
	  or return diag("$is->{class} $is->{code}");
	return unless ref $is->{vended} || !ok(0, "vended: $is->{vended}");
	my $token = $want->{token} // $new_token;
	is($is->{vended}{access_token}, $token eq 'old' ? $row->{grant}{access_token} : $token, 'the token');
	is($is->{scope}, $want->{scope} // 'read write', 'its scope');
	is($is->{type}, $want->{type} // 'Bearer', 'its type');
	near($is->{expires}, $expires, 'it expires');
	near($is->{refresh_expires}, $want->{refresh_expires}, 'the refresh token expires');
	# before it expires, and before a refresh token does that has to be kept alive
	my @keep = defined $want->{refresh_expires} ? map { max(30, $_ * $want->{refresh_expires}) } 0.725, 0.75 : ();
	if (defined $expires)
	{
		my $lead = min($row->{title} eq 'a short lifetime' ? 60 : 300, $expires / 2);
		my ($least, $most) = (max(30, $expires / 2, $expires - 1.1 * $lead), max(30, $expires - $lead));
		$most = $least if $most < $least;
		($least, $most) = (min($least, $keep[0]), min($most, $keep[1])) if @keep;
		ok($is->{next} >= $least - $slack && $is->{next} <= $most + $slack, "due in $least to $most s") || diag($is->{next});
		cmp_ok($is->{next}, '>=', 30 - 1, 'not at once');
	}
	elsif (@keep)
	{
		ok($is->{next} >= $keep[0] - $slack && $is->{next} <= $keep[1] + $slack, "kept alive in $keep[0] to $keep[1] s") || diag($is->{next});
	}
	else
	{
		is($is->{next}, undef, 'never due');
	}
	same($is->{vended}{extra}, $want->{extra}, 'extra') unless $row->{extra_ok} || ($row->{shaped} && !exists $want->{extra});
	same($is->{params}, $want->{params} // {}, 'params');
	same($is->{metadata}, $want->{metadata} // {}, 'metadata');
	is($is->{account}, undef, 'the account is as it was');
	return;
}

my %range = (dead => undef, config => [ 240, 360.1 ], throttled => [ 24, 36.1 ], transient => [ 24, 36.1 ], unknown => [ 24, 36.1 ]);

sub check_failure
{
	my ($row, $is) = @_;
	my ($least, $most) = defined $row->{least} ? @{$row}{qw(least most)} : @{ $range{ $row->{class} } // [] };
	my $status = $row->{class} eq 'dead' ? 'NEEDS_REAUTH' : 'ACTIVE';
	my $doubt = $row->{class} eq 'unknown' ? 'in doubt' : 'sure';

	is(join(' ', $is->{class} // '-', $is->{code} // '-', $is->{status}, $is->{generation}, $row->{soon} ? 1 : $is->{attempts}, $is->{in_doubt} ? 'in doubt' : 'sure'),
		"$row->{class} $row->{code} $status 1 1 $doubt", 'class, code, state');
	if (defined $least)
	{
		ok(defined $is->{next} && $is->{next} >= $least && $is->{next} <= $most, "next attempt in $least to $most s") || diag($is->{next});
		is(ref $is->{vended} ? $is->{vended}{access_token} : $is->{vended}, $row->{grant}{access_token}, 'what is stored is vended meanwhile');
	}
	else
	{
		is($is->{next}, undef, 'no further attempt');
		is($is->{reason}, $row->{code}, 'the reason');
		is($is->{vended}, 'PT409', 'nothing is vended');
	}
	is($is->{scope}, 'read write', 'nothing else has changed');
	same([ $is->{params}, $is->{metadata} ], [ {}, {} ], 'nor the connection');
	return;
}

foreach my $i (0 .. $#table)
{
	my $row = $row{"r$i"};
	my $is = $state->{"r$i"};

	subtest "$i: $row->{title}" => sub { $row->{success} ? check_success($row, $is) : check_failure($row, $is); };
}
is($cluster->sql("SELECT string_agg(connector, ' ' ORDER BY connector COLLATE \"C\") FROM conduit.connection WHERE status = 'NEEDS_REAUTH'"),
	join(' ', sort map { $_->{slug} } grep { !$_->{success} && $_->{class} eq 'dead' } values %row), 'those that need a new authorization are those that say so, and no other');
is($provider->counts('/token/elsewhere')->{total}, 0, 'no redirect was followed');

# ---- once more: the successes with what they brought, the failures are over ----

my @again = grep { $_->{success} } map { $row{"r$_"} } 0 .. $#table;
my @failed = grep { !$_->{success} && $_->{class} ne 'dead' } map { $row{"r$_"} } 0 .. $#table;
my @well = grep { !$_->{shaped} } @failed;
sub list { return "('" . join("','", map { $_->{slug} } @_) . "')"; }

# A refusal is as good an answer as any where what was asked is what counts, or
# the provider does not speak the connector's dialect.
$provider->scripts((map { { path => $_->{path}, steps => [ { status => 503 } ], repeat_last => $true } } @again, grep { $_->{shaped} } @failed),
	map { { path => $_->{path} } } grep { $_->{soon} } @well);
$cluster->sql("UPDATE conduit.credential SET refresh_at = clock_timestamp() WHERE connector IN " . list(@again));
$cluster->set_clock($shift + 4000);
ok($cluster->poll("SELECT bool_and(attempts > 0) FROM conduit.credential WHERE connector IN " . list(@again)), 'all that was refreshed is due again');
my %asked;
push @{ $asked{ $_->{path} } }, $_->{params}{refresh_token} foreach $provider->log;
foreach my $row (@again)
{
	my $refresh = $row->{success}{refresh} // $new_refresh;
	my $first = grep({ $_ eq 'refresh_credential' } @{ $row->{fields} }) ? 'access_token' : 'refresh_token';
	is_deeply([ @{ $asked{ $row->{path} } }[ 0, 1 ] ], [ $row->{grant}{$first}, $refresh eq 'old' ? $row->{grant}{refresh_token} : $refresh ],
		"the refresh token that is stored after: $row->{title}");
}

ok($cluster->poll("SELECT bool_and(generation > 1) FROM conduit.credential WHERE connector IN " . list(@well)), 'all that was not dead recovers')
  or diag $cluster->sql("SELECT string_agg(connector || ' ' || status || ' ' || coalesce(last_error_code, '-'), ', ') FROM conduit.credential WHERE generation = 1 AND connector IN " . list(@well));
is($cluster->sql("SELECT count(*) FROM conduit.connection WHERE status = 'NEEDS_REAUTH'"), scalar(grep { !$_->{success} && $_->{class} eq 'dead' } values %row), 'nobody else has lost an authorization');

# ---- what a reply says of the connection waits with it for a row that is held ----

{
	my ($grant) = $provider->issue(1, expires_in => 3600);
	my $definition = $canonical->encode({
		auth_type => 'oauth2_code', authorize_url => 'https://provider.example.com/authorize', token_url => $provider->url . '/token/held',
		params => { host => { pattern => '^[a-z]+$' } }, api_base_url => 'https://{host}.example.com', response_params => { host => 'h' }, response_metadata => { m => 'm' } });

	$provider->script('/token/held', [ { rotate => $true, field_overrides => { h => 'eu', m => { n => 1 } } } ]);
	$cluster->sql("SELECT conduit_register_connector('held', \$json\$$definition\$json\$)");
	$cluster->sql("SELECT conduit_set_client('held', 'cid', 'the-client-secret')");
	my $id = $cluster->connection('alice', 'held', $grant);
	$cluster->sql("SELECT conduit_update_connection('alice', '$id', metadata => '{\"own\": true, \"m\": 0}')");
	my $session = $cluster->session;
	$session->query("BEGIN; SELECT FROM conduit.connection WHERE id = '$id' FOR UPDATE");
	$cluster->set_clock($shift + 8000);
	ok($cluster->poll("SELECT outcome = 'refreshed' FROM conduit.flight WHERE connection_id = '$id'"), 'a reply is parked');
	is($cluster->sql("SELECT params, metadata FROM conduit_get_connection('alice', '$id')"), '{}|{"m": 0, "own": true}', 'what it says is not there yet');
	$session->query('COMMIT');
	ok($cluster->poll("SELECT generation = 2 FROM conduit.credential WHERE connection_id = '$id'"), 'then it is moved');
	is($cluster->sql("SELECT params, metadata FROM conduit_get_connection('alice', '$id')"), '{"host": "eu"}|{"m": {"n": 1}, "own": true}', 'with what it said, beside what was there');
	my $xmin = $cluster->sql("SELECT xmin FROM conduit.connection WHERE id = '$id'");
	$provider->script('/token/held', [ { rotate => $true, field_overrides => { h => 'eu', m => { n => 1 } } } ]);
	is($cluster->sql("SELECT refreshed FROM conduit_refresh('alice', '$id')"), 't', 'a reply that says the same again');
	is($cluster->sql("SELECT xmin FROM conduit.connection WHERE id = '$id'"), $xmin, 'writes nothing');
	$session->quit;
}

# ---- and nothing has happened to the worker ----

is($cluster->worker_pid, $pid, 'one worker has done it all');
{
	my $log = slurp_file($cluster->node->logfile, $logged);
	my @errors = grep { /(?:ERROR|FATAL|PANIC|TRAP):|terminated by signal|exited with exit code/ } split /\n/, $log;

	is_deeply(\@errors, [], 'which has met no error');
	unlike($log, qr/\Q$_\E/, 'no token in the log') foreach $new_token, $new_refresh;
}
$cluster->stop;
done_testing();
