# What provider/ makes of a connector's definition and a secret: requests to
# the byte, JWTs verified by another implementation, and what the ends of
# revocations and of fetched documents mean.
#
# The SQL functions unit_* are those of test/unit; build that module first.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";

use Conduit::Provider;
use JSON::PP ();
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $module = $ENV{CONDUIT_UNIT_MODULE} // "$FindBin::RealBin/../unit/conduit_unit.so";
die "$module is missing: run make in test/unit" unless -f $module;

my $node = PostgreSQL::Test::Cluster->new('request_units');
$node->init(extra => [ '--encoding=UTF8', '--locale=C' ]);
$node->append_conf('postgresql.conf', qq{
shared_preload_libraries = '$module'
log_statement = none
conduit.egress_allow = '127.0.0.0/8'
});
$node->start;
$node->safe_psql('postgres', slurp_file("$FindBin::RealBin/../unit/unit_request.sql"),
	extra_params => [ '-v', "module=$module" ]);

my $json = JSON::PP->new->utf8->canonical;
my $offset = -s $node->logfile;

# Evaluate calls, [ function, arguments ], in one session; a hash is JSON.
sub evaluate_all
{
	my (@calls) = @_;
	my @queries = map {
		my ($function, @arguments) = @$_;
		my @literals = map { my $text = ref $_ ? $json->encode($_) : $_; "'" . $text =~ s/'/''/gr . "'" } @arguments;
		"SELECT translate($function(" . join(', ', @literals) . q{), E'\n', E'\x1e');}
	} @calls;
	return map { tr/\x1e/\n/r } split /\n/, $node->safe_psql('postgres', join("\n", @queries)), -1;
}

sub evaluate
{
	my ($answer) = evaluate_all([@_]);
	return $answer;
}

