# A hot standby vends what is warm, and takes over when it is promoted.
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
my $primary = Conduit::Cluster->new('primary', init => [ allows_streaming => 1 ]);

$primary->connector('test', token_url => $provider->url . '/token');
$primary->connector('lossy', token_url => $provider->url . '/token/lossy');

sub times_sent
{
	my ($token) = @_;
	return scalar grep { ($_->{params}{refresh_token} // '') eq $token } $provider->log;
}

my %grant;
($grant{$_}) = $provider->issue(1, expires_in => 3600) for qw(alice bob carol);
my %id = (
	alice => $primary->connection('alice', 'test', $grant{alice}),
	bob => $primary->connection('bob', 'test', $grant{bob}),
	carol => $primary->connection('carol', 'lossy', $grant{carol}));
my $empty = $primary->connection('dave', 'test');

my $standby = $primary->standby('standby');
is($standby->sql('SELECT pg_is_in_recovery()'), 't', 'this is a standby');

# ---- vending ----

is($standby->sql("SELECT access_token FROM conduit_vend('alice', '$id{alice}')"), $grant{alice}{access_token}, 'a warm token is vended');
is($standby->sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ '^conduit'}), '0', 'neither launcher nor worker is there');
is($standby->sql('SELECT ok, worker, paused, vault FROM conduit_health()'), 't|standby||open', 'and conduit_health() is content');
is($standby->sql(q{SELECT count(*) FROM conduit_doctor() WHERE finding ~ 'worker|launcher|preload|adopt|key'}), '0', 'as is the doctor');
is($standby->sql("SELECT count(*) FROM conduit_list_connections('alice')"), '1', 'connections are listed');
like($standby->error("SELECT conduit_vend('alice', '$id{bob}')"), qr/^PT404\|connection not found\|\|/, 'a foreign connection is not found');
like($standby->error("SELECT conduit_vend('dave', '$empty')"), qr/^PT404\|credential not found\|\|/, 'nor a credential that was never stored');

# Its buckets are its own, and in memory.
$primary->sql(q{SELECT conduit_register_connector('limited', '{"name": "Limited", "auth_type": "api_key", "rate_limit_requests": 10, "rate_limit_window_s": 2678400}')});
my $limited = $primary->connection('alice', 'limited', undef, account => 'a');
my $take = "SELECT allowed, remaining FROM conduit_rate_take('alice', '$limited')";
$primary->node->wait_for_catchup($standby->node);
is($primary->sql($take), 't|9', 'a request is counted on the primary');
is($standby->sql($take), 't|9', 'and on the standby');
is($standby->sql($take), 't|8', 'by itself');
$standby->sql("SELECT conduit_rate_report('alice', '$limited', 600)");
is($standby->sql($take), 'f|0', 'which can be told to pause');
is($primary->sql($take), 't|8', 'by itself');

# Its clock alone: the primary must not refresh in the meantime.
$standby->set_clock(3500);
{
	my ($out, $err);

	$standby->node->psql('app', "SELECT access_token FROM conduit_vend('alice', '$id{alice}')", stdout => \$out, stderr => \$err);
	is($out, $grant{alice}{access_token}, 'a token that is due is vended');
	is($err, '', 'without a warning');
}
like($standby->error("SELECT conduit_authorize('alice', 'test')"), qr/^PT504\|provider unavailable\|standby\|/, 'nobody is authorized here');
like($standby->error("SELECT conduit_authorize_callback('alice', 'a state', 'a code')"), qr/^PT504\|provider unavailable\|standby\|/, 'nor completes an authorization');
like($standby->error("SELECT conduit_refresh('alice', '$id{alice}')"), qr/^PT504\|provider unavailable\|standby\|/, 'a refresh is refused: this is a standby');
$standby->set_clock(3700);
like($standby->error("SELECT conduit_vend('alice', '$id{alice}')"), qr/^PT504\|provider unavailable\|standby\|/, 'a dead token is not vended, for the same reason');
like($standby->error('SELECT conduit_refresh_due()'), qr/^PT504\|provider unavailable\|standby\|/, 'nor are all that are due refreshed');
like($standby->error("SELECT conduit_store_credential('$id{alice}', NULL, '{\"access_token\": \"new\", \"expires_in\": 60}')"), qr/^25006\|cannot execute .* in a read-only transaction/, 'nothing is stored');
like($standby->error("SELECT $_"), qr/^25006\|cannot execute .* in a read-only transaction|^25006\|cannot .* during recovery/, "$_ is refused")
  for "conduit_create_connection('erin', 'test')", "conduit_delete_connection('alice', '$id{alice}')", "conduit_revoke_connection('alice', '$id{alice}')",
  "conduit_set_client('test', 'cid', 'another')", q{conduit_register_connector('more', '{"name": "More", "auth_type": "api_key"}')}, 'conduit_adopt()';
