# Callbacks that should not be: another owner's, forged, replayed, mixed up.  To
# whom a state does not belong, each is refused in the same bytes; and no code is
# sent that should not be.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Conduit::Cluster;
use Conduit::Provider;
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

my $true = JSON::PP::true;
my $json = JSON::PP->new->canonical;
my $provider = Conduit::Provider->start('scripted');
my $other_provider = Conduit::Provider->start('scripted');
my $cluster = Conduit::Cluster->new('main');
my @uris = ('https://app.example.com/callback');
my $uuid = qr/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
my $mismatch = 'PT400 authorization failed (issuer_mismatch)';
my $now = 0;
my $codes = 0;

sub new_code { return 'code-' . ++$codes; }

sub connector
{
	my ($slug, %fields) = @_;
	$cluster->connector($slug, authorize_url => $provider->url . '/authorize', token_url => $provider->url . '/token',
		redirect_uris => \@uris, %fields);
	return;
}

sub requests { return $provider->counts('/token')->{total} + $other_provider->counts->{total}; }

# Every field of an error but where in the source it was raised.
sub whole_error
{
	my ($error) = @_;
	return $json->encode({ map { $_ => $error->{$_} } grep { !/^[FLR]$/ } keys %$error });
}

connector('test', account_path => 'sub');

# ---- to others, all states are alike ----

{
	my (undef, $open) = $cluster->authorize('alice', 'test');
	my (undef, $used) = $cluster->authorize('alice', 'test');
	my (undef, $denied) = $cluster->authorize('alice', 'test');
	my (undef, $of_tenant) = $cluster->authorize('alice', 'test', tenant => q('t1'));
	my (undef, $expired) = $cluster->authorize('alice', 'test');
	my $code = new_code();

	like($cluster->callback('alice', $used, $code), $uuid, 'a state is used');
	like($cluster->callback('alice', $denied, undef, { error => 'access_denied' }), qr/denied/, 'another closed');
	$cluster->sql(q{UPDATE conduit.authorize_state SET expires_at = now() - interval '1 s' WHERE status = 'open' AND id = (SELECT max(id::text)::uuid FROM conduit.authorize_state)});
	my $sent = requests();
	my %attacks = (
		'a state that never was' => [ 'mallory', 'x' x 43, $code ],
		'an open state of another owner' => [ 'mallory', $open, $code ],
		'an open state of another owner, with an error' => [ 'mallory', $open, undef, { error => 'access_denied' } ],
		'an open state of another owner, with an issuer' => [ 'mallory', $open, $code, { iss => 'https://evil.example.com' } ],
		'a used state of another owner, with its code' => [ 'mallory', $used, $code ],
		'a used state of another owner, with another code' => [ 'mallory', $used, 'other' ],
		'a closed state of another owner' => [ 'mallory', $denied, undef, { error => 'access_denied' } ],
		'a state of another tenant' => [ 'alice', $of_tenant, $code ],
		'an expired state of another owner' => [ 'mallory', $expired, $code ],
		'an expired state' => [ 'alice', $expired, new_code() ],
		'a used state with another code' => [ 'alice', $used, 'other' ],
		'a closed state with a code' => [ 'alice', $denied, $code ],
		'a hash instead of the state' => [ 'alice', $cluster->sql(q{SELECT encode(state_hash, 'hex') FROM conduit.authorize_state LIMIT 1}), $code ],
		'two states mixed up' => [ 'alice', $open, $code, { state => $used } ]);
	my %answers;
	foreach my $name (sort keys %attacks)
	{
		my $answer = $cluster->wire->query(Conduit::Cluster::callback_query(@{ $attacks{$name} }));
		ok($answer->{error}, "refused: $name");
		push @{ $answers{ whole_error($answer->{error}) } }, $name;
	}
	is(scalar keys %answers, 1, 'all in the same bytes') or diag explain \%answers;
	like((keys %answers)[0], qr/"C":"PT400".*"D":"invalid_state".*"M":"authorization failed"/, 'which say what the contract says');
	is(requests(), $sent, 'and nothing was sent to a provider');
	like($cluster->callback('alice', $open, new_code()), $uuid, 'the state that others tried is still good for its owner');
	is($cluster->sql("SELECT count(*) FROM conduit.connection WHERE owner = 'mallory'"), 0, 'the others have nothing');
}

