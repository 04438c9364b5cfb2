# Many at once: import, vend_many; and a secret that leaves, sealed for somebody else.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Conduit::Cluster;
use Conduit::Provider;
use File::Temp ();
use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Utils ();
use Test::More;
use Time::HiRes qw(time);

my $provider = Conduit::Provider->start('scripted');
my $cluster = Conduit::Cluster->new('main');
my $wire = $cluster->wire;
my $json = JSON::PP->new->canonical->allow_nonref;

# Imports records (hashes, or JSON text); returns [connection_id, error] of each.
sub import_into
{
	my ($slug, $records, @more) = @_;
	my $text = ref $records ? $json->encode($records) : $records;
	my $answer = $wire->query('SELECT ordinal, connection_id, error FROM conduit_import($1, $2, $3, $4)', $slug, $text, @more[ 0, 1 ]);

	return $answer->{error} if $answer->{error};
	my @ordinals = map { $_->[0] } @{ $answer->{rows} };
	die "ordinals out of order: @ordinals" if "@ordinals" ne join(' ', 1 .. @ordinals);
	return [ map { [ @$_[ 1, 2 ] ] } @{ $answer->{rows} } ];
}

sub errors { return join(', ', map { $_->[1] // 'good' } @{ $_[0] }); }

# What an import that fails as a whole says.
sub failure
{
	my ($answer) = @_;
	return join('|', map { $_ // '' } @$answer{qw(C M D)}) if ref $answer eq 'HASH';
	return 'no error';
}

sub row
{
	my ($columns, $id) = @_;
	return $cluster->sql("SELECT $columns FROM conduit.connection n LEFT JOIN conduit.credential c ON c.connection_id = n.id WHERE n.id = '$id'");
}

sub kinds { return $cluster->sql("SELECT COALESCE(string_agg(kind, ' ' ORDER BY id), '') FROM conduit.event WHERE connection_id = '$_[0]'"); }

# ---- import ----

$cluster->connector('bulk', token_url => $provider->url . '/token/plain');
$cluster->sql(q{SELECT conduit_set_client('bulk', 'older', 'its secret'), conduit_set_client('bulk', 'cid', 'secret');
	SELECT conduit_register_connector('key', '{"auth_type": "api_key"}');
	SELECT conduit_register_connector('regional', format('{"auth_type": "oauth2_code", "authorize_url": "https://p.example.com/a",
		"token_url": "https://{region}.example.com/token", "params": {"region": {"pattern": "^[a-z]{2}$"}}}')::jsonb)});

my @grants = $provider->issue(4, expires_in => 3600);
my $records = [
	{ owner => 'alice', account => 'a1', secret => $grants[0], metadata => { n => 1 } },
	{ owner => 'alice', account => 'a2', secret => $grants[1], client_id => 'older' },
	{ owner => 'bob', secret => $grants[2] },
];
my $first = import_into('bulk', $records);
is(errors($first), 'good, good, good', 'records become connections');
my @ids = map { $_->[0] } @$first;
like($cluster->vend('alice', $ids[0]), qr/^at-\d+-1$/, 'whose token is vended');
is($cluster->sql("SELECT count(DISTINCT id) FROM conduit.connection WHERE id IN ('$ids[0]', '$ids[1]', '$ids[2]')"), 3, 'each its own');
is(row('n.owner, n.account, n.client_id, n.metadata, n.status, c.generation, c.refresh_at = c.due_at', $ids[0]), 'alice|a1|cid|{"n": 1}|ACTIVE|1|t', 'with all that the record says, under the current client');
is(row('n.client_id', $ids[1]), 'older', 'or under the one it names');
is(row('n.account IS NULL', $ids[2]), 't', 'an account need not be known');
is(kinds($ids[0]), 'created authorized', 'events are those of two calls');

# Again: the same connections; what is stored by then is at least as new.
is_deeply(import_into('bulk', $records), $first, 'imported again they are the same connections');
is($cluster->sql('SELECT count(*) FROM conduit.connection'), 3, 'and no others');
is(row('c.generation', $ids[0]), 1, 'nor is anything stored anew');
is($cluster->sql("SELECT generation FROM conduit_refresh('alice', '$ids[0]')"), 2, 'a refresh token is used');
import_into('bulk', $records);
is(row('c.generation', $ids[0]), 2, 'imported once more, it does not take the place of its successor');
is($cluster->sql("SELECT generation FROM conduit_refresh('alice', '$ids[0]')"), 3, 'which is good');
is($provider->counts('/token/plain')->{reuse}, 0, 'no used token has been sent');
import_into('bulk', [ { %{ $records->[0] }, metadata => { n => 2 } } ]);
is(row('n.metadata, c.generation', $ids[0]), '{"n": 2}|3', 'metadata is renewed all the same');

# Another token renews; one that died is replaced even by itself.
my ($newer) = $provider->issue(1, expires_in => 3600);
is_deeply(import_into('bulk', [ { owner => 'alice', account => 'a1', secret => $newer } ]), [ [ $ids[0], undef ] ], 'another token is for the same connection');
is(row('n.metadata, n.client_id, c.generation', $ids[0]), '{"n": 2}|cid|4', 'and renews it; what the record does not say is left');
is(kinds($ids[0]), 'created authorized', 'without an event');
$provider->revoke(refresh_token => $newer->{refresh_token});
$cluster->error("SELECT conduit_refresh('alice', '$ids[0]')");
is(row('n.status', $ids[0]), 'NEEDS_REAUTH', 'a connection that needs re-authorization');
import_into('bulk', [ { owner => 'alice', account => 'a1', secret => $newer } ]);
is(row('n.status, c.status, c.generation', $ids[0]), 'ACTIVE|ACTIVE|5', 'takes what there is');
is(kinds($ids[0]), 'created authorized needs_reauth recovered', 'and has recovered');

# Without an account: the owner's own one without, and where it went before, but never another account's.
is_deeply(import_into('bulk', [ { owner => 'bob', secret => $grants[3] } ]), [ [ $ids[2], undef ] ], 'a record without an account is for the connection without one');
$cluster->sql("SELECT conduit_update_connection('bob', '$ids[2]', account => 'learned')");
is_deeply(import_into('bulk', [ { owner => 'bob', secret => $grants[3] } ]), [ [ $ids[2], undef ] ], 'also when that has learned its account since');
my ($others) = $provider->issue(1, expires_in => 3600);
my $unknown = import_into('bulk', [ { owner => 'bob', secret => $others } ]);
isnt($unknown->[0][0], $ids[2], "tokens of an account that is not known do not take another account's place");
is(row('c.generation', $ids[2]), 2, 'which is untouched');
$cluster->sql("SELECT conduit_create_connection('bob', 'bulk')");
is(errors(import_into('bulk', [ { owner => 'bob', secret => $grants[0] } ])), 'several', 'where there are several without an account, none is meant');
$cluster->sql("SELECT conduit_create_connection('carol', 'bulk', 'c1')");
my $carol = import_into('bulk', [ { owner => 'carol', account => 'c1', secret => $others } ]);
is(kinds($carol->[0][0]), 'created authorized', 'a connection that had no credential is authorized');

# What is bad is a row with an error, and stops nobody.
my $canary = 'canary-5391';
my @bad = (
	[ 'not_an_object', '1' ], [ 'not_an_object', '"' . $canary . '"' ], [ 'json', '{"owner": ' . $canary . '}' ],
	[ 'json', '{"owner": "a", "owner": "b"}' ], [ 'json', "{\"owner\": \"\\ud800\"}" ], [ 'unknown_key', '{"owner": "a", "' . $canary . '": 1}' ],
	[ 'owner blank', { secret => {} } ], [ 'owner blank', { owner => ' ', secret => {} } ], [ 'owner not_a_string', { owner => 5.5 } ], [ 'owner not_a_string', { owner => JSON::PP::true } ],
	[ 'owner control_character', { owner => "a\nb" } ], [ 'owner too_long 1024', { owner => 'x' x 1025 } ],
	[ 'account not_a_string', { owner => 'a', account => [] } ], [ 'account too_long 1024', { owner => 'a', account => 'x' x 1025 } ],
	[ 'client_id not_a_string', { owner => 'a', client_id => {} } ], [ 'client_id unknown', { owner => 'a', client_id => $canary, secret => $grants[0] } ],
	[ 'params not_an_object', { owner => 'a', params => $canary } ], [ 'params bad_value', { owner => 'a', params => { $canary => 'x' } } ],
	[ 'metadata not_an_object', { owner => 'a', metadata => [] } ], [ 'metadata bad_value', '{"owner": "a", "metadata": {"n": 1e400000}}' ],
	[ 'metadata too_long 65536', { owner => 'a', metadata => { x => 'x' x 65536 } } ],
	[ 'secret missing', { owner => 'a' } ], [ 'secret missing', { owner => 'a', secret => undef } ],
	[ 'secret not_an_object', { owner => 'a', secret => $canary } ], [ 'secret no_token', { owner => 'a', secret => { $canary => 1 } } ],
	[ 'secret token_control_character', { owner => 'a', secret => { access_token => "$canary\n" } } ],
	[ 'too_long 262144', { owner => 'a', secret => { access_token => 'x' x 300000 } } ],
	[ 'duplicate', { owner => 'good', account => 'g', secret => { access_token => 'second' } } ]);
my $good = { owner => 'good', account => 'g', secret => { access_token => 'first' } };
my $result = import_into('bulk', '[' . join(",\n ", $json->encode($good), map { ref $_->[1] ? $json->encode($_->[1]) : $_->[1] } @bad) . ' ]');
is($result->[0][1], undef, 'a good record among bad ones is imported');
is($cluster->vend('good', $result->[0][0]), 'first', 'of two for one connection the first one');
is($result->[ $_ + 1 ][1], $bad[$_][0], "record $_: $bad[$_][0]") foreach 0 .. $#bad;
is_deeply([ map { $_->[0] } @$result[ 1 .. $#$result ] ], [ (undef) x @bad ], 'and has no connection');
unlike($json->encode($result), qr/canary/, 'no error repeats what a record says');
is($cluster->sql("SELECT count(*) FROM conduit.connection WHERE owner = 'a'"), 0, 'nothing came of them');

# A bad record before a good one for the same connection is not in its way.
$result = import_into('bulk', [ { owner => 'dora', account => 'd', secret => {} }, { owner => 'dora', account => 'd', secret => { access_token => 'x' } } ]);
is(errors($result), 'secret no_token, good', 'what cannot be imported is no duplicate');

# An owner's revocation stands.
$cluster->sql("SELECT conduit_revoke_connection('dora', '$result->[1][0]')");
is(errors(import_into('bulk', [ { owner => 'dora', account => 'd', secret => { access_token => 'x' } } ])), 'revoked', 'a revoked connection is not made again');
my $fresh = $cluster->sql("SELECT conduit_create_connection('dora', 'bulk', 'd')");
is_deeply(import_into('bulk', [ { owner => 'dora', account => 'd', secret => { access_token => 'x' } } ]), [ [ $fresh, undef ] ], 'unless somebody creates it');

# As a whole.
foreach my $case (
	[ '{}', 'json' ], [ '', 'json' ], [ '[', 'json' ], [ '[1', 'json' ], [ '[1,]', 'json' ], [ '[,1]', 'json' ], [ '[1] 2', 'json' ],
	[ '[1}', 'json' ], [ '["a]', 'json' ], [ undef, 'null' ], [ '[' . join(',', (1) x 10001) . ']', 'too_many 10000' ])
{
	my ($text, $code) = @$case;
	is(failure(import_into('bulk', $text)), "22023|invalid records|$code", 'no array of records: ' . (defined $text ? substr($text, 0, 8) : 'null'));
}
is(errors(import_into('bulk', '[]')), '', 'of none nothing comes');
is(errors(import_into('bulk', " [ 1 , [\"],\\\"\"] ,\t{\"a\": \"}\"} ]\n")), 'not_an_object, not_an_object, unknown_key', 'records are found by brackets and quotes');
is(failure(import_into('nowhere', '[]')), '22023|unknown connector|unknown_connector', 'the connector must be there');
is(failure(import_into('bulk', '[]', '-1 hour')), '22023|invalid spread|negative', 'and spread not negative');

# Other kinds, URL templates, tenants.
is(errors(import_into('key', [ { owner => 'a', account => 'k', secret => { apiKey => 'the key' } }, { owner => 'b', secret => { api_key => 'k', note => 1 } },
	{ owner => 'c', client_id => 'cid', secret => { api_key => 'k' } } ])), 'good, secret unknown_key, client_id unexpected', 'API keys');
my $regional = import_into('regional', [ { owner => 'a', account => 'r', params => { region => 'eu' }, secret => $grants[0] },
	{ owner => 'b', account => 'r', secret => $grants[0] }, { owner => 'c', params => { region => 'EU' }, secret => $grants[0] } ]);
is(errors($regional), 'good, params missing, params bad_value', 'params');
is(row('c.origin, n.params, n.client_id IS NULL', $regional->[0][0]), 'https://eu.example.com:443|{"region": "eu"}|t', 'say where a credential belongs');
import_into('regional', [ { owner => 'a', account => 'r', params => { region => 'us' }, secret => $grants[0] } ]);
is(row('c.origin, n.params', $regional->[0][0]), 'https://us.example.com:443|{"region": "us"}', 'and change it with the credential');
my $tenant = import_into('bulk', [ { owner => 'alice', account => 'a1', secret => { access_token => 'theirs' } } ], undef, 't2');
isnt($tenant->[0][0], $ids[0], "another tenant's connection is another one");
is($cluster->vend('alice', $tenant->[0][0], "tenant => 't2'"), 'theirs', 'and is vended there');

# Spread: not due, due, expired, without an expiry.
my @spread = map { { owner => 'spread', account => $_, secret => { access_token => 't', refresh_token => "r$_" } } } 1 .. 40;
$_->{secret}{expires_in} = 36000 foreach @spread[ 0 .. 9 ];
$_->{secret}{expires_at} = time + 60 foreach @spread[ 10 .. 19 ];
$_->{secret}{expires_at} = time - 60 foreach @spread[ 20 .. 29 ];
delete $_->{secret}{access_token} foreach @spread[ 30 .. 39 ];
$cluster->setting('conduit.refresh_enabled', 'off');
is(errors(import_into('bulk', \@spread, '1 hour')), join(', ', ('good') x 40), 'many that would be due together');
my $when = sub {
	my ($from, $to) = @_;
	return $cluster->sql(qq{SELECT count(DISTINCT refresh_at), bool_and($_[2]) FROM conduit.credential c JOIN conduit.connection n ON n.id = c.connection_id
		WHERE n.owner = 'spread' AND n.account::int BETWEEN $from AND $to});
};
is($when->(1, 10, 'refresh_at BETWEEN due_at - interval \'1 hour\' AND due_at AND refresh_at > now()'), '10|t', 'what is not due is refreshed earlier, and never later');
is($when->(11, 20, 'refresh_at = due_at AND due_at <= now()'), '10|t', 'what is due and good is refreshed at once');
is($when->(21, 30, 'refresh_at BETWEEN now() AND now() + interval \'1 hour\' AND due_at <= now()'), '10|t', 'what has expired, later');
is($when->(31, 40, 'refresh_at BETWEEN now() AND now() + interval \'1 hour\' AND due_at <= now()'), '10|t', 'and what never was there');
$cluster->sql("DELETE FROM conduit.credential c USING conduit.connection n WHERE n.id = c.connection_id AND n.owner = 'spread'");
$cluster->setting('conduit.refresh_enabled', 'on');

# Those who import the same at the same time.
{
	my $other = $cluster->wire;
	my $text = $json->encode([ map { { owner => 'both', account => $_, secret => { access_token => "t$_" } } } 1 .. 20 ]);
	my $backwards = $json->encode([ map { { owner => 'both', account => $_, secret => { access_token => "t$_" } } } reverse 11 .. 30 ]);
	my $import = 'SELECT connection_id, error FROM conduit_import($1, $2)';

	$wire->simple('BEGIN');
	my $mine = $wire->query($import, 'bulk', $text);
	$other->send($import, 'bulk', $backwards);
	ok($cluster->poll("SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%conduit_import%'"), 'an import waits for another one of the same');
	$wire->simple('COMMIT');
	my $theirs = $other->receive;
	is(join(' ', grep { defined } map { $_->[1] } @{ $theirs->{rows} }), '', 'and finds what that has made');
	is_deeply([ map { $_->[0] } @{ $theirs->{rows} }[ 10 .. 19 ] ], [ reverse map { $_->[0] } @{ $mine->{rows} }[ 10 .. 19 ] ], 'the same connections');
	is($cluster->sql("SELECT count(*), sum(generation) FROM conduit.connection JOIN conduit.credential ON connection_id = id WHERE connection.owner = 'both'"), '30|40', 'each once');

	# Without accounts no index helps.
	$text = $json->encode([ { owner => 'neither', secret => { access_token => 't' } } ]);
	$wire->simple('BEGIN');
	$mine = $wire->query($import, 'bulk', $text);
	$other->send($import, 'bulk', $text);
	ok($cluster->poll("SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%conduit_import%'"), 'also without accounts');
	$wire->simple('COMMIT');
	is_deeply($other->receive->{rows}, $mine->{rows}, 'there is one connection');
}

# Large ones.
{
	my @many = map { { owner => 'o' . $_ % 1000, account => "m$_", secret => { access_token => "at$_", refresh_token => "rt$_", expires_in => 86400 } } } 1 .. 10000;
	my $text = $json->encode(\@many);
	my $start = time;
	my $result = import_into('bulk', $text);
	note(sprintf('10000 records in %.1f s', time - $start));
	is(scalar(grep { !defined $_->[1] } @$result), 10000, 'ten thousand in a call');
	is($cluster->sql("SELECT count(*) FROM conduit.credential c JOIN conduit.connection n ON n.id = c.connection_id WHERE n.account LIKE 'm%'"), 10000, 'are there');
	is($cluster->vend('o7', $result->[6][0]), 'at7', 'in their order');
	is_deeply(import_into('bulk', $text), $result, 'and come to the same again');
	is($cluster->sql("SELECT count(*) FROM conduit.event e JOIN conduit.connection n ON n.id = e.connection_id WHERE n.account LIKE 'm%'"), 20000, 'without further events');

	# A connector that is newer than the statistics: of its rows none is read but those that are looked for.
	my $read = sub {
		$wire->value('SELECT pg_stat_force_next_flush()');
		return $wire->value(q{SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE schemaname = 'conduit' AND relname = 'connection'});
	};
	$cluster->sql('ALTER TABLE conduit.connection SET (autovacuum_enabled = off)');
	$cluster->sql('ANALYZE conduit.connection');
	$cluster->connector('newer', token_url => 'https://provider.example.com/token');
	my $part = sub {
		my ($n, %more) = @_;
		return [ map { { owner => "o$_", %more, secret => { access_token => "a$_" } }, { owner => "p$_", account => "n$_", secret => { access_token => "b$_" } } } $n .. $n + 499 ];
	};
	import_into('newer', $part->(0));
	$wire->close;
	$wire = $cluster->wire;
	my $before = $read->();
	is(scalar(grep { !defined $_->[1] } @{ import_into('newer', $part->(500)) }), 1000, 'a thousand more at a connector that is not in the statistics');
	cmp_ok($read->() - $before, '<', 20000, 'read no more than what they look for');
	$cluster->sql('ALTER TABLE conduit.connection RESET (autovacuum_enabled)');
}

# ---- vend_many ----

my $clock = 0;
sub advance { $cluster->set_clock($clock += $_[0]); return; }

# Rows of vend_many in short: "at-7-2", or "PT404 connection not found".
sub many_text
{
	my ($answer) = @_;
	return "ERROR $answer->{error}{C} $answer->{error}{M}" if $answer->{error};
	return map { defined $_->[1] ? "$_->[1] $_->[2]" : ($_->[0] =~ /^(at-\d+-\d+)-/ ? $1 : $_->[0]) } @{ $answer->{rows} };
}

my $many = 'SELECT access_token, sqlstate, error, connection_id FROM conduit_vend_many($1, $2)';
sub vend_many { my ($owner, @ids) = @_; return $wire->query($many, $owner, '{' . join(',', map { $_ // 'NULL' } @ids) . '}'); }

# Connections of a connector with a path of its own, left to their readers; returns pairs of id and grant's name.
sub connected
{
	my ($slug, $n, %fields) = @_;
	$cluster->connector($slug, token_url => $provider->url . "/token/$slug", %fields);
	my @made = map { my ($name) = $_->{access_token} =~ /^(at-\d+)-1-/; [ $cluster->connection('mia', $slug, $_), $name ] } $provider->issue($n, expires_in => 3600);
	$cluster->sql("UPDATE conduit.credential SET refresh_at = NULL WHERE connector = '$slug'");
	return @made;
}

my @some = connected('some', 3);
my $key_id = $cluster->connection('mia', 'key', '{"api_key": "k"}');
my $empty = $cluster->connection('mia', 'plain');
my $ended = $cluster->connection('mia', 'key', '{"api_key": "k"}', account => 'ended');
$cluster->sql("SELECT conduit_revoke_connection('mia', '$ended')");
my $foreign = $cluster->connection('noah', 'key', '{"api_key": "k"}');
my $dead = $cluster->connection('mia', 'some', '{"access_token": "a", "refresh_token": "r", "expires_at": 1000000000}', account => 'dead');
$cluster->error("SELECT conduit_vend('mia', '$dead')");
my $gone = '00000000-0000-7000-8000-000000000000';
my $answer = vend_many('mia', $some[2][0], $foreign, $some[0][0], $gone, undef, $ended, $empty, $dead, $some[2][0]);
is(join(', ', many_text($answer)), join(', ', "$some[2][1]-1", 'PT404 connection not found', "$some[0][1]-1", 'PT404 connection not found',
	'22023 invalid connection_id', 'PT410 connection revoked', 'PT404 credential not found', 'PT409 connection needs re-authorization', "$some[2][1]-1"),
	'a row for each, in the order given, with a token or what conduit_vend() would raise');
is(join(' ', map { $_->[3] // 'NULL' } @{ $answer->{rows} }[ 0, 1, 4 ]), "$some[2][0] $foreign NULL", 'and the id');
is($cluster->sql("SELECT string_agg(concat_ws('/', api_key, access_token IS NULL, generation, sqlstate IS NULL), ' ') FROM conduit_vend_many('mia', ARRAY['$key_id']::uuid[])"), 'k/t/1/t', 'the columns are those of a vend');
is_deeply([ many_text(vend_many('mia')) ], [], 'of none there are none');
like((many_text($wire->query($many, 'mia', '{' . join(',', ($gone) x 1001) . '}')))[0], qr/^ERROR 22023 invalid connection_ids/, 'more than a thousand are refused');
like((many_text($wire->query($many, 'mia', undef)))[0], qr/^ERROR 22023 invalid connection_ids/, 'and null');
is(join(' ', many_text($wire->query('SELECT access_token, sqlstate, error FROM conduit_vend_many($1, $2, tenant => $3)', 'mia', "{$some[0][0]}", 't2'))), 'PT404 connection not found', 'another tenant sees nothing');

# In parallel, and each once.
my @parallel = connected('parallel', 8);
advance(3700);
$provider->script('/token/parallel', [ { hang => JSON::PP::true, rotate => JSON::PP::true } ], repeat_last => JSON::PP::true);
$wire->value(q{SELECT set_config('conduit.vend_timeout', '60s', false)});
$wire->send($many, 'mia', '{' . join(',', map { $_->[0] } @parallel, $parallel[0]) . '}');
$provider->wait_for('/token/parallel', 'hanging', 8);
pass('eight refreshes are under way at a time');
$provider->script('/token/parallel', []);
$provider->release('/token/parallel');
is(join(' ', many_text($wire->receive)), join(' ', map { "$_->[1]-2" } @parallel, $parallel[0]), 'and all are vended');
is($provider->counts('/token/parallel')->{max_requests_per_refresh_token}, 1, 'of one request each');

# Failures.
my @failing = connected('failing', 2);
advance(3400);
$provider->script('/token/failing', [ { status => 503 } ], repeat_last => JSON::PP::true);
$answer = vend_many('mia', map { $_->[0] } @failing);
is(join(' ', many_text($answer)), "$failing[0][1]-1 $failing[1][1]-1", 'valid tokens are vended though their refresh failed');
is(join(' ', map { "$_->{S} $_->{C}" } @{ $answer->{notices} }), 'WARNING PT502', 'with one warning');
advance(3700);
is(join(', ', many_text(vend_many('mia', map { $_->[0] } @failing))), 'PT502 bad provider response, PT502 bad provider response', 'expired ones are not');

# One timeout for all; and what is valid does not wait for long.
my @slow = connected('slow', 2);
my @quick = connected('quick', 1);
$provider->script("/token/$_", [ { hang => JSON::PP::true, rotate => JSON::PP::true } ], repeat_last => JSON::PP::true) foreach qw(slow quick);
advance(3700);
$wire->value(q{SELECT set_config('conduit.vend_timeout', '300ms', false)});
is(join(', ', many_text(vend_many('mia', map { $_->[0] } @slow, @quick))), join(', ', ('PT504 provider unavailable') x 3), 'what does not come in time is an error');
$provider->script("/token/$_", []), $provider->release("/token/$_") foreach qw(slow quick);
ok($cluster->poll("SELECT count(*) = 3 FROM conduit.credential WHERE connector IN ('slow', 'quick') AND generation = 2"), 'and comes all the same');

$provider->script("/token/$_", [ { hang => JSON::PP::true, rotate => JSON::PP::true } ], repeat_last => JSON::PP::true) foreach qw(slow quick);
$cluster->sql("UPDATE conduit.credential SET due_at = '2000-01-01', refresh_at = NULL WHERE connector = 'slow'");
$cluster->sql("UPDATE conduit.credential SET due_at = '2000-01-01', expires_at = '2000-01-01', refresh_at = NULL WHERE connector = 'quick'");
$wire->value(q{SELECT set_config('conduit.vend_timeout', '60s', false), set_config('conduit.vend_patience', '100ms', false)});
$wire->send($many, 'mia', '{' . join(',', map { $_->[0] } @slow, @quick) . '}');
$provider->wait_for("/token/quick", 'hanging', 1);
$provider->wait_for("/token/slow", 'hanging', 2);
ok($cluster->poll("SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Extension' AND query LIKE '%conduit_vend_many%' AND clock_timestamp() - query_start > interval '200 milliseconds'"), 'while one is of no use, the call waits');
$provider->script('/token/quick', []);
$provider->release('/token/quick');
$answer = $wire->receive;
is(join(' ', many_text($answer)), "$slow[0][1]-2 $slow[1][1]-2 $quick[0][1]-3", 'until that has come, and vends the others as they are');
is(join(' ', map { "$_->{S} $_->{C}" } @{ $answer->{notices} }), 'WARNING PT504', 'with a warning');
$provider->script('/token/slow', []);
$provider->release('/token/slow');
ok($cluster->poll("SELECT count(*) = 2 FROM conduit.credential WHERE connector = 'slow' AND generation = 3"), 'they come later');

# Paused, in a READ ONLY transaction, of one's own transaction.
my @resting = connected('resting', 2);
$cluster->setting('conduit.refresh_enabled', 'off');
$cluster->poll("SELECT paused = 'disabled' FROM conduit_health()");
$cluster->sql("UPDATE conduit.credential SET due_at = '2000-01-01', expires_at = '2000-01-01' WHERE connection_id = '$resting[1][0]'");
is(join(', ', many_text(vend_many('mia', map { $_->[0] } @resting))), "$resting[0][1]-1, PT500 refresh is paused", 'while refreshing is paused, what is valid is vended');
$cluster->setting('conduit.refresh_enabled', 'on');
$cluster->poll('SELECT paused IS NULL FROM conduit_health()');
$wire->simple('BEGIN READ ONLY');
is(join(', ', many_text(vend_many('mia', map { $_->[0] } @resting))), "$resting[0][1]-1, $resting[1][1]-2", 'a READ ONLY transaction will do');
$wire->simple('COMMIT; BEGIN');
$wire->value('SELECT conduit_store_credential($1, NULL, $2)', $resting[0][0], '{"access_token": "a", "refresh_token": "r", "expires_at": 1000000000}');
is(join(', ', many_text(vend_many('mia', map { $_->[0] } @resting))), "55000 credential is not committed, $resting[1][1]-2", 'what is not committed cannot be refreshed');
$wire->simple('ROLLBACK');

# Secrets are in no file.
$wire->value(q{SELECT set_config('work_mem', '64kB', false), set_config('log_temp_files', '0', false)});
my @large = map { $cluster->connection('mia', 'key', '{"api_key": "' . 'x' x 4000 . '"}', account => "large$_") } 1 .. 40;
my $files = sub {
	my ($sql, @arguments) = @_;
	my $log_at = -s $cluster->node->logfile;
	my $value = $wire->value($sql, @arguments);

	# It is logged when it is removed, with the portal.
	$wire->value('SELECT 1');
	my $n = () = PostgreSQL::Test::Utils::slurp_file($cluster->node->logfile, $log_at) =~ /temporary file/g;
	return "$value $n";
};
is($files->('SELECT sum(length(api_key)) FROM conduit_vend_many($1, $2)', 'mia', '{' . join(',', @large) . '}'), '160000 0', 'more than work_mem makes no temporary file');
is($files->(q{SELECT sum(length(v)) FROM ROWS FROM (repeat('x', 4000), generate_series(1, 40), unnest(array_fill(repeat('x', 4000), ARRAY[40]))) r (u, n, v)}), '160000 1', 'which other functions do');
$wire->value(q{SELECT set_config('work_mem', '4MB', false)});

# ---- export ----

# A key pair of gpg's, in a home of its own with a short path: its agent's socket is there.
my $home = File::Temp->newdir('gpg-XXXXXX', TMPDIR => 1);
my @gpg = ('gpg', '--homedir', "$home", '--batch', '--quiet', '--no-tty', '--trust-model', 'always', '--pinentry-mode', 'loopback', '--passphrase', '');
sub gpg
{
	my ($in, @arguments) = @_;
	my ($out, $err) = ('', '');
	IPC::Run::run([ @gpg, @arguments ], '<', \$in, '>', \$out, '2>', \$err) or die "gpg @arguments: $err";
	return $out;
}
gpg('', '--quick-generate-key', 'escrow@example.org', 'rsa2048', 'cert', 'never');
my ($fingerprint) = gpg('', '--with-colons', '--list-keys') =~ /^fpr:+(\w+):/m;
my $without_subkey = gpg('', '--export', 'escrow@example.org');
gpg('', '--quick-add-key', $fingerprint, 'rsa2048', 'encr', 'never');
my $public = gpg('', '--export', 'escrow@example.org');
my $armored = gpg('', '--armor', '--export', 'escrow@example.org');
my $export = q{SELECT encode(conduit_export_credential($1, $2, decode($3, 'hex')), 'hex')};
sub export_json
{
	my ($owner, $id, $key) = @_;
	return JSON::PP->new->utf8->decode(gpg(pack('H*', $wire->value($export, $owner, $id, unpack('H*', $key // $public))), '--decrypt'));
}

my $ascii = JSON::PP->new->canonical->ascii;
my ($exported_grant) = $provider->issue(1, expires_in => 3600);
$cluster->connector('moving', token_url => $provider->url . '/token/moving');
my $moving = $cluster->connection('olga', 'moving', $ascii->encode({ %$exported_grant, scope => 'read write', instance_url => "https://x/\x{e9}", nested => { list => [ 1, 'two' ] } }), account => 'before');
my $exported = export_json('olga', $moving);
is_deeply([ @$exported{qw(access_token refresh_token token_type scope)} ], [ @$exported_grant{qw(access_token refresh_token)}, 'Bearer', 'read write' ], 'what gpg opens is the secret, refresh token included');
is_deeply($exported->{nested}, { list => [ 1, 'two' ] }, 'with all that the provider said');
is($exported->{instance_url}, "https://x/\x{e9}", 'in whatever letters');
is_deeply(export_json('olga', $moving, $armored), $exported, 'an armored key will do');
is(kinds($moving), 'created authorized exported exported', 'each export is an event');
$wire->simple('BEGIN');
$wire->value($export, 'olga', $moving, unpack('H*', $public));
$wire->simple('ROLLBACK');
is(kinds($moving), 'created authorized exported exported', "of the caller's transaction");

# In again: the new place refreshes with it, and nothing is lost on the way.
my $moved = $cluster->connection('olga', 'moving', $ascii->encode($exported), account => 'after');
my $columns = 'c.expires_at, c.scope, c.token_type, c.issued_at';
is(row($columns, $moved), $cluster->sql("SELECT date_trunc('second', c.expires_at), c.scope, c.token_type, date_trunc('second', c.issued_at) FROM conduit.credential c WHERE c.connection_id = '$moving'"), 'stored again it is the same');
is($cluster->sql("SELECT extra FROM conduit_vend('olga', '$moved')"), $cluster->sql("SELECT extra FROM conduit_vend('olga', '$moving')"), 'with what belongs to it');
like($cluster->sql("SELECT extra ->> 'instance_url' FROM conduit_vend('olga', '$moving')"), qr{^https://x/\xc3\xa9$}, 'which a database of any encoding hands out');
is($cluster->sql("SELECT generation FROM conduit_refresh('olga', '$moved')"), 2, 'and can be refreshed');
$cluster->sql(q{SELECT conduit_register_connector('login', '{"auth_type": "basic"}')});
my $login = $cluster->connection('olga', 'login', $ascii->encode({ username => "\x{fc}\"", password => '\\' }));
is_deeply(export_json('olga', $login), { username => "\x{fc}\"", password => '\\' }, 'a password');
$cluster->store($key_id, { api_key => 'k', api_secret => 's', expires_at => 2000000000 });
is_deeply(export_json('mia', $key_id), { api_key => 'k', api_secret => 's', expires_at => 2000000000 }, 'an API key');

my %minting = (client => [ 'oauth2_client_credentials', { client_id => 'me', client_secret => 's', scope => 'a b' } ], none => [ 'oauth2_client_credentials', {} ],
	jwt => [ 'jwt_bearer', { issuer => 'me', subject => 'you', key_id => '1', audience => 'there', private_key => (Conduit::Provider->make_key('RS256'))[0] } ]);
foreach my $kind (sort keys %minting)
{
	$cluster->sql("SELECT conduit_register_connector('minting-$kind', '{\"auth_type\": \"$minting{$kind}[0]\", \"token_url\": \"https://provider.example.com/token\"}')");
	my $id = $cluster->connection('olga', "minting-$kind", $ascii->encode($minting{$kind}[1]));
	is_deeply(export_json('olga', $id), $minting{$kind}[1], "what tokens are minted with: $kind");
	my $imported = import_into("minting-$kind", [ { owner => 'olga', account => 'imported', secret => $minting{$kind}[1] } ], '1 hour');
	is_deeply(export_json('olga', $imported->[0][0]), $minting{$kind}[1], 'imported it is the same');
	is(row('c.refresh_at IS NULL AND c.access IS NULL', $imported->[0][0]), 't', 'and minted when it is first wanted');
}

# A refresh under way, and one whose reply is parked.
my @held = connected('held', 1);
$provider->script('/token/held', [ { hang => JSON::PP::true, rotate => JSON::PP::true } ]);
my $holder = $cluster->session;
my $refresher = $cluster->wire;
$refresher->send(q{SELECT conduit_refresh($1, $2)}, 'mia', $held[0][0]);
$provider->wait_for('/token/held', 'hanging', 1);
$holder->query("BEGIN; SELECT FROM conduit.connection WHERE id = '$held[0][0]' FOR UPDATE");
my $under_way = $wire->query($export, 'mia', $held[0][0], unpack('H*', $public));
is(join(' ', map { "$_->{S} $_->{D}" } @{ $under_way->{notices} }), 'WARNING in_flight', 'a refresh that is under way is a warning');
$provider->release('/token/held');
ok($cluster->poll("SELECT outcome = 'refreshed' FROM conduit.flight WHERE connection_id = '$held[0][0]'"), 'its reply is parked');
like(export_json('mia', $held[0][0])->{refresh_token}, qr/^rt-\d+-2-/, 'and exported from there');
$holder->query('ROLLBACK');
$refresher->receive;

# Refusals.
foreach my $case (
	[ 'PT404|connection not found', 'noah', $moving, $public ], [ 'PT404|connection not found', 'olga', $gone, $public ],
	[ 'PT404|credential not found', 'mia', $empty, $public ], [ 'PT410|connection revoked', 'mia', $ended, $public ],
	[ '22023|invalid pgp_public_key', 'olga', $moving, $without_subkey ],
	[ '22023|invalid pgp_public_key', 'olga', $moving, 'canary' ], [ '22023|invalid pgp_public_key', 'olga', $moving, '' ],
	[ '22023|invalid pgp_public_key', 'olga', $moving, gpg('', '--export-secret-keys', 'escrow@example.org') ],
	[ '22023|invalid pgp_public_key', 'olga', $moving, "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\ncanary\n" ],
	[ '22023|invalid pgp_public_key', 'olga', $moving, substr($public, 0, 100) ], [ '22023|invalid pgp_public_key', 'olga', $moving, 'x' x 300000 ])
{
	my ($expected, $owner, $id, $key) = @$case;
	my $error = $wire->query($export, $owner, $id, unpack('H*', $key))->{error} // {};
	is(join('|', map { $_ // '' } @$error{qw(C M)}), $expected, "not exported: $expected");
}
is($wire->query($export, 'olga', $moving, undef)->{error}{C}, '22023', 'a key there must be');
is(kinds($moving), 'created authorized exported exported', 'and no event tells of it');
IPC::Run::run([ 'gpgconf', '--homedir', "$home", '--kill', 'all' ]);

$cluster->stop;
done_testing();
