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
	is(take($carol, 'remaining', owner => 'carol', tenant => 't'), 7, "and another tenant's");
	is(take($_, 'remaining'), 9, 'one whose account is not known has its own') for @unknown;
	$cluster->sql("SELECT conduit_update_connection('alice', '$unknown[0]', 'beta')");
	is(take($unknown[0], 'remaining'), 9, 'until it is known');
	is(take($cluster->connection('alice', 'shared', undef, account => 'gamma'), 'remaining'), 9, 'another account has another');
	is(take($cluster->connection('alice', 'other', undef, account => 'acme'), 'remaining'), 9, 'as has the same name at another provider');
	like($cluster->error("SELECT conduit_rate_take($_)"), qr/^PT404\|connection not found\|\|/, "$_ is not found")
	  for "'mallory', '$alice'", "'alice', '$bob'", "'alice', '$alice', 1, 't'", "'alice', gen_random_uuid()";
	like($cluster->error("SELECT conduit_rate_report('mallory', '$alice', 10)"), qr/^PT404\|connection not found\|\|/, 'nor for a report');
	is(take($alice, 'remaining'), 6, 'which has changed nothing');
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
	return $cluster->poll("SELECT bool_and($condition) AND NOT EXISTS (SELECT FROM conduit.flight WHERE connector = '$slug') FROM conduit.credential WHERE connector = '$slug'")
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

$cluster->stop;
done_testing();