# Two codes at once under one state: the first alone is sent.
{
	my (undef, $state) = $cluster->authorize('alice', 'test');
	my ($first, $second) = ($cluster->wire, $cluster->wire);
	my $code = new_code();
	my $sent = requests();

	$provider->script('/token', [ { rotate => $true, hang => $true } ]);
	$first->send(Conduit::Cluster::callback_query('alice', $state, $code));
	$provider->wait_for('/token', 'hanging', 1);
	is(Conduit::Cluster::callback_text($second->query(Conduit::Cluster::callback_query('alice', $state, 'injected'))),
		'PT400 authorization failed (invalid_state)', 'a code that is injected while another is out');
	is(Conduit::Cluster::callback_text($second->query(Conduit::Cluster::callback_query('mallory', $state, $code))),
		'PT400 authorization failed (invalid_state)', 'the same code by another owner joins nobody');
	$provider->release;
	like(Conduit::Cluster::callback_text($first->receive), $uuid, 'the first is served');
	is(requests() - $sent, 1, 'one code was sent');
}

# ---- mix-up: the response of another server (RFC 9207) ----

connector('names-issuer', issuer => 'https://issuer.example.com/');
connector('requires-issuer', callback_iss_required => $true);
{
	my $own = $provider->url;
	my @cases = (
		[ 'test', undef, 1, 'no issuer, where none is required' ],
		[ 'test', $own, 1, 'the origin of the endpoints' ],
		[ 'test', "$own/realms/x", 1, 'an issuer there' ],
		[ 'test', 'https://evil.example.com', 0, 'another server' ],
		[ 'test', $other_provider->url, 0, 'another port' ],
		[ 'test', "$own.evil.example.com", 0, 'a name that begins like it' ],
		[ 'test', 'https://evil.example.com/' . $own, 0, 'a path that looks like it' ],
		[ 'test', "https://x\@evil.example.com", 0, 'a user name' ],
		[ 'test', '', 0, 'an empty one' ],
		[ 'test', 'no URL', 0, 'no URL' ],
		[ 'names-issuer', undef, 1, 'a connector that names its issuer, which is not sent' ],
		[ 'names-issuer', 'https://issuer.example.com/', 1, 'the issuer that is named' ],
		[ 'names-issuer', 'https://issuer.example.com', 0, 'nearly that' ],
		[ 'names-issuer', 'https://ISSUER.example.com/', 0, 'in capitals' ],
		[ 'names-issuer', $own, 0, 'the origin of the endpoints instead' ],
		[ 'requires-issuer', undef, 0, 'no issuer, where it is required' ],
		[ 'requires-issuer', $own, 1, 'the issuer that is required' ]);
	foreach my $case (@cases)
	{
		my ($slug, $iss, $good, $name) = @$case;
		my (undef, $state) = $cluster->authorize('alice', $slug);
		my $sent = requests();
		my $code = new_code();
		my $answer = $cluster->callback('alice', $state, $code, defined $iss ? { iss => $iss } : {});

		$good ? like($answer, $uuid, "let in: $name") : is($answer, $mismatch, "refused: $name");
		is(requests() - $sent, $good, $good ? 'its code is sent' : 'its code is not');
		next if $good;
		is($cluster->callback('alice', $state, $code), $mismatch, 'and the authorization is over');
		is(requests(), $sent, 'for good');
	}
	my (undef, $state) = $cluster->authorize('alice', 'test');
	is($cluster->callback('alice', $state, undef, { error => 'access_denied', iss => 'https://evil.example.com' }), $mismatch, 'a denial by another server');
}

# ---- a connector that leads elsewhere by the time of the callback ----

{
	my (undef, $state) = $cluster->authorize('alice', 'test');
	my $definition = $cluster->sql(q{SELECT definition FROM conduit.connector WHERE slug = 'test'});
	my $other = $other_provider->url;
	my $sent = requests();

	$cluster->sql(qq{SELECT conduit_register_connector('test', '$definition'::jsonb || '{"token_url": "$other/token"}')});
	is($cluster->callback('alice', $state, new_code()), 'PT400 authorization failed (connector_changed)', 'its endpoint was moved to another host');
	is(requests(), $sent, 'and gets no code');
	$cluster->sql(qq{SELECT conduit_register_connector('test', '$definition')});
}
{
	connector('gone');
	my (undef, $state) = $cluster->authorize('alice', 'gone');
	$cluster->sql(q{SELECT conduit_retire_client('gone', 'cid')});
	is($cluster->callback('alice', $state, new_code()), 'PT500 connector is not configured (client_missing)', 'its client was retired');
	$cluster->sql(q{SELECT conduit_drop_connector('gone')});
	is($cluster->callback('alice', $state, new_code()), 'PT400 authorization failed (invalid_state)', 'its connector is gone');
}

