# From a button to a connection: conduit_authorize(), a browser's way through the
# provider, conduit_authorize_callback().  What can be had of it, and how it is
# refused; 053 has attacks, 054 what crashes and open transactions do to it.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Conduit::Cluster;
use Conduit::Provider;
use Digest::SHA ();
use JSON::PP ();
use MIME::Base64 ();
use PostgreSQL::Test::Utils;
use Test::More;

my $true = JSON::PP::true;
my $provider = Conduit::Provider->start('scripted');
my $cluster = Conduit::Cluster->new('main');
my $node = $cluster->node;
my $callback_uri = 'https://app.example.com/callback';
my @uris = ($callback_uri, 'https://app.example.com/other');
my $now = 0;
my $codes = 0;

sub advance
{
	my ($seconds) = @_;
	$now += $seconds;
	$cluster->set_clock($now);
	return;
}

# A connector that is authorized at the scripted provider, at paths of its own.
sub connector
{
	my ($slug, %fields) = @_;
	$cluster->connector($slug,
		authorize_url => $provider->url . '/authorize',
		token_url => $provider->url . "/token/$slug",
		redirect_uris => \@uris,
		%fields);
	return;
}

# What the next reply of a connector's token endpoint says beside its tokens.
sub reply
{
	my ($slug, %fields) = @_;
	my @omit = @{ delete $fields{omit} // [] };
	$provider->script("/token/$slug", [ { rotate => $true, field_overrides => \%fields, omit => \@omit } ]);
	return;
}

sub new_code { return 'code-' . ++$codes . '-' . Digest::SHA::sha1_hex("$codes"); }

# The whole way; returns the connection's id, or the error.
sub connect_owner
{
	my ($owner, $slug, %arguments) = @_;
	my $params = delete $arguments{redirect};
	my (undef, $state) = $cluster->authorize($owner, $slug, %arguments);
	return $cluster->callback($owner, $state, new_code(), $params);
}

sub field
{
	my ($owner, $id, $fields) = @_;
	return $cluster->sql("SELECT $fields FROM conduit_get_connection('$owner', '$id')");
}

sub url_parts
{
	my ($url) = @_;
	my ($base, $query) = $url =~ /^([^?]*)\?(.*)$/;
	my %parts = map { my ($name, $value) = split /=/; $value =~ s/%(..)/chr hex $1/ge; $name => $value } split /&/, $query;
	return ($base, \%parts);
}

sub base64url { return MIME::Base64::encode_base64url($_[0]); }
my $uuid = qr/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
my $invalid_state = 'PT400 authorization failed (invalid_state)';

# ---- npm's oidc-provider: a server that insists on PKCE ----

{
	my $oidc = Conduit::Provider->start('oidc', redirect_uri => $callback_uri);
	my $info = $oidc->info;

	$cluster->connector('oidc',
		authorize_url => $info->{authorization_endpoint},
		token_url => $info->{token_endpoint},
		account_url => $info->{userinfo_endpoint},
		account_path => 'sub',
		account_label_path => 'name',
		issuer => $info->{issuer},
		callback_iss_required => $true,
		pkce => $true,
		client_auth => 'basic',
		api_auth => 'Authorization: Bearer {token}',
		default_scopes => [qw(openid offline_access profile)],
		extra_authorize_params => { prompt => 'consent' },
		redirect_uris => [$callback_uri],
		client_id => $info->{client_id},
		client_secret => $info->{client_secret});

	my ($url, $state) = $cluster->authorize('owner of alice', 'oidc');
	my $redirect = $oidc->authorize($url, account => 'alice');
	is($redirect->{state}, $state, 'the provider sends the state back');
	my $id = $cluster->callback('owner of alice', $state, $redirect->{code}, $redirect);
	like($id, $uuid, 'oidc: the callback makes a connection');
	is(field('owner of alice', $id, 'account, account_label, status, refreshable, generation'), 'alice|Test account alice|ACTIVE|t|1', 'with the account that the provider names');
	is(field('owner of alice', $id, 'requested_scopes'), '{openid,offline_access,profile}', 'the scopes that were asked for');
	is(field('owner of alice', $id, 'scopes @> requested_scopes'), 't', 'and those that were granted');
	like($cluster->vend('owner of alice', $id), qr/^[\w-]{20,}$/, 'its token is vended');
	is($cluster->sql("SELECT refreshed FROM conduit_refresh('owner of alice', '$id')"), 't', 'and refreshed');

	($url, $state) = $cluster->authorize('owner of alice', 'oidc');
	$redirect = $oidc->authorize($url, account => 'alice');
	is($cluster->callback('owner of alice', $state, undef, $redirect), $id, 'the same account again is the same connection');
	is(field('owner of alice', $id, 'generation'), 3, 'with another credential');

	($url, $state) = $cluster->authorize('owner of alice', 'oidc');
	$redirect = $oidc->authorize($url, account => 'bob');
	isnt($cluster->callback('owner of alice', $state, undef, $redirect), $id, 'another account is another connection');

	($url, $state) = $cluster->authorize('owner of alice', 'oidc');
	$redirect = $oidc->authorize($url, account => 'alice', deny => undef);
	is($cluster->callback('owner of alice', $state, undef, $redirect), 'PT400 authorization failed (denied)', 'who refuses is told so');

	# The challenge is of the verifier that is sent, or this provider would refuse.
	($url, $state) = $cluster->authorize('owner of alice', 'oidc');
	my (undef, $other_state) = $cluster->authorize('owner of alice', 'oidc');
	$redirect = $oidc->authorize($url, account => 'alice');
	is($cluster->callback('owner of alice', $other_state, $redirect->{code}), 'PT400 authorization failed (issuer_mismatch)', 'a response without the iss that this connector requires');
	($url, $state) = $cluster->authorize('owner of alice', 'oidc');
	(undef, $other_state) = $cluster->authorize('owner of alice', 'oidc');
	$redirect = $oidc->authorize($url, account => 'alice');
	is($cluster->callback('owner of alice', $other_state, $redirect->{code}, { iss => $redirect->{iss} }), 'PT400 authorization failed (code_rejected)', 'a code under another state has another verifier, and the provider refuses it');
}

# ---- the authorize URL ----

connector('test_plain', pkce => JSON::PP::false, default_scopes => ['read']);
connector('pkce', pkce => $true, scope_separator => 'comma',
	extra_authorize_params => { access_type => 'offline', shop => '{shop}' },
	params => { shop => { pattern => '^[a-z]+$', description => 'name of the shop' } });

{
	my ($url, $state) = $cluster->authorize('alice', 'test_plain');
	my ($base, $parts) = url_parts($url);
	is($base, $provider->url . '/authorize', 'the authorize URL is the connector\'s');
	is_deeply($parts, { response_type => 'code', client_id => 'cid', redirect_uri => $callback_uri, scope => 'read', state => $state },
		'with what RFC 6749 asks for, the first redirect URI and the default scopes');
	like($state, qr/^[A-Za-z0-9_-]{43}$/, 'the state is of 256 bits');

	($url, $state) = $cluster->authorize('alice', 'pkce', redirect_uri => "'$uris[1]'", scopes => q('{a,b,a}'), params => q('{"shop": "acme"}'));
	($base, $parts) = url_parts($url);
	my $challenge = delete $parts->{code_challenge};
	is_deeply($parts, { response_type => 'code', client_id => 'cid', redirect_uri => $uris[1], scope => 'a,b', state => $state,
			code_challenge_method => 'S256', access_type => 'offline', shop => 'acme' },
		'with another redirect URI, scopes of one\'s own, extras');
	is($cluster->callback('alice', $state, my $code = new_code()) =~ $uuid, 1, 'its callback');
	my ($request) = $provider->log('/token/pkce');
	is($request->{params}{redirect_uri}, $uris[1], 'the code is sent with the same redirect URI');
	is($request->{params}{code}, $code, 'the code itself');
	is(base64url(Digest::SHA::sha256($request->{params}{code_verifier})), $challenge, 'and the verifier whose SHA-256 the challenge was');
	like($request->{params}{code_verifier}, qr/^[A-Za-z0-9_-]{43}$/, 'of 256 bits');
	is($cluster->sql("SELECT count(*), count(DISTINCT verifier) FROM conduit.authorize_state WHERE connector = 'pkce'"), '1|0', 'which is gone from the row');
}

my %refused = (
	"'alice', 'test_plain', 'https://evil.example.com/callback'" => '22023 invalid redirect_uri (not_registered)',
	"'alice', 'test_plain', '$callback_uri/'" => '22023 invalid redirect_uri (not_registered)',
	"'alice', 'test_plain', scopes => '{\"a b\"}'" => '22023 invalid scopes (element 1)',
	"'alice', 'test_plain', scopes => '{a,\"\"}'" => '22023 invalid scopes (element 2)',
	"'alice', 'test_plain', scopes => '{a,NULL}'" => '22023 invalid scopes (element 2)',
	"'alice', 'pkce'" => qr/^22023 invalid params \(shop/,
	"'alice', 'pkce', params => '{\"shop\": \"a/b\"}'" => qr/^22023 invalid params \(shop/,
	"' ', 'test_plain'" => '22023 invalid owner (blank)',
	"'alice', NULL" => '22023 invalid connector (slug)',
	"'alice', 'nowhere'" => '22023 unknown connector (unknown_connector)',
	"'alice', 'test_plain', connection_id => '00000000-0000-0000-0000-000000000000'" => 'PT404 connection not found',
	(map { ("'alice', 'test_plain', params => '{\"$_\": \"x\"}'" => qr/^22023 invalid params \($_/) }
		qw(client_id redirect_uri state response_type scope code_challenge code_challenge_method client_secret)));
foreach my $arguments (sort keys %refused)
{
	my $answer = $cluster->wire->query("SELECT state FROM conduit_authorize($arguments)");
	my $text = $answer->{error} ? Conduit::Cluster::error_text($answer->{error}) : 'none';
	ref $refused{$arguments} ? like($text, $refused{$arguments}, "refused: $arguments") : is($text, $refused{$arguments}, "refused: $arguments");
}
$cluster->sql(q{SELECT conduit_register_connector('unset', '{"extends": "test_plain"}'), conduit_register_connector('key', '{"name": "K", "auth_type": "api_key"}')});
$cluster->sql(q{SELECT conduit_register_connector('nouri', '{"extends": "test_plain"}')});
$cluster->sql(q{SELECT conduit_set_client('nouri', 'cid', 'secret')});
foreach my $row ([ 'unset', 'PT500 connector is not configured (client_missing)' ], [ 'key', '22023 connector takes no authorization (auth_type)' ],
	[ 'nouri', '22023 invalid redirect_uri (none_registered)' ])
{
	is(Conduit::Cluster::error_text($cluster->wire->query(q{SELECT conduit_authorize('alice', $1)}, $row->[0])->{error}), $row->[1], "refused: $row->[0]");
}

# A tenant's client goes before the common one.
{
	$cluster->sql(qq{SELECT conduit_set_client('test_plain', 'tenants', 'secret', '{https://tenant.example.com/cb}', tenant => 't1')});
	my ($url) = $cluster->authorize('alice', 'test_plain', tenant => q('t1'));
	my (undef, $parts) = url_parts($url);
	is("$parts->{client_id} $parts->{redirect_uri}", 'tenants https://tenant.example.com/cb', 'a tenant is asked under its own client');
	($url) = $cluster->authorize('alice', 'test_plain', tenant => q('t2'));
	(undef, $parts) = url_parts($url);
	is($parts->{client_id}, 'cid', 'or under the common one');
}

# ---- repeats ----

{
	my (undef, $state) = $cluster->authorize('alice', 'test_plain', metadata => q('{"from": "test"}'));
	my $code = new_code();
	my $before = $provider->counts('/token/test_plain')->{total};
	my $id = $cluster->callback('alice', $state, $code);
	like($id, $uuid, 'a callback');
	is($cluster->callback('alice', $state, $code), $id, 'again: the same id');
	is($cluster->callback('alice', $state, undef, { code => $code, state => $state }), $id, 'with the code among the parameters');
	is($provider->counts('/token/test_plain')->{total} - $before, 1, 'of one request');
	is(field('alice', $id, 'metadata, account IS NULL'), '{"from": "test"}|t', 'metadata of one\'s own; no account is known');
	is($cluster->sql("SELECT string_agg(kind, ' ' ORDER BY id) FROM conduit.event WHERE connection_id = '$id'"), 'created authorized', 'events');
	is($cluster->callback('alice', $state, new_code()), $invalid_state, 'another code under a state that is used');
	is($cluster->callback('bob', $state, $code), $invalid_state, 'another owner');
	is($cluster->callback('alice', $state, undef, { error => 'access_denied' }), $invalid_state, 'an error under a state that is used');
	is($cluster->callback('alice', $state, $code, { state => 'another' }), $invalid_state, 'another state among the parameters');
	advance(560);
	is($cluster->callback('alice', $state, $code), $id, 'nearly ten minutes later still');
	advance(41);
	is($cluster->callback('alice', $state, $code), $invalid_state, 'but no longer');

	(undef, $state) = $cluster->authorize('alice', 'test_plain');
	advance(601);
	is($cluster->callback('alice', $state, new_code()), $invalid_state, 'a state of ten minutes ago');
	is($provider->counts('/token/test_plain')->{total} - $before, 1, 'whose code is not sent');
}
{
	my (undef, $state) = $cluster->authorize('alice', 'test_plain');
	my $code = new_code();
	my @callers = map { $cluster->wire } 1 .. 10;
	my $before = $provider->counts('/token/test_plain')->{total};

	$provider->script('/token/test_plain', [ { rotate => $true, hang => $true } ]);
	$_->send(Conduit::Cluster::callback_query('alice', $state, $code)) foreach @callers;
	$provider->wait_for('/token/test_plain', 'hanging', 1);
	$provider->release;
	my @ids = map { Conduit::Cluster::callback_text($_->receive) } @callers;
	like($ids[0], $uuid, 'ten callers at once');
	is(scalar(grep { $_ eq $ids[0] } @ids), 10, 'are all told the same id');
	is($provider->counts('/token/test_plain')->{total} - $before, 1, 'of one request');
}

# A provider that takes its time: the caller gives up waiting, and comes again.
{
	my $wire = $cluster->wire(options => '-c conduit.vend_timeout=200ms');
	my (undef, $state) = $cluster->authorize('alice', 'test_plain');
	my $code = new_code();

	$provider->script('/token/test_plain', [ { rotate => $true, hang => $true } ]);
	is(Conduit::Cluster::callback_text($wire->query(Conduit::Cluster::callback_query('alice', $state, $code))),
		'PT504 provider unavailable (pending)', 'pending, after conduit.vend_timeout');
	is(Conduit::Cluster::callback_text($wire->query(Conduit::Cluster::callback_query('alice', $state, $code))),
		'PT504 provider unavailable (pending)', 'still pending');
	$provider->release;
	like($cluster->callback('alice', $state, $code), $uuid, 'calling again picks up the result');
}

# ---- what the provider refuses, or does not answer ----

{
	my @replies = (
		[ { status => 400, json => { error => 'invalid_grant' } }, 'PT400 authorization failed (code_rejected)' ],
		[ { status => 401, json => { error => 'invalid_client' } }, 'PT502 bad provider response (invalid_client)' ],
		[ { status => 500, body => 'oops' }, qr/^PT502 bad provider response \(http_500/ ],
		[ { status => 429, headers => { 'retry-after' => '7' }, json => { error => 'slow_down' } }, qr/^PT504 provider unavailable \(/ ],
		[ { status => 200, body => '<html>', headers => { 'content-type' => 'text/html' } }, qr/^PT502 bad provider response \(/ ],
		[ { close => 'after_read' }, qr/^PT504 provider unavailable \(/ ]);
	foreach my $row (@replies)
	{
		my (undef, $state) = $cluster->authorize('alice', 'test_plain');
		my $code = new_code();
		my $before = $provider->counts('/token/test_plain')->{total};
		my $name = JSON::PP->new->canonical->encode($row->[0]);

		$provider->script('/token/test_plain', [ $row->[0] ]);
		my $first = $cluster->callback('alice', $state, $code);
		ref $row->[1] ? like($first, $row->[1], "refused: $name") : is($first, $row->[1], "refused: $name");
		is($cluster->callback('alice', $state, $code), $first, 'again: the same answer');
		is($provider->counts('/token/test_plain')->{total} - $before, 1, 'the code was sent once');
	}

	# What has not left may come again.
	$cluster->connector('nobody', authorize_url => $provider->url . '/authorize', token_url => 'http://127.0.0.1:9/token', redirect_uris => \@uris);
	my (undef, $state) = $cluster->authorize('alice', 'nobody');
	my $code = new_code();
	is($cluster->callback('alice', $state, $code), 'PT504 provider unavailable (refused)', 'nobody listens');
	is($cluster->sql("SELECT status, code_hash IS NULL FROM conduit.authorize_state WHERE connector = 'nobody'"), 'open|t', 'the state stays open');
	is($cluster->callback('alice', $state, $code), 'PT504 provider unavailable (refused)', 'and the callback may come again');

	my @denials = ([ 'access_denied', 'denied' ], [ 'server_error', 'server_error' ], [ "odd <error>\x{263a}", 'odd_error' ], [ '', undef ]);
	foreach my $row (@denials)
	{
		(undef, $state) = $cluster->authorize('alice', 'test_plain');
		my $answer = $cluster->callback('alice', $state, undef, { error => $row->[0], error_description => 'x' });
		is($answer, defined $row->[1] ? "PT400 authorization failed ($row->[1])" : 'PT400 authorization failed (refused)', "the redirect says: $row->[0]");
		is($cluster->callback('alice', $state, new_code()), $invalid_state, 'and the state is closed');
		is($cluster->callback('bob', $state, undef, { error => $row->[0] }), $invalid_state, 'for others, too');
	}
}

# Of two secrets of a client the provider knows the older one.
{
	$cluster->sql(q{SELECT conduit_set_client('test_plain', 'cid', 'a newer secret')});
	$provider->client('cid', 'the-client-secret');
	like(connect_owner('alice', 'test_plain'), $uuid, 'the other secret is tried');
	$provider->post('/control/client', {});
}

# ---- authorized again ----

connector('named', account_path => 'sub', account_label_path => 'name', default_scopes => [qw(a b)]);
{
	reply('named', sub => 'u1', name => 'User One', scope => 'a b');
	my $id = connect_owner('alice', 'named');
	is(field('alice', $id, 'account, account_label, scopes'), 'u1|User One|{a,b}', 'the account of the token response');

	reply('named', sub => 'u1', name => 'User Uno');
	is(connect_owner('alice', 'named'), $id, 'the same account is renewed');
	is(field('alice', $id, 'generation, account_label'), '2|User Uno', 'with another credential, and its new label');
	reply('named', sub => 'u1');
	isnt(connect_owner('bob', 'named'), $id, 'the same account of another owner is another connection');
	reply('named', sub => 'u2');
	isnt(connect_owner('alice', 'named'), $id, 'as is another account of the same owner');

	# more scopes
	my ($url, $state) = $cluster->authorize('alice', 'named', connection_id => "'$id'", scopes => q('{c}'));
	is((url_parts($url))[1]{scope}, 'c read write', 'other scopes are united with those granted');
	reply('named', sub => 'u1', scope => 'c read write');
	is($cluster->callback('alice', $state, new_code()), $id, 'more scopes: the same connection');
	is(field('alice', $id, 'requested_scopes, scopes, generation'), '{c,read,write}|{c,read,write}|3', 'it has them');
	($url) = $cluster->authorize('alice', 'named', connection_id => "'$id'");
	is((url_parts($url))[1]{scope}, 'c read write', 'none given: those last requested');
	is($cluster->wire->query(q{SELECT (conduit_authorize('alice', NULL, connection_id => $1)).state}, $id)->{error}, undef, 'the connector is the connection\'s');
	is(Conduit::Cluster::error_text($cluster->wire->query(q{SELECT conduit_authorize('alice', 'test_plain', connection_id => $1)}, $id)->{error}),
		'22023 invalid connector (connection)', 'and no other');
	is(Conduit::Cluster::error_text($cluster->wire->query(q{SELECT conduit_authorize('bob', 'named', connection_id => $1)}, $id)->{error}),
		'PT404 connection not found', 'nor is it another owner\'s');

	# NEEDS_REAUTH -> ACTIVE
	$provider->script('/token/named', [ { status => 400, json => { error => 'invalid_grant' } } ], repeat_last => $true);
	advance(3700);
	ok($cluster->poll("SELECT status = 'NEEDS_REAUTH' FROM conduit_get_connection('alice', '$id')"), 'its refresh token dies');
	(undef, $state) = $cluster->authorize('alice', 'named', connection_id => "'$id'");
	is(field('alice', $id, 'status'), 'NEEDS_REAUTH', 'asking changes nothing');
	reply('named', sub => 'u1');
	is($cluster->callback('alice', $state, new_code()), $id, 'authorized again');
	is(field('alice', $id, 'status, status_reason IS NULL, last_error IS NULL'), 'ACTIVE|t|t', 'it is well');
	is($cluster->sql("SELECT kind, old_status, new_status FROM conduit.event WHERE connection_id = '$id' ORDER BY id DESC LIMIT 1"), 'recovered|NEEDS_REAUTH|ACTIVE', 'and recovered');

	# another account
	my $token = $cluster->vend('alice', $id);
	(undef, $state) = $cluster->authorize('alice', 'named', connection_id => "'$id'");
	reply('named', sub => 'u9');
	my $code = new_code();
	is($cluster->callback('alice', $state, $code), 'PT400 authorization failed (account_mismatch)', 'another account is refused');
	is($cluster->callback('alice', $state, $code), 'PT400 authorization failed (account_mismatch)', 'and again');
	is($cluster->vend('alice', $id), $token, 'the connection is untouched');
	is(field('alice', $id, 'account'), 'u1', 'in its account, too');

	# revoked, deleted
	(undef, $state) = $cluster->authorize('alice', 'named', connection_id => "'$id'");
	$cluster->sql("SELECT conduit_revoke_connection('alice', '$id')");
	reply('named', sub => 'u1');
	is($cluster->callback('alice', $state, new_code()), 'PT400 authorization failed (connection_revoked)', 'revoked meanwhile');
	is(Conduit::Cluster::error_text($cluster->wire->query(q{SELECT conduit_authorize('alice', 'named', connection_id => $1)}, $id)->{error}),
		'PT410 connection revoked (revoked)', 'and not to be authorized again');
	reply('named', sub => 'u1');
	my $next = connect_owner('alice', 'named');
	isnt($next, $id, 'its account is connected anew');
	(undef, $state) = $cluster->authorize('alice', 'named', connection_id => "'$next'");
	$cluster->sql("SELECT conduit_delete_connection('alice', '$next')");
	is($cluster->callback('alice', $state, new_code()), 'PT400 authorization failed (connection_gone)', 'deleted meanwhile');
}

# What is refused after the exchange is revoked, and nothing else.  A client of
# its own: where another connection may live on the grant, nothing would be.
connector('revoking', client_id => 'revoking-client', account_path => 'sub', revoke_url => $provider->url . '/revoke');
{
	reply('revoking', sub => 'r1');
	my $id = connect_owner('carol', 'revoking');
	my (undef, $state) = $cluster->authorize('carol', 'revoking', connection_id => "'$id'");
	reply('revoking', sub => 'r2');
	is($cluster->callback('carol', $state, new_code()), 'PT400 authorization failed (account_mismatch)', 'another account, at a provider that revokes');
	$provider->wait_for('/revoke', 'total', 1);
	ok($cluster->poll("SELECT count(*) = 0 FROM conduit.revocation WHERE owner = 'carol'"), 'what it granted is revoked');
	my @revoked = map { $_->{params}{token} } $provider->log('/revoke');
	is(scalar @revoked, 1, 'by one request');
	is(($provider->tokens(refresh_token => $revoked[0]))[0]{revoked}, $true, 'of a token that the provider knows');
	is($cluster->sql("SELECT refreshed FROM conduit_refresh('carol', '$id')"), 't', "while the connection's own grant is good");
	is($cluster->sql("SELECT account FROM conduit_get_connection('carol', '$id')"), 'r1', 'and of the same account');
}

# A connection whose account nobody knew gets it; one that another has, it does not.
{
	my ($grant) = $provider->issue(1);
	my $id = $cluster->connection('dave', 'named', $grant);
	my (undef, $state) = $cluster->authorize('dave', 'named', connection_id => "'$id'");
	reply('named', sub => 'd1');
	is($cluster->callback('dave', $state, new_code()), $id, 'a connection without an account is authorized again');
	is(field('dave', $id, 'account'), 'd1', 'and has one');
	my $other = $cluster->connection('dave', 'named', $grant);
	(undef, $state) = $cluster->authorize('dave', 'named', connection_id => "'$other'");
	reply('named', sub => 'd1');
	is($cluster->callback('dave', $state, new_code()), $other, 'as is another');
	is(field('dave', $other, 'account IS NULL'), 't', 'which does not take the account that the first has');
}

# ---- no refresh token in the reply ----

{
	reply('named', sub => 'k1');
	my $id = connect_owner('erin', 'named');
	my ($first) = $provider->tokens;
	reply('named', sub => 'k1', omit => ['refresh_token']);
	is(connect_owner('erin', 'named'), $id, 'authorized again, without a refresh token');
	is(field('erin', $id, 'refreshable, generation'), 't|2', 'the stored one of the same account is kept');
	advance(3700);
	ok($cluster->poll("SELECT generation = 3 FROM conduit_get_connection('erin', '$id')"), 'and is good');

	my ($grant) = $provider->issue(1);
	my $unnamed = $cluster->connection('erin', 'test_plain', $grant);
	my (undef, $state) = $cluster->authorize('erin', 'test_plain', connection_id => "'$unnamed'");
	$provider->script('/token/test_plain', [ { rotate => $true, omit => ['refresh_token'] } ]);
	is($cluster->callback('erin', $state, new_code()), $unnamed, 'where no account is known');
	is(field('erin', $unnamed, 'refreshable'), 'f', 'it may be another\'s, and is not kept');

	$cluster->sql(q{SELECT conduit_set_client('named', 'another', 'secret', '{https://app.example.com/callback}')});
	reply('named', sub => 'k1', omit => ['refresh_token']);
	is(connect_owner('erin', 'named'), $id, 'under another client');
	is(field('erin', $id, 'refreshable'), 'f', 'it is of no use, and is not kept');
	$cluster->sql(q{SELECT conduit_set_client('named', 'cid', 'the-client-secret', '{https://app.example.com/callback}')});
}

# ---- what the redirect brings ----

connector('shop', token_url => $provider->url . '/token/{region}', account_path => 'sub',
	params => {
		region => { pattern => '^(eu|us)$', description => 'where the account lives' },
		realm => { pattern => '^[0-9]{1,20}$', description => 'company' },
		server => { pattern => '^[a-z]+\.example\.com$', default => 'www.example.com', description => 'host of the accounts' } },
	callback_params => { location => 'region', realmId => 'realm', 'accounts-server' => 'server' },
	callback_metadata => ['shop_name'],
	callback_code_param => 'oauth_code',
	response_metadata => { instance => 'instance_url' });
{
	my (undef, $state) = $cluster->authorize('alice', 'shop');
	my $code = new_code();
	my %redirect = (location => 'eu', realmId => '4711', shop_name => 'Acme', oauth_code => $code, ignored => 'x',
		'accounts-server' => 'https://eu.example.com');
	is($cluster->callback('alice', $state, $code, { %redirect, location => 'evil' }), '22023 invalid params (pattern)', 'a redirect that leads elsewhere');
	is($cluster->callback('alice', $state, $code, { %redirect, 'accounts-server' => $_ }), '22023 invalid params (pattern)', "to $_")
	  for qw(https://eu.example.com.evil.example http://eu.example.com https://evil.example/eu.example.com https://);
	is($cluster->callback('alice', $state, $code, { location => 'eu' }), '22023 invalid params (missing realmId)', 'one that lacks something');
	is($cluster->callback('alice', $state, undef, { location => 'eu', realmId => '1' }), '22023 invalid code (blank)', 'one without a code');
	$provider->script('/token/eu', [ { rotate => $true, field_overrides => { sub => 's1', instance_url => 'https://eu7.example.com' } } ]);
	my $id = $cluster->callback('alice', $state, undef, \%redirect);
	like($id, $uuid, 'the redirect\'s parameters');
	is(field('alice', $id, 'params, metadata'), '{"realm": "4711", "region": "eu", "server": "eu.example.com"}|{"instance": "https://eu7.example.com", "shop_name": "Acme"}', 'are kept');
	is($provider->counts('/token/eu')->{total}, 1, 'the code went where they say');

	(undef, $state) = $cluster->authorize('alice', 'shop', connection_id => "'$id'");
	$provider->script('/token/us', [ { rotate => $true, field_overrides => { sub => 's1' } } ]);
	is($cluster->callback('alice', $state, new_code(), { location => 'us', realmId => '4711' }), $id, 'a later redirect');
	is(field('alice', $id, q{params ->> 'region'}), 'us', 'may say otherwise');
}

# ---- account_url ----

connector('asked', account_url => $provider->url . '/userinfo/asked', account_path => 'data.id', account_label_path => 'data.name', api_auth => 'Authorization: Bearer {token}');
{
	my @account = ({ json => { data => { id => 42, name => 'Forty-two' } } });
	$provider->script('/userinfo/asked', [@account]);
	my $id = connect_owner('alice', 'asked');
	is(field('alice', $id, 'account, account_label'), '42|Forty-two', 'the account that account_url names');
	my ($request) = $provider->log('/userinfo/asked');
	is($request->{headers}{authorization}, 'Bearer ' . $cluster->sql("SELECT access_token FROM conduit_vend('alice', '$id')"), 'asked with the new token');

	$provider->script('/userinfo/asked', [@account]);
	is(connect_owner('alice', 'asked'), $id, 'known again');
	$provider->script('/userinfo/asked', [ { status => 503 } ]);
	my $unknown = connect_owner('alice', 'asked');
	like($unknown, $uuid, 'a provider that does not say');
	isnt($unknown, $id, 'cannot be recognized');
	is(field('alice', $unknown, 'account IS NULL, has_credential'), 't|t', 'but nothing is lost');
	my (undef, $state) = $cluster->authorize('alice', 'asked', connection_id => "'$id'");
	$provider->script('/userinfo/asked', [ { status => 503 } ]);
	is($cluster->callback('alice', $state, new_code()), 'PT502 bad provider response (account_unknown)', 'a connection of a known account is not given to one that is not known');
	is(field('alice', $id, 'generation'), 2, 'and stays as it is');
}

# ---- a token that is exchanged once more ----

connector('longer', exchange_grant_type => 'x_exchange_token', exchange_url => $provider->url . '/token/exchange',
	refresh_credential => 'access_token', refresh_grant_type => 'x_refresh_token', account_path => 'user_id');
{
	$provider->script('/token/longer', [ { json => { access_token => 'short-1', user_id => 'i1' } }, { json => { access_token => 'short-2', user_id => 'i2' } } ]);
	$provider->script('/token/exchange', [ { json => { access_token => 'long-1', expires_in => 5_184_000 } }, { status => 400, json => { error => 'oops' } } ]);
	my $id = connect_owner('alice', 'longer');
	is(field('alice', $id, q{account, refreshable, expires_at > now() + interval '50 days'}), 'i1|t|t', 'the longer-lived token, and the account of the first reply');
	is($cluster->sql("SELECT access_token FROM conduit_vend('alice', '$id')"), 'long-1', 'is vended');
	my ($request) = $provider->log('/token/exchange');
	is($request->{params}{grant_type}, 'x_exchange_token', 'asked for by its grant type');
	my $second = connect_owner('alice', 'longer');
	is($cluster->sql("SELECT access_token FROM conduit_vend('alice', '$second')"), 'short-2', 'where that fails, the first token is kept');
}

# ---- states come and go ----

{
	is($cluster->sql('SELECT bool_and(octet_length(state_hash) = 32) FROM conduit.authorize_state'), 't', 'states are stored hashed');
	$cluster->authorize('frank', 'test_plain');
	$cluster->sql("SELECT conduit_delete_owner('frank')");
	is($cluster->sql("SELECT count(*) FROM conduit.authorize_state WHERE owner = 'frank'"), 0, 'they go with their owner');

	# One that is under way when its owner is deleted brings no connection any more.
	$provider->script('/token/test_plain', [ { hang => $true } ]);
	my (undef, $state) = $cluster->authorize('frank', 'test_plain');
	my $wire = $cluster->wire;
	$wire->send(Conduit::Cluster::callback_query('frank', $state, new_code()));
	$provider->wait_for('/token/test_plain', 'hanging', 1);
	$cluster->sql("SELECT conduit_delete_owner('frank')");
	$provider->release('/token/test_plain');
	is(Conduit::Cluster::callback_text($wire->receive), 'PT400 authorization failed (owner_deleted)', 'nothing comes of one under way');
	is($cluster->sql("SELECT count(*) FROM conduit.connection WHERE owner = 'frank'"), 0, 'no connection');
	advance(86400 + 700);
	ok($cluster->poll('SELECT count(*) = 0 FROM conduit.authorize_state'), 'and after a day');
}

# ---- who may call it ----

$node->safe_psql('app', q{CREATE ROLE web LOGIN; CREATE ROLE watcher LOGIN; SELECT conduit_grant('web', 'app'), conduit_grant('watcher', 'monitor')});
{
	my $web = $cluster->wire(user => 'web');
	my $state = $web->value(q{SELECT state FROM conduit_authorize('grace', 'test_plain')});
	like(Conduit::Cluster::callback_text($web->query(Conduit::Cluster::callback_query('grace', $state, new_code()))), $uuid, 'profile app may authorize');
	is($cluster->wire(user => 'watcher')->query(q{SELECT conduit_authorize('grace', 'test_plain')})->{error}{C}, '42501', 'profile monitor may not');
}

$cluster->stop;
done_testing();
