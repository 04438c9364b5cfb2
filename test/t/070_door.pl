# Who is asking: API keys, sessions, JWTs, trusted callers, and what a request
# that proves nothing gets.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Conduit::Cluster;
use Conduit::Provider;
use JSON::PP ();
use MIME::Base64 qw(encode_base64url decode_base64url);
use PostgreSQL::Test::Utils;
use Test::More;

my $cluster = Conduit::Cluster->new('main', settings => "conduit.claims_login_roles = 'authenticator'\n");
my $json = JSON::PP->new->canonical->ascii;
my $now = 0;

# Facades are rows here; what conduit_expose() makes of them has tests of its own.
$cluster->sql(q{
	INSERT INTO conduit.facade (schema_name, tenant, options, created_at, updated_at) VALUES
		('api', '', '{}', now(), now()),
		('audienced', '', '{"jwt_audience": "conduit"}', now(), now()),
		('trusting', '', '{"trust_claims": true}', now(), now()),
		('trusting_one', '', '{"trust_claims": true, "jwt_audience": "conduit"}', now(), now()),
		('trusting_mail', '', '{"trust_claims": true, "jwt_audience": "conduit", "owner_claim": "email"}', now(), now()),
		('teams', '', '{"owners": "public.teams_of"}', now(), now()),
		('t_0123456789ab_api', 't_0123456789ab_api', '{}', now(), now());
	CREATE ROLE authenticator LOGIN;
	CREATE ROLE team_owner;
	GRANT CREATE ON SCHEMA public TO team_owner;
	SET ROLE team_owner;
	CREATE FUNCTION public.teams_of(subject text) RETURNS SETOF text LANGUAGE sql AS $$
		SELECT 'team:7' WHERE subject = 'alice' AND current_user = 'team_owner' $$;
});