# ---- an account swap, with everything that may hide it ----

{
	$provider->script('/token', [ { rotate => $true, field_overrides => { sub => 'victim' } } ]);
	my (undef, $state) = $cluster->authorize('alice', 'test');
	my $id = $cluster->callback('alice', $state, new_code());
	my $before = $cluster->sql("SELECT c::text FROM conduit.credential c WHERE connection_id = '$id'");

	foreach my $sub ('attacker', 'Victim', 'victim ', "victim\x{200b}", 'victim2')
	{
		(undef, $state) = $cluster->authorize('alice', 'test', connection_id => "'$id'");
		$provider->script('/token', [ { rotate => $true, field_overrides => { sub => $sub } } ]);
		is($cluster->callback('alice', $state, new_code()), 'PT400 authorization failed (account_mismatch)', 'another account: ' . $json->encode([$sub]));
	}
	is($cluster->sql("SELECT c::text FROM conduit.credential c WHERE connection_id = '$id'"), $before, 'the credential is the same to the byte');
}

# ---- arguments that are none ----

{
	my (undef, $state) = $cluster->authorize('alice', 'test');
	my $sent = requests();
	my @cases = (
		[ [ undef, $state, 'c', undef ], '22023 invalid owner (blank)' ],
		[ [ 'alice', undef, 'c', undef ], '22023 invalid state (blank)' ],
		[ [ 'alice', 's' x 513, 'c', undef ], '22023 invalid state (too_long 512)' ],
		[ [ 'alice', $state, 'c' x 20_000, undef ], '22023 invalid code (too_long 16384)' ],
		[ [ 'alice', $state, undef, undef ], '22023 invalid code (blank)' ],
		[ [ 'alice', $state, '', '{}' ], '22023 invalid code (blank)' ],
		[ [ 'alice', $state, 'c', '{' ], '22023 invalid params (json)' ],
		[ [ 'alice', $state, 'c', '[]' ], '22023 invalid params (not_an_object)' ],
		[ [ 'alice', $state, 'c', '{"a": ["b"]}' ], '22023 invalid params (bad_value)' ],
		[ [ 'alice', $state, 'c', '{"a": "b", "a": "c"}' ], '22023 invalid params (json)' ],
		[ [ 'alice', $state, 'c', '{"a": "' . 'x' x 70_000 . '"}' ], '22023 invalid params (too_long 65536)' ]);
	foreach my $case (@cases)
	{
		my $answer = $cluster->wire->query('SELECT conduit_authorize_callback($1, $2, $3, $4)', @{ $case->[0] });
		is(Conduit::Cluster::callback_text($answer), $case->[1], "refused: $case->[1]");
	}
	is(requests(), $sent, 'nothing was sent');
	like($cluster->callback('alice', $state, new_code(), { a => undef }), $uuid, 'the state is still good');
}

# Browsers' users may begin authorizations, but not fill the table with them.
{
	my $begin = sub { my ($owner) = @_; return $cluster->wire->query(q{SELECT conduit_authorize($1, 'test')}, $owner)->{error} };

	$cluster->sql(q{SELECT conduit_authorize('flood', 'test') FROM generate_series(1, 299)});
	my (undef, $state) = $cluster->authorize('flood', 'test');
	my $error = $begin->('flood');
	is("$error->{C} $error->{M}", 'PT429 rate limited', 'an owner who begins more than 300 waits');
	like($error->{D}, qr/^rate_limited retry_after=[1-9]\d*$/, 'until the first of them ends');
	like($cluster->callback('flood', $state, undef, { error => 'access_denied' }), qr/denied/, 'one is closed');
	is($begin->('flood')->{C}, 'PT429', 'which does not count less for it');
	is($begin->('alice'), undef, 'another owner begins');
	$cluster->authorize('flood', 'test', tenant => q('t1'));
	pass('and one of that name in another tenant');
	$cluster->sql(q{UPDATE conduit.authorize_state SET expires_at = now() WHERE owner = 'flood' AND id = (SELECT min(id::text)::uuid FROM conduit.authorize_state WHERE owner = 'flood' AND tenant = '')});
	is($begin->('flood'), undef, 'once the first has ended');
	is($begin->('flood')->{C}, 'PT429', 'there is room for one');
}

# What goes to the worker is sealed for its request: nobody can read or replay it.
is($cluster->sql(q{SELECT count(*) FROM conduit.authorize_state WHERE encode(state_hash, 'escape') ~ '^[A-Za-z0-9_-]{43}$'}), 0, 'no state stands in its row');

$cluster->stop;
done_testing();