is($provider->counts->{total}, 0, 'nothing was sent to the provider');
$standby->set_clock(0);

# What the primary refreshes, the standby vends.
is($primary->sql("SELECT refreshed FROM conduit_refresh('alice', '$id{alice}')"), 't', 'the primary refreshes');
ok($standby->poll("SELECT generation = 2 FROM conduit_vend('alice', '$id{alice}')"), 'and the standby vends the new token');
my ($family) = $provider->tokens(refresh_token => $grant{alice}{refresh_token});
is($standby->sql("SELECT access_token FROM conduit_vend('alice', '$id{alice}')"), $family->{access_tokens}[-1], 'which is the one the provider gave');

# ---- promotion, with requests of the old primary in the air ----

$provider->script('/token', [ { hang => $true } ], repeat_last => $true);
$provider->script('/token/lossy', [ { rotate => $true, hang => $true } ]);
$primary->set_clock(3500);
$provider->wait_for('/token', 'hanging', 2);
$provider->wait_for('/token/lossy', 'hanging', 1);
$primary->node->wait_for_catchup($standby->node);
is($standby->sql('SELECT count(*) FROM conduit.flight'), '3', 'the standby knows what the primary has sent');
$primary->stop('immediate');
$provider->script('/token', []);
$provider->script('/token/lossy', []);
my $offset = -s $standby->node->logfile;
$standby->node->promote;
$standby->wait_for_worker;
$standby->node->wait_for_log('conduit: 3 refreshes of a former worker are in doubt and are tried again', $offset);
ok($standby->poll(q{SELECT count(*) = 0 FROM conduit.flight}), 'promoted: the flights of the old primary are ended');
is($standby->sql('SELECT ok, worker, paused FROM conduit_health()'), 't|running|', 'promoted: it refreshes, for it is no clone');
is($standby->sql("SELECT generation, in_doubt FROM conduit.credential WHERE connection_id = '$id{bob}'"), '2|f', 'promoted: what the provider had not seen is refreshed');
is(times_sent($grant{bob}{refresh_token}), 2, 'promoted: its refresh token was sent once more');
is($standby->sql("SELECT status, status_reason FROM conduit_get_connection('carol', '$id{carol}')"), 'NEEDS_REAUTH|rotation_outcome_lost', 'promoted: what it had consumed is lost, and says so');
is(times_sent($grant{carol}{refresh_token}), 2, 'promoted: also after one more request');
($family) = $provider->tokens(refresh_token => $grant{alice}{refresh_token});
is($family->{reuse}, 0, 'promoted: no other token was used twice');
$standby->set_clock(7200);
ok($standby->poll("SELECT generation = 3 FROM conduit.credential WHERE connection_id = '$id{bob}'"), 'promoted: and goes on refreshing');
my ($new) = $provider->issue(1, expires_in => 3600);
$standby->store($id{carol}, $new);
is($standby->sql("SELECT access_token FROM conduit_vend('carol', '$id{carol}')"), $new->{access_token}, 'promoted: and storing');

done_testing();