# Runs a query as a request with these headers would; its one row, or the error.
sub request
{
	my ($headers, $query, %options) = @_;
	my $wire = $cluster->wire(user => $options{user});
	my $settings = sub { my ($name, $value) = @_; my $text = ref $value ? $json->encode($value) : $value; $text =~ s/'/''/g; return "SELECT set_config('request.$name', '$text', false)" };
	$wire->query($settings->(headers => $headers));
	$wire->query($settings->(method => $options{method} // 'POST'));
	$wire->query($settings->(cookies => $options{cookies})) if $options{cookies};
	$wire->query($settings->('jwt.claims' => $options{claims})) if $options{claims};
	my $answer = $wire->query($query);
	return join(' ', grep { defined } @{ $answer->{error} }{qw(C M D)}) if $answer->{error};
	return join('|', map { $_ // 'NULL' } @{ $answer->{rows}[0] });
}

# Who a request is, in the eyes of a facade: "owner|backend".
sub who
{
	my ($headers, %options) = @_;
	my $schema = $options{schema} // 'api';
	my $need = $options{need} // 'owner';
	my $action = $options{action} // 'vend';
	my $connection = $options{connection} ? "'$options{connection}'" : 'NULL';
	my $connector = $options{connector} ? "'$options{connector}'" : 'NULL';
	return request($headers, "SELECT owner, backend FROM conduit.enter('$schema', '$action', '$need', $connection, $connector)", %options);
}

my $unauthorized = 'PT401 unauthorized';

sub refused { my ($got, $title) = @_; return is($got, $unauthorized, $title); }

# ---- API keys ----

my ($alice_key_id, $alice_key) = split /\|/, $cluster->sql(q{SELECT * FROM conduit_create_api_key('alice', 'server', '{vend:*,list}')});
my ($any_key_id, $any_key) = split /\|/, $cluster->sql(q{SELECT * FROM conduit_create_api_key(NULL, 'backend', '{*}')});
my ($github_key_id, $github_key) = split /\|/, $cluster->sql(q{SELECT * FROM conduit_create_api_key('alice', 'one connector', '{vend:github}')});
my ($tenant_key_id, $tenant_key) = split /\|/, $cluster->sql(q{SELECT * FROM conduit_create_api_key('alice', 'other tenant', '{*}', tenant => 't_0123456789ab_api')});

like($alice_key, qr/^cdt_[A-Za-z0-9_-]{71}$/, 'the form of a key');
is($cluster->sql(q{SELECT count(*) FROM conduit.api_key k WHERE k::text LIKE '%' || substr('} . $alice_key . q{', 27, 20) || '%'}), '0', 'a key stands in no column');
is(who({ 'x-conduit-key' => $alice_key }), 'alice|t', 'a key with an owner');
is(who({ 'x-conduit-key' => $any_key, 'x-conduit-owner' => 'bob' }), 'bob|t', 'a backend names the owner');
is(who({ 'x-conduit-key' => $any_key }, need => 'backend'), 'NULL|t', 'a backend for nobody in particular');
refused(who({ 'x-conduit-key' => $any_key }), 'an owner is needed');
refused(who({ 'x-conduit-key' => $alice_key, 'x-conduit-owner' => 'bob' }), 'a key cannot act for another owner');
refused(who({ 'x-conduit-key' => $tenant_key }), 'a key of another tenant');
is(who({ 'x-conduit-key' => $tenant_key }, schema => 't_0123456789ab_api'), 'alice|t', 'which is good at home');
refused(who({}), 'nothing');
refused(who({ 'x-conduit-key' => '' }), 'an empty key');
refused(who({ 'x-conduit-owner' => 'alice' }), 'an owner that nobody vouches for');
refused(who({ authorization => "Bearer $alice_key" }), 'a key in Authorization');
foreach my $i (0, 4, 20, 30, 60, 74)
{
	my $wrong = $alice_key;
	substr($wrong, $i, 1) = substr($wrong, $i, 1) eq 'A' ? 'B' : 'A';
	refused(who({ 'x-conduit-key' => $wrong }), "character $i changed");
}
refused(who({ 'x-conduit-key' => substr($alice_key, 0, 74) }), 'cut');
refused(who({ 'x-conduit-key' => "${alice_key}A" }), 'too long');
is(who({ 'x-conduit-key' => $alice_key }, action => 'request'), 'PT403 forbidden scope', 'an action that the key does not cover');
is(who({ 'x-conduit-key' => $alice_key }, action => 'list'), 'alice|t', 'an action without an object');
is(who({ 'x-conduit-key' => $github_key }, connector => 'github'), 'alice|t', 'a connector that the key covers');
is(who({ 'x-conduit-key' => $github_key }, connector => 'slack'), 'PT403 forbidden scope', 'one that it does not');
$cluster->sql(q{SELECT conduit_set_client('slack', 'c', 's')});
my $alice_slack = $cluster->sql(q{SELECT conduit_create_connection('alice', 'slack')});
my $bob_slack = $cluster->sql(q{SELECT conduit_create_connection('bob', 'slack')});
is(who({ 'x-conduit-key' => $github_key }, connection => $alice_slack), 'PT403 forbidden scope', 'a connection\'s connector counts');
is(who({ 'x-conduit-key' => $github_key }, connection => $bob_slack),
	who({ 'x-conduit-key' => $github_key }, connection => '01a1fd5b-3398-7e66-8fd2-dc18e2a44342'),
	'another owner\'s connection is like one that never was');
my $foreign_slack = $cluster->sql(q{SELECT conduit_create_connection('alice', 'slack', tenant => 'foreign')});
is(who({ 'x-conduit-key' => $github_key }, connection => $foreign_slack),
	who({ 'x-conduit-key' => $github_key }, connection => '01a1fd5b-3398-7e66-8fd2-dc18e2a44342'),
	'and so is another tenant\'s');

is(request({ 'x-conduit-key' => $alice_key }, q{SELECT owner, scopes FROM conduit_require_key('vend:github')}), 'alice|{vend:*,list}', 'conduit_require_key');
is(request({ 'x-conduit-key' => $alice_key }, q{SELECT conduit_require_key('delete')}), 'PT403 forbidden scope', 'conduit_require_key, scope');
refused(request({}, q{SELECT conduit_require_key()}), 'conduit_require_key, nothing');
is(request({ 'x-conduit-key' => $alice_key }, q{SELECT conduit_require_backend('vend')}), '', 'conduit_require_backend');

# Rotation with a grace, revocation, expiry.
my ($new_id, $new_key) = split /\|/, $cluster->sql(qq{SELECT * FROM conduit_rotate_api_key('alice', '$alice_key_id', '1 hour')});
is(who({ 'x-conduit-key' => $new_key }), 'alice|t', 'the new key');
like($cluster->error(qq{SELECT conduit_rotate_api_key('alice', '$alice_key_id', '1 day')}), qr/^PT404\|API key not found\|/, 'the old one is not rotated again, nor its end put off');
is(who({ 'x-conduit-key' => $alice_key }), 'alice|t', 'the old one, within the grace');
$cluster->set_clock(3601);
refused(who({ 'x-conduit-key' => $alice_key }), 'and after it');
is($cluster->sql(qq{SELECT rotated_from, name, scopes FROM conduit_list_api_keys() WHERE id = '$new_id'}), "$alice_key_id|server|{vend:*,list}", 'what rotation keeps');
my $session = $cluster->wire;
$session->query(qq{SELECT set_config('request.headers', '{"x-conduit-key": "$new_key"}', false)});
my $before = $session->query('SELECT owner FROM conduit_require_key()')->{rows}[0][0];
$cluster->sql(qq{SELECT conduit_revoke_api_key('alice', '$new_id')});
is($before . ' ' . $session->query('SELECT owner FROM conduit_require_key()')->{error}{C}, 'alice PT401', 'a revocation holds in an open session at once');
my (undef, $short_key) = split /\|/, $cluster->sql(q{SELECT * FROM conduit_create_api_key('alice', 'short', '{*}', now() + interval '2 hours')});
is(who({ 'x-conduit-key' => $short_key }), 'alice|t', 'a key with an end');
$cluster->set_clock(7300);
refused(who({ 'x-conduit-key' => $short_key }), 'and after it');
is($cluster->error(qq{SELECT conduit_revoke_api_key('bob', '$any_key_id')}), 'PT404|API key not found||conduit_list_api_keys() lists those there are.', 'another owner\'s key is not found');
foreach my $bad ("'{}'", "'{Vend}'", "'{vend:}'", "'{a:b:c}'", "'{\"\"}'", 'NULL')
{
	like($cluster->error("SELECT conduit_create_api_key('alice', 'x', $bad)"), qr/^22023\|invalid scopes/, "scopes $bad");
}
is(who({ 'x-conduit-key' => $any_key, 'x-conduit-owner' => 'al' }), 'al|t', 'used');
$cluster->node->reload;
ok($cluster->poll(qq{SELECT last_used_at IS NOT NULL FROM conduit_list_api_keys() WHERE id = '$any_key_id'}), 'the worker writes down the last use');

# ---- sessions ----

my $key = $cluster->sql(q{SELECT conduit_open_session('alice')});
my $bound = $cluster->sql(qq{SELECT conduit_open_session('alice', '$alice_slack')});
my $bob = $cluster->sql(q{SELECT conduit_open_session('bob')});
like($key, qr/^[A-Za-z0-9_-]{43}$/, 'a session key');
is($cluster->sql("SELECT count(*) FROM conduit.session s WHERE s::text LIKE '%$key%'"), '0', 'which is not in the table');
is($cluster->sql("SELECT owner, connection_id FROM conduit_session('$bound')"), "alice|$alice_slack", 'conduit_session');
is(who({ 'x-conduit-session' => $key }), 'alice|f', 'the owner of a session');
is(who({ 'x-conduit-session' => $key }, need => 'backend'), 'PT403 forbidden backend', 'a session is no backend');
refused(who({ 'x-conduit-session' => $key }, schema => 't_0123456789ab_api'), 'a session of another tenant');
refused(who({ 'x-conduit-session' => $key, 'x-conduit-owner' => 'bob' }), 'a browser cannot name an owner');
refused(who({ 'x-conduit-session' => $key, 'x-conduit-owner' => 'alice' }), 'not even its own');
is(who({ 'x-conduit-session' => $bound }, connection => $alice_slack), 'alice|f', 'a bound session and its connection');
is(who({ 'x-conduit-session' => $bound }, connection => $bob_slack), 'PT404 connection not found', 'a bound session and another');
is(who({ 'x-conduit-session' => $bound }, action => 'list'), 'PT403 forbidden session', 'a bound session lists nothing');
is(who({ 'x-conduit-session' => $bound }, action => 'health', need => 'nobody'), 'alice|f', 'but may know what everybody may');
is(who({ 'x-conduit-key' => $any_key, 'x-conduit-session' => $key }), 'alice|t', 'a backend for the owner of a session');
refused(who({ 'x-conduit-key' => $any_key, 'x-conduit-session' => $key, 'x-conduit-owner' => 'bob' }), 'a backend that names another');
is(who({}, action => 'preview', method => 'GET', cookies => { '__Host-conduit-session' => $key }), 'alice|f', 'a cookie, for a preview by GET');
refused(who({}, action => 'preview', method => 'POST', cookies => { '__Host-conduit-session' => $key }), 'a cookie by POST');
refused(who({}, action => 'vend', method => 'GET', cookies => { '__Host-conduit-session' => $key }), 'a cookie for something else');
refused(who({ 'x-conduit-session' => 'A' x 43 }), 'a session that somebody made up');
$cluster->sql(qq{SELECT conduit_close_session('$bob')});
refused(who({ 'x-conduit-session' => $bob }), 'a closed session');
is($cluster->sql(qq{SELECT conduit_close_session('$bob')}), '', 'closing again says nothing');
is($cluster->error(qq{SELECT conduit_open_session('bob', '$alice_slack')}), 'PT404|connection not found||Check that id, owner and tenant belong together.', 'a session for another owner\'s connection');

# Seven days from the last use, thirty at most.
my $day = 86400;
my $start = 7300;
foreach my $d (6, 12, 18, 24)
{
	$cluster->set_clock($start + $d * $day);
	is(who({ 'x-conduit-session' => $key }), 'alice|f', "in use on day $d");
	$cluster->node->reload;
	ok($cluster->poll(qq{SELECT s.expires_at > now() + interval '@{[ $start + ($d + 5) * $day ]} s' FROM conduit.session s
		JOIN conduit_session('$key') c ON true WHERE s.owner = 'alice' AND s.connection_id IS NULL}), 'which the worker writes down');
}
$cluster->set_clock($start + 30 * $day + 60);
refused(who({ 'x-conduit-session' => $key }), 'after thirty days it ends all the same');
refused(who({ 'x-conduit-session' => $bound }), 'an unused one has ended after seven');
$cluster->set_clock($start + 31 * $day);
$cluster->node->reload;
ok($cluster->poll('SELECT count(*) = 0 FROM conduit.session'), 'and both are removed');
$cluster->set_clock(0);

# ---- JWTs ----

my $node = sub { my ($script, @arguments) = @_; my ($out, $err) = PostgreSQL::Test::Utils::run_command([ 'node', '-e', $script, @arguments ]); die $err if $err; return $out };
# Makes keys and tokens: arguments are claims and header as JSON, and the private JWK.
my $keys = $json->decode($node->(<<'JS'));
const c = require('crypto');
const rsa = c.generateKeyPairSync('rsa', { modulusLength: 2048 }), ec = c.generateKeyPairSync('ec', { namedCurve: 'P-256' });
const other = c.generateKeyPairSync('rsa', { modulusLength: 2048 });
console.log(JSON.stringify({
  rsa: { ...rsa.publicKey.export({ format: 'jwk' }), kid: 'r' }, rsa_private: { ...rsa.privateKey.export({ format: 'jwk' }), kid: 'r' },
  ec: ec.publicKey.export({ format: 'jwk' }), ec_private: ec.privateKey.export({ format: 'jwk' }),
  other_private: other.privateKey.export({ format: 'jwk' }),
  oct: { kty: 'oct', k: c.randomBytes(32).toString('base64url') },
  rsa_pem: rsa.publicKey.export({ format: 'pem', type: 'spki' }) }));
JS

sub token
{
	my ($claims, $jwk, $header) = @_;
	return $node->(<<'JS', $json->encode($claims), $json->encode($jwk), $json->encode($header // {}));
const c = require('crypto');
const [claims, jwk, header] = process.argv.slice(1).map(JSON.parse);
const alg = { RSA: 'RS256', EC: 'ES256', oct: 'HS256' }[jwk.kty];
const part = o => Buffer.from(JSON.stringify(o)).toString('base64url');
const text = part({ alg, typ: 'JWT', ...header }) + '.' + part(claims);
const sign = jwk.kty === 'oct' ? c.createHmac('sha256', Buffer.from(jwk.k, 'base64url')).update(text).digest()
  : c.sign('sha256', Buffer.from(text), { key: c.createPrivateKey({ format: 'jwk', key: jwk }), dsaEncoding: 'ieee-p1363' });
console.log(text + '.' + (header.alg === 'none' ? '' : sign.toString('base64url')));
JS
}

sub bearer { return { authorization => 'Bearer ' . token(@_) } }

my $exp = time + 3600;
my $set = $json->encode({ keys => [ $keys->{rsa}, $keys->{ec}, $keys->{oct}, { kty => 'OKP', crv => 'Ed25519', x => 'AAAA' } ] });
refused(who(bearer({ sub => 'alice', exp => $exp }, $keys->{oct})), 'a token where no key is set proves nothing');
$cluster->sql("SELECT conduit_set_jwt_key('$_', '$set')") foreach qw(api audienced teams);
is($cluster->sql("SELECT count(*) FROM conduit.jwt_key k WHERE k::text LIKE '%$keys->{oct}{k}%'"), '0', 'keys are sealed');
foreach my $kind (qw(rsa_private ec_private oct))
{
	is(who(bearer({ sub => 'alice', exp => $exp }, $keys->{$kind})), 'alice|f', "a token by $kind");
}
is(who({ authorization => 'bearer   ' . token({ sub => "\x{fc}n\x{ef}", exp => $exp }, $keys->{oct}) }), "\xc3\xbcn\xc3\xaf|f", 'a scheme in lower case, a subject in UTF-8');
is(who(bearer({ sub => 'alice', exp => time - 20 }, $keys->{oct})), 'alice|f', 'clocks may be off by a little');
my %bad_tokens = (
	'expired' => [ { sub => 'alice', exp => time - 60 }, $keys->{oct} ],
	'no exp' => [ { sub => 'alice' }, $keys->{oct} ],
	'exp as text' => [ { sub => 'alice', exp => "$exp" }, $keys->{oct} ],
	'not yet' => [ { sub => 'alice', exp => $exp, nbf => time + 300 }, $keys->{oct} ],
	'another key' => [ { sub => 'alice', exp => $exp }, $keys->{other_private} ],
	'alg none' => [ { sub => 'alice', exp => $exp }, $keys->{oct}, { alg => 'none' } ],
	'alg of another kind' => [ { sub => 'alice', exp => $exp }, $keys->{oct}, { alg => 'RS256' } ],
	'HMAC by the public key' => [ { sub => 'alice', exp => $exp }, { kty => 'oct', k => encode_base64url($keys->{rsa_pem}) } ],
	'crit' => [ { sub => 'alice', exp => $exp }, $keys->{oct}, { crit => ['exp'] } ],
	'kid of another key' => [ { sub => 'alice', exp => $exp }, $keys->{rsa_private}, { kid => 'x' } ],
	'no subject' => [ { exp => $exp }, $keys->{oct} ],
	'subject not a text' => [ { sub => 7, exp => $exp }, $keys->{oct} ],
	'blank subject' => [ { sub => '  ', exp => $exp }, $keys->{oct} ],
	'subject with a line feed' => [ { sub => "a\nb", exp => $exp }, $keys->{oct} ]);
foreach my $title (sort keys %bad_tokens)
{
	refused(who(bearer(@{ $bad_tokens{$title} })), "a token: $title");
}
my $good = token({ sub => 'alice', exp => $exp }, $keys->{oct});
foreach my $i (0, 30, length($good) - 2)
{
	my $wrong = $good;
	substr($wrong, $i, 1) = substr($wrong, $i, 1) eq 'A' ? 'B' : 'A';
	refused(who({ authorization => "Bearer $wrong" }), "a token with character $i changed");
}
refused(who({ authorization => "Bearer $_" }), 'no token at all') foreach ('x', 'a.b', 'a.b.c.d', '..', '...');
is(who(bearer({ sub => 'alice', exp => $exp, aud => [ 'x', 'conduit' ] }, $keys->{oct}), schema => 'audienced'), 'alice|f', 'an audience');
refused(who(bearer({ sub => 'alice', exp => $exp, aud => 'other' }, $keys->{oct}), schema => 'audienced'), 'another audience');
refused(who(bearer({ sub => 'alice', exp => $exp }, $keys->{oct}), schema => 'audienced'), 'no audience');
my $alice_session = $cluster->sql(q{SELECT conduit_open_session('alice')});
my $bob_session = $cluster->sql(q{SELECT conduit_open_session('bob')});
is(who({ %{ bearer({ sub => 'alice', exp => $exp }, $keys->{oct}) }, 'x-conduit-session' => $alice_session }), 'alice|f', 'two proofs that agree');
refused(who({ %{ bearer({ sub => 'alice', exp => $exp }, $keys->{oct}) }, 'x-conduit-session' => $bob_session }), 'two proofs that do not');
foreach my $bad ([ '{}', 'not_a_key' ], [ 'x', 'json' ], [ '[]', 'not_a_key' ], [ '{"kty":"oct","k":"AAAA"}', 'weak_key' ], [ '{"kty":"RSA","n":"AQAB","e":"AQAB"}', 'bad_key|weak_key' ],
	[ '{"kty":"EC","crv":"P-384","x":"AAAA","y":"AAAA"}', 'unknown_curve' ], [ '{"keys":[]}', 'no_usable_key' ], [ '{"kty":"OKP","crv":"Ed25519","x":"AAAA"}', 'no_usable_key' ],
	[ '{"kty":"EC","crv":"P-256","x":"' . 'A' x 43 . '","y":"' . 'A' x 43 . '"}', 'bad_key' ])
{
	like($cluster->error("SELECT conduit_set_jwt_key('api', '$bad->[0]')"), qr/^22023\|invalid jwk\|(?:$bad->[1])\|/, "jwk $bad->[0]");
}
like($cluster->error("SELECT conduit_set_jwt_key('nowhere', NULL)"), qr/^22023\|unknown facade/, 'a schema that is not exposed');

# ---- tokens for keys ----

$cluster->sql(q{UPDATE conduit.facade SET options = options || '{"token_role": "web", "token_ttl": 600}' WHERE schema_name = 'audienced'});
foreach my $case ([ 'NULL', 600 ], [ q{now() + interval '100 s'}, 100 ])
{
	my ($expires_at, $most) = @$case;
	my ($token, $seconds) = split /\|/, $cluster->sql(qq{SELECT t.access_token, t.expires_in
		FROM (SELECT * FROM conduit_create_api_key('alice', 'k', '{token}', $expires_at) OFFSET 0) k, conduit.make_token('audienced', k.id) t});
	my $claims = $json->decode(decode_base64url((split /\./, $token)[1]));
	cmp_ok($seconds, '<=', $most, "a token lives no longer than its key, or $most s");
	is($claims->{exp} - $claims->{iat}, $seconds, 'as it says itself');
	is(join(' ', @$claims{qw(sub role aud)}), 'alice web conduit', 'it is for the facade\'s audience');
	is(who({ authorization => "Bearer $token" }, schema => 'audienced'), 'alice|f', 'which takes it');
}

# ---- trusted callers ----

my $service = bearer({ sub => 'cron', iss => 'https://idp', aud => 'backend', exp => $exp, roles => [ 'a', 'b' ] }, $keys->{oct});
is(who($service, need => 'backend'), 'PT403 forbidden backend', 'a proven token is not yet a backend');
like($cluster->error(q{SELECT conduit_trust_caller('wide', issuer => 'https://idp')}), qr/^22023\|invalid trusted caller\|too_wide/, 'an issuer alone is too wide');
$cluster->sql(q{SELECT conduit_trust_caller('cron', 'https://idp', 'backend', '{cron}', '{"roles": "b"}')});
is(who($service, need => 'backend'), 'cron|t', 'a trusted caller');
is(who({ %$service, 'x-conduit-owner' => 'bob' }), 'bob|t', 'which names the owner');
is(who({ %$service, 'x-conduit-session' => $alice_session }), 'alice|t', 'or a session does');
foreach my $other ({ iss => 'x' }, { aud => 'x' }, { sub => 'x' }, { roles => [ 'a' ] }, { roles => 'a' }, { iss => ['x'] })
{
	my $headers = bearer({ sub => 'cron', iss => 'https://idp', aud => 'backend', exp => $exp, roles => [ 'a', 'b' ], %$other }, $keys->{oct});
	is(who($headers, need => 'backend'), 'PT403 forbidden backend', 'not if something differs: ' . $json->encode($other));
}
refused(who($service, need => 'backend', schema => 't_0123456789ab_api'), 'nor in another tenant');
is(request($service, 'SELECT conduit_require_backend()'), '', 'conduit_require_backend with a token');
$cluster->sql(q{SELECT conduit_untrust_caller('cron')});
is(who($service, need => 'backend'), 'PT403 forbidden backend', 'nor when it is taken back');

# Guards without a facade take a token under the keys of any of the tenant's, but
# each by its own rules: for its audience, with the owner in its claim.
$cluster->sql(q{
	INSERT INTO conduit.facade (schema_name, tenant, options, created_at, updated_at) VALUES
		('ours', 'strict', '{"jwt_audience": "ours", "owner_claim": "email"}', now(), now()),
		('theirs', 'strict', '{"jwt_audience": "theirs"}', now(), now());
	SELECT conduit_trust_caller('cron', subjects => '{cron}', tenant => 'strict')});
$cluster->sql(sprintf q{SELECT conduit_set_jwt_key('%s', '%s')}, $_->[0], $json->encode($keys->{ $_->[1] })) foreach [ ours => 'oct' ], [ theirs => 'rsa' ];
my $require = q{SELECT conduit_require_backend(tenant => 'strict')};
foreach my $case ([ oct => 'ours', '' ], [ rsa_private => 'theirs', '' ], [ oct => 'theirs', $unauthorized ], [ rsa_private => 'ours', $unauthorized ], [ oct => undef, $unauthorized ],
	[ ec_private => 'ours', $unauthorized ])
{
	my ($kind, $audience, $expected) = @$case;
	is(request(bearer({ sub => 'cron', exp => $exp, aud => $audience }, $keys->{$kind}), $require), $expected, "conduit_require_backend: a token under $kind for " . ($audience // 'nobody'));
}
my (undef, $strict_key) = split /\|/, $cluster->sql(q{SELECT * FROM conduit_create_api_key('alice', 'k', '{*}', tenant => 'strict')});
foreach my $case ([ oct => 'ours', 'alice', 'alice' ], [ oct => 'ours', 'bob', $unauthorized ], [ rsa_private => 'theirs', 'bob', 'alice' ])
{
	my ($kind, $audience, $email, $expected) = @$case;
	my $token = bearer({ sub => $kind eq 'oct' ? 'someone' : 'alice', email => $email, exp => $exp, aud => $audience }, $keys->{$kind});
	is(request({ %$token, 'x-conduit-key' => $strict_key }, q{SELECT owner FROM conduit_require_key(tenant => 'strict')}), $expected, "conduit_require_key: with a token of $audience for $email");
}
is(request(bearer({ sub => 'cron', exp => $exp, aud => 'ours' }, $keys->{oct}), q{SELECT conduit.require_backend('ours', NULL)}), '', 'a facade\'s guard: by its own keys');
refused(request(bearer({ sub => 'cron', exp => $exp, aud => 'theirs' }, $keys->{rsa_private}), q{SELECT conduit.require_backend('ours', NULL)}), 'and no others');
is(request({ 'x-conduit-key' => $strict_key }, q{SELECT owner FROM conduit.require_key('theirs', 'vend')}), 'alice', 'a facade\'s guard of keys');
refused(request({ 'x-conduit-key' => $any_key }, q{SELECT owner FROM conduit.require_key('theirs', 'vend')}), 'for those of its tenant');

# A schema that was dropped lets nobody in, though its tenant is not destroyed yet.
my $dropped = $cluster->wire;
$dropped->query($_) foreach 'BEGIN', q{UPDATE conduit.facade SET dropped_at = now() WHERE schema_name = 'theirs'}, qq{SELECT set_config('request.headers', '{"x-conduit-key": "$strict_key"}', false)};
is($dropped->query(q{SELECT conduit.require_backend('theirs', NULL)})->{error}{C}, 'PT401', 'nobody comes in by a facade whose schema was dropped');

# ---- claims as they stand in a setting ----

# As a facade's function would, that runs with its owner's rights.
$cluster->sql('GRANT USAGE ON SCHEMA conduit TO authenticator; GRANT EXECUTE ON FUNCTION conduit.enter TO authenticator');
my %claims = (claims => { sub => 'mallory', role => 'authenticated' });
refused(who({}, %claims), 'claims in a setting prove nothing');
refused(who({}, %claims, user => 'authenticator', schema => 'api'), 'nor from the login role, where the facade does not say so');
refused(who({}, %claims, schema => 'trusting'), 'nor from another login role where it does');
is(who({}, %claims, user => 'authenticator', schema => 'trusting'), 'mallory|f', 'from that login role where it does');
refused(who({}, claims => { role => 'anon' }, user => 'authenticator', schema => 'trusting'), 'nobody');
is(who({}, claims => { sub => 'alice', aud => 'conduit' }, user => 'authenticator', schema => 'trusting_one'), 'alice|f', 'claims for the audience');
refused(who({}, claims => { sub => 'alice', aud => 'other' }, user => 'authenticator', schema => 'trusting_one'), 'claims for another audience');
$cluster->sql("SELECT conduit_trust_caller('robots', subjects => '{robot}')");
my $robot = { 'x-conduit-owner' => 'alice' };
is(who($robot, claims => { sub => 'robot', aud => 'conduit' }, user => 'authenticator', schema => 'trusting_one'), 'alice|t', 'a trusted caller');
refused(who($robot, claims => { sub => 'robot', aud => 'other' }, user => 'authenticator', schema => 'trusting_one'), 'one who is meant for another audience');
$cluster->sql('GRANT EXECUTE ON FUNCTION conduit.require_backend, conduit_require_backend TO authenticator');
is(request({}, q{SELECT conduit.require_backend('trusting_one', NULL)}, claims => { sub => 'robot', aud => 'conduit' }, user => 'authenticator'), '', 'for the guard of a facade that trusts them, too');
refused(request({}, q{SELECT conduit.require_backend('api', NULL)}, claims => { sub => 'robot', aud => 'conduit' }, user => 'authenticator'), 'not for one that does not');
refused(request({}, q{SELECT conduit_require_backend()}, claims => { sub => 'robot', aud => 'conduit' }, user => 'authenticator'), 'nor for the one without a facade');
refused(who($robot, claims => { sub => 'robot', aud => 'other', email => undef }, user => 'authenticator', schema => 'trusting_mail'), 'nor where owners have another claim');
refused(who($robot, claims => { sub => 'robot', aud => 'other' }, user => 'authenticator', schema => 'trusting_mail'), 'and it is not there');
$cluster->sql("SELECT conduit_untrust_caller('robots')");
refused(who({}, claims => '', user => 'authenticator', schema => 'trusting'), 'an empty setting');
refused(who('{', user => 'authenticator'), 'headers that are no JSON');
refused(who('[]', user => 'authenticator'), 'nor an object');

# ---- teams ----

my $alice = bearer({ sub => 'alice', exp => $exp }, $keys->{oct});
is(who({ %$alice, 'x-conduit-owner' => 'team:7' }, schema => 'teams'), 'team:7|f', 'an owner that the application lists');
refused(who({ %$alice, 'x-conduit-owner' => 'team:8' }, schema => 'teams'), 'one that it does not list');
refused(who({ %{ bearer({ sub => 'bob', exp => $exp }, $keys->{oct}) }, 'x-conduit-owner' => 'team:7' }, schema => 'teams'), 'nor for another subject');
is(who({ 'x-conduit-session' => $alice_session, 'x-conduit-owner' => 'team:7' }, schema => 'teams'), 'team:7|f', 'by a session as well');
my $bound_session = $cluster->sql(qq{SELECT conduit_open_session('alice', '$alice_slack')});
refused(who({ 'x-conduit-session' => $bound_session, 'x-conduit-owner' => 'team:7' }, schema => 'teams', connection => $alice_slack), 'but not by one for a single connection');
$cluster->sql(q{SET ROLE team_owner; CREATE OR REPLACE FUNCTION public.teams_of(subject text) RETURNS SETOF text LANGUAGE plpgsql AS $$
	BEGIN EXECUTE 'SET ROLE ' || quote_ident(session_user); RETURN NEXT 'team:7'; END $$});
like(who({ %$alice, 'x-conduit-owner' => 'team:7' }, schema => 'teams'), qr/^42501 /, 'it cannot take another role');

# ---- an owner who is deleted ----

my $session_of_zoe = $cluster->sql("SELECT conduit_open_session('zoe')");
my $key_of_zoe = $cluster->sql("SELECT api_key FROM conduit_create_api_key('zoe', 'own', '{*}')");
is(who({ 'x-conduit-session' => $session_of_zoe }), 'zoe|f', 'a session');
is(who({ 'x-conduit-key' => $key_of_zoe }), 'zoe|t', 'a key');
$cluster->sql("SELECT conduit_delete_owner('zoe', 'other'), conduit_delete_owner('joe')");
is(who({ 'x-conduit-session' => $session_of_zoe }), 'zoe|f', 'others are deleted');
$cluster->sql("SELECT conduit_delete_owner('zoe')");
refused(who({ 'x-conduit-session' => $session_of_zoe }), 'a session of nobody');
refused(who({ 'x-conduit-key' => $key_of_zoe }), 'nor a key');

# ---- a new key-encryption key ----

my $ring = PostgreSQL::Test::Utils::slurp_file($cluster->keyring_file);
$cluster->write_keyring($ring . '*k2:' . Conduit::Cluster::new_key() . "\n");
$cluster->node->reload;
ok($cluster->poll(q{SELECT count(*) = 1 FROM conduit_keyring() WHERE key_id = 'k2' AND is_primary}), 'a new primary');
cmp_ok($cluster->sql('SELECT conduit_rewrap()'), '>=', 4, 'rewrapped');
is($cluster->sql(q{SELECT count(*) FROM conduit_keyring() WHERE key_id = 'k1' AND blobs > 0}), '0', 'nothing is left under the old one');
is(who({ 'x-conduit-key' => $any_key, 'x-conduit-owner' => 'bob' }), 'bob|t', 'API keys are still good');
is(who($alice), 'alice|f', 'and tokens');

done_testing();
