# Refreshes end to end: on read, unasked, on demand, and what a reply changes.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Conduit::Cluster;
use Conduit::Provider;
use PostgreSQL::Test::Utils;
use Test::More;

# A client of the environment is for built-in connectors.  The server trusts an
# authority that nobody else does, so that no request leaves for GitHub.
local $ENV{CONDUIT_GITHUB_CLIENT_ID} = 'environment-client';
local $ENV{CONDUIT_GITHUB_CLIENT_SECRET} = 'environment-secret';
my %cert = Conduit::Provider->make_cert(PostgreSQL::Test::Utils::tempdir());

my $provider = Conduit::Provider->start('scripted');
my $cluster = Conduit::Cluster->new('main', settings => "conduit.ca_file = '$cert{ca}'\n");
my $now = 0;

sub advance
{
	my ($seconds) = @_;
	$now += $seconds;
	$cluster->set_clock($now);
	return;
}

# A connector with an endpoint of its own, so that its requests are counted apart.
sub connector
{
	my ($slug, %fields) = @_;
	$cluster->connector($slug, token_url => $provider->url . "/token/$slug", %fields);
	return;
}

# A connection with a grant of the provider's; the id and "at-7", the grant's name.
sub connection
{
	my ($owner, $slug, %grant) = @_;
	my ($grant) = $provider->issue(1, expires_in => 3600, %grant);
	my ($name) = $grant->{access_token} =~ /^(at-\d+)-1-/;
	return ($cluster->connection($owner, $slug, $grant), $name, $grant);
}

sub requests { return $provider->counts("/token/$_[0]")->{total}; }

sub last_request { my @log = $provider->log("/token/$_[0]"); return $log[-1]; }

sub field
{
	my ($owner, $id, $field) = @_;
	return $cluster->sql("SELECT $field FROM conduit_get_connection('$owner', '$id')");
}

sub wait_for
{
	my ($owner, $id, $condition) = @_;
	return $cluster->poll("SELECT $condition FROM conduit_get_connection('$owner', '$id')");
}

# ---- ahead of expiry ----

