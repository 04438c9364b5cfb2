# A worker that leaves amid calls of APIs, and backends that leave amid theirs:
# no call is made twice, none that can be answered is lost, and nothing is used up.
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
my $cluster = Conduit::Cluster->new('main', settings => <<'CONF');
max_connections = 20
max_prepared_transactions = 0
max_wal_senders = 0
conduit.request_timeout = '60s'
conduit.vend_timeout = '60s'
CONF
my $node = $cluster->node;

$cluster->connector('api',
	authorize_url => $provider->url . '/authorize',
	token_url => $provider->url . '/token',
	redirect_uris => ['https://app.example.com/callback'],
	api_base_url => $provider->url . '/api');
my ($grant) = $provider->issue(1, expires_in => 3600);
my $id = $cluster->connection('alice', 'api', $grant);

sub call_query { my ($path) = @_; return "SELECT status, length(reply ->> 'text') FROM conduit_request('alice', '$id', 'POST', '$path', body => '{}')"; }
sub text_of { my ($answer) = @_; return $answer->{error} ? Conduit::Cluster::error_text($answer->{error}) : join('|', map { $_ // 'NULL' } @{ $answer->{rows}[0] }); }

# A session whose call the provider has, and does not answer yet.
sub hanging_call
{
	my ($path, @then) = @_;
	$provider->script("/api$path", [ { hang => $true, @then } ], repeat_last => $true);
	my $wire = $cluster->wire;
	$wire->send(call_query($path));
	$provider->wait_for("/api$path", 'hanging', 1);
	return $wire;
}

sub wait_for_another_worker
{
	my ($pid) = @_;
	return $node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'conduit worker' AND datname = 'app' AND state IS NOT NULL AND pid <> $pid");
}

# ---- a worker that is told to stop ----

my $worker = $cluster->worker_pid;
my $wire = hanging_call('/once');
$cluster->sql("SELECT pg_terminate_backend($worker)");
is(text_of($wire->receive), 'PT504 provider unavailable (lost)', 'a call that is out when its worker leaves is lost');
ok(wait_for_another_worker($worker), 'another worker');
is($provider->counts('/api/once')->{total}, 1, 'and not made again');
$provider->release;
$provider->script('/api/once', [ { status => 200, json => { text => 'again' } } ], repeat_last => $true);
is(text_of($cluster->wire->query(call_query('/once'))), '200|5', 'the next one is made by the other');

$cluster->setting('conduit.shutdown_grace', '50s');
$worker = $cluster->worker_pid;
$wire = hanging_call('/grace', status => 200, json => { text => 'x' x 300_000 });
$cluster->sql("SELECT pg_terminate_backend($worker)");
ok($node->poll_query_until('postgres', "SELECT query = 'leaving' FROM pg_stat_activity WHERE pid = $worker"), 'a worker leaves');
$provider->release;
is(text_of($wire->receive), '200|300000', 'what is answered within the grace is handed over, all of it');
ok(wait_for_another_worker($worker), 'another worker again');

# ---- settings of the database that have changed ----

$worker = $cluster->worker_pid;
$wire = hanging_call('/settings', status => 200, json => { text => 'kept' });
$provider->script('/api/next', [ { status => 200, json => {} } ], repeat_last => $true);
$node->safe_psql('postgres', 'ALTER DATABASE app SET conduit.refresh_enabled = on');
my $next = $cluster->wire;
$next->send("SELECT status FROM conduit_request('alice', '$id', 'GET', '/next')");
$provider->release('/api/settings');
is(text_of($wire->receive), '200|4', 'a worker that is to start anew waits for its calls');
is(text_of($next->receive), '200', 'and its successor makes the others');
ok(wait_for_another_worker($worker), 'its successor is there');

# ---- backends that ask and leave ----

# Each try has a mailbox, of which this server has some 200.
$provider->script('/token', [ { hang => $true, rotate => $true } ], repeat_last => $true);
my (undef, $state) = $cluster->authorize('alice', 'api');
$wire = $cluster->wire;
$wire->send(Conduit::Cluster::callback_query('alice', $state, 'a-code'));
$provider->wait_for('/token', 'hanging', 1);
is($cluster->sql(<<"SQL"), 'pending 400', 'who asks and leaves, again and again, is told the same');
CREATE TEMP TABLE told (detail text);
SET conduit.vend_timeout = '20ms';
DO \$do\$
DECLARE
	told text;
BEGIN
	FOR i IN 1..400 LOOP
		BEGIN
			PERFORM conduit_authorize_callback('alice', '$state', 'a-code');
		EXCEPTION WHEN sqlstate 'PT504' THEN
			GET STACKED DIAGNOSTICS told = PG_EXCEPTION_DETAIL;
			INSERT INTO told VALUES (told);
		END;
	END LOOP;
END
\$do\$;
SELECT string_agg(detail || ' ' || n, ', ') FROM (SELECT detail, count(*) AS n FROM told GROUP BY detail) t
SQL
is(text_of($cluster->wire->query(call_query('/once'))), '200|5', 'there is room for others');
$provider->release;
like(text_of($wire->receive), qr/^[0-9a-f-]{36}$/, 'and the first who asked is answered');

# ---- a provider that asks for a pause of thirty years ----

$provider->script('/api/pause', [ { status => 429, json => {}, headers => { 'retry-after' => '999999999' } } ]);
is(text_of($cluster->wire->query(call_query('/pause'))), '429|NULL', 'a 429 is handed on');
like(text_of($cluster->wire->query(call_query('/pause'))), qr/^PT429 rate limited \(rate_limited retry_after=2678[34]\d\d\)$/, 'no pause is longer than 31 days');

done_testing();