# Cases of [ name, expected, function, arguments ].
sub check_all
{
	my ($title, @cases) = @_;
	subtest $title => sub {
		my @answers = evaluate_all(map { [ @$_[ 2 .. $#$_ ] ] } @cases);
		is(scalar @answers, scalar @cases, 'every case has an answer');
		foreach my $i (0 .. $#cases)
		{
			my ($name, $expected) = @{ $cases[$i] };
			if (ref $expected) { like($answers[$i], $expected, $name); }
			else { is($answers[$i], $expected, $name); }
		}
	};
	return;
}

my %code = (
	auth_type     => 'oauth2_code',
	authorize_url => 'https://p.example/a',
	token_url     => 'https://p.example/t');
my %client = (client_id => 'i d', client_secret => "s&=+:\x{fc}");
my %token = (refresh_token => 'r/t+1');

# Each definition beside a request that shows it: [ name, definition, function
# and its arguments, what is sent ].
my $form = "Accept: application/json\nContent-Type: application/x-www-form-urlencoded\n\n";
my $as_json = "Accept: application/json\nContent-Type: application/json\n\n";
my $id = 'client_id=i+d';
my $secret = 'client_secret=s%26%3D%2B%3A%C3%BC';
my $basic = 'Authorization: Basic ' . encode_base64('i+d:s%26%3D%2B%3A%C3%BC', '');
my $refresh = 'grant_type=refresh_token&refresh_token=r%2Ft%2B1';
my %full = (%client, code => 'c o', code_verifier => 'v~', redirect_uri => 'https://app.example/cb?x=1');
my $code = 'grant_type=authorization_code&code=c+o&redirect_uri=https%3A%2F%2Fapp.example%2Fcb%3Fx%3D1&code_verifier=v~';
my %tenant = (params => { tenant => { pattern => '^[a-zA-Z &]+$' } });

my @requests = (
	# -- client authentication --
	[ 'a code, client in the body', {}, code => \%full, "POST https://p.example/t\n$form$code&$id&$secret" ],
	[ 'a refresh, client in the body', {}, refresh => { %client, %token }, "POST https://p.example/t\n$form$refresh&$id&$secret" ],
	[ 'a code, Basic: nothing in the body', { client_auth => 'basic' }, code => \%full,
		"POST https://p.example/t\nAccept: application/json\n$basic\nContent-Type: application/x-www-form-urlencoded\n\n$code" ],
	[ 'a refresh, Basic', { client_auth => 'basic' }, refresh => { %client, %token },
		"POST https://p.example/t\nAccept: application/json\n$basic\nContent-Type: application/x-www-form-urlencoded\n\n$refresh" ],
	[ 'a refresh, none', { client_auth => 'none' }, refresh => { %client, %token }, "POST https://p.example/t\n$form$refresh&$id" ],
	[ 'no client at all', { client_auth => 'none' }, refresh => {%token}, "POST https://p.example/t\n$form$refresh" ],
	[ 'secret as user, as curl -u has it', { client_auth => 'secret_as_user' }, refresh => { %client, %token },
		"POST https://p.example/t\nAccept: application/json\nAuthorization: Basic " . encode_base64("s&=+:\xc3\xbc:", '')
		  . "\nContent-Type: application/x-www-form-urlencoded\n\n$refresh" ],
	[ 'without PKCE and redirect_uri', {}, code => { %client, code => 'x' },
		"POST https://p.example/t\n${form}grant_type=authorization_code&code=x&$id&$secret" ],

	# -- formats and methods --
	[ 'JSON', { body_format => 'json' }, refresh => { client_id => 'i"d\\', client_secret => "s\t\x{fc}", refresh_token => 'r' },
		qq(POST https://p.example/t\n$as_json) . '{"grant_type":"refresh_token","refresh_token":"r","client_id":"i\\"d\\\\","client_secret":"s\\u0009' . "\xc3\xbc" . '"}' ],
	[ 'JSON for a refresh alone: the code', { refresh_body_format => 'json' }, code => \%full, "POST https://p.example/t\n$form$code&$id&$secret" ],
	[ 'JSON for a refresh alone: the refresh', { refresh_body_format => 'json', client_auth => 'none' }, refresh => { client_id => 'i', refresh_token => 'r' },
		qq(POST https://p.example/t\n$as_json) . '{"grant_type":"refresh_token","refresh_token":"r","client_id":"i"}' ],
	[ 'query, by POST without a body', { body_format => 'query' }, refresh => { %client, %token },
		"POST https://p.example/t?$refresh&$id&$secret\nAccept: application/json" ],
	[ 'query, by GET', { body_format => 'query', token_method => 'GET', refresh_method => 'GET' }, refresh => { %client, %token },
		"GET https://p.example/t?$refresh&$id&$secret\nAccept: application/json" ],
	[ 'GET for a refresh alone: the code', { refresh_body_format => 'query', refresh_method => 'GET' }, code => \%full,
		"POST https://p.example/t\n$form$code&$id&$secret" ],
	[ 'an endpoint that has a query', { body_format => 'query', token_url => 'https://p.example/t?v=2' }, refresh => {%token},
		"POST https://p.example/t?v=2&$refresh\nAccept: application/json" ],
	[ 'the same with a body', { token_url => 'https://p.example/t?v=2' }, refresh => {%token}, "POST https://p.example/t?v=2\n$form$refresh" ],
	[ 'an endpoint of its own for refreshes', { refresh_url => 'https://p.example/r' }, refresh => {%token}, "POST https://p.example/r\n$form$refresh" ],

	# -- names, extras, grants --
	[ 'renamed', { token_param_names => { client_id => 'client key', client_secret => 'k', refresh_token => 'rt' } }, refresh => { %client, %token },
		"POST https://p.example/t\n${form}grant_type=refresh_token&rt=r%2Ft%2B1&client+key=i+d&k=s%26%3D%2B%3A%C3%BC" ],
	[ 'left out', { token_param_names => { grant_type => undef, client_secret => undef, redirect_uri => undef } }, code => \%full,
		"POST https://p.example/t\n${form}code=c+o&code_verifier=v~&$id" ],
	[ 'refreshes renamed otherwise', { token_param_names => { client_id => 'a' }, refresh_param_names => { client_id => 'b' } }, refresh => { %client, %token },
		"POST https://p.example/t\n$form$refresh&b=i+d&$secret" ],
	[ 'codes keep theirs', { token_param_names => { client_id => 'a' }, refresh_param_names => { client_id => 'b' } }, code => { %client, code => 'x' },
		"POST https://p.example/t\n${form}grant_type=authorization_code&code=x&a=i+d&$secret" ],
	[ 'extras of both', { extra_token_params => 'a=1', extra_code_params => { b => '2 3' }, extra_refresh_params => 'c=4' }, code => { code => 'x' },
		"POST https://p.example/t\n${form}grant_type=authorization_code&code=x&a=1&b=2+3" ],
	[ 'extras of a refresh', { extra_token_params => 'a=1', extra_code_params => { b => '2 3' }, extra_refresh_params => 'c=4' }, refresh => {%token},
		"POST https://p.example/t\n$form$refresh&a=1&c=4" ],
	[ 'extras with variables', { %tenant, extra_token_params => { scope => 'of {tenant}' } }, refresh => { %token, params => { tenant => 'A & B' } },
		"POST https://p.example/t\n$form$refresh&scope=of+A+%26+B" ],
	[ 'a variable without value', { %tenant, extra_token_params => { scope => 'of {tenant}' } }, refresh => {%token}, '! invalid_params' ],
	[ 'a variable that does not fit', { %tenant, extra_token_params => { scope => '{tenant}' } }, refresh => { %token, params => { tenant => '1' } }, '! invalid_params' ],
	[ 'grants of their own: code', { code_grant_type => 'auth_code', refresh_grant_type => 'again' }, code => { code => 'x' },
		"POST https://p.example/t\n${form}grant_type=auth_code&code=x" ],
	[ 'grants of their own: refresh', { code_grant_type => 'auth_code', refresh_grant_type => 'again' }, refresh => {%token},
		"POST https://p.example/t\n${form}grant_type=again&refresh_token=r%2Ft%2B1" ],
	[ 'a refresh with its scope', { refresh_sends_scope => JSON::PP::true }, refresh => { %token, scope => 'a b' }, "POST https://p.example/t\n$form$refresh&scope=a+b" ],
	[ 'a refresh without', {}, refresh => { %token, scope => 'a b' }, "POST https://p.example/t\n$form$refresh" ],
	[ 'a code has none', { refresh_sends_scope => JSON::PP::true }, code => { code => 'x', scope => 'a b' }, "POST https://p.example/t\n${form}grant_type=authorization_code&code=x" ],
	[ 'the access token is the refresh credential',
		{ refresh_credential => 'access_token', refresh_grant_type => 'ig_refresh_token', refresh_param_names => { refresh_token => 'access_token' },
		  refresh_method => 'GET', refresh_body_format => 'query', refresh_url => 'https://p.example/refresh_access_token' },
		refresh => { refresh_token => 'at' }, "GET https://p.example/refresh_access_token?grant_type=ig_refresh_token&access_token=at\nAccept: application/json" ],
	[ 'an exchange', { exchange_grant_type => 'fb_exchange_token', exchange_url => 'https://p.example/x', refresh_param_names => { refresh_token => 'fb_exchange_token' } },
		exchange => { %client, refresh_token => 'at' }, "POST https://p.example/x\n${form}grant_type=fb_exchange_token&fb_exchange_token=at&$id&$secret" ],
	[ 'an exchange at the refresh endpoint', { exchange_grant_type => 'x', refresh_url => 'https://p.example/r' },
		exchange => { refresh_token => 'at' }, "POST https://p.example/r\n${form}grant_type=x&refresh_token=at" ],

	# -- headers --
	[ 'headers', { %tenant, token_headers => { 'X-Id' => '{client_id}/{client_secret}', 'X-Tenant' => 'of {tenant}', 'X-Plain' => 'a b' } },
		refresh => { %token, client_id => 'i', client_secret => 's', params => { tenant => 'A' } },
		"POST https://p.example/t\nAccept: application/json\nX-Id: i/s\nX-Plain: a b\nX-Tenant: of A\nContent-Type: application/x-www-form-urlencoded\n\n$refresh&client_id=i&client_secret=s" ],
	[ 'a header without client', { client_auth => 'none', token_headers => { 'X-Id' => '{client_id}', 'X-Secret' => '{client_secret}', 'X-Both' => '1' } },
		refresh => {%token}, "POST https://p.example/t\nAccept: application/json\nX-Both: 1\nContent-Type: application/x-www-form-urlencoded\n\n$refresh" ],

	# -- other grants --
	[ 'client credentials', { auth_type => 'oauth2_client_credentials' }, client_credentials => { client_id => 'i', client_secret => 's', scope => 'a b' },
		"POST https://p.example/t\n${form}grant_type=client_credentials&scope=a+b&client_id=i&client_secret=s" ],
	[ 'client credentials, Basic', { auth_type => 'oauth2_client_credentials', client_auth => 'basic' }, client_credentials => { client_id => 'i', client_secret => 's' },
		"POST https://p.example/t\nAccept: application/json\nAuthorization: Basic aTpz\nContent-Type: application/x-www-form-urlencoded\n\ngrant_type=client_credentials" ],
	[ 'client credentials under another grant', { auth_type => 'oauth2_client_credentials', refresh_grant_type => 'account_credentials', %tenant,
		  client_auth => 'basic', extra_token_params => 'account_id={tenant}' },
		client_credentials => { client_id => 'i', client_secret => 's', params => { tenant => 'z' } },
		"POST https://p.example/t\nAccept: application/json\nAuthorization: Basic aTpz\nContent-Type: application/x-www-form-urlencoded\n\ngrant_type=account_credentials&account_id=z" ],
	[ 'a renewal by bearer token', { auth_type => 'bearer_renew' }, bearer_renew => { refresh_token => 'r' },
		"POST https://p.example/t\nAccept: application/json\nAuthorization: Bearer r\nContent-Type: application/json\n\n{}" ],
	[ 'the same, the client in headers', { auth_type => 'bearer_renew', token_headers => { clientid => '{client_id}', clientsecret => '{client_secret}' } },
		bearer_renew => { refresh_token => 'r', client_id => 'i', client_secret => 's' },
		"POST https://p.example/t\nAccept: application/json\nclientid: i\nclientsecret: s\nAuthorization: Bearer r\nContent-Type: application/json\n\n{}" ],
);

# What a type of connector may not have.
sub definition
{
	my ($more) = @_;
	my %all = (%code, %$more);
	delete $all{authorize_url} if $all{auth_type} ne 'oauth2_code';
	return \%all;
}

check_all('token requests', map {
	my ($name, $more, $kind, $fields, $expected) = @$_;
	[ $name, $expected, 'unit_token_request', definition($more), $kind, $fields ]
} @requests);
cmp_ok(scalar @requests, '>=', 40, 'enough of them');

{
	my $uuids = { 'X-Request' => '{uuid}', 'X-Twice' => '{uuid} {uuid}' };
	my @seen = map { evaluate('unit_token_request', definition({ token_headers => $uuids }), 'refresh', \%token) } 1, 2;
	my $uuid = qr/[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}/;
	like($seen[0], qr/^X-Request: ($uuid)\nX-Twice: \1 \1$/m, 'one UUID for a request');
	isnt($seen[0], $seen[1], 'another one for the next');
}

# -- JWTs: signed here, verified by Node. --

my $server = Conduit::Provider->start('scripted');
my $http = $server->url;
my %keys = map { $_ => [ Conduit::Provider->make_key($_) ] } qw(RS256 ES256 ES384 EdDSA rsa1024 secp256k1);
$keys{$_} = $keys{RS256} foreach qw(RS384 RS512 PS256);
my @algorithms = qw(RS256 RS384 RS512 PS256 ES256 ES384 EdDSA);

# The parameters of a form.
sub params
{
	my ($request) = @_;
	my %params;
	foreach my $pair (split /&/, $request =~ s/.*\n\n//sr)
	{
		my ($name, $value) = split /=/, $pair, 2;
		$value =~ tr/+/ /;
		$value =~ s/%(..)/chr hex $1/ge;
		$params{$name} = $value;
	}
	return %params;
}

foreach my $algorithm (@algorithms)
{
	my ($private, $public) = @{ $keys{$algorithm} };
	my $definition = definition({ client_auth => 'private_key_jwt', signing_algorithm => $algorithm });
	my %params = params(evaluate('unit_token_request', $definition, 'refresh', { client_id => 'i"d', client_secret => $private, %token }));
	my $verified = $server->verify($params{client_assertion}, $public);
	my $claims = $verified->{claims};

	is_deeply($verified->{header}, { alg => $algorithm, typ => 'JWT' }, "$algorithm: the header");
	is_deeply([ @$claims{qw(iss sub aud)} ], [ 'i"d', 'i"d', 'https://p.example/t' ], "$algorithm: for whom");
	cmp_ok(abs($claims->{iat} - time() + 30), '<', 20, "$algorithm: a little back");
	is($claims->{exp} - $claims->{iat}, 300, "$algorithm: for five minutes");
	like($claims->{jti}, qr/^[0-9a-f]{32}$/, "$algorithm: an id");
	is(join(' ', sort keys %$claims), 'aud exp iat iss jti sub', "$algorithm: nothing else");
	is($params{client_assertion_type}, 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer', "$algorithm: its type");
	ok(!exists $params{client_secret}, "$algorithm: the key stays here");
	is(join(' ', map { $params{$_} } qw(grant_type refresh_token client_id)), 'refresh_token r/t+1 i"d', "$algorithm: the rest");
}

# ES256 signs with random numbers: now and then one has a leading zero.
{
	my ($private, $public) = @{ $keys{ES256} };
	my $definition = definition({ client_auth => 'private_key_jwt', signing_algorithm => 'ES256' });
	my $fields = { client_id => 'i', client_secret => $private, %token };
	my $text = $json->encode($definition) =~ s/'/''/gr;
	my $request = $json->encode($fields) =~ s/'/''/gr;
	my $all = $node->safe_psql('postgres', "SELECT string_agg(substring(unit_token_request('$text', 'refresh', '$request') FROM 'client_assertion=([^&]*)'), ' ') FROM generate_series(1, 600)");
	my @jwts = split / /, $all;
	my %lengths = map { length((split /\./)[2]) => 1 } @jwts;

	is(scalar @{ $server->verify(\@jwts, $public) }, 600, 'signatures of ES256, many of them');
	is(join(' ', keys %lengths), '86', 'all of one length');
	is(scalar keys %{ { map { $_ => 1 } @jwts } }, 600, 'none twice');
}

{
	my ($private, $public) = @{ $keys{RS256} };
	my %jwt = (
		auth_type           => 'jwt_bearer',
		jwt_lifetime_s      => 3600,
		jwt_claims          => { target_audience => 'https://{tenant}.example', more => "\x{fc}" },
		params              => { tenant => { pattern => '^[a-z]+$' } });
	my %fields = (private_key => $private, issuer => 'me@p.example', subject => 'you', key_id => 'k1', scope => 'a b', params => { tenant => 'acme' });
	my $request = evaluate('unit_token_request', definition(\%jwt), 'jwt_bearer', \%fields);
	my %params = params($request);
	my $verified = $server->verify($params{assertion}, $public);
	my %claims = %{ $verified->{claims} };

	like($request, qr{^POST https://p\.example/t\nAccept: application/json\nContent-Type: application/x-www-form-urlencoded\n\n}, 'a grant by JWT');
	is(join(' ', map { "$_=" . ($_ eq 'assertion' ? '' : $params{$_}) } sort keys %params),
		'assertion= grant_type=urn:ietf:params:oauth:grant-type:jwt-bearer scope=a b', 'its parameters');
	is_deeply($verified->{header}, { alg => 'RS256', typ => 'JWT', kid => 'k1' }, 'the key is named');
	is($claims{exp} - $claims{iat}, 3600, 'for as long as is said');
	delete @claims{qw(exp iat jti)};
	is_deeply(\%claims, { iss => 'me@p.example', sub => 'you', aud => 'https://p.example/t', target_audience => 'https://acme.example', more => "\x{fc}" }, 'its claims');

	my $with = sub {
		my ($more, %other) = @_;
		my %sent = params(evaluate('unit_token_request', definition({ %jwt, %$more }), 'jwt_bearer', { %fields, %other }));
		return (\%sent, $server->verify($sent{assertion}, $public)->{claims});
	};
	my ($sent, $claims) = $with->({ jwt_scope_claim => JSON::PP::true, jwt_audience => 'https://{tenant}.example/aud' });
	is($claims->{scope}, 'a b', 'scope as a claim');
	ok(!exists $sent->{scope}, 'and not as a parameter');
	is($claims->{aud}, 'https://acme.example/aud', "the connector's audience");
	(undef, $claims) = $with->({ jwt_audience => 'https://x.example' }, audience => 'mine');
	is($claims->{aud}, 'mine', "the secret's audience goes before it");
	($sent, $claims) = $with->({ client_auth => 'post' }, subject => undef, scope => undef, key_id => undef, client_id => 'i', client_secret => 's');
	ok(!exists $claims->{sub} && !exists $claims->{scope}, 'what is not given is not claimed');
	is("$sent->{client_id} $sent->{client_secret}", 'i s', 'a client beside it');

	$request = evaluate('unit_token_request', definition({ %jwt, jwt_in => 'authorization', token_url => 'https://p.example/app/installations/{tenant}/access_tokens' }),
		'jwt_bearer', { %fields, scope => undef, subject => undef, client_id => 'i' });
	like($request, qr{^POST https://p\.example/app/installations/acme/access_tokens\nAccept: application/json\nAuthorization: Bearer ([\w.-]+)$}, 'an app: the JWT in the header, nothing else');
	ok($server->verify($request =~ /Bearer ([\w.-]+)/, $public), 'and it is right');

	# Revolut: the issuer is a host, the audience is not the endpoint.
	my %revolut = (client_auth => 'private_key_jwt', client_assertion_issuer => 'app.example', client_assertion_audience => 'https://{tenant}.example', params => $jwt{params});
	my %assertion = params(evaluate('unit_token_request', definition(\%revolut), 'code', { code => 'x', client_id => 'i', client_secret => $private, params => { tenant => 'revolut' } }));
	$claims = $server->verify($assertion{client_assertion}, $public)->{claims};
	is(join(' ', @$claims{qw(iss sub aud)}), 'app.example i https://revolut.example', 'issuer and audience of a client assertion');
}

# -- Keys. --

{
	my $encrypted = do {
		my $file = PostgreSQL::Test::Utils::tempdir() . '/key';
		append_to_file($file, $keys{RS256}[0]);
		scalar `openssl pkey -in '$file' -aes256 -passout pass:x`;
	};
	my $pkcs1 = do {
		my $file = PostgreSQL::Test::Utils::tempdir() . '/key';
		append_to_file($file, $keys{RS256}[0]);
		scalar `openssl rsa -in '$file' -traditional 2>/dev/null`;
	};
	my $sec1 = do {
		my $file = PostgreSQL::Test::Utils::tempdir() . '/key';
		append_to_file($file, $keys{ES256}[0]);
		scalar `openssl ec -in '$file' 2>/dev/null`;
	};
	my $rsa = 'Give an RSA private key of 2048 to 8192 bits in PEM form, without a password.';
	my $p256 = 'Give an EC private key of curve P-256 in PEM form, without a password.';
	my @cases = (
		(map { [ "$_", $keys{$_}[0], $_, 'ok' ] } @algorithms),
		[ 'PKCS #1', $pkcs1, 'RS256', 'ok' ],
		[ 'SEC 1', $sec1, 'ES256', 'ok' ],
		[ 'with line ends of Windows', $keys{RS256}[0] =~ s/\n/\r\n/gr, 'RS256', 'ok' ],
		[ 'too short', $keys{rsa1024}[0], 'RS256', $rsa ],
		[ 'EC for RSA', $keys{ES256}[0], 'PS256', $rsa ],
		[ 'RSA for EC', $keys{RS256}[0], 'ES256', $p256 ],
		[ 'another curve', $keys{ES384}[0], 'ES256', $p256 ],
		[ 'a curve of the same size', $keys{secp256k1}[0], 'ES256', $p256 ],
		[ 'P-256 for ES384', $keys{ES256}[0], 'ES384', 'Give an EC private key of curve P-384 in PEM form, without a password.' ],
		[ 'RSA for EdDSA', $keys{RS256}[0], 'EdDSA', 'Give an Ed25519 private key in PEM form, without a password.' ],
		[ 'Ed25519 for RSA', $keys{EdDSA}[0], 'RS256', $rsa ],
		[ 'a public key', $keys{RS256}[1], 'RS256', $rsa ],
		[ 'with a password', $encrypted, 'RS256', $rsa ],
		[ 'cut', substr($keys{RS256}[0], 0, 900), 'RS256', $rsa ],
		[ 'nothing', '', 'RS256', $rsa ],
		[ 'no key', 'sesame', 'RS256', $rsa ],
		[ 'no algorithm', $keys{RS256}[0], 'HS256', 'Available algorithms are RS256, RS384, RS512, PS256, ES256, ES384 and EdDSA.' ]);
	like($encrypted, qr/ENCRYPTED/, 'a key with a password');
	like($pkcs1, qr/BEGIN RSA PRIVATE KEY/, 'a key of PKCS #1');
	like($sec1, qr/BEGIN EC PRIVATE KEY/, 'a key of SEC 1');
	check_all('keys', map { [ @$_[ 0, 3 ], 'unit_check_key', @$_[ 1, 2 ] ] } @cases);

	is(evaluate('unit_token_request', definition({ client_auth => 'private_key_jwt' }), 'refresh', { client_id => 'i', client_secret => 'sesame', %token }),
		'! bad_private_key', 'a client whose key is none');
	is(evaluate('unit_token_request', definition({ auth_type => 'jwt_bearer' }), 'jwt_bearer', { private_key => $keys{ES256}[0], issuer => 'i' }),
		'! bad_private_key', 'a grant whose key does not fit');
	is(evaluate('unit_token', definition({ client_auth => 'private_key_jwt', token_url => "$http/token/unseen" }), 'refresh', { client_id => 'i', client_secret => 'sesame', %token }),
		'sent=0 config bad_private_key', 'that is our misconfiguration');
	is($server->counts('/token/unseen')->{total}, 0, 'and nothing is sent');
}

# -- Revocation. --

my %both = (refresh_token => 'r/1', access_token => 'a+1', client_id => 'i', client_secret => 's');
my $revoke_form = "Accept: application/json\nContent-Type: application/x-www-form-urlencoded\n\n";
my @revocations = (
	[ 'RFC 7009', {}, \%both, "POST https://p.example/v\n${revoke_form}token=r%2F1&token_type_hint=refresh_token&client_id=i&client_secret=s" ],
	[ 'RFC 7009, Basic', { client_auth => 'basic' }, \%both,
		"POST https://p.example/v\nAccept: application/json\nAuthorization: Basic aTpz\nContent-Type: application/x-www-form-urlencoded\n\ntoken=r%2F1&token_type_hint=refresh_token" ],
	[ 'an access token alone', {}, { access_token => 'a', client_id => 'i' }, "POST https://p.example/v\n${revoke_form}token=a&token_type_hint=access_token&client_id=i" ],
	[ 'by the access token', { revoke_credential => 'access_token', revoke_auth => 'none' }, \%both, "POST https://p.example/v\n${revoke_form}token=a%2B1&token_type_hint=access_token" ],
	[ 'under another name', { revoke_param => 'tok en', revoke_auth => 'none' }, \%both, "POST https://p.example/v\n${revoke_form}tok+en=r%2F1" ],
	[ 'the client renamed as in refreshes', { token_param_names => { client_id => 'key', client_secret => undef } }, \%both,
		"POST https://p.example/v\n${revoke_form}token=r%2F1&token_type_hint=refresh_token&key=i" ],
	[ 'JSON', { revoke_body_format => 'json', revoke_auth => 'none' }, \%both, "POST https://p.example/v\nAccept: application/json\nContent-Type: application/json\n\n" . '{"token":"r/1"}' ],
	[ 'query', { revoke_body_format => 'query', revoke_auth => 'none' }, \%both, "POST https://p.example/v?token=r%2F1\nAccept: application/json" ],
	[ 'GET', { revoke_method => 'GET', revoke_body_format => 'query', revoke_auth => 'none' }, \%both, "GET https://p.example/v?token=r%2F1\nAccept: application/json" ],
	[ 'HubSpot: DELETE, the token in the path', { revoke_method => 'DELETE', revoke_url => 'https://p.example/oauth/v1/refresh-tokens/{token}', revoke_param => undef, revoke_auth => 'none' },
		\%both, "DELETE https://p.example/oauth/v1/refresh-tokens/r%2F1\nAccept: application/json" ],
	[ 'GitHub: DELETE with a body, Basic, the client in the path',
		{ revoke_method => 'DELETE', revoke_url => 'https://p.example/applications/{client_id}/grant', revoke_param => 'access_token', revoke_credential => 'access_token',
		  revoke_body_format => 'json', revoke_auth => 'basic' },
		\%both, "DELETE https://p.example/applications/i/grant\nAccept: application/json\nAuthorization: Basic aTpz\nContent-Type: application/json\n\n" . '{"access_token":"a+1"}' ],
	[ 'Intercom: the access token as proof, nothing else', { revoke_param => undef, revoke_auth => 'token' }, \%both,
		"POST https://p.example/v\nAccept: application/json\nAuthorization: Bearer a+1" ],
	[ 'a header with the secret goes where the client is authenticated', { client_auth => 'none', token_headers => { X => '{client_id}:{client_secret}' } }, \%both,
		"POST https://p.example/v\nAccept: application/json\nX: i:s\nContent-Type: application/x-www-form-urlencoded\n\ntoken=r%2F1&token_type_hint=refresh_token&client_id=i" ],
	[ 'and nowhere else', { client_auth => 'none', token_headers => { X => '{client_secret}', Y => '{client_id}' }, revoke_auth => 'none' }, \%both,
		"POST https://p.example/v\nAccept: application/json\nY: i\nContent-Type: application/x-www-form-urlencoded\n\ntoken=r%2F1&token_type_hint=refresh_token" ],
	[ 'one Authorization', { client_auth => 'none', token_headers => { authorization => 'Own {client_id}' }, revoke_auth => 'token', revoke_param => undef }, \%both,
		"POST https://p.example/v\nAccept: application/json\nAuthorization: Bearer a+1" ],
	[ 'an account in the host', { revoke_url => 'https://{tenant}.p.example/v?t={token}', revoke_param => undef, revoke_auth => 'none', params => { tenant => { pattern => '^[a-z]+$' } } },
		{ %both, params => { tenant => 'acme' } }, "POST https://acme.p.example/v?t=r%2F1\nAccept: application/json" ],
	[ 'no account for the host', { revoke_url => 'https://{tenant}.p.example/v', params => { tenant => { pattern => '^[a-z]+$' } } }, \%both, '! endpoint_invalid' ],
	[ 'no client for the path', { revoke_url => 'https://p.example/{client_id}' }, { refresh_token => 'r' }, '! endpoint_invalid' ],
	[ 'no token', {}, { client_id => 'i' }, '! token_missing' ],
	[ 'no token to prove it by', { revoke_auth => 'token' }, { refresh_token => 'r' }, '! token_missing' ],
);
check_all('revocations', map {
	my ($name, $more, $fields, $expected) = @$_;
	[ $name, $expected, 'unit_revoke_request', definition({ revoke_url => 'https://p.example/v', %$more }), $fields ]
} @revocations);

# What the ends mean: [ name, definition, reply, outcome ].
my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my @ends = (
	[ 'done', {}, { status => 200 }, 'sent=1 refreshed' ],
	[ 'done, no content', {}, { status => 204 }, 'sent=1 refreshed' ],
	[ 'done, in JSON', {}, { status => 200, json => { ok => $true } }, 'sent=1 refreshed' ],
	[ 'done, as a page', {}, { status => 200, body => '<p>bye' }, 'sent=1 refreshed' ],
	[ 'Google: not known any more', {}, { status => 400, json => { error => 'invalid_token' } }, 'sent=1 refreshed' ],
	[ 'an unknown token', {}, { status => 400, json => { error => 'UNKNOWN_TOKEN' } }, 'sent=1 refreshed' ],
	[ 'a dead grant', {}, { status => 400, json => { error => 'invalid_grant' } }, 'sent=1 refreshed' ],
	[ 'Slack: revoked already', {}, { status => 200, json => { ok => $false, error => 'token_revoked' } }, 'sent=1 refreshed' ],
	[ 'a wrong client', {}, { status => 401, json => { error => 'invalid_client' } }, 'sent=1 config invalid_client' ],
	[ 'another type of token', {}, { status => 400, json => { error => 'unsupported_token_type' } }, 'sent=1 config unsupported_token_type' ],
	[ 'not there, by POST', {}, { status => 404 }, 'sent=1 config http_404' ],
	[ 'not there, by DELETE', { revoke_method => 'DELETE' }, { status => 404 }, 'sent=1 refreshed' ],
	[ 'gone, by DELETE', { revoke_method => 'DELETE' }, { status => 410 }, 'sent=1 refreshed' ],
	[ 'not there, the token in the path', { in_path => 1, revoke_param => undef }, { status => 404 }, 'sent=1 refreshed' ],
	[ 'the proof is dead, the other token may live', { revoke_auth => 'token' }, { status => 401, json => { error => 'invalid_token' } }, 'sent=1 config invalid_token' ],
	[ 'the proof is the token', { revoke_auth => 'token', revoke_credential => 'access_token' }, { status => 401, json => { error => 'invalid_token' } }, 'sent=1 refreshed' ],
	[ 'later', {}, { status => 503, headers => { 'retry-after' => '7' } }, 'sent=1 throttled http_503 retry_after=7' ],
	[ 'trouble', {}, { status => 500 }, 'sent=1 transient http_500' ],
	[ 'too often', {}, { status => 429 }, 'sent=1 throttled http_429' ],
	[ 'cut off: it can be tried again', {}, { close => 'after_read' }, 'sent=1 transient broken' ],
	[ 'a redirect', {}, { redirect => 'https://elsewhere.example/' }, 'sent=1 config redirect_refused' ],
	[ 'an error that quotes the token', {}, { status => 400, json => { error => 'no token refresh-SECRET-1 here' } }, 'sent=1 config http_400' ],
);
check_all('ends of revocations', map {
	my ($name, $more, $reply, $expected) = @{ $ends[$_] };
	my %more = %$more;
	my $path = "/revoke/$_";
	my $in_path = delete $more{in_path};

	$server->script($in_path ? "$path/refresh-SECRET-1" : $path, [$reply]);
	[ $name, $expected, 'unit_revoke', definition({ revoke_url => "$http$path" . ($in_path ? '/{token}' : ''), %more }),
		{ %both, refresh_token => 'refresh-SECRET-1' } ]
} 0 .. $#ends);
my ($deleted) = grep { $_->{method} eq 'DELETE' } $server->log;
is($deleted->{raw_body}, 'token=refresh-SECRET-1&token_type_hint=refresh_token&client_id=i&client_secret=s', 'DELETE has its body');

$server->script('/revoke/bare', [ { json => {} } ]);
is(evaluate('unit_revoke', definition({ revoke_url => "$http/revoke/bare", revoke_auth => 'token', revoke_param => undef, token_headers => { 'X-Version' => '7' } }), \%both),
	'sent=1 refreshed', 'nothing but the access token');
my ($bare) = grep { $_->{path} eq '/revoke/bare' } $server->log;
is($bare->{raw_body}, '', 'has no body');
is($bare->{headers}{'content-type'}, undef, 'which is not called a form');
is($bare->{headers}{'x-version'}, '7', 'and the headers of the definition');

# -- Documents. --

my %account = (access_token => 'a/t', client_id => 'i');
my @gets = (
	[ 'a bearer token', {}, \%account, "GET https://p.example/me\nAccept: application/json\nAuthorization: Bearer a/t" ],
	[ 'a scheme of its own', { api_auth => 'Authorization: Zoho-oauthtoken {token}' }, \%account, "GET https://p.example/me\nAccept: application/json\nAuthorization: Zoho-oauthtoken a/t" ],
	[ 'the client beside it', { api_auth => 'Authorization: Bearer {token}; Client-Id: {client_id}; X-V: 2' }, \%account,
		"GET https://p.example/me\nAccept: application/json\nAuthorization: Bearer a/t\nClient-Id: i\nX-V: 2" ],
	[ 'no client there', { api_auth => 'Authorization: Bearer {token}; Client-Id: {client_id}; X-V: 2' }, { access_token => 'a' },
		"GET https://p.example/me\nAccept: application/json\nAuthorization: Bearer a\nX-V: 2" ],
	[ 'in the URL', { api_auth => '?access token={token}; ?v={v}', account_url => 'https://p.example/me?fields=id', params => { v => { pattern => '^\d$', default => '3' } } },
		\%account, "GET https://p.example/me?fields=id&access+token=a%2Ft&v=3\nAccept: application/json" ],
	[ 'another path', {}, { %account, endpoint => 'https://P.example:443/you' }, "GET https://P.example:443/you\nAccept: application/json\nAuthorization: Bearer a/t" ],
	[ 'another host', {}, { %account, endpoint => 'https://q.example/me' }, '! endpoint_invalid' ],
	[ 'another host, without a token', {}, { endpoint => 'https://q.example/me' }, "GET https://q.example/me\nAccept: application/json" ],
	[ 'a variable without value', { api_auth => 'X: {v}{token}', params => { v => { pattern => '^\d$' } } }, \%account, '! invalid_params' ],
);
check_all('documents', map {
	my ($name, $more, $fields, $expected) = @$_;
	[ $name, $expected, 'unit_get_request', definition({ account_url => 'https://p.example/me', account_path => 'id', %$more }), $fields ]
} @gets);

my @documents = (
	[ 'an object', { status => 200, json => { id => 'x' } }, 'sent=1 refreshed {"id":"x"}' ],
	[ 'an object, 201', { status => 201, json => { id => 1 } }, 'sent=1 refreshed {"id":1}' ],
	[ 'an array', { status => 200, json => [1] }, 'sent=1 refreshed [1]' ],
	[ 'a string', { status => 200, body => '"x"' }, 'sent=1 config bad_json' ],
	[ 'nothing', { status => 200 }, 'sent=1 config bad_json' ],
	[ 'a page', { status => 200, body => '<html>' }, 'sent=1 config bad_json' ],
	[ 'refused', { status => 403, json => { error => 'a/t' } }, 'sent=1 config http_403' ],
	[ 'not there', { status => 404 }, 'sent=1 config http_404' ],
	[ 'elsewhere', { redirect => 'https://elsewhere.example/' }, 'sent=1 config redirect_refused' ],
	[ 'too often', { status => 429, headers => { 'retry-after' => '9' } }, 'sent=1 throttled http_429 retry_after=9' ],
	[ 'later', { status => 503, headers => { 'retry-after' => '0' } }, 'sent=1 throttled http_503 retry_after=1' ],
	[ 'trouble', { status => 503 }, 'sent=1 transient http_503' ],
	[ 'cut off', { status => 200, json => { id => 1 }, close => 'mid_body' }, 'sent=1 transient broken' ],
	[ 'huge', { status => 200, json => { id => 1 }, huge => 100_000 }, 'sent=1 transient too_large' ],
);
check_all('ends of fetching', map {
	my ($name, $reply, $expected) = @{ $documents[$_] };

	$server->script("/me/$_", [$reply]);
	[ $name, $expected, 'unit_get', definition({ account_url => "$http/me/$_", account_path => 'id' }), \%account ]
} 0 .. $#documents);
$server->script('/.well-known/x', [ { status => 200, json => { issuer => 'y' } } ]);
is(evaluate('unit_get', '', { endpoint => "$http/.well-known/x" }), 'sent=1 refreshed {"issuer":"y"}', 'without a connector and a token');
my ($fetched) = $server->log('/.well-known/x');
is($fetched->{headers}{authorization} // 'none', 'none', 'then there is no Authorization');
is(evaluate('unit_get', '', { endpoint => 'https://10.1.2.3/x' }), 'sent=0 transient denied', 'egress rules hold');

# -- Authorize URLs. --

my %authorize = (client_id => 'i d', redirect_uri => 'https://app.example/cb?a=1', state => 's-t', scopes => [ 'a:b', 'c/d' ], code_challenge => 'ch');
my $common = 'response_type=code&client_id=i%20d&redirect_uri=https%3A%2F%2Fapp.example%2Fcb%3Fa%3D1';
my $pkce = 'code_challenge=ch&code_challenge_method=S256';
my @urls = (
	[ 'plain', {}, \%authorize, "https://p.example/a?$common&scope=a%3Ab%20c%2Fd&state=s-t&$pkce" ],
	[ 'comma', { scope_separator => 'comma' }, \%authorize, "https://p.example/a?$common&scope=a%3Ab%2Cc%2Fd&state=s-t&$pkce" ],
	[ 'plus, which is not encoded', { scope_separator => 'plus' }, \%authorize, "https://p.example/a?$common&scope=a%3Ab+c%2Fd&state=s-t&$pkce" ],
	[ 'no scopes', {}, { %authorize, scopes => [] }, "https://p.example/a?$common&state=s-t&$pkce" ],
	[ 'no scopes, plus', { scope_separator => 'plus' }, { %authorize, scopes => [] }, "https://p.example/a?$common&state=s-t&$pkce" ],
	[ 'without PKCE', {}, { %authorize, code_challenge => undef }, "https://p.example/a?$common&scope=a%3Ab%20c%2Fd&state=s-t" ],
	[ 'without redirect_uri', {}, { %authorize, redirect_uri => undef, scopes => [] }, "https://p.example/a?response_type=code&client_id=i%20d&state=s-t&$pkce" ],
	[ 'renamed and left out', { authorize_param_names => { client_id => 'client_key', scope => 'user scope', response_type => undef } }, \%authorize,
		"https://p.example/a?client_key=i%20d&redirect_uri=https%3A%2F%2Fapp.example%2Fcb%3Fa%3D1&user%20scope=a%3Ab%20c%2Fd&state=s-t&$pkce" ],
	[ 'extras', { extra_authorize_params => 'access_type=offline&prompt=select%20account' }, { %authorize, scopes => [] },
		"https://p.example/a?$common&state=s-t&$pkce&access_type=offline&prompt=select%20account" ],
	[ 'extras with variables', { extra_authorize_params => { 'hd x' => 'of {tenant}' }, %tenant }, { %authorize, scopes => [], params => { tenant => 'A & B' } },
		"https://p.example/a?$common&state=s-t&$pkce&hd%20x=of%20A%20%26%20B" ],
	[ 'a query before', { authorize_url => 'https://p.example/a?v=2' }, { %authorize, scopes => [] }, "https://p.example/a?v=2&$common&state=s-t&$pkce" ],
	[ 'a question mark before', { authorize_url => 'https://p.example/a?' }, { %authorize, scopes => [] }, "https://p.example/a?$common&state=s-t&$pkce" ],
	[ 'an ampersand before', { authorize_url => 'https://p.example/a?v=2&' }, { %authorize, scopes => [] }, "https://p.example/a?v=2&$common&state=s-t&$pkce" ],
	[ 'an account in the host', { authorize_url => 'https://{tenant}.p.example/a', params => { tenant => { pattern => '^[a-z]+$' } } },
		{ %authorize, scopes => [], params => { tenant => 'acme' } }, "https://acme.p.example/a?$common&state=s-t&$pkce" ],
	[ 'no account for it', { authorize_url => 'https://{tenant}.p.example/a', params => { tenant => { pattern => '^[a-z]+$' } } }, \%authorize, '! tenant: the value is missing' ],
	[ 'an extra without value', { extra_authorize_params => { x => '{tenant}' }, %tenant }, \%authorize, '! tenant: the value is missing' ],
	[ 'a host that is refused', { authorize_url => 'https://p.{tenant}/a', params => { tenant => { pattern => '^.+$' } } },
		{ %authorize, params => { tenant => '1.1' } }, qr/^! -: the / ],
	[ 'too long', {}, { %authorize, scopes => [ map { "scope$_" } 1 .. 1200 ] }, '! -: the URL is too long' ],
);
check_all('authorize URLs', map {
	my ($name, $more, $fields, $expected) = @$_;
	[ $name, $expected, 'unit_authorize_url', definition($more), $fields ]
} @urls);
is(join('|', evaluate_all(map { [ 'unit_scope_join', definition({ scope_separator => $_ }), { scopes => [ 'a', 'b' ] } ] } qw(space comma plus))),
	'a b|a,b|a b', 'scopes of token requests');

# -- Secrets: known to the exchange, and nowhere else. --

{
	my $carried = sub {
		my ($function, $definition, @arguments) = @_;
		return join '|', sort split /\|/, evaluate($function, definition($definition), @arguments, 'true');
	};
	is($carried->('unit_token_request', {}, 'code', { %full, client_id => 'i', client_secret => 's3' }), 'c o|s3|v~', 'a code request carries three');
	is($carried->('unit_token_request', { client_auth => 'basic' }, 'refresh', { %token, client_id => 'i', client_secret => 's3' }), 'aTpzMw==|r/t+1|s3', 'Basic is one, too');
	is($carried->('unit_token_request', { client_auth => 'none', token_headers => { 'X' => '{client_secret}' } }, 'refresh', { %token, client_id => 'i', client_secret => 's3' }), 'r/t+1|s3', 'one in a header');
	is($carried->('unit_token_request', { auth_type => 'bearer_renew' }, 'bearer_renew', { refresh_token => 'r' }), 'r', 'a bearer');
	is($carried->('unit_revoke_request', { revoke_url => 'https://p.example/{token}', revoke_param => undef, revoke_auth => 'token' }, \%both), 'a+1|r/1', 'a revocation');
	is($carried->('unit_get_request', { account_url => 'https://p.example/me', account_path => 'id', api_auth => '?k={token}' }, \%account), 'a/t', 'a fetch');
	my $signed = $carried->('unit_token_request', { client_auth => 'private_key_jwt' }, 'refresh', { refresh_token => 'r', client_id => 'i', client_secret => $keys{RS256}[0] });
	like($signed, qr/^eyJ[\w.-]+\|r$/, 'the assertion, not the key');

	# Each one, quoted by a provider as an error code.
	my %quotes = (code => 'the-code-SECRET', code_verifier => 'the-verifier-SECRET', client_secret => 'the-client-SECRET');
	foreach my $name (sort keys %quotes)
	{
		$server->script("/token/$name", [ { status => 400, json => { error => "bad $quotes{$name}!" } } ]);
		is(evaluate('unit_token', definition({ token_url => "$http/token/$name" }), 'code', { %quotes, client_id => 'i' }), 'sent=1 config http_400', "a code that quotes the $name");
	}
	$server->script('/token/query', [ { status => 200, json => { access_token => 'x' } } ]);
	is(evaluate('unit_token', definition({ body_format => 'query', token_method => 'GET', refresh_method => 'GET', token_url => "$http/token/query?v=1" }), 'refresh',
			{ client_id => 'i', client_secret => 'the-client-SECRET', refresh_token => 'refresh-SECRET' . ('x' x 5000) }), 'sent=1 refreshed x', 'a GET with a long secret');
	my ($seen) = $server->log('/token/query');
	is("$seen->{method} $seen->{query}", 'GET v=1&grant_type=refresh_token&refresh_token=refresh-SECRET' . ('x' x 5000) . '&client_id=i&client_secret=the-client-SECRET', 'as it arrives');

	# A server that closes a connection that it kept alive: a GET that refreshes is not sent again.
	$server->script('/token/once', [ { status => 200, json => { access_token => 'x' } }, { close => 'after_read' }, { status => 200, json => { access_token => 'y' } } ]);
	my $definition = definition({ body_format => 'query', token_method => 'GET', refresh_method => 'GET', token_url => "$http/token/once" });
	my $text = $json->encode($definition) =~ s/'/''/gr;
	$node->safe_psql('postgres', qq{
SELECT unit_token('$text', 'refresh', '{"refresh_token":"r"}');
SELECT unit_token('$text', 'refresh', '{"refresh_token":"r"}');});
	is($server->counts('/token/once')->{total}, 2, 'one request is sent once');

	my $log = slurp_file($node->logfile, $offset);
	unlike($log, qr/SECRET/, 'no secret in the log');
	unlike($log, qr/TRAP|PANIC|terminated by signal/, 'nothing crashed');
}

done_testing();