connector('ahead');
{
	my ($id, $name, $grant) = connection('alice', 'ahead');

	is($cluster->vend('alice', $id), "$name-1", 'a warm token is vended as it was stored');
	is(requests('ahead'), 0, 'and nobody asks the provider');
	advance(3500);
	ok(wait_for('alice', $id, 'generation = 2'), 'the worker refreshes it ahead of its expiry, unasked');
	is($cluster->vend('alice', $id), "$name-2", 'the new token is vended');
	is(last_request('ahead')->{params}{refresh_token}, $grant->{refresh_token}, 'the stored refresh token was sent');
	is(field('alice', $id, "status, attempts, last_error IS NULL, last_refreshed_at > created_at, refreshable"), 'ACTIVE|0|t|t|t', 'the connection shows it');
	is($cluster->sql("SELECT expires_at - last_refreshed_at BETWEEN '59 min' AND '61 min',
		expires_at - refresh_at BETWEEN '5 min' AND '5.5 min' FROM conduit_get_connection('alice', '$id')"), 't|t',
		'the new expiry counts from the reply, and the next refresh comes a lead and its jitter earlier');

	my ($family) = $provider->tokens(refresh_token => $grant->{refresh_token});
	my $second = $family->{refresh_token};
	advance(3500);
	ok(wait_for('alice', $id, 'generation = 3'), 'the next refresh');
	is(last_request('ahead')->{params}{refresh_token}, $second, 'sends the refresh token that the last one brought');
	is($provider->counts('/token/ahead')->{reuse}, 0, 'no refresh token is sent twice');
	is($cluster->sql("SELECT vends, refreshed, dead + config + throttled + transient + unknown, in_flight, provider_seconds > 0 FROM conduit_stats() WHERE connector = 'ahead'"),
		'2|2|0|0|t', 'conduit_stats() has counted');
}

# A short-lived token is due at half its life, but for the first half minute.
connector('short');
{
	my ($id, $name) = connection('alice', 'short', expires_in => 200);

	is(field('alice', $id, "expires_at - refresh_at BETWEEN '99 s' AND '101 s'"), 't', 'the lead is half the lifetime at most');
	($id, $name) = connection('alice', 'short', expires_in => 20);
	advance(11);
	ok(wait_for('alice', $id, 'generation = 2'), 'a token of seconds is refreshed as well');
	is(field('alice', $id, "refresh_at - last_refreshed_at BETWEEN '30 s' AND '31 s'"), 't', 'but not sooner than 30 s after the last time');
}

# ---- on read ----

# Nobody uses it, so the worker leaves it to its readers.
$cluster->setting('conduit.refresh_idle', '1s');
connector('read');
{
	my ($id, $name) = connection('alice', 'read');

	advance(3500);
	ok(wait_for('alice', $id, 'refresh_at IS NULL'), 'a connection that idles is not refreshed unasked');
	is(requests('read'), 0, 'so far the provider has not been asked');
	is($cluster->vend('alice', $id), "$name-2", 'a reader of a due token is given a refreshed one');
	is($cluster->vend('alice', $id), "$name-2", 'the next one finds it');
	is(requests('read'), 1, 'that took one request');
	advance(7200);
	is($cluster->vend('alice', $id), "$name-3", 'also when the token has expired long ago');
}

# ---- min_ttl ----

connector('ttl');
{
	my ($id, $name) = connection('alice', 'ttl');

	is($cluster->vend('alice', $id, "min_ttl => '50 min'"), "$name-1", 'a token that lives longer than min_ttl is vended as it is');
	is($cluster->vend('alice', $id, "min_ttl => '2 hours'"), "$name-2", 'one that lives shorter is refreshed, and what comes back is vended, though it lives shorter too');
	is($cluster->vend('alice', $id, "min_ttl => '2 hours'"), "$name-2", 'which is not refreshed again for the same sake');
	advance(1700);
	is($cluster->vend('alice', $id, "min_ttl => '2 hours'"), "$name-2", 'nor before half of its life is over');
	advance(200);
	is($cluster->vend('alice', $id, "min_ttl => '20 min'"), "$name-2", 'nor after it while min_ttl is left');
	is($cluster->vend('alice', $id, "min_ttl => '2 hours'"), "$name-3", 'but then it is');
	is(requests('ttl'), 2, 'two requests in all');
	is($cluster->error("SELECT conduit_vend('alice', '$id', min_ttl => '-1 s')"),
		'22023|invalid min_ttl|negative|It is how long the token must live at least.', 'a negative min_ttl is refused');
}

# ---- conduit_refresh ----

connector('forced');
{
	my ($id, $name) = connection('alice', 'forced');

	is($cluster->sql("SELECT refreshed, generation, expires_at > now() FROM conduit_refresh('alice', '$id')"), 't|2|t', 'conduit_refresh() refreshes a token that is not due');
	is($cluster->vend('alice', $id), "$name-2", 'the new one is vended');
	is($cluster->sql("SELECT refreshed, generation FROM conduit_refresh('alice', '$id', 1)"), 'f|2', 'not if the generation that was seen is no longer stored');
	is(requests('forced'), 1, 'for which nobody is asked');
	is($cluster->sql("SELECT refreshed, generation FROM conduit_refresh('alice', '$id', 2)"), 't|3', 'but if it is');
	is($cluster->error("SELECT conduit_refresh('bob', '$id')"),
		$cluster->error("SELECT conduit_refresh('alice', '00000000-0000-7000-8000-000000000000')"), 'a foreign owner is answered as one of an unknown id');

	$provider->script('/token/forced', [ { status => 500 } ]);
	my $answer = $cluster->wire->query("SELECT refreshed, generation FROM conduit_refresh('alice', '$id')");
	is_deeply($answer->{rows}, [ [ 'f', '3' ] ], 'a failed one says so');
	is(join(' ', map { "$_->{S} $_->{C} $_->{M}" } @{ $answer->{notices} }), 'WARNING PT502 bad provider response', 'with a warning while the token at hand is valid');
	is(Conduit::Cluster::vend_text($cluster->wire->query("SELECT refreshed FROM conduit_refresh('alice', '$id')")), 't', 'a forced one does not wait for the end of the backoff');
}

# ---- what a reply may lack ----

connector('kept', refresh_rotates => JSON::PP::false);
{
	my ($id, $name, $grant) = connection('alice', 'kept');

	$provider->options(rotate => JSON::PP::false);
	for my $generation (2, 3)
	{
		is($cluster->sql("SELECT generation FROM conduit_refresh('alice', '$id')"), $generation, "generation $generation of a provider that does not rotate");
		is(last_request('kept')->{params}{refresh_token}, $grant->{refresh_token}, 'came for the first refresh token');
	}
	$provider->options(rotate => JSON::PP::true);
}

# ---- a refresh token alone, an access token alone ----

connector('alone');
{
	my ($grant) = $provider->issue(1, expires_in => 3600);
	my ($name) = $grant->{access_token} =~ /^(at-\d+)-1-/;
	my $id = $cluster->connection('alice', 'alone', { refresh_token => $grant->{refresh_token} });

	is($cluster->vend('alice', $id), "$name-2", 'a refresh token alone is due at once');
	is(requests('alone'), 1, 'and used once');

	($grant) = $provider->issue(1, expires_in => 3600);
	($name) = $grant->{access_token} =~ /^(at-\d+)-1-/;
	delete $grant->{refresh_token};
	$id = $cluster->connection('alice', 'alone', $grant);
	is(field('alice', $id, 'refreshable, refresh_at IS NULL'), 'f|t', 'an access token alone cannot be refreshed, and is not due');
	is($cluster->sql("SELECT refreshed, generation FROM conduit_refresh('alice', '$id')"), 'f|1', 'conduit_refresh() says so');
	is($cluster->vend('alice', $id, "min_ttl => '2 hours'"), "$name-1", 'it is vended while it lives');
	advance(3601);
	is($cluster->vend('alice', $id), 'ERROR PT409 expired', 'and not when it has expired');
	is(requests('alone'), 1, 'the provider was not asked');
}

# ---- scopes ----

connector('scopes');
{
	my ($id, $name) = connection('alice', 'scopes', scope => 'read write');

	is($cluster->vend('alice', $id, "scopes => '{write,read}'"), "$name-1", 'granted scopes are there');
	is($cluster->vend('alice', $id, "scopes => '{read,admin}'"), 'ERROR PT409 scope', 'one that is not, is not');
	$provider->script('/token/scopes', [ { rotate => JSON::PP::true, omit => ['scope'] }, { rotate => JSON::PP::true, field_overrides => { scope => 'read admin' } } ]);
	$cluster->sql("SELECT conduit_refresh('alice', '$id')");
	is($cluster->vend('alice', $id, "scopes => '{write}'"), "$name-2", 'a reply that names no scope leaves them as they are');
	$cluster->sql("SELECT conduit_refresh('alice', '$id')");
	is($cluster->vend('alice', $id, "scopes => '{admin}'"), "$name-3", 'one that names others changes them');
	is($cluster->vend('alice', $id, "scopes => '{write}'"), 'ERROR PT409 scope', 'both ways');
	is(field('alice', $id, 'scopes'), '{read,admin}', 'the connection shows them');
}

# ---- extra ----

connector('extra');
{
	my ($grant) = $provider->issue(1, expires_in => 3600);
	my $id = $cluster->connection('alice', 'extra', { %$grant, instance_url => 'https://one.example.com', team => { id => 7 }, id_token => 'never' });
	my $extra = sub { return $cluster->sql("SELECT extra FROM conduit_vend('alice', '$id')"); };

	is($extra->(), '{"team": {"id": 7}, "instance_url": "https://one.example.com"}', 'what a response says beyond tokens is vended, secrets are not');
	$provider->script('/token/extra', [ {}, { rotate => JSON::PP::true, field_overrides => { team => { name => 'x' }, region => 'eu', id_token => 'never' } } ]);
	$cluster->sql("SELECT conduit_refresh('alice', '$id')");
	is($extra->(), '{"team": {"id": 7}, "instance_url": "https://one.example.com"}', 'it is kept over a refresh that does not repeat it');
	$cluster->sql("SELECT conduit_refresh('alice', '$id')");
	is($extra->(), '{"team": {"name": "x"}, "region": "eu", "instance_url": "https://one.example.com"}', 'and merged with what the next one says');
}

# ---- conduit_refresh_due ----

connector('blocker');
connector('batch');
$cluster->setting('conduit.refresh_idle', '0');
is($cluster->sql("SELECT conduit_refresh_due(0), conduit_refresh_due(-1), conduit_refresh_due(NULL, 'nobody')"),
	'0|0|0', 'conduit_refresh_due() of none, of fewer and of a tenant without any');
{
	my $in_tenant = sub {
		my ($tenant, $connector, $expires_in) = @_;
		my ($grant) = $provider->issue(1, expires_in => $expires_in);
		my $id = $cluster->sql("SELECT conduit_create_connection('alice', '$connector', tenant => '$tenant')");

		$cluster->sql("SELECT conduit_store_credential('$id', NULL, \$\$" . JSON::PP::encode_json($grant) . "\$\$, '$tenant')");
		return ($id, $grant->{refresh_token});
	};

	# In the order of their expiry, not of their making: a and d are dead, b is
	# refused by an outage, g is one too many.
	my @names = qw(a b c d e f g);
	my (%id, %token, %name_of);
	foreach my $name (qw(c g a e b f d))
	{
		($id{$name}, $token{$name}) = $in_tenant->('batch', 'batch', 3600 + ord $name);
		$name_of{ $token{$name} } = $name;
	}
	foreach my $name (qw(a d))
	{
		$provider->revoke(refresh_token => $token{$name});
		is(Conduit::Cluster::vend_text($cluster->wire->query("SELECT conduit_refresh('alice', '$id{$name}', tenant => 'batch')")),
			'ERROR PT409 needs_reauth', "connection $name needs a new authorization");
	}
	my $before = requests('batch');

	# One place in flight, and a connection of another tenant in it: what
	# becomes due stays so until that one lets go.
	$cluster->setting('conduit.max_in_flight', '1');
	$provider->script('/token/blocker', [ { hang => JSON::PP::true } ]);
	$in_tenant->('blocker', 'blocker', 100);
	advance(95);
	$provider->wait_for('/token/blocker', 'hanging', 1);
	advance(3605);
	ok($cluster->poll('SELECT queued >= 5 FROM conduit_health()'), 'what is due waits for the blocker');
	$provider->script('/token/batch', [ { status => 500 } ]);
	my $caller = $cluster->wire;
	$caller->send("SELECT conduit_refresh_due(4, 'batch')");
	ok($cluster->poll("SELECT wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = " . $caller->pid), 'a call of conduit_refresh_due() waits');
	is(requests('batch'), $before, 'nothing has been sent yet');

	$provider->release;
	is($caller->receive->{rows}[0][0], 3, 'of four, one fails and three are refreshed');
	ok($cluster->poll("SELECT generation = 2 FROM conduit_get_connection('alice', '$id{g}', 'batch')"), 'the worker refreshes the rest by itself');
	my @sent = map { $name_of{ $_->{params}{refresh_token} } } $provider->log('/token/batch');
	is(join('', @sent[ $before .. $#sent ]), 'bcefg', 'those that are due longest went first, in the order of their expiry, and none that needs a new authorization');
	is($cluster->sql("SELECT status, generation, last_error, attempts FROM conduit_get_connection('alice', '$id{b}', 'batch')"),
		'ACTIVE|1|transient|1', 'the failed one stays ACTIVE, to be tried again');
	is($cluster->sql("SELECT conduit_refresh_due(tenant => 'batch')"), 0, 'nothing is due any more');
	$cluster->setting('conduit.max_in_flight', '64');
}

# ---- client secrets ----

connector('secrets', client_secret => 'old secret');
{
	my ($id, $name, $grant) = connection('alice', 'secrets');
	my $secrets = sub { return join(', ', map { $_->{auth}{client_secret} } $provider->log('/token/secrets')); };

	$cluster->sql("SELECT conduit_set_client('secrets', 'cid', 'new secret')");
	$provider->client('cid', 'old secret', 'post');
	is($cluster->sql("SELECT refreshed FROM conduit_refresh('alice', '$id')"), 't', 'while the provider knows the old secret alone, it is refreshed');
	is($secrets->(), 'new secret, old secret', 'the newer secret is tried first, the older on invalid_client');
	is($provider->counts('/token/secrets')->{max_requests_per_refresh_token}, 2, 'with the same refresh token');
	is($provider->counts('/token/secrets')->{reuse}, 0, 'which had not been consumed');
	is($cluster->sql("SELECT secrets, last_success_at IS NOT NULL, connections FROM conduit_clients() WHERE connector = 'secrets'"), '2|t|1', 'conduit_clients() shows it');

	$provider->client('cid', 'new secret', 'post');
	is($cluster->sql("SELECT refreshed FROM conduit_refresh('alice', '$id')"), 't', 'when it knows the new one');
	is($secrets->(), 'new secret, old secret, new secret', 'that is enough');

	$provider->client('cid', 'a third secret', 'post');
	is(Conduit::Cluster::vend_text($cluster->wire->query("SELECT refreshed FROM conduit_refresh('alice', '$id')")), 'f WARNING PT502 invalid_client', 'when it knows neither, that is a warning');
	is($secrets->(), 'new secret, old secret, new secret, new secret, old secret', 'after each was tried once');
	is(field('alice', $id, 'status, last_error, last_error_code, attempts'), 'ACTIVE|config|invalid_client|1', 'and our fault, not that of the owner');

	# Only invalid_client says that the secret was at fault.
	$provider->post('/control/client', {});
	$provider->script('/token/secrets', [ { status => 401, json => { error => 'unauthorized_client' } } ]);
	my $before = requests('secrets');
	$cluster->wire->query("SELECT refreshed FROM conduit_refresh('alice', '$id')");
	is(requests('secrets') - $before, 1, 'another refusal does not lead to the other secret');

	$cluster->sql("SELECT conduit_set_client('secrets', 'cid', 'a third secret')");
	is($cluster->sql("SELECT secrets FROM conduit_clients() WHERE connector = 'secrets'"), 2, 'two secrets are kept');
	$provider->client('cid', 'a third secret', 'post');
	is($cluster->sql("SELECT refreshed FROM conduit_refresh('alice', '$id')"), 't', 'the newest among them');
	$provider->post('/control/client', {});
}

connector('basic', client_auth => 'basic', client_id => 'id:1', client_secret => 's&cret %');
{
	my ($id) = connection('alice', 'basic');

	$provider->client('id:1', 's&cret %', 'basic');
	is($cluster->sql("SELECT refreshed FROM conduit_refresh('alice', '$id')"), 't', 'a client that authenticates by HTTP Basic is let in, odd characters and all');
	$provider->post('/control/client', {});
}

# ---- no client; a client of the environment ----

$cluster->sql("SELECT conduit_register_connector('unset', jsonb_build_object('auth_type', 'oauth2_code', 'authorize_url', 'https://provider.example.com/authorize', 'token_url', '" . $provider->url . "/token/unset'))");
$cluster->sql(q{SELECT conduit_register_connector('github2', '{"extends": "github"}')});
{
	my ($id, $name) = connection('alice', 'unset');

	is(Conduit::Cluster::vend_text($cluster->wire->query("SELECT refreshed FROM conduit_refresh('alice', '$id')")), 'f WARNING PT500 client_missing', 'without a client nothing can be refreshed');
	is(field('alice', $id, 'status, last_error, last_error_code'), 'ACTIVE|config|client_missing', 'which is our fault');
	advance(3601);
	is($cluster->error("SELECT conduit_vend('alice', '$id')") =~ s/ retry_after=\d+//r, 'PT500|connector is not configured|client_missing|Set its client with conduit_set_client().', 'and an error when the token has expired');
	is(requests('unset'), 0, 'the provider was not asked');
	$cluster->sql("SELECT conduit_set_client('unset', 'cid', 'the-client-secret')");
	ok($cluster->poll("SELECT generation = 2 AND last_error IS NULL FROM conduit_get_connection('alice', '$id')"), 'and is as soon as the client is set, whatever the backoff');

	my %ids = map { $_ => $cluster->connection('alice', $_, { refresh_token => 'a' }) } qw(github github2);
	$ids{tenant} = $cluster->sql(q{SELECT conduit_create_connection('alice', 'github', tenant => 'acme')});
	$cluster->sql(qq{SELECT conduit_store_credential('$ids{tenant}', NULL, '{"refresh_token": "a"}', 'acme')});
	foreach my $case ([ github => '' ], [ github2 => '' ], [ tenant => 'acme' ])
	{
		my ($which, $tenant) = @$case;
		ok($cluster->poll("SELECT last_error IS NOT NULL FROM conduit_get_connection('alice', '$ids{$which}', '$tenant')"), "the worker tries $which");
		my $code = $cluster->sql("SELECT last_error_code FROM conduit_get_connection('alice', '$ids{$which}', '$tenant')");
		# Whether there is a network or not: it comes to a request, which fails.
		if ($which eq 'github') { like($code, qr/^(?:dns|tls|refused|timeout|denied)$/, 'the environment has a client for the built-in connector'); }
		else { is($code, 'client_missing', "but not for $which"); }
	}
	is($cluster->sql("SELECT client_id FROM conduit.connection WHERE id = '$ids{github}'"), '', 'which is not written down before it has had success');
}

$cluster->stop;
done_testing();
