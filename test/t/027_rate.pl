# Rate limits: buckets that all sessions share, refreshes that wait for a token
# endpoint's bucket, and connectors whose client or provider is out of order.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Conduit::Cluster;
use Conduit::Provider;
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my $provider = Conduit::Provider->start('scripted');
my $cluster = Conduit::Cluster->new('main');
my $month = 31 * 86400;

# ---- the API's buckets ----

# An API with a limit: "201 in a month" refills by one in 3.7 hours, so that no
# test of this file meets one that came by itself.
sub api
{
	my ($slug, %limit) = @_;
	my $json = JSON::PP->new->canonical->encode({ name => $slug, auth_type => 'api_key', %limit });

	$cluster->sql("SELECT conduit_register_connector('$slug', '$json')");
	return;
}

# Takes one after the other in one statement: how many were allowed, the first and the last answer.
sub take_many
{
	my ($on, $id, $times, %options) = @_;
	my ($owner, $cost) = ($options{owner} // 'alice', $options{cost} // 1);

	return $on->sql(<<"SQL");
SELECT count(*) FILTER (WHERE (t).allowed), (array_agg(t ORDER BY n))[1], (array_agg(t ORDER BY n))[$times]
FROM (SELECT n, conduit_rate_take('$owner', '$id', $cost + 0 * n) AS t FROM generate_series(1, $times) n OFFSET 0) s
SQL
}

sub take
{
	my ($id, $columns, %options) = @_;
	my ($owner, $cost, $tenant) = map { $options{$_} } qw(owner cost tenant);

	return $cluster->sql("SELECT $columns FROM conduit_rate_take('" . ($owner // 'alice') . "', '$id', " . ($cost // 1) . ", '" . ($tenant // '') . "')");
}

subtest 'as published' => sub {
	api('minute', rate_limit_requests => 200, rate_limit_window_s => 60);

	# A bucket is refilled while it is emptied: should the machine stall, again.
	my ($answer, $slow, $id);
	for my $try (1 .. 20)
	{
		$id = $cluster->connection('alice', 'minute', undef, account => "account $try");
		($answer, $slow) = split /\n/, $cluster->sql(<<"SQL");
SELECT clock_timestamp() AS began \\gset
SELECT string_agg(format('%s %s', (t).allowed, (t).remaining), ' ' ORDER BY n) FILTER (WHERE n IN (1, 2, 200, 201)),
	bool_and((t).retry_after = 0) FILTER (WHERE n <= 200), max((t).retry_after) BETWEEN 0.0001 AND 0.3,
	max((t).reset_after) BETWEEN 59.7 AND 60
FROM (SELECT n, conduit_rate_take('alice', '$id', 1 + 0 * n) AS t FROM generate_series(1, 201) n OFFSET 0) s;
SELECT clock_timestamp() - :'began' > '0.2 s';
SQL
		last if $slow eq 'f';
	}
	is($answer, 't 199 t 198 t 0 f 0|t|t|t', '200 are allowed, the 201st is not, for less than 0.3 s');
	$cluster->set_clock(0.3);
	is($cluster->sql('SHOW conduit.clock_offset'), '300ms', 'the clock moves by a fraction of a second');
	is(take($id, 'allowed, retry_after'), 't|0', 'which brings one more');
	$cluster->set_clock(90);
	is(take($id, 'allowed, remaining'), 't|199', 'and a minute all of them');
	$cluster->set_clock(0);
	is(take($id, 'allowed, remaining'), 't|198', 'a clock that was set back keeps nobody waiting');
};

subtest 'a burst' => sub {
	api('burst', rate_limit_requests => 100, rate_limit_window_s => 10_000, rate_limit_burst => 5);
	my $id = $cluster->connection('alice', 'burst', undef, account => 'a');

	is(take_many($cluster, $id, 6) =~ s/\.\d+//gr, '5|(t,4,0,100)|(f,0,99,499)', 'so many at once, refilled as the limit says');
	is($cluster->error("SELECT conduit_rate_take('alice', '$id', 6)") =~ s/\|So.*//r, '22023|invalid cost|range 1 5', 'and never more');
};

subtest 'arithmetic' => sub {
	api('slow', rate_limit_requests => 10, rate_limit_window_s => 100_000);
	my $id = $cluster->connection('alice', 'slow', undef, account => 'a');

	is(take($id, 'allowed, remaining, retry_after, round(reset_after)', cost => 4), 't|6|0|40000', 'a cost of four');
	is(take($id, 'allowed, remaining, round(retry_after), round(reset_after)', cost => 7), 'f|6|10000|40000', 'more than there is: in how long it will be');
	is(take($id, 'allowed, remaining', cost => 6), 't|0', 'nothing was taken for it');
	$cluster->set_clock(9_990);
	is(take($id, 'allowed, remaining'), 'f|0', 'one comes in 10000 seconds');
	$cluster->set_clock(15_000);
	is(take($id, 'allowed, remaining, ceil(reset_after / 1000)'), 't|0|95', 'a half is kept');
	$cluster->set_clock(20_000);
	is(take($id, 'allowed'), 't', 'and added to');
	$cluster->set_clock(1_000_000);
	is(take($id, 'allowed, remaining', cost => 10), 't|0', 'it is never more than full');
	is($cluster->error("SELECT conduit_rate_take('alice', '$id', 11)"),
		'22023|invalid cost|range 1 10|So much is never allowed at once; the second number is the most that is.', 'more than it holds is an error');
	like($cluster->error("SELECT conduit_rate_take('alice', '$id', $_)"), qr/^22023\|invalid cost\|range 1 2147483647\|/, "as is a cost of $_") for 0, -1;
	is(take($id, 'allowed', cost => 'NULL'), 'f', 'NULL is the default');

	# The limit of a connector that is registered anew counts at once.
	api('slow', rate_limit_requests => 20, rate_limit_window_s => 100_000);
	is(take($id, 'allowed, remaining', cost => 10), 't|0', 'a raised limit counts from the next call on');
	api('slow', rate_limit_requests => 5, rate_limit_window_s => 100_000);
	is(take($id, 'allowed, remaining, ceil(retry_after / 1000)'), 'f|0|320', 'and a lowered one');
	$cluster->set_clock(0);
};

subtest 'whose it is' => sub {
	api('shared', rate_limit_requests => 10, rate_limit_window_s => $month);
	api('other', rate_limit_requests => 10, rate_limit_window_s => $month);
	my $alice = $cluster->connection('alice', 'shared', undef, account => 'acme');
	my $bob = $cluster->connection('bob', 'shared', undef, account => 'acme');
	my $carol = $cluster->sql("SELECT conduit_create_connection('carol', 'shared', 'acme', tenant => 't')");
	my @unknown = map { $cluster->connection('alice', 'shared') } 1, 2;

	is(take($alice, 'remaining'), 9, 'one connection');
	is(take($bob, 'remaining', owner => 'bob'), 8, "another owner's to the same account draws on the same bucket");
	is(take($carol, 'remaining', owner => 'carol', tenant => 't'), 9, "another tenant's does not");
	is(take($_, 'remaining'), 9, 'one whose account is not known has its own') for @unknown;
	$cluster->sql("SELECT conduit_update_connection('alice', '$unknown[0]', 'beta')");
	is(take($unknown[0], 'remaining'), 9, 'until it is known');
	is(take($cluster->connection('alice', 'shared', undef, account => 'gamma'), 'remaining'), 9, 'another account has another');
	is(take($cluster->connection('alice', 'other', undef, account => 'acme'), 'remaining'), 9, 'as has the same name at another provider');
	like($cluster->error("SELECT conduit_rate_take($_)"), qr/^PT404\|connection not found\|\|/, "$_ is not found")
	  for "'mallory', '$alice'", "'alice', '$bob'", "'alice', '$alice', 1, 't'", "'alice', gen_random_uuid()";
	like($cluster->error("SELECT conduit_rate_report('mallory', '$alice', 10)"), qr/^PT404\|connection not found\|\|/, 'nor for a report');
	is(take($alice, 'remaining'), 7, 'which has changed nothing');
	$cluster->sql("SELECT conduit_rate_report('carol', '$carol', 600, 't')");
	is(take($carol, 'allowed', owner => 'carol', tenant => 't'), 'f', 'a pause that another tenant reports');
	is(take($alice, 'allowed, remaining'), 't|6', 'is its own, whatever account it names');
};

# An account is whatever a tenant says it is, also where tenants share a client.
subtest "tenants' accounts" => sub {
	my %ids;

	$cluster->connector('app', token_url => $provider->url . '/token/app', rate_limit_requests => 10, rate_limit_window_s => $month);
	$cluster->sql(q{SELECT conduit_set_client('app', 'cid', 'a secret of its own', tenant => 'own')});
	for my $tenant ('', 'guest', 'other guest', 'own')
	{
		my ($grant) = $provider->issue(1, expires_in => 3600);
		my $json = JSON::PP->new->encode($grant);
		my $id = $cluster->sql("SELECT conduit_create_connection('alice', 'app', 'acme', tenant => '$tenant')");
		$cluster->sql("SELECT conduit_store_credential('$id', NULL, \$json\$$json\$json\$, '$tenant')");
		$ids{$tenant} = $id;
	}
	is(take($ids{''}, 'remaining'), 9, 'one connection');
	is(take($ids{$_}, 'remaining', tenant => $_), 9, "$_ has its own") foreach 'guest', 'other guest', 'own';
	$cluster->sql("SELECT conduit_rate_report('alice', '$ids{guest}', 600, 'guest')");
	is(take($ids{guest}, 'allowed', tenant => 'guest'), 'f', 'a pause that one reports');
	is(take($ids{$_}, 'allowed', tenant => $_), 't', "is not for tenant '$_'") foreach '', 'other guest', 'own';
	$cluster->sql("SELECT conduit_rate_report('alice', '$ids{''}', 600)");

	# conduit_request() draws on the same.
	my $error = $cluster->error(q{SELECT conduit_request('alice', '%s', 'GET', '/x')} =~ s/%s/$ids{''}/r);
	like($error, qr/^PT429\|rate limited\|rate_limited retry_after=\d+\|/, 'a call waits where conduit_rate_take() says no');
	$error = $cluster->error(q{SELECT conduit_request('alice', '%s', 'GET', '/x', tenant => 'own')} =~ s/%s/$ids{own}/r);
	like($error, qr/^22023\|connector cannot be called\|no_api\|/, 'and only there');
};

# The table of buckets is of one size.  Whoever has any number of accounts, each
# with a pause as long as can be, pushes out its own.
subtest 'a tenant with more accounts than there are buckets' => sub {
	my @ids = map { $cluster->connection('alice', 'shared', undef, account => "kept $_") } 1 .. 20;

	take($_, 'remaining') foreach @ids;
	$cluster->sql(<<'SQL');
INSERT INTO conduit.connection (id, tenant, owner, connector, params, metadata, created_at, updated_at)
SELECT gen_random_uuid(), 'flood', 'mallory', 'shared', '{}', '{}', now(), now() FROM generate_series(1, 60000);
SELECT count(conduit_rate_report('mallory', id, 2678400, 'flood')) FROM conduit.connection WHERE tenant = 'flood';
SQL
	is(join(' ', map { take($_, 'remaining') } @ids), join(' ', (8) x @ids), 'what others have taken is not forgotten');
	$cluster->sql("DELETE FROM conduit.connection WHERE tenant = 'flood'");
	$cluster->node->restart;
	$cluster->poll("SELECT worker = 'running' FROM conduit_health()");
};

subtest 'without a limit' => sub {
	api('free');
	my $id = $cluster->connection('alice', 'free', undef, account => 'a');

	is(take_many($cluster, $id, 50), '50|(t,,0,0)|(t,,0,0)', 'all are allowed');
	is(take($id, 'allowed, remaining', cost => 1_000_000), 't|', 'of any cost');
	$cluster->sql("SELECT conduit_rate_report('alice', '$id', 600)");
	is(take($id, 'allowed, remaining, ceil(retry_after / 10), ceil(reset_after / 10)'), 'f||60|60', 'but for a pause that was reported');
	$cluster->set_clock(600);
	is(take($id, 'allowed, retry_after'), 't|0', 'after it all are again');
	$cluster->set_clock(0);
};

subtest 'what a provider says' => sub {
	api('told', rate_limit_requests => 10, rate_limit_window_s => $month);
	my $alice = $cluster->connection('alice', 'told', undef, account => 'a');
	my $bob = $cluster->connection('bob', 'told', undef, account => 'a');

	is(take($alice, 'remaining'), 9, 'all is well');
	$cluster->sql("BEGIN; SELECT conduit_rate_report('alice', '$alice', 300); ROLLBACK");
	is(take($bob, 'allowed, remaining, ceil(retry_after / 10)', owner => 'bob'), 'f|0|30', 'after a report nobody is allowed, also when it was rolled back');
	$cluster->sql("SELECT conduit_rate_report('bob', '$bob', 10)");
	is(take($alice, 'ceil(retry_after / 10)'), 30, 'a shorter one does not shorten it');
	$cluster->sql("SELECT conduit_rate_report('bob', '$bob', 0)");
	is(take($alice, 'allowed'), 'f', 'nor does none');
	$cluster->set_clock(300);
	is(take($alice, 'allowed, remaining'), 't|8', 'after it what was there is there again');
	$cluster->sql("SELECT conduit_rate_report('alice', '$alice', NULL)");
	is(take($alice, 'allowed, ceil(retry_after)'), 'f|30', 'a provider that says no time is given 30 s');
	$cluster->set_clock(400);
	$cluster->sql("SELECT conduit_rate_report('alice', '$alice', 86400)");
	$cluster->set_clock(0);
	is(take($alice, 'allowed, ceil(retry_after / 100)'), 'f|864', 'a clock that was set back does not make it longer');
	like($cluster->error("SELECT conduit_rate_report('alice', '$alice', $_)"), qr/^22023\|invalid retry_after\|range 0 2678400\|/, "$_ is refused")
	  for -1, "'NaN'", "'Infinity'", "'-Infinity'", 2678401;
};

subtest 'what is taken stays taken' => sub {
	api('kept', rate_limit_requests => 10, rate_limit_window_s => $month);
	my $id = $cluster->connection('alice', 'kept', undef, account => 'a');

	$cluster->sql("BEGIN; SELECT conduit_rate_take('alice', '$id'); ROLLBACK");
	is(take($id, 'remaining'), 8, 'after a rollback');
	$cluster->sql("BEGIN; SAVEPOINT s; SELECT conduit_rate_take('alice', '$id'); ROLLBACK TO s; COMMIT");
	is(take($id, 'remaining'), 6, 'to a savepoint as well');
	$cluster->error("SELECT conduit_rate_take('alice', '$id'), 1 / (0 * random())::int");
	is(take($id, 'remaining'), 4, 'and after an error');
	is($cluster->sql("BEGIN READ ONLY; SELECT remaining FROM conduit_rate_take('alice', '$id'); COMMIT"), 3, 'a READ ONLY transaction takes, too');
	is($cluster->sql("BEGIN READ ONLY; SELECT conduit_rate_report('alice', '$id', 60); SELECT allowed FROM conduit_rate_take('alice', '$id'); COMMIT"), "\nf", 'and reports');
	is($cluster->sql("BEGIN; SELECT conduit_rate_take('alice', '$id'); SELECT pg_current_xact_id_if_assigned() IS NULL; COMMIT") =~ s/.*\n//r, 't', 'nothing is written');
};

subtest 'by many at once' => sub {
	my ($sessions, $times) = (32, 50);

	api('crowd', rate_limit_requests => 200, rate_limit_window_s => $month);
	my $id = $cluster->connection('alice', 'crowd', undef, account => 'a');
	my @wires = map { $cluster->wire } 1 .. $sessions;
	my $query = "SELECT count(*) FILTER (WHERE (t).allowed) FROM (SELECT conduit_rate_take('alice', '$id', 1 + 0 * n) AS t FROM generate_series(1, $times) n OFFSET 0) s";

	$_->send($query) for @wires;
	my @allowed = map { $_->receive->{rows}[0][0] } @wires;
	my $sum = 0;
	$sum += $_ for @allowed;
	is($sum, 200, "$sessions sessions with " . $sessions * $times . ' requests have 200 of them allowed');
	cmp_ok(scalar(grep { $_ > 0 } @allowed), '>', 1, 'which more than one of them had') or diag "@allowed";
};

# More holders than there are buckets: those that are full again are forgotten
# without loss, and those that are far from it stay.
subtest 'in bounded memory' => sub {
	my $holders = 40_000;
	my $memory = "SELECT allocated_size FROM pg_shmem_allocations WHERE name = 'conduit limiter'";
	my $size = $cluster->sql($memory);

	api('many', rate_limit_requests => 100, rate_limit_window_s => $month);
	my $busy = $cluster->connection('alice', 'many', undef, account => 'busy');
	my $blocked = $cluster->connection('alice', 'many', undef, account => 'blocked');

	is(take($busy, 'remaining', cost => 90), 10, 'a bucket that is nearly empty');
	$cluster->sql("SELECT conduit_rate_report('alice', '$blocked', $month)");
	$cluster->sql(<<"SQL");
INSERT INTO conduit.connection (id, tenant, owner, connector, account, created_at, updated_at)
SELECT gen_random_uuid(), '', 'crowd', 'many', 'account ' || n, now(), now() FROM generate_series(1, $holders) n
SQL
	my $all = <<'SQL';
SELECT count(*), count(*) FILTER (WHERE (t).allowed AND (t).remaining = 99)
FROM (SELECT conduit_rate_take('crowd', id) AS t FROM conduit.connection WHERE owner = 'crowd' OFFSET 0) s
SQL
	is($cluster->sql($all), "$holders|$holders", "$holders others have one each, and all are allowed");
	is(take($busy, 'remaining', cost => 1), 9, 'the one that is nearly empty still is');
	is(take($blocked, 'allowed'), 'f', 'and the one that is blocked');
	$cluster->set_clock($month / 100 + 1);
	is($cluster->sql($all), "$holders|$holders", 'those that are full again are as new');
	is($cluster->sql($memory), $size, 'all in the same memory');
	$cluster->set_clock(0);
};

# ---- the token endpoint's bucket ----

# From here on the clock moves forward alone.
my $now = 0;

sub advance
{
	my ($seconds) = @_;
	$now += $seconds;
	$cluster->set_clock($now);
	return;
}

# So many connections of a connector of this name, all of them due an hour from now.
sub connections
{
	my ($slug, $count, %fields) = @_;
	my %options = map { $_ => delete $fields{$_} } grep { exists $fields{$_} } qw(expires_in);
	my $first = !$cluster->sql("SELECT count(*) FROM conduit.connector WHERE slug = '$slug'");

	$cluster->connector($slug, token_url => $provider->url . "/token/$slug", %fields) if $first;
	my @grants = $provider->issue($count, expires_in => 3600, %options);
	my $json = JSON::PP->new->canonical->encode(\@grants);
	return split /\n/, $cluster->sql(<<"SQL");
SELECT conduit_store_credential(conduit_create_connection('alice', '$slug'), NULL, g::text)
FROM json_array_elements(\$json\$$json\$json\$) g
SQL
}

sub requests { return $provider->counts("/token/$_[0]")->{total}; }

sub state
{
	my ($slug, $what) = @_;
	return $cluster->sql("SELECT $what FROM conduit.credential WHERE connector = '$slug'");
}

sub settled
{
	my ($slug, $condition) = @_;
	return $cluster->poll("SELECT bool_and(($condition) IS TRUE) AND NOT EXISTS (SELECT FROM conduit.flight WHERE connector = '$slug') FROM conduit.credential WHERE connector = '$slug'")
	  || diag state($slug, "string_agg(format('%s %s %s %s', attempts, generation, last_error, last_error_code), E'\\n')");
}

subtest 'refreshes wait for their turn' => sub {
	# One token in a hundred seconds.
	my @ids = connections('turn', 20, token_rate_limit_requests => 5, token_rate_limit_window_s => 500);
	my $sent = 'generation = 2';
	my $put_off = "generation = 1 AND last_error = 'throttled' AND last_error_code = 'rate_limited' AND attempts = 0 AND next_attempt_at = refresh_at";
	my $wait = 'extract(epoch FROM next_attempt_at - last_error_at)';

	advance(3500);
	ok(settled('turn', "($sent) OR ($put_off)"), 'as many as the bucket holds are refreshed, the others put off');
	is(state('turn', "count(*) FILTER (WHERE $sent), count(*) FILTER (WHERE $put_off)"), '5|15', 'five of twenty');
	is(requests('turn'), 5, 'nothing was sent for those');
	is(state('turn', "count(DISTINCT round($wait)) > 10, min($wait) > 90, max($wait) BETWEEN 1450 AND 1651"), 't|t|t', 'each is to come back at a time of its own')
	  or diag state('turn', "string_agg(round($wait)::text, ' ')");
	my ($id) = split /\n/, $cluster->sql("SELECT connection_id FROM conduit.credential WHERE connector = 'turn' AND $put_off ORDER BY next_attempt_at DESC");
	like($cluster->vend('alice', $id), qr/^at-\d+-1 WARNING PT504 rate_limited$/, 'who vends one is given the token that lives, and told');
	is($cluster->sql("SELECT refreshed FROM conduit_refresh('alice', '$id')"), 'f', 'nobody can hurry it');
	is(requests('turn'), 5, 'nothing is sent for asking');
	advance(200);
	is($cluster->vend('alice', $id), 'ERROR PT504 rate_limited', 'a token that has died meanwhile is not vended');
	like($cluster->error("SELECT conduit_vend('alice', '$id')"), qr/^PT504\|provider unavailable\|rate_limited retry_after=1[1-4]\d\d\|Try again later\.$/, 'and the error says when it can be');

	my $most = 7;
	for (1 .. 20)
	{
		ok(settled('turn', "refresh_at > now() + '$now s'"), "after $now s all wait for something");
		cmp_ok(requests('turn'), '<=', $most, "no more than $most requests have been sent");
		last if state('turn', "bool_and($sent)") eq 't';
		advance(200);
		$most += 2;
	}
	is(state('turn', "count(*) FILTER (WHERE $sent AND last_error IS NULL)"), 20, 'all have had their turn');
	is($provider->counts('/token/turn')->{max_requests_per_refresh_token}, 1, 'none was sent twice');
	is($cluster->sql("SELECT refreshed, dead, config, throttled, transient, unknown FROM conduit_stats() WHERE connector = 'turn'"), '20|0|0|0|0|0', 'none of it was a failure');
};

subtest 'who is asked for goes first' => sub {
	my @ids = connections('asked', 10, token_rate_limit_requests => 1, token_rate_limit_window_s => 100);

	advance(3500);
	ok(settled('asked', "generation = 2 OR last_error_code = 'rate_limited'"), 'one is refreshed, nine stand in line');
	my ($urgent) = connections('asked', 1);
	is($cluster->vend('alice', $urgent, "min_ttl => '2 hours'") =~ s/^at-\d+-//r, '1 WARNING PT504 rate_limited', 'one that somebody waits for is put off, too');
	my $wait = 'next_attempt_at - last_error_at';
	is(state('asked', "max($wait) FILTER (WHERE connection_id = '$urgent') <= '110 s', max($wait) > '850 s'"), 't|t', 'but to the next turn');
};

subtest 'a code that is exchanged counts, too' => sub {
	$cluster->connector('code', token_url => $provider->url . '/token/code', redirect_uris => ['https://app.example.com/callback'],
		token_rate_limit_requests => 2, token_rate_limit_window_s => 10_000);
	my @ids = connections('code', 1);

	for my $code ('a code', 'another', 'one more')
	{
		my (undef, $state) = $cluster->authorize('bob', 'code');
		like($cluster->callback('bob', $state, $code), qr/^[0-9a-f-]{36}$/, "$code is exchanged, whatever the limit");
	}
	is($cluster->sql("SELECT refreshed FROM conduit_refresh('alice', '$ids[0]')"), 'f', 'a refresh waits');
	like(state('code', "string_agg(round(extract(epoch FROM next_attempt_at - last_error_at))::text, '') FILTER (WHERE connection_id = '$ids[0]')"), qr/^(?:9[5-9]\d\d|1[01]\d\d\d)$/, 'until the bucket has what it owes and one more');
};

# So many connections of a tenant, due an hour from now.
sub tenant_connections
{
	my ($slug, $tenant, $count) = @_;
	my $json = JSON::PP->new->canonical->encode([ $provider->issue($count, expires_in => 3600) ]);
	return split /\n/, $cluster->sql(<<"SQL");
SELECT conduit_store_credential(conduit_create_connection('alice', '$slug', tenant => '$tenant'), NULL, g::text, '$tenant')
FROM json_array_elements(\$json\$$json\$json\$) g
SQL
}

# A client_id is no secret: whoever sets one of that name must not use up what its owner may do.
subtest "another tenant's client has its own" => sub {
	$cluster->connector('named', token_url => $provider->url . '/token/named', token_rate_limit_requests => 2, token_rate_limit_window_s => 10_000);
	$cluster->sql(q{SELECT conduit_set_client('named', 'cid', 'a secret', tenant => 't')});
	my ($alice) = tenant_connections('named', '', 1);
	my @taken = tenant_connections('named', 't', 3);
	my $refresh = sub { my ($id, $tenant) = @_; return $cluster->sql("SELECT refreshed FROM conduit_refresh('alice', '$id', tenant => '$tenant')") };

	is(join(' ', map { $refresh->($_, 't') } @taken), 't t f', 'a tenant has refreshed as often as it may');
	is($refresh->($alice, ''), 't', 'which is nothing to another one, whose client has the same name');
};

subtest 'a pause that a provider asks for' => sub {
	# Few at a time, so that the first answer comes before most have been sent.
	$cluster->setting('conduit.max_in_flight', 4);
	my @ids = connections('pause', 60);
	my $refused = "last_error = 'throttled' AND last_error_code = 'http_429' AND attempts > 0";
	my $kept = "last_error = 'throttled' AND last_error_code = 'rate_limited' AND attempts = 0";

	$provider->script('/token/pause', [ { status => 429, headers => { 'retry-after' => '50' } } ], repeat_last => $true);
	advance(3500);
	ok(settled('pause', 'last_error IS NOT NULL'), 'a provider that is asked too much');
	my $asked = requests('pause');
	cmp_ok($asked, '<=', 8, 'is not asked by all of them') or diag $asked;
	is(state('pause', "count(*) FILTER (WHERE $refused), count(*) FILTER (WHERE $kept)"), $asked . '|' . (60 - $asked), 'the others of the client wait with those that were refused');
	is(state('pause', "bool_and(next_attempt_at - last_error_at BETWEEN '40 s' AND '55.1 s')"), 't', 'for as long');
	$provider->script('/token/pause', []);
	advance(56);
	ok(settled('pause', 'generation = 2'), 'after it all are refreshed');
	is(requests('pause'), $asked + 60, 'with a request each');
};

subtest 'a long pause is looked into' => sub {
	my @ids = connections('long', 60);
	my $waits = "last_error = 'throttled' AND refresh_at > now() + '%s s'";

	$provider->script('/token/long', [ { status => 429, headers => { 'retry-after' => '3000' } } ], repeat_last => $true);
	advance(3500);
	ok(settled('long', sprintf($waits, $now)), 'all of a client wait');
	my $asked = requests('long');
	cmp_ok($asked, '<=', 8, 'though few have been refused');
	advance(67);
	ok(settled('long', sprintf($waits, $now)), 'a minute later');
	is(requests('long'), ++$asked, 'one of them asks again, and is refused');
	$provider->script('/token/long', []);
	advance(133);
	ok(settled('long', "generation = 2 OR $waits" =~ s/%s/$now/r), 'two minutes later');
	cmp_ok(requests('long'), '>', $asked, 'one more is not: they were kept without reason');
	advance(265);
	ok(settled('long', "generation = 2 OR (last_error_code = 'http_429' AND $waits)" =~ s/%s/$now/r), 'and all are refreshed');
	cmp_ok(state('long', 'count(*) FILTER (WHERE generation = 2)'), '>=', 52, 'but for those that were refused themselves');
	advance(3300);
	ok(settled('long', 'generation >= 2'), 'which wait as long as they were told');
};

# Whoever is sent to find out may be refused for a reason of its own: then there
# is no pause any more.  An outage says nothing about that.
subtest 'what the one who looks is told' => sub {
	my $pause = { status => 429, headers => { 'retry-after' => '3000' } };
	my %answers = (
		dead => [ { status => 400, json => { error => 'invalid_grant' } }, 't' ],
		config => [ { status => 400, json => { error => 'invalid_scope' } }, 't' ],
		transient => [ { status => 503 }, 'f' ],
		throttled => [ $pause, 'f' ]);
	my %ids = map { $_ => [ connections("look-$_", 3) ] } sort keys %answers;
	my $refresh = sub { return $cluster->sql("SELECT refreshed FROM conduit_refresh('alice', '$_[0]')") };

	foreach my $answer (sort keys %answers)
	{
		$provider->script("/token/look-$answer", [ $pause, $answers{$answer}[0] ]);
		is($refresh->($ids{$answer}[0]), 'f', 'a provider asks for a pause');
	}
	advance(61);
	foreach my $answer (sort keys %answers)
	{
		$cluster->error("SELECT conduit_refresh('alice', '$ids{$answer}[1]')");
		is(requests("look-$answer"), 2, 'one is sent a minute later');
		is(state("look-$answer", "max(COALESCE(last_error, status)) FILTER (WHERE connection_id = '$ids{$answer}[1]')"), $answer, "its answer is $answer");
		is($refresh->($ids{$answer}[2]), $answers{$answer}[1], $answers{$answer}[1] eq 't' ? 'the others are sent' : 'the others wait');
	}
};

# ---- a client that is refused ----

sub alerts
{
	my ($slug) = @_;
	return $cluster->sql("SELECT string_agg(substr(kind, 11) || ' ' || reason, ', ' ORDER BY id) FROM conduit.event WHERE kind ~ '^connector_' AND connector = '$slug'");
}

sub findings { return $cluster->sql("SELECT string_agg(severity || ' ' || finding || ': ' || detail, E'\\n' ORDER BY finding) FROM conduit_doctor() WHERE finding IN ('client_refused', 'storm') AND detail ~ '\"$_[0]\"'"); }

my $refusal = { status => 401, json => { error => 'invalid_client' } };

subtest 'a client that is refused is not tried by all' => sub {
	my $listener = $cluster->wire;
	my @ids = connections('refused', 500);

	$listener->query('LISTEN conduit_events');
	$provider->script('/token/refused', [$refusal], repeat_last => $true);
	advance(3500);
	ok(settled('refused', "last_error = 'config' AND last_error_code = 'invalid_client' AND refresh_at > now() + '$now s'"), '500 connections wait, as if each had been refused');
	my $asked = requests('refused');
	cmp_ok($asked, '<=', 8, 'few of them have been') or diag $asked;
	is(state('refused', "count(*) FILTER (WHERE attempts > 0), count(*) FILTER (WHERE status = 'ACTIVE')"), "$asked|500", 'all are ACTIVE, and only those count an attempt');
	ok($cluster->poll("SELECT count(*) = 1 FROM conduit_events_after(0, 10000) WHERE kind = 'connector_alert'"), 'there is one alert');
	is($cluster->sql(q{SELECT connection_id IS NULL, owner IS NULL, account IS NULL, connector, tenant, reason, old_status IS NULL FROM conduit_events_after(0, 10000) WHERE kind = 'connector_alert'}),
		't|t|t|refused||invalid_client|t', 'of the connector and of no connection');
	my @heard = map { $_->[1] } grep { $_->[1] =~ /connector/ } @{ $listener->query('SELECT 1')->{notifications} };
	is(join(' ', @heard) =~ s/"seq":\d+/"seq":n/r, '{"seq":n,"event":"connector_alert","connection_id":null}', 'which is announced');
	is(findings('refused'), 'error client_refused: connector "refused" cannot be used under its client: invalid_client; refreshes are kept back, but for one every 5 to 15 minutes', 'the doctor knows');
	like($cluster->vend('alice', $ids[0]), qr/^at-\d+-1 WARNING PT502 invalid_client$/, 'tokens that live are vended');

	# One in five minutes, then in ten, then in fifteen.
	for my $interval (300, 600, 900)
	{
		advance(int($interval * 1.1) + 1);
		ok(settled('refused', "refresh_at > now() + '$now s'"), "$interval s later");
		is(requests('refused'), ++$asked, 'one of them tries');
	}
	is($cluster->vend('alice', $ids[0]), 'ERROR PT502 invalid_client', 'tokens that have died are not');
	is($cluster->sql("SELECT count(*) FROM conduit.event WHERE kind = 'needs_reauth' AND connector = 'refused'"), 0, 'but nobody has to authorize again');
	is(alerts('refused'), 'alert invalid_client', 'there is still one alert');

	$cluster->node->restart('immediate');
	$cluster->wait_for_worker;
	advance(1000);
	ok(settled('refused', "refresh_at > now() + '$now s'"), 'after a restart');
	cmp_ok(requests('refused'), '<=', $asked += 8, 'it is found out again');
	is(alerts('refused'), 'alert invalid_client', 'and no news');

	$provider->script('/token/refused', []);
	$asked = requests('refused');
	# Less than most of them were told to wait.
	advance(305);
	ok(settled('refused', 'generation = 2'), 'when the provider lets one in, all are refreshed');
	is(requests('refused') - $asked, 500, 'with a request each');
	ok($cluster->poll(q{SELECT count(*) = 1 FROM conduit_events_after(0, 10000) WHERE kind = 'connector_recovered' AND connector = 'refused'}), 'and the alert is over');
	is(alerts('refused'), 'alert invalid_client, recovered invalid_client', 'once');
	is(findings('refused'), '', 'for the doctor, too');
};

subtest 'whoever mends it is told at once' => sub {
	my @ids = connections('mended', 20);

	$provider->script('/token/mended', [$refusal], repeat_last => $true);
	advance(3500);
	ok(settled('mended', "last_error = 'config'"), 'a client is refused');
	ok($cluster->poll(q{SELECT count(*) = 1 FROM conduit.event WHERE connector = 'mended' AND kind = 'connector_alert'}), 'which is told');
	my $asked = requests('mended');
	$cluster->sql(q{SELECT conduit_set_client('mended', 'cid', 'wrong')});
	ok($cluster->poll(q{SELECT count(*) = 2 FROM conduit.event WHERE connector = 'mended' AND kind = 'connector_alert'}), 'another secret that is wrong is told as well');
	ok(settled('mended', "last_error = 'config' AND refresh_at > now() + '$now s'"), 'the others are kept back');
	is(requests('mended'), $asked + 2, 'it was tried with both secrets, once');
	is($cluster->sql("SELECT refreshed FROM conduit_refresh('alice', '$ids[0]')"), 'f', 'who forces a refresh');
	is(requests('mended'), $asked + 2, 'has to wait for a minute');
	advance(61);
	is($cluster->sql("SELECT refreshed FROM conduit_refresh('alice', '$ids[0]')"), 'f', 'and is refused then');
	is(requests('mended'), $asked + 4, 'by the provider');
	$provider->script('/token/mended', []);
	$cluster->sql(q{SELECT conduit_set_client('mended', 'cid', 'right')});
	ok(settled('mended', 'generation = 2'), 'with one that is right all are refreshed at once');
	is(alerts('mended'), 'alert invalid_client, alert invalid_client, recovered invalid_client', 'and the alert is over');
};

subtest 'so is a definition that is mended' => sub {
	my @ids = connections('defined', 20);

	$provider->script('/token/defined', [ { status => 400, json => { error => 'unauthorized_client' } } ], repeat_last => $true);
	advance(3500);
	ok(settled('defined', "last_error_code = 'unauthorized_client'"), 'a client may not refresh');
	$provider->script('/token/defined', []);
	$cluster->sql(q{SELECT conduit_register_connector('defined', definition || '{"name": "Mended"}') FROM conduit.connector WHERE slug = 'defined'});
	ok(settled('defined', 'generation = 2'), 'all are refreshed when the connector is registered anew');
	ok($cluster->poll(q{SELECT count(*) = 1 FROM conduit.event WHERE connector = 'defined' AND kind = 'connector_recovered'}), 'the alert is over');
};

subtest 'one refusal is none' => sub {
	my @ids = connections('one', 6);

	$provider->script('/token/one', [$refusal]);
	advance(3500);
	ok(settled('one', "generation = 2 OR last_error = 'config'"), 'a provider that refuses one connection of six');
	is(state('one', 'count(*) FILTER (WHERE generation = 2)'), 5, 'keeps no other');
	is(alerts('one'), '', 'and is no alert');
};

subtest "another tenant's client" => sub {
	$cluster->connector('tenants', token_url => $provider->url . '/token/tenants');
	$cluster->sql(q{SELECT conduit_set_client('tenants', 'cid', 'good secret', tenant => 't')});
	tenant_connections('tenants', $_, 20) foreach '', 't';
	$provider->client('cid', 'good secret');
	advance(3500);
	ok(settled('tenants', "generation = 2 OR last_error_code = 'invalid_client'"), 'a secret that only one tenant has right');
	is($cluster->sql(q{SELECT string_agg(tenant || generation || ' ' || n, ', ' ORDER BY tenant) FROM (SELECT tenant, generation, count(*) n FROM conduit.credential WHERE connector = 'tenants' GROUP BY 1, 2) s}),
		'1 20, t2 20', 'keeps back those of the other');
	cmp_ok($provider->counts('/token/tenants')->{by_status}{401}, '<=', 6, 'few of which have been sent');
	ok($cluster->poll(q{SELECT count(*) = 1 FROM conduit.event WHERE connector = 'tenants' AND kind = 'connector_alert' AND tenant = ''}), 'with an alert to whom it concerns');
	is(alerts('tenants'), 'alert invalid_client', 'alone');
	$provider->post('/control/client', {});
};

subtest 'no client at all' => sub {
	my $slug = 'missing';
	my $json = JSON::PP->new->canonical->encode({ extends => 'refused', token_url => $provider->url . "/token/$slug" });

	$cluster->sql("SELECT conduit_register_connector('$slug', '$json')");
	my @ids = connections($slug, 10);
	advance(3500);
	ok(settled($slug, "last_error_code = 'client_missing'"), 'without a client nothing is sent');
	ok($cluster->poll("SELECT count(*) = 1 FROM conduit.event WHERE connector = '$slug' AND kind = 'connector_alert'"), 'which is told once');
	$cluster->sql("SELECT conduit_set_client('$slug', 'cid', 'a secret')");
	ok(settled($slug, 'generation = 2'), 'with one all are refreshed');
	ok($cluster->poll("SELECT count(*) = 1 FROM conduit.event WHERE connector = '$slug' AND kind = 'connector_recovered'"), 'and that is over');
	is(alerts($slug), 'alert client_missing, recovered client_missing', 'once each');
};

# ---- refresh tokens that are called dead, many at a time ----

my $dead = { status => 400, json => { error => 'invalid_grant' } };

sub needs_reauth { return $cluster->sql("SELECT count(*) FROM conduit.event WHERE kind = 'needs_reauth' AND connector = '$_[0]'"); }

subtest 'a storm that passes' => sub {
	my @ids = connections('storm', 80);
	my $doubted = "status = 'ACTIVE' AND generation = 1 AND last_error = 'dead' AND last_error_code = 'invalid_grant'";

	$provider->script('/token/storm', [$dead], repeat_last => $true);
	advance(3500);
	ok(settled('storm', "status = 'NEEDS_REAUTH' OR $doubted"), 'a provider that calls all tokens dead');
	my $flipped = needs_reauth('storm');
	cmp_ok($flipped, '<=', 24, 'is believed for the first twenty');
	is(state('storm', "count(*) FILTER (WHERE status = 'NEEDS_REAUTH'), count(*) FILTER (WHERE $doubted)"), $flipped . '|' . (80 - $flipped), 'and for no more');
	is(state('storm', "bool_and(next_attempt_at - last_error_at BETWEEN '599 s' AND '901 s' AND next_attempt_at = refresh_at) FILTER (WHERE $doubted)"), 't', 'the others are tried again in ten to fifteen minutes');
	ok($cluster->poll(q{SELECT count(*) = 1 FROM conduit_events_after(0, 10000) WHERE kind = 'connector_alert' AND connector = 'storm'}), 'there is an alert');
	is($cluster->sql(q{SELECT connection_id IS NULL, owner IS NULL, tenant, reason FROM conduit_events_after(0, 10000) WHERE kind = 'connector_alert' AND connector = 'storm'}), 't|t||storm', 'of the connector');
	is(findings('storm'), 'warning storm: connector "storm" calls many refresh tokens dead at once; its connections stay ACTIVE and are tried again', 'the doctor knows');
	my $asked = requests('storm');
	my ($id) = split /\n/, $cluster->sql("SELECT connection_id FROM conduit.credential WHERE connector = 'storm' AND $doubted");
	like($cluster->vend('alice', $id), qr/^at-\d+-1 WARNING PT502 invalid_grant$/, 'a token that lives is vended');
	is($cluster->sql("SELECT refreshed FROM conduit_refresh('alice', '$id')"), 'f', 'nobody can hurry it');
	is(requests('storm'), $asked, 'nothing was sent for asking');

	advance(910);
	ok(settled('storm', "status = 'NEEDS_REAUTH' OR ($doubted AND attempts = 2 AND refresh_at > now() + '$now s')"), 'while the provider stays at it');
	is(needs_reauth('storm'), $flipped, 'it is not believed');
	$cluster->node->stop('fast');
	$cluster->node->start;
	$cluster->wait_for_worker;
	advance(910);
	ok(settled('storm', "status = 'NEEDS_REAUTH' OR ($doubted AND attempts = 3 AND refresh_at > now() + '$now s')"), 'nor after a restart');
	is(needs_reauth('storm'), $flipped, 'which does not forget');
	$provider->script('/token/storm', []);
	advance(910);
	ok(settled('storm', "status = 'NEEDS_REAUTH' OR generation = 2"), 'when it comes to its senses, all are refreshed');
	ok($cluster->poll(q{SELECT count(*) = 1 FROM conduit.event WHERE kind = 'connector_recovered' AND connector = 'storm'}), 'and the storm is over');
	is(needs_reauth('storm'), $flipped, 'nobody else has to authorize again');
	is(alerts('storm'), 'alert storm, recovered storm', 'one alert, one end');
	is(findings('storm'), '', 'for the doctor, too');
};

subtest 'a storm that does not pass' => sub {
	my @ids = connections('flood', 80);

	$provider->script('/token/flood', [$dead], repeat_last => $true);
	advance(3500);
	ok(settled('flood', "status = 'NEEDS_REAUTH' OR last_error = 'dead'"), 'a provider that calls all tokens dead');
	my $flipped = needs_reauth('flood');
	for my $minutes (15, 30, 45)
	{
		advance(905);
		ok(settled('flood', "status = 'NEEDS_REAUTH' OR refresh_at > now() + '$now s'"), "after $minutes minutes");
		is(needs_reauth('flood'), $flipped, 'is not believed');
	}
	advance(905);
	ok(settled('flood', "status = 'NEEDS_REAUTH'"), 'after an hour is');
	is(needs_reauth('flood'), 80, 'with an event each');
	ok($cluster->poll(q{SELECT count(*) = 1 FROM conduit.event WHERE kind = 'connector_recovered' AND connector = 'flood'}), 'and the end of the alert');
	is(alerts('flood'), 'alert storm, recovered storm', 'which does not begin anew');
};

subtest 'a few are no storm' => sub {
	my @ids = connections('calm', 100);

	$provider->script('/token/calm', [ $dead, $dead, $dead ]);
	advance(3500);
	ok(settled('calm', "status = 'NEEDS_REAUTH' OR generation = 2"), 'three dead tokens among a hundred');
	is(needs_reauth('calm'), 3, 'are dead');
	is(alerts('calm'), '', 'and no alert');
};

$cluster->stop;
done_testing();
