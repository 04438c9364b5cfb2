# Facades behind a real PostgREST: who gets what, by which method, and which
# error becomes which status.  074_pgbouncer.pl runs this, too, with PgBouncer
# between the two.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Conduit::Cluster;
use Conduit::PgBouncer;
use Conduit::PostgREST;
use Conduit::Provider;
use Conduit::Token;
use JSON::PP ();
use MIME::Base64 qw(encode_base64 decode_base64url);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $true = JSON::PP::true;
my $json = JSON::PP->new->canonical;
my $provider = Conduit::Provider->start('scripted');
my $pooled = $ENV{CONDUIT_TEST_PGBOUNCER};
my $cluster = Conduit::Cluster->new($pooled ? 'pooled' : 'main', init => [ allows_streaming => 1 ], settings => "conduit.request_timeout = '20s'\nconduit.vend_timeout = '20s'\n");
my $key = Conduit::Token->new;
my $flux = 't_0123456789ab_api';
my $url = $provider->url;

$cluster->connector('api', token_url => "$url/token", api_base_url => "$url/api", preview_hosts => ['127.0.0.1'],
	redirect_uris => ['https://app.example.com/callback'], rate_limit_requests => 1000, rate_limit_window_s => 1);
$cluster->connector('slow', token_url => "$url/slow", api_base_url => "$url/api", rate_limit_requests => 1, rate_limit_window_s => 3600);
$cluster->connector('gone', token_url => 'http://127.0.0.1:1/token');
$cluster->sql(qq{
	CREATE ROLE anon; CREATE ROLE authenticated; CREATE ROLE t_0123456789ab_role; CREATE ROLE authenticator LOGIN NOINHERIT;
	GRANT anon, authenticated, t_0123456789ab_role TO authenticator;
	CREATE SCHEMA api; GRANT USAGE ON SCHEMA api TO anon, authenticated;
	CREATE SCHEMA $flux; GRANT USAGE ON SCHEMA $flux TO anon, t_0123456789ab_role;
	SELECT conduit_expose('$flux'); SELECT conduit_set_jwt_key('$flux', '@{[ $key->jwk ]}')});

# PostgREST runs before the schema is exposed: nobody reloads anything by hand.
my $bouncer = $pooled ? Conduit::PgBouncer->start($cluster->node, 'app') : undef;
my $rest = Conduit::PostgREST->start($cluster->node, 'app', schemas => "api,$flux", jwt_secret => $key->jwk, $pooled ? $bouncer->place : ());
is($rest->get('conduit_health')->{status}, 404, 'not exposed yet');
my %options = (token_role => 'authenticated', token_ttl => 120, browser_request => [ { method => 'GET', path => '/users/*' }, { method => 'GET', path => '/only', connector => 'slow' } ]);
$cluster->sql(sprintf(q{SELECT conduit_expose('api', '%s'); SELECT conduit_set_jwt_key('api', '%s')}, $json->encode(\%options), $key->jwk));
$rest->reload if $pooled;
is($rest->until(sub { $rest->get('conduit_health') })->{status}, 200, 'served without a reload by hand');

my ($grant) = $provider->issue(1, expires_in => 3600);
my $id = $cluster->connection('alice', 'api', $grant);
my ($bob_grant) = $provider->issue(1, expires_in => 3600);
my $bob_id = $cluster->connection('bob', 'api', $bob_grant);
my $empty = $cluster->connection('alice', 'slow');
my ($tenant_grant) = $provider->issue(1, expires_in => 3600);
my $tenant_id = $cluster->sql("SELECT conduit_create_connection('alice', 'api', tenant => '$flux')");
$cluster->sql(sprintf(q{SELECT conduit_set_client('api', 'c', 's', tenant => '%s'); SELECT conduit_store_credential('%s', NULL, '%s', tenant => '%s')}, $flux, $tenant_id, $json->encode($tenant_grant), $flux));
my $api_key = $cluster->sql(q{SELECT api_key FROM conduit_create_api_key('alice', 'alice', '{*}')});
my $any_key = $cluster->sql(q{SELECT api_key FROM conduit_create_api_key(NULL, 'any', '{*}')});
my $vend_key = $cluster->sql(q{SELECT api_key FROM conduit_create_api_key('alice', 'vend', '{vend:api,vend_many:slow}')});
my $flux_key = $cluster->sql("SELECT api_key FROM conduit_create_api_key('alice', 'flux', '{*}', tenant => '$flux')");
my $session = $cluster->sql(q{SELECT conduit_open_session('alice')});
my @alice = $key->bearer(sub => 'alice', role => 'authenticated');
my @bob = $key->bearer(sub => 'bob', role => 'authenticated');
my @backend = ('X-Conduit-Key' => $api_key);
my @any = ('X-Conduit-Key' => $any_key);
my @tenant = ($key->bearer(sub => 'alice', role => 't_0123456789ab_role'), 'Accept-Profile' => $flux, 'Content-Profile' => $flux);

