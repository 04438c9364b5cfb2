# Calling a provider's API: the credential goes in and does not come out.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Conduit::Cluster;
use Conduit::Provider;
use JSON::PP ();
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Utils;
use Test::More;

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my $json = JSON::PP->new->canonical;
my $provider = Conduit::Provider->start('scripted');
my $cluster = Conduit::Cluster->new('main', settings => "conduit.request_timeout = '20s'\nconduit.vend_timeout = '20s'\n");
my $now = 0;

$cluster->connector('api',
	token_url => $provider->url . '/token',
	api_base_url => $provider->url . '/api',
	preview_hosts => ['127.0.0.1']);
my ($grant) = $provider->issue(1, expires_in => 3600);
my $id = $cluster->connection('alice', 'api', $grant);
my $token = $grant->{access_token};

# status|reply_headers|reply|reply_raw, or the error.
sub call
{
	my ($method, $path, %options) = @_;
	my @arguments = ("'" . ($options{owner} // 'alice') . "'", "'" . ($options{id} // $id) . "'", defined $method ? "'$method'" : 'NULL', defined $path ? "E'$path'" : 'NULL');
	foreach my $name (qw(query headers body))
	{
		next unless exists $options{$name};
		my $text = ref $options{$name} ? $json->encode($options{$name}) : $options{$name};
		$text =~ s/'/''/g;
		push @arguments, "$name => '$text'";
	}
	push @arguments, "raw => '$options{raw}'" if exists $options{raw};
	my $answer = $cluster->wire(%{ $options{session} // {} })->query('SELECT * FROM conduit_request(' . join(', ', @arguments) . ')');
	return 'ERROR ' . join(' ', grep { defined && length } @{ $answer->{error} }{qw(C M D)}) if $answer->{error};
	return join('|', map { $_ // 'NULL' } @{ $answer->{rows}[0] });
}

sub script { my ($path, @steps) = @_; return $provider->script("/api$path", \@steps, repeat_last => $true); }
sub last_request { my ($path) = @_; return $provider->get("/control/log?path=/api$path")->[-1]; }
sub requests { my ($path) = @_; return $provider->get("/control/counts?path=/api$path")->{total} // 0; }

# ---- what goes in and comes out ----

script('/me', { status => 200, json => { login => 'alice' }, headers => { etag => '"1"', 'set-cookie' => 'a=b', 'x-ratelimit-remaining' => '7', 'x-secret' => 's',
	'www-authenticate' => 'Bearer', 'proxy-authenticate' => 'Basic', 'keep-alive' => 'timeout=5', 'access-control-allow-origin' => '*',
	server => 'x', location => '/x', 'authentication-info' => 'x', authorization => 'x', cookie => 'a=b', 'x-etag' => 'x', 'link-x' => 'x' } });
my $answer = call('GET', '/me', query => { page => 2, all => $true, tag => [ 'a b', 'c&d' ], none => undef }, headers => { 'X-Mine' => 'yes' });
like($answer, qr/^200\|.*"etag": "\\"1\\""/, 'status and a header');
like($answer, qr/"x-ratelimit-remaining": "7"/, 'rate limits pass');
is(join(' ', sort keys %{ $json->decode((split /\|/, $answer)[1]) }), 'content-type date etag location x-ratelimit-remaining', 'and nothing but what is known to be harmless');
like($answer, qr/\|\{"login": "alice"\}\|NULL$/, 'JSON in reply');
my $seen = last_request('/me');
is($seen->{headers}{authorization}, "Bearer $token", 'the credential');
is($seen->{headers}{'x-mine'}, 'yes', 'a header of the caller');
is($seen->{query}, 'all=true&tag=a+b&tag=c%26d&page=2', 'the query');

script('/echo', { status => 201, body => 'plain t&xt', headers => { 'content-type' => 'text/plain; charset=utf-8', location => '/api/x/1' } });
like(call('POST', '/echo', body => { a => [ 1, { b => 'x' } ] }), qr/^201\|.*"location": "\/api\/x\/1".*\|"plain t&xt"\|NULL$/, 'text in reply');
$seen = last_request('/echo');
is($seen->{method} . ' ' . $seen->{headers}{'content-type'}, 'POST application/json', 'a JSON body');
is($seen->{raw_body}, '{"a": [1, {"b": "x"}]}', 'as it was');
like(call('PUT', '/echo', raw => '\x00ff41', headers => { 'content-type' => 'image/png' }), qr/^201/, 'raw');
is(last_request('/echo')->{headers}{'content-type'} . ' ' . last_request('/echo')->{headers}{'content-length'}, 'image/png 3', 'with its own type');
script('/bytes', { status => 200, body_base64 => encode_base64("\0\1\xff", ''), headers => { 'content-type' => 'image/gif' } });
like(call('GET', '/bytes'), qr/^200\|.*\|NULL\|\\x0001ff$/, 'bytes in reply_raw');
script('/nothing', { status => 204, body => '' });
like(call('DELETE', '/nothing'), qr/^204\|.*\|NULL\|NULL$/, 'nothing');
like(call('HEAD', '/me'), qr/^200\|.*\|NULL\|NULL$/, 'HEAD');
script('/lies', { status => 200, body => '{', headers => { 'content-type' => 'application/json' } });
like(call('GET', '/lies'), qr/^200\|.*\|NULL\|\\x7b$/, 'JSON that is none comes as bytes');
foreach my $status (301, 400, 404, 500, 503)
{
	script("/status$status", { status => $status, json => { e => $status }, headers => { location => 'http://127.0.0.1:1/' } });
	like(call('GET', "/status$status"), qr/^$status\|/, "status $status is handed on");
	is(requests("/status$status"), 1, 'after one request');
}

# ---- what may not be asked for ----

my $before = $provider->get('/control/counts')->{total};
my %paths = ('user' => 'not_absolute', '//127.0.0.1/x' => 'empty_segment', 'http://127.0.0.1/' => 'not_absolute', '/a//b' => 'empty_segment', '/../token' => 'dot_segment',
	'/a/..' => 'dot_segment', '/a/..;/b' => 'dot_segment', '/.;x=1/b' => 'dot_segment', '/..%3B/token' => 'dot_segment', '/./a' => 'dot_segment', '/%2e%2e/token' => 'bad_encoding', '/%2E%2E/token' => 'bad_encoding', '/a%2fb' => 'bad_encoding', '/a%5cb' => 'bad_encoding',
	'/a\\\\b' => 'bad_character', '/a?x=1' => 'bad_character', '/a#x' => 'bad_character', '/a b' => 'bad_character', '/a\r\nX: y' => 'bad_character', '/a%0d%0ab' => 'bad_encoding',
	'/a%00' => 'bad_encoding', '/a%25' => 'bad_encoding', '/a%2' => 'bad_encoding', '/a%zz' => 'bad_encoding', '/ü' => 'bad_character', '/{x}' => 'bad_character', '' => 'not_absolute', '/' . 'a' x 1600 => 'too_long');
foreach my $path (sort keys %paths)
{
	is(call('GET', $path), "ERROR 22023 invalid path $paths{$path}", 'path ' . substr($path, 0, 40));
}
is(call($_, '/me'), 'ERROR 22023 invalid method unknown', "method $_") foreach ('get', 'CONNECT', 'TRACE', 'GET /x HTTP/1.1', '');
foreach my $header (qw(Host Authorization authorization Cookie Content-Length Transfer-Encoding Connection Proxy-Authorization Expect X-Forwarded-For X-Conduit-Key TE Upgrade Accept-Encoding
	Cookie2 Forwarded HTTP2-Settings Keep-Alive Max-Forwards Origin Trailer User-Agent Via Sec-Fetch-Site Proxy-Connection X-Forwarded-Host X-HTTP-Method-Override X-Http-Method X-Method-Override X-Original-URL X-Rewrite-URL))
{
	is(call('GET', '/me', headers => { $header => 'x' }), 'ERROR 22023 invalid headers refused', "header $header");
}
is(call('GET', '/me', headers => { "A$_" => 'x' }), 'ERROR 22023 invalid headers bad_name', 'a header\'s name') foreach (' ', ':', "\r\n", 'ü');
is(call('GET', '/me', headers => { A => $_ }), 'ERROR 22023 invalid headers bad_value', 'a line end in a header') foreach "x\r\nB: y", "x\nB: y", "x\rB: y", "\n", "x\t", "x\x7f", 'x' x 8193;
is(call('GET', '/me', headers => { A => $_ }), 'ERROR 22023 invalid headers bad_value', 'a header that is no text') foreach 1, $true, undef, ['x'], { x => 'y' };
is(call('GET', '/me', headers => { map { ("A$_" => 'x') } 1 .. 100 }), 'ERROR 22023 invalid headers too_many', 'a hundred headers');
is(call('POST', '/me', body => {}, headers => { 'content-type' => "text/plain\r\nB: y" }), 'ERROR 22023 invalid headers bad_value', "in a body's type");
is(call('GET', '/me', query => { a => { b => 1 } }), 'ERROR 22023 invalid query not_a_scalar', 'a query of objects');
is(call('GET', '/me', query => { a => [ 'b', ['c'] ] }), 'ERROR 22023 invalid query not_a_scalar', 'or of arrays of them');
is(call('GET', '/me', query => { '' => 'b' }), 'ERROR 22023 invalid query bad_name', 'a parameter without a name');
is(call('POST', '/me', body => {}, raw => 'x'), 'ERROR 22023 invalid body both', 'two bodies');
is(call('GET', '/me', owner => 'bob'), 'ERROR PT404 connection not found', 'another owner');
is(call('GET', '/me', id => '01a1fd5b-3398-7e66-8fd2-dc18e2a44342'), 'ERROR PT404 connection not found', 'a connection that never was');
is($provider->get('/control/counts')->{total}, $before, 'none of these has sent anything');
like(call('GET', '/me', query => { "a\r\nB: y&c" => "d\r\nE: f#?&=" }), qr/^200/, 'line ends in a query');
$seen = last_request('/me');
is(join(' ', $seen->{query}, grep { /^[be]$/ } keys %{ $seen->{headers} }), 'a%0D%0AB%3A+y%26c=d%0D%0AE%3A+f%23%3F%26%3D', 'are encoded there');

# ---- answers that hold the credential ----

my $bearer = "Bearer $token";
my %echoes = (
	'in JSON' => { json => { headers => { authorization => $bearer } } },
	'in text' => { body => "you sent $bearer", headers => { 'content-type' => 'text/plain' } },
	'in base64' => { body => 'x' . encode_base64("ab$token", ''), headers => { 'content-type' => 'text/plain' } },
	'percent-encoded' => { body => join('', map { $_ =~ /[A-Za-z0-9._~-]/ ? $_ : sprintf('%%%02X', ord) } split //, $token), headers => { 'content-type' => 'text/plain' } },
	'in a header' => { json => {}, headers => { link => "<https://x/?t=$token>" } });
foreach my $title (sort keys %echoes)
{
	script('/leak', { status => 200, %{ $echoes{$title} } });
	is(call('GET', '/leak'), 'ERROR PT502 bad provider response credential_echoed', "the credential, $title");
}

# There are many ways to write the same text.
my $key_with_slash = 'key/of+alice/0123456789';
$cluster->sql(q{SELECT conduit_register_connector('slashed', '} . $json->encode({ auth_type => 'api_key', api_base_url => $provider->url . '/api', api_auth => 'X-Key: {api_key}' }) . q{')});
my $slashed = $cluster->connection('alice', 'slashed', { api_key => $key_with_slash });
my $escaped = $key_with_slash =~ s{/}{\\/}gr;
my $unicode = join('', map { sprintf('\\u%04x', ord) } split //, $key_with_slash);
%echoes = (
	'with slashes escaped in JSON' => qq({"key": "$escaped"}),
	'in JSON within JSON' => $json->encode({ said => qq({"key": "$escaped"}) }),
	'by code points' => qq({"key": "$unicode"}),
	'percent-encoded in lower case' => 'key=' . ($key_with_slash =~ s{([/+])}{sprintf('%%%02x', ord $1)}ger),
	'percent-encoded as a whole' => 'key=' . join('', map { sprintf('%%%02X', ord) } split //, $key_with_slash),
	'in base64, with slashes escaped' => '{"key": "' . (encode_base64("\xff\xff\xff$key_with_slash\xff\xff\xff", '') =~ s{/}{\\/}gr) . '"}');
foreach my $title (sort keys %echoes)
{
	script('/leak', { status => 200, body => $echoes{$title}, headers => { 'content-type' => 'text/plain' } });
	is(call('GET', '/leak', id => $slashed), 'ERROR PT502 bad provider response credential_echoed', "the credential, $title");
}
script('/leak', { status => 200, body => '100% of C:\\users\\ua %zz \\', headers => { 'content-type' => 'text/plain' } });
like(call('GET', '/leak', id => $slashed), qr/^200\|/, 'what only looks encoded is handed on');

# ---- 401 ----

sub refreshes { return $provider->get('/control/counts?path=/token')->{total} // 0; }

script('/always401', { status => 401, json => { error => 'expired' } });
my $refreshed = refreshes();
like(call('GET', '/always401'), qr/^401\|/, 'a second 401 is handed on');
is(requests('/always401') . ' ' . (refreshes() - $refreshed), '2 1', 'two requests and one refresh');
$provider->script('/api/once401', [ { status => 401, json => {} }, { status => 200, json => { ok => $true } } ], repeat_last => $true);
like(call('GET', '/once401'), qr/^200\|/, 'a 401, then a new token');
isnt(last_request('/once401')->{headers}{authorization}, $bearer, 'which is another one');

# The first try was made with a token that somebody has renewed meanwhile.
$provider->script('/api/renewed401', [ { hang => $true, status => 401, json => {} }, { status => 200, json => {} } ], repeat_last => $true);
$refreshed = refreshes();
my $late = $cluster->wire;
$late->send("SELECT status FROM conduit_request('alice', '$id', 'GET', '/renewed401')");
$provider->wait_for('/api/renewed401', 'hanging', 1);
is($cluster->sql("SELECT refreshed FROM conduit_refresh('alice', '$id')"), 't', 'a token is renewed amid a call');
$provider->release;
is($late->receive->{rows}[0][0], '200', 'which is answered 401, and made once more');
my @tried = map { $_->{headers}{authorization} } @{ $provider->get('/control/log?path=/api/renewed401') };
isnt($tried[0], $tried[1], 'with the newer token');
is(refreshes() - $refreshed, 1, 'and without another refresh');

# A refresh that fails: an outage leaves the answer as it is, and it says so; a token that is dead is told.
$cluster->connector('failing', token_url => $provider->url . '/token/failing', api_base_url => $provider->url . '/api');
my $failing = $cluster->connection('alice', 'failing', $provider->issue(1, expires_in => 3600));
$provider->script('/token/failing', [ { status => 503 }, { status => 400, json => { error => 'invalid_grant' } } ]);
$answer = $cluster->wire->query("SELECT status FROM conduit_request('alice', '$failing', 'GET', '/always401')");
is($answer->{rows}[0][0] . ' ' . join(' ', map { "$_->{S} $_->{C} " . $_->{D} =~ s/ .*//r } @{ $answer->{notices} }), '401 WARNING PT502 http_503', 'a 401 and a refresh that fails');
is(call('GET', '/always401', id => $failing), 'ERROR PT409 connection needs re-authorization needs_reauth', 'a 401 and a refresh token that is dead');
is($provider->counts('/token/failing')->{total}, 2, 'a refresh each');
my $calls = requests('/always401');
is(call('GET', '/always401', id => $failing), 'ERROR PT409 connection needs re-authorization needs_reauth', 'and no call more');
is(requests('/always401'), $calls, 'is sent');

# Ten at a time, all with a token that the provider has just revoked: one refresh.
$cluster->connector('strict', token_url => $provider->url . '/token', api_base_url => $provider->url . '/userinfo');
my ($revoked) = $provider->issue(1, expires_in => 3600);
my $strict = $cluster->connection('alice', 'strict', $revoked);
$provider->post('/control/revoke', { access_token => $revoked->{access_token} });
$refreshed = refreshes();
my @wires = map { $cluster->wire } 1 .. 10;
$_->send("SELECT status FROM conduit_request('alice', '$strict', 'GET', '/x')") foreach @wires;
my @statuses = map { my $a = $_->receive; $a->{error} ? "$a->{error}{C} $a->{error}{M}" : $a->{rows}[0][0] } @wires;
is(join(' ', @statuses), join(' ', (200) x 10), 'ten 401 at a time');
is(refreshes() - $refreshed, 1, 'one refresh for all of them');

# A credential goes where the params say that it was stored for, also where both are replaced amid a call.
$cluster->sql(q{SELECT conduit_register_connector('moving', '} . $json->encode({ auth_type => 'api_key', api_auth => 'X-Key: {api_key}',
	api_base_url => $provider->url . '/api/{place}', params => { place => { pattern => '^[a-z]+$' } } }) . q{')});
my $moving = $cluster->sql(q{SELECT conduit_create_connection('alice', 'moving', params => '{"place": "first"}')});
$cluster->store($moving, { api_key => 'the-first-key' });
$provider->script('/api/first/x', [ { hang => $true, status => 401, json => {} }, { status => 200, json => {} } ], repeat_last => $true);
$provider->script('/api/second/x', [ { status => 200, json => {} } ], repeat_last => $true);
my $caller = $cluster->wire;
$caller->send("SELECT status FROM conduit_request('alice', '$moving', 'GET', '/x')");
$provider->wait_for('/api/first/x', 'hanging', 1);
$cluster->sql(qq{SELECT conduit_update_connection('alice', '$moving', params => '{"place": "second"}')});
$cluster->store($moving, { api_key => 'the-second-key' });
$provider->release;
is($caller->receive->{rows}[0][0], '200', 'a second try with a newer credential');
foreach my $place (qw(first second))
{
	is(join(' ', map { $_->{headers}{'x-key'} } @{ $provider->get("/control/log?path=/api/$place/x") }), "the-$place-key", "the $place key goes to the $place place alone");
}

# ---- other kinds of credentials ----

sub define { my ($slug, %definition) = @_; return $cluster->sql("SELECT conduit_register_connector('$slug', '" . $json->encode(\%definition) . "')"); }
define('keyed', auth_type => 'api_key', api_base_url => $provider->url . '/api/keyed?v=1', api_auth => 'X-Key: {api_key}; ?secret={api_secret}');
my $keyed = $cluster->connection('alice', 'keyed', { api_key => 'key-of-alice', api_secret => 'secret of&alice' });
$provider->script('/api/keyed/x', [ { status => 200, json => {} } ], repeat_last => $true);
like(call('GET', '/x', id => $keyed, query => { q => 'r' }), qr/^200/, 'an API key');
$seen = $provider->get('/control/log?path=/api/keyed/x')->[-1];
is("$seen->{headers}{'x-key'} $seen->{query}", 'key-of-alice v=1&secret=secret+of%26alice&q=r', 'where api_auth puts it');
is(call('GET', '/x', id => $keyed, headers => { 'x-KEY' => 'mine' }), 'ERROR 22023 invalid headers refused', 'a header that api_auth sets');
define('basic', auth_type => 'basic', api_base_url => $provider->url . '/api');
my $basic = $cluster->connection('alice', 'basic', { username => 'alice', password => 'a password' });
script('/basic', { status => 200, json => {} });
like(call('GET', '/basic', id => $basic), qr/^200/, 'a password');
is(last_request('/basic')->{headers}{authorization}, 'Basic ' . encode_base64('alice:a password', ''), 'as Basic');
define('noapi', auth_type => 'api_key');
is(call('GET', '/x', id => $cluster->connection('alice', 'noapi', { api_key => 'k' })), 'ERROR 22023 connector cannot be called no_api', 'a connector without an API');

# ---- limits ----

define('limited', auth_type => 'api_key', api_base_url => $provider->url . '/api', api_auth => 'X-Key: {api_key}', rate_limit_requests => 3, rate_limit_window_s => 3600);
my $limited = $cluster->connection('alice', 'limited', { api_key => 'k' });
script('/limited', { status => 200, json => {} });
like(call('GET', '/limited', id => $limited), qr/^200/, "request $_ of three") foreach 1 .. 3;
like(call('GET', '/limited', id => $limited), qr/^ERROR PT429 rate limited rate_limited retry_after=1[12]\d\d$/, 'the fourth is too many');
is(requests('/limited'), 3, 'and not sent');
define('twice', auth_type => 'oauth2_code', authorize_url => 'https://provider.example.com/authorize', token_url => $provider->url . '/token/twice', client_auth => 'none',
	api_base_url => $provider->url . '/api', rate_limit_requests => 2, rate_limit_window_s => 3600);
$cluster->sql(q{SELECT conduit_set_client('twice', 'cid', NULL)});
my $twice = $cluster->connection('alice', 'twice', $provider->issue(1, expires_in => 3600));
$provider->script('/api/twice', [ { status => 401, json => {} }, { status => 200, json => {} } ], repeat_last => $true);
like(call('GET', '/twice', id => $twice), qr/^200/, 'a second try');
like(call('GET', '/twice', id => $twice), qr/^ERROR PT429/, 'has been counted');
define('busy', auth_type => 'api_key', api_base_url => $provider->url . '/api', api_auth => 'X-Key: {api_key}');
my $busy = $cluster->connection('alice', 'busy', { api_key => 'k' });
script('/busy', { status => 429, json => {}, headers => { 'retry-after' => '60' } });
like(call('GET', '/busy', id => $busy), qr/^429\|.*"retry-after": "60"/, 'a 429 is handed on');
like(call('GET', '/busy', id => $busy), qr/^ERROR PT429 rate limited rate_limited retry_after=(?:60|59)$/, 'and believed');

$cluster->node->append_conf('postgresql.conf', "conduit.request_max_size = '64kB'");
$cluster->node->reload;
script('/huge', { status => 200, json => { a => 'b' }, huge => 200_000 });
ok($cluster->poll("SELECT current_setting('conduit.request_max_size') = '64kB'"), 'a smaller limit');
is(call('GET', '/huge'), 'ERROR PT502 bad provider response too_large', 'an answer that is too large');
is($cluster->error("SELECT conduit_request('alice', '$id', 'POST', '/me', raw => convert_to(repeat('x', 70000), 'UTF8'))") =~ s/\|The.*|\|Pass.*//r, '22023|invalid body|too_large 65536', 'a body that is too large');

# ---- a slow one delays nobody, and can be cancelled ----

script('/slow', { hang => $true });
my $slow = $cluster->wire;
$slow->send("SELECT conduit_request('alice', '$id', 'GET', '/slow')");
ok($provider->wait_for('/api/slow', 'hanging', 1), 'a request hangs');
like(call('GET', '/me'), qr/^200/, 'others go on');
$cluster->sql("SELECT pg_cancel_backend(" . $slow->pid . ")");
is($slow->receive->{error}{C}, '57014', 'it can be cancelled');
$provider->release;
$cluster->node->append_conf('postgresql.conf', "conduit.request_timeout = '300ms'");
$cluster->node->reload;
ok($cluster->poll("SELECT current_setting('conduit.request_timeout') = '300ms'"), 'a shorter time');
is(call('GET', '/slow'), 'ERROR PT504 provider unavailable timeout', 'it ends in time');
$provider->release;

# A refresh after a 401 is part of it: here it would go on until it is released, which comes after the answer.
$cluster->connector('stuck', token_url => $provider->url . '/token/stuck', api_base_url => $provider->url . '/api');
my $stuck = $cluster->connection('alice', 'stuck', $provider->issue(1, expires_in => 3600));
$provider->script('/token/stuck', [ { hang => $true } ]);
$cluster->node->append_conf('postgresql.conf', "conduit.request_timeout = '4s'\nconduit.vend_timeout = '10min'\nconduit.http_timeout = '10min'");
$cluster->node->reload;
ok($cluster->poll("SELECT current_setting('conduit.request_timeout') = '4s'"), 'time for one answer');
$answer = $cluster->wire->query("SELECT status FROM conduit_request('alice', '$stuck', 'GET', '/always401')");
is($answer->{rows}[0][0] . ' ' . join(' ', map { "$_->{S} $_->{C} $_->{D}" } @{ $answer->{notices} }), '401 WARNING PT504 timeout', 'a refresh does not make it longer');
is($provider->counts('/token/stuck')->{hanging}, 1, 'it goes on alone');
$provider->release;

# ---- previews ----

$cluster->node->append_conf('postgresql.conf', "conduit.request_timeout = '10s'");
$cluster->node->reload;
ok($cluster->poll("SELECT current_setting('conduit.request_timeout') = '10s'"), 'time enough');
my $file = $provider->url . '/files/1?signature=very-secret';
script('/file/1', { status => 200, json => { data => { url => $file } } });
$provider->script('/files/1', [ { status => 200, body_base64 => encode_base64("\x89PNG", ''), headers => { 'content-type' => 'image/png' } } ], repeat_last => $true);
my $told = '';
my $preview = sub
{
	my ($path, $url_path) = @_;
	my $a = $cluster->wire->query("SELECT content_type, body FROM conduit_preview('alice', '$id', '$path', '$url_path')");

	$told .= join("\n", map { values %$_ } $a->{error} // (), @{ $a->{notices} });
	return $a->{error} ? 'ERROR ' . join(' ', grep { defined && length } @{ $a->{error} }{qw(C M D)}) : join('|', @{ $a->{rows}[0] });
};
is($preview->('/file/1', 'data.url'), 'image/png|\x89504e47', 'a preview');
$seen = $provider->get('/control/log?path=/files/1')->[-1];
is(join(',', sort grep { /authorization|cookie|referer/i } keys %{ $seen->{headers} }), '', 'fetched without a credential');
is($preview->('/file/1', 'data.link'), 'ERROR PT502 bad provider response no_url', 'no address there');
is($preview->('/status404', 'data.url'), 'ERROR PT404 not found', 'no such file');
my %urls = ('http://10.0.0.1/x' => 'url_refused', 'http://169.254.169.254/latest' => 'url_refused', 'file:///etc/passwd' => 'url_refused', 'https://elsewhere.example.com/x' => 'url_refused', '//127.0.0.1/x' => 'url_refused',
	'http://alice:very-secret@127.0.0.1/x' => 'url_refused', 'http://127.0.0.1.example.com/x' => 'url_refused', "http://127.0.0.1/x\r\nX-Y: very-secret" => 'url_refused', 'http://127.0.0.2/x' => 'url_refused');
foreach my $url (sort keys %urls)
{
	script('/file/2', { status => 200, json => { url => $url } });
	is($preview->('/file/2', 'url'), "ERROR PT502 bad provider response $urls{$url}", 'address ' . $url =~ s/[\r\n]+/ /gr);
}
script('/file/3', { status => 200, json => { url => $provider->url . '/files/3' } });
$provider->script('/files/3', [ { status => 403, body => 'expired' } ], repeat_last => $true);
is($preview->('/file/3', 'url'), 'ERROR PT404 not found', 'an address that is over');
foreach my $status (302, 404, 500)
{
	$provider->script('/files/3', [ { status => $status, body => 'x', headers => { location => $provider->url . '/files/1' } } ], repeat_last => $true);
	is($preview->('/file/3', 'url'), 'ERROR PT404 not found', "one that is answered $status");
}
script('/file/4', { status => 200, json => { url => $provider->url . '/files/4?signature=very-secret' } });
$provider->script('/files/4', [ { status => 200, body => 'x', huge => 200_000 } ]);
is($preview->('/file/4', 'url'), 'ERROR PT502 bad provider response too_large', 'a file that is too large');
$provider->script('/files/4', [ { close => 'after_read' } ], repeat_last => $true);
is($preview->('/file/4', 'url'), 'ERROR PT502 bad provider response broken', 'one that does not come');
script('/file/5', { status => 302, json => { url => $file }, headers => { location => $file } });
is($preview->('/file/5', 'url'), 'ERROR PT404 not found', 'an address that comes by a redirect');
unlike($told, qr/very-secret|files/, 'no error tells the address');
$provider->script('/files/3', [ { status => 200, body => 'x', headers => { 'content-type' => "text/html\"; x" } } ], repeat_last => $true);
is($preview->('/file/3', 'url'), 'application/octet-stream|\x78', 'a type that is none');
my $log = PostgreSQL::Test::Utils::slurp_file($cluster->node->logfile);
unlike($log, qr/very-secret/, 'no address in the log');
unlike($log =~ s/conduit_store_credential[^\n]*//gr, qr/\Q$token\E/, 'nor a token, but where the test itself wrote it');
is($cluster->sql('SELECT count(*) FROM conduit_health() WHERE ok'), '1', 'all is well');

done_testing();
