# Slow providers, and callers who leave: neither keeps the places that others need.
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
my $provider = Conduit::Provider->start('scripted');

# Eight places for calls, four of them one connector's at most; for authorizations two, and one.
my $cluster = Conduit::Cluster->new('main', settings => <<'END');
conduit.max_in_flight = 8
conduit.request_timeout = '100s'
conduit.vend_timeout = '15s'
END
my $uri = 'https://app.example.com/callback';
my ($slow, $quick) = map
{
	$cluster->connector($_, authorize_url => $provider->url . '/authorize', token_url => $provider->url . "/token/$_",
		api_base_url => $provider->url . "/api/$_", redirect_uris => [$uri]);
	$cluster->connection('alice', $_, $provider->issue(1, expires_in => 36000));
} qw(slow quick);
$provider->script("/api/$_/x", [ { status => 200, json => {} } ], repeat_last => $true) foreach qw(slow quick);
$provider->script('/api/slow/hangs', [ { hang => $true } ], repeat_last => $true);

sub call
{
	my ($id, $path, %session) = @_;
	my $answer = $cluster->wire(statement_timeout => '20s', %session)->query("SELECT status FROM conduit_request('alice', '$id', 'GET', '$path')");
	return $answer->{error} ? Conduit::Cluster::error_text($answer->{error}) : $answer->{rows}[0][0];
}

# ---- who calls and leaves, again and again ----

foreach my $n (1 .. 12)
{
	my $wire = $cluster->wire;
	$wire->send("SELECT conduit_request('alice', '$slow', 'GET', '/hangs')");
	$provider->wait_for('/api/slow/hangs', 'total', $n);
	$wire->cancel;
	is($wire->receive->{error}{C}, '57014', "caller $n leaves amid its call");
}
is(call($slow, '/x'), 200, 'and others have places');

# ---- an API that is slow to many who do wait ----

my @wires = map { $cluster->wire } 1 .. 10;
$_->send("SELECT status FROM conduit_request('alice', '$slow', 'GET', '/hangs')") foreach @wires;
$provider->wait_for('/api/slow/hangs', 'total', 16);
is(call($quick, '/x'), 200, 'another connector has places');
is($provider->counts('/api/slow/hangs')->{total}, 16, 'the slow one has four');
$_->cancel foreach @wires;
is(join(' ', map { $_->receive->{error}{C} } @wires), join(' ', ('57014') x 10), 'they can be cancelled');

# ---- a token endpoint that is slow ----

sub begin { my ($slug) = @_; my (undef, $state) = $cluster->authorize('bob', $slug); return Conduit::Cluster::callback_query('bob', $state, "code-$state"); }

$provider->script('/token/slow', [ { hang => $true }, { rotate => $true } ], repeat_last => $true);
my @callbacks = map { my $wire = $cluster->wire; $wire->send(begin('slow')); $wire } 1 .. 3;
$provider->wait_for('/token/slow', 'total', 1);
like(Conduit::Cluster::callback_text($cluster->wire->query(begin('quick'))), qr/^[0-9a-f-]{36}$/, 'an authorization at another connector goes on');
$provider->release;
like(Conduit::Cluster::callback_text($_->receive), qr/^[0-9a-f-]{36}$|provider/, 'those at the slow one end, too') foreach @callbacks;

$cluster->stop;
done_testing();