# "200" and what is in it, or status, code and message of an error.
sub text
{
	my ($answer, $field) = @_;
	return $answer->{status} . ($field ? ' ' . (ref $answer->{json} eq 'HASH' ? $answer->{json}{$field} // 'NULL' : $json->allow_nonref->encode($answer->{json})) : '') if $answer->{success};
	unlike($answer->{content}, qr/SELECT|PL\/pgSQL|conduit\.|\bline \d|LANGUAGE|statement/, "no SQL in $answer->{content}");
	unlike($answer->{reason} . $json->encode($answer->{headers}), qr/\b(?:alice|bob)\b|cdt_|$id/, 'nor data in the head');
	if (($answer->{json}{code} // '') =~ /^PT/ && $answer->{url} !~ /require_/)
	{
		is($answer->{headers}{'cache-control'}, 'no-store', 'no cache keeps it');
		is($answer->{headers}{'www-authenticate'}, $answer->{status} == 401 ? 'Bearer' : undef, 'who is not known is told how to be');
	}
	return join(' ', $answer->{status}, @{ $answer->{json} // {} }{qw(code message)});
}

my $unauthorized = '401 PT401 unauthorized';
my $not_found = '404 PT404 connection not found';

# ---- who ----

is(text($rest->post('conduit_vend', { connection_id => $id }, @backend), 'access_token'), "200 $grant->{access_token}", 'a key vends');
is(text($rest->get('conduit_vend', { connection_id => $id }, @backend), 'access_token'), "200 $grant->{access_token}", 'by GET, too');
my $answer = $rest->post('conduit_vend', { connection_id => $id }, @backend);
is($answer->{headers}{'cache-control'}, 'no-store', 'which no cache keeps');
ok(!exists $answer->{json}{refresh_token}, 'without a refresh token');
is(text($rest->post('conduit_vend', { connection_id => $bob_id }, @any, 'X-Conduit-Owner' => 'bob'), 'access_token'), "200 $bob_grant->{access_token}", 'a backend for an owner it names');
is(text($rest->post('conduit_vend', { connection_id => $bob_id }, @any)), $unauthorized, 'or for nobody');
is(text($rest->post('conduit_vend', { connection_id => $bob_id }, @backend)), $not_found, 'a key for another owner\'s connection');
is(text($rest->post('conduit_vend', { connection_id => '01a1fd5b-3398-7e66-8fd2-dc18e2a44342' }, @backend)), $not_found, 'is told what it is told of one that never was');
is(text($rest->post('conduit_vend', { connection_id => $tenant_id }, @backend)), $not_found, 'as of one of another tenant');
is(text($rest->post('conduit_vend', { connection_id => $id })), $unauthorized, 'nobody');
is(text($rest->post('conduit_vend', { connection_id => $id }, @alice)), '403 PT403 forbidden', 'a browser does not get a token');
is($rest->post('conduit_vend', { connection_id => $id }, @alice)->{json}{details}, 'backend', 'for want of a backend');
is(text($rest->post('conduit_vend', { connection_id => $id }, 'X-Conduit-Key' => 'cdt_' . 'A' x 71)), $unauthorized, 'a key that is none');
is($rest->post('conduit_vend', { connection_id => $id }, Authorization => "Bearer $api_key")->{status}, 401, 'a key as a bearer token');
is(text($rest->post('conduit_vend', { connection_id => $id }, 'X-Conduit-Key' => $flux_key)), $unauthorized, 'a key of another tenant');
is(text($rest->get('conduit_get_connection', { connection_id => $id }, @alice), 'owner'), '200 alice', 'an owner by a token');
is(text($rest->get('conduit_get_connection', { connection_id => $id }, 'X-Conduit-Session' => $session), 'owner'), '200 alice', 'or by a session');
is(text($rest->get('conduit_get_connection', { connection_id => $id }, @bob)), $not_found, 'another owner');
is(text($rest->get('conduit_get_connection', { connection_id => $id }, @bob, 'X-Conduit-Session' => $session)), $unauthorized, 'two at once');
is(text($rest->get('conduit_get_connection', { connection_id => $id }, @bob, 'X-Conduit-Owner' => 'alice')), $unauthorized, 'one who says to be another');
is_deeply([ map { $_->{id} } @{ $rest->post('conduit_list_connections', {}, @alice)->{json} } ], [ $id, $empty ], 'a list');
is_deeply($rest->post('conduit_list_connections', {}, $key->bearer(sub => 'carol', role => 'authenticated'))->{json}, [], 'a list of none');
is_deeply([ sort map { $_->{id} } @{ $rest->post('conduit_list_connections', {}, @any)->{json} } ], [ sort $id, $empty, $bob_id ], 'all of the tenant\'s, for a backend');

# Two tenants, the same subject.
is(text($rest->get('conduit_get_connection', { connection_id => $tenant_id }, @tenant), 'owner'), '200 alice', 'a tenant\'s own connection');
is(text($rest->get('conduit_get_connection', { connection_id => $id }, @tenant)), $not_found, 'is not that of the same subject elsewhere');
is(text($rest->get('conduit_get_connection', { connection_id => $tenant_id }, @alice)), $not_found, 'nor the other way round');
is(text($rest->post('conduit_vend', { connection_id => $tenant_id }, @tenant, 'X-Conduit-Key' => $flux_key), 'access_token'), "200 $tenant_grant->{access_token}", 'a tenant\'s key');
is(text($rest->post('conduit_vend', { connection_id => $tenant_id }, @tenant, 'X-Conduit-Key' => $api_key)), $unauthorized, 'not that of another');
is($rest->get('conduit_health', {}, $key->bearer(sub => 'alice', role => 't_0123456789ab_role'))->{status}, 403, 'a tenant\'s role has nothing elsewhere');
$cluster->sql("UPDATE conduit.connection SET status = 'NEEDS_REAUTH' WHERE id = '$tenant_id'; UPDATE conduit.credential SET status = 'NEEDS_REAUTH' WHERE connection_id = '$tenant_id'");
is_deeply([ map { $rest->get('conduit_health', {}, @$_)->{json}{needs_reauth} } \@tenant, [] ], [ 1, 0 ], 'each hears of its own trouble alone');
is(join(' ', sort keys %{ $rest->get('conduit_health')->{json} }), 'needs_reauth ok version worker', 'and of no more');

# ---- how ----

is(text($rest->request('HEAD', "/rpc/conduit_get_connection?connection_id=$id", undef, @alice)), '200', 'HEAD');
is($rest->request('HEAD', "/rpc/conduit_get_connection?connection_id=$id", undef)->{status}, 401, 'HEAD by nobody');
is($rest->get('conduit_revoke_connection', { connection_id => $id }, @alice)->{status}, 405, 'GET of what writes');
is(text($rest->post('conduit_vend', { connection_id => $id, owner => 'bob' }, @any)), '404 PGRST202 ' . $rest->post('conduit_vend', { connection_id => $id, owner => 'bob' }, @any)->{json}{message}, 'an owner as an argument is not known');
is($rest->post('conduit_vend', { connection_id => $id, api_key => $api_key })->{status}, 404, 'nor is a key');
is($rest->request('POST', "/rpc/conduit_vend?api_key=$api_key", { connection_id => $id })->{status}, 400, 'nor in the query');
is(text($rest->post('conduit_vend', { connection_id => $id, min_ttl => undef, scopes => undef }, @backend), 'access_token'), "200 $grant->{access_token}", 'NULL is the default');
is_deeply($rest->get('conduit_vend', { connection_id => $id, select => 'token_type' }, @backend)->{json}, { token_type => 'Bearer' }, 'select');
is(text($rest->post('conduit_vend', { connection_id => 'x' }, @backend)) =~ s/:.*//r, '400 22P02 invalid input syntax for type uuid', 'an id that is none');

# ---- each function ----

is($rest->get('conduit_connectors', {}, @alice)->{status}, 200, 'connectors');
is(text($rest->get('conduit_find_connection', { connector => 'api' }, @alice), 'id'), qq{200 "$id"}, 'find');
is(text($rest->post('conduit_create_connection', { connector => 'slow', account => 'a1' }, @alice)), '403 PT403 forbidden', 'browsers make no connections');
my $made = $rest->post('conduit_create_connection', { connector => 'slow', account => 'a1' }, @backend)->{json};
like($made, qr/^[0-9a-f-]{36}$/, 'create');
is(text($rest->post('conduit_create_connection', { connector => 'slow', account => 'a1' }, @backend)) =~ s/ connection.*//r, '409 23505', 'twice');
is($rest->post('conduit_update_connection', { connection_id => $made, metadata => { x => 1 } }, @backend)->{status}, 204, 'update');
is_deeply($rest->get('conduit_get_connection', { connection_id => $made }, @alice)->{json}{metadata}, { x => 1 }, 'updated');
is(text($rest->post('conduit_store_credential', { connection_id => $made, kind => undef, secret => $json->encode({ access_token => 'stored', expires_in => 3600 }) }, @backend), 'id'), qq{200 "$made"}, 'store');
is(text($rest->post('conduit_store_credential', { connection_id => $made, kind => undef, secret => { access_token => 'object', expires_in => 3600 } }, @any), 'id'), qq{200 "$made"}, 'store an object, for any owner');
is(text($rest->post('conduit_vend', { connection_id => $made }, @backend), 'access_token'), '200 object', 'stored');
is(text($rest->post('conduit_store_credential', { connection_id => $bob_id, kind => undef, secret => '{"access_token":"x"}' }, @backend)), $not_found, 'store with another owner');
my ($spare) = $provider->issue(1, expires_in => 3600);
is($rest->post('conduit_import', { connector => 'api', records => [ { owner => 'dora', secret => $spare } ] }, @any)->{json}[0]{error}, undef, 'import');
is(text($rest->post('conduit_import', { connector => 'api', records => '[]' }, @backend)), '403 PT403 forbidden', 'which concerns all owners');
is_deeply([ map { $_->{access_token} // $_->{error} } @{ $rest->post('conduit_vend_many', { connection_ids => [ $id, $bob_id ] }, @backend)->{json} } ], [ $grant->{access_token}, 'connection not found' ], 'vend_many');
my $refreshed = $rest->post('conduit_refresh', { connection_id => $id, seen_generation => undef }, @backend)->{json};
is($refreshed->{refreshed}, $true, 'refresh');
$grant->{access_token} = $rest->post('conduit_vend', { connection_id => $id }, @backend)->{json}{access_token};
is($rest->post('conduit_rate_take', { connection_id => $id }, @backend)->{json}{allowed}, $true, 'rate_take');
is($rest->post('conduit_rate_report', { connection_id => $bob_id, retry_after => 0 }, @any, 'X-Conduit-Owner' => 'bob')->{status}, 204, 'rate_report');
cmp_ok(scalar @{ $rest->get('conduit_events_after', { after_seq => 0 }, @any)->{json} }, '>', 0, 'events');
is(text($rest->get('conduit_events_after', { after_seq => 0 }, @backend)), '403 PT403 forbidden', 'of all owners');
my $opened = $rest->post('conduit_open_session', {}, @backend)->{json};
is(text($rest->get('conduit_session', { session_key => $opened }, @backend), 'owner'), '200 alice', 'open_session, session');
is(text($rest->get('conduit_session', { session_key => $cluster->sql(q{SELECT conduit_open_session('bob')}) }, @backend)), $unauthorized, 'a session of another owner\'s');
is($rest->post('conduit_close_session', { session_key => $opened }, @backend)->{status}, 204, 'close_session');
is(text($rest->get('conduit_list_connections', {}, 'X-Conduit-Session' => $opened)), $unauthorized, 'closed');
is(text($rest->get('conduit_require_key', { scope => 'vend:api' }, @backend), 'owner'), '200 alice', 'require_key');
is($rest->get('conduit_require_backend', {}, @backend)->{status}, 204, 'require_backend');
is(text($rest->get('conduit_require_backend', {}, @alice)), '403 PT403 forbidden', 'require_backend, a browser');
is(text($rest->post('conduit_vend', { connection_id => $empty }, 'X-Conduit-Key' => $vend_key)), '403 PT403 forbidden', 'a key for another connector');
is(text($rest->post('conduit_vend', { connection_id => $id }, 'X-Conduit-Key' => $vend_key), 'access_token'), "200 $grant->{access_token}", 'a key for this one');
is(text($rest->post('conduit_vend_many', { connection_ids => [$id] }, 'X-Conduit-Key' => $vend_key)), '403 PT403 forbidden', 'which counts for many at once, too');
my @many = ('X-Conduit-Key' => $cluster->sql(q{SELECT api_key FROM conduit_create_api_key('alice', 'many', '{vend_many:api}')}));
is($rest->post('conduit_vend_many', { connection_ids => [$id] }, @many)->{json}[0]{access_token}, $grant->{access_token}, 'a key for many of one connector');
is(text($rest->post('conduit_vend_many', { connection_ids => [ $id, $made ] }, @many)), '403 PT403 forbidden', 'is for none of another');
is($rest->post('conduit_revoke_connection', { connection_id => $made }, @alice)->{status}, 204, 'revoke');

# Authorization, by a browser.
my $begun = $rest->post('conduit_authorize', { connector => 'api' }, @alice)->{json};
like($begun->{authorize_url}, qr{^https://provider\.example\.com/authorize\?.*code_challenge=}, 'authorize');
is(text($rest->post('conduit_authorize_callback', { state => $begun->{state}, code => 'x' }, @bob)), '400 PT400 authorization failed', 'another owner\'s state');
is(text($rest->post('conduit_authorize_callback', { state => $begun->{state}, params => { error => 'access_denied' } }, @alice)), '400 PT400 authorization failed', 'denied');

# ---- tokens ----

$answer = $rest->post('conduit_token', {}, @backend);
is(join(' ', @{ $answer->{json} }{qw(token_type expires_in)}), 'Bearer 120', 'a key for a token');
my $claims = $json->decode(decode_base64url((split /\./, $answer->{json}{access_token})[1]));
is(join(' ', @$claims{qw(iss sub role)}, $claims->{exp} - $claims->{iat}), 'conduit alice authenticated 120', 'its claims');
like($claims->{jti}, qr/^[\w-]{22}$/, 'one of a kind');
is(text($rest->get('conduit_get_connection', { connection_id => $id }, Authorization => "Bearer $answer->{json}{access_token}"), 'owner'), '200 alice', 'it is accepted');
is(text($rest->post('conduit_vend', { connection_id => $id }, Authorization => "Bearer $answer->{json}{access_token}")), '403 PT403 forbidden', 'and makes nobody a backend');
is(text($rest->post('conduit_token', {}, @alice)), $unauthorized, 'no key, no token');

# ---- calls of the provider ----

$provider->script($_->[0], [ $_->[1] ], repeat_last => $true) foreach (
	[ '/api/users/7', { status => 200, json => { name => 'Al' } } ],
	[ '/api/admin', { status => 200, json => { secret => 1 } } ],
	[ '/api/file', { status => 200, json => { data => { url => "$url/files/1" } } } ],
	[ '/files/1', { status => 200, body_base64 => encode_base64("\x89PNG\0", ''), headers => { 'content-type' => 'image/png' } } ]);
is_deeply($rest->post('conduit_request', { connection_id => $id, method => 'GET', path => '/users/7' }, @alice)->{json}{reply}, { name => 'Al' }, 'what browsers may ask');
is(text($rest->post('conduit_request', { connection_id => $id, method => 'GET', path => '/admin' }, @alice)), '403 PT403 forbidden', 'and what not');
is(text($rest->post('conduit_request', { connection_id => $id, method => 'GET', path => '/only' }, @alice)), '403 PT403 forbidden', 'not of this connector');
is(text($rest->post('conduit_request', { connection_id => $empty, method => 'GET', path => '/only' }, @alice)), '404 PT404 credential not found', 'but of that one');
is(text($rest->post('conduit_request', { connection_id => $id, method => 'DELETE', path => '/users/7' }, @alice)), '403 PT403 forbidden', 'not by this method');
is(text($rest->post('conduit_request', { connection_id => $bob_id, method => 'GET', path => '/admin' }, @alice)), $not_found, 'nor for another owner');
is_deeply($rest->post('conduit_request', { connection_id => $id, method => 'GET', path => '/admin' }, @backend)->{json}{reply}, { secret => 1 }, 'backends ask what they like');
foreach my $case ([ 'a token', @alice ], [ 'a session', 'X-Conduit-Session' => $session ], [ 'the cookie', Cookie => "__Host-conduit-session=$session" ])
{
	my ($title, @headers) = @$case;
	$answer = $rest->get('conduit_preview', { connection_id => $id, path => '/file', url_path => 'data.url' }, @headers, Accept => 'image/avif,image/webp,*/*;q=0.8');
	is(join('|', $answer->{status}, $answer->{headers}{'content-type'}, $answer->{content}), "200|image/png|\x89PNG\0", "a preview by $title");
}
is(join('|', @{ $answer->{headers} }{qw(cache-control x-content-type-options content-security-policy)}), q{no-store|nosniff|default-src 'none'; sandbox}, 'which does no harm');
is(text($rest->post('conduit_preview', { connection_id => $id, path => '/file', url_path => 'data.url' }, Cookie => "__Host-conduit-session=$session")), $unauthorized, 'the cookie by POST');
is(text($rest->get('conduit_list_connections', {}, Cookie => "__Host-conduit-session=$session")), $unauthorized, 'the cookie for something else');
is($rest->get('conduit_preview', { connection_id => $id, path => '/file', url_path => 'data.url', query => '{"a": 1}' }, @alice)->{status}, 200, 'with a query');

# ---- errors ----

is(text($rest->post('conduit_vend', { connection_id => $empty }, @backend)), '404 PT404 credential not found', 'no credential');
is(text($rest->post('conduit_vend', { connection_id => $made }, @backend)), '410 PT410 connection revoked', 'revoked');
is(text($rest->post('conduit_vend', { connection_id => $id, scopes => ['admin'] }, @backend)), '409 PT409 connection lacks scope', 'a scope');
is(text($rest->post('conduit_create_connection', { connector => 'nothing' }, @backend)) =~ s/ [a-z].*//r, '400 22023', 'an argument');
is($rest->post('conduit_request', { connection_id => $id, method => 'GET', path => '//evil' }, @backend)->{status}, 400, 'a path');
my $limited = $cluster->connection('alice', 'slow', { access_token => 'x', expires_in => 3600 }, account => 'limited');
$provider->script('/slow', [ { status => 503 } ], repeat_last => $true);
is($rest->post('conduit_request', { connection_id => $limited, method => 'GET', path => '/users/7' }, @backend)->{status}, 200, 'one call');
$answer = $rest->post('conduit_request', { connection_id => $limited, method => 'GET', path => '/users/7' }, @backend);
is(text($answer), '429 PT429 rate limited', 'one too many');
like($answer->{headers}{'retry-after'}, qr/^3[56]\d\d$/, 'with the time to wait');
is($answer->{headers}{'cache-control'}, 'no-store', 'for this caller alone');
my $out = $cluster->connection('alice', 'slow', { refresh_token => 'y' }, account => 'out');
is(text($rest->post('conduit_vend', { connection_id => $out }, @backend)), '502 PT502 bad provider response', 'a provider that is out of order');
my $gone = $cluster->connection('alice', 'gone', { refresh_token => 'y' });
$answer = $rest->post('conduit_vend', { connection_id => $gone }, @backend);
is(text($answer), '504 PT504 provider unavailable', 'one that is not there');
like($answer->{headers}{'retry-after'}, qr/^\d+$/, 'with the time to wait');
$provider->script('/slow', [ { status => 400, json => { error => 'invalid_grant' } } ], repeat_last => $true);
my $dead = $cluster->connection('alice', 'slow', { refresh_token => 'z' }, account => 'dead');
is(text($rest->post('conduit_vend', { connection_id => $dead }, @backend)), '409 PT409 connection needs re-authorization', 'a dead one');
$provider->script('/api/echo', [ { status => 200, json => { token => $grant->{access_token} } } ], repeat_last => $true);
is(text($rest->post('conduit_request', { connection_id => $id, method => 'GET', path => '/echo' }, @backend)), '502 PT502 bad provider response', 'an answer that gives the token away');
is($rest->post('conduit_delete_connection', { connection_id => $dead }, @alice)->{status}, 204, 'delete');
is(text($rest->post('conduit_delete_owner', {}, @any, 'X-Conduit-Owner' => 'bob'), 'n'), '200 1', 'delete_owner');

# An application's function that calls ours catches errors by their SQLSTATE.
$cluster->sql(qq{
	CREATE FUNCTION api.look(id uuid) RETURNS text LANGUAGE plpgsql STABLE AS \$\$
	BEGIN
		PERFORM api.conduit_get_connection(id);
		RETURN 'there';
	EXCEPTION WHEN SQLSTATE 'PT404' THEN
		RETURN 'not there';
	END \$\$;
	CREATE FUNCTION api.vend(id uuid) RETURNS text LANGUAGE sql VOLATILE AS \$\$ SELECT access_token FROM api.conduit_vend(id) \$\$;
	GRANT EXECUTE ON FUNCTION api.look, api.vend TO anon, authenticated; NOTIFY pgrst, 'reload schema'});
$rest->reload if $pooled;
is(text($rest->until(sub { $rest->post('look', { id => $id }, @alice) }), 'text'), '200 "there"', 'a function of the application\'s');
is(text($rest->post('look', { id => $bob_id }, @alice), 'text'), '200 "not there"', 'catches what it knows');
$answer = $rest->post('vend', { id => $gone }, @backend);
is(text($answer), '504 PT504 provider unavailable', 'and passes on what it does not');
like($answer->{headers}{'retry-after'}, qr/^\d+$/, 'with the time to wait');

# ---- a replica ----

my $standby = PostgreSQL::Test::Cluster->new($pooled ? 'pooled_standby' : 'standby');
$cluster->node->backup('base');
$standby->init_from_backup($cluster->node, 'base', has_streaming => 1);
$standby->start;
$cluster->node->wait_for_catchup($standby);
my $replica_bouncer = $pooled ? Conduit::PgBouncer->start($standby, 'app') : undef;
my $replica = Conduit::PostgREST->start($standby, 'app', schemas => "api,$flux", jwt_secret => $key->jwk, $pooled ? $replica_bouncer->place : (listen => 0));
is(text($replica->get('conduit_vend', { connection_id => $id }, @backend), 'access_token'), "200 $grant->{access_token}", 'a replica vends, by GET');
is(text($replica->post('conduit_vend', { connection_id => $id }, @backend), 'access_token'), "200 $grant->{access_token}", 'and by POST');
is(text($replica->post('conduit_get_connection', { connection_id => $id }, @alice), 'owner'), '200 alice', 'it reads');
is(text($replica->get('conduit_get_connection', { connection_id => $id }, 'X-Conduit-Session' => $session), 'owner'), '200 alice', 'with sessions');
is($replica->get('conduit_health')->{json}{worker}, 'standby', 'says what it is');
is(text($replica->post('conduit_vend', { connection_id => $out }, @backend)), '504 PT504 provider unavailable', 'and refreshes nothing');

# ---- nothing leaks ----

my $log = slurp_file($cluster->node->logfile);
foreach my $secret ($api_key, $any_key, $session, $key->{secret})
{
	unlike($rest->log . $log =~ s/.*conduit_(?:create_api_key|open_session).*//gr, qr/\Q$secret\E/, 'no secret in a log');
}
is($cluster->sql(q{SELECT count(DISTINCT pid) FROM pg_stat_activity WHERE usename = 'authenticator'}), '1', 'all by one session') if $pooled;
$_->stop foreach grep { defined } $rest, $replica, $bouncer, $replica_bouncer;
done_testing();
