# The keyring: missing, wrong, too open, rotated.  Nothing is ever sealed under
# a key that is not the right one, and the error says what to do.
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

my $provider = Conduit::Provider->start('scripted');
my ($k1, $k2, $k3) = map { Conduit::Cluster::new_key() } 1 .. 3;
my $cluster = Conduit::Cluster->new('main', keyring => undef);
my $node = $cluster->node;

sub locked
{
	my ($code) = @_;
	return qr/^PT500\|vault is locked\|$code\|Check conduit\.keyring_file and reload the configuration; conduit_doctor\(\) says what is wrong\.$/;
}

# Everything sealed, as bytes.
sub blobs
{
	return $cluster->sql(q{SELECT md5((SELECT coalesce(string_agg(access::text || coalesce(refresh::text, ''), ',' ORDER BY connection_id), '') FROM conduit.credential)
		|| (SELECT coalesce(string_agg(secret::text, ',' ORDER BY id), '') FROM conduit.client_secret))});
}

sub blobs_by_key
{
	return $cluster->sql(q{SELECT string_agg(key_id || ':' || state || ':' || blobs, ' ' ORDER BY key_id) FROM conduit_keyring()});
}

sub use_keyring
{
	my ($text) = @_;
	$cluster->write_keyring($text);
	$cluster->reload;
	return;
}

# ---- missing ----

my $definition = '{"name": "Test", "auth_type": "oauth2_code", "authorize_url": "https://provider.example.com/authorize", "client_auth": "post", "token_url": "' . $provider->url . '/token"}';
my ($grant) = $provider->issue(1, expires_in => 3600);
my $secret = JSON::PP->new->canonical->encode($grant);
my $id;

is($cluster->sql('SELECT ok, worker, paused, vault FROM conduit_health()'), 'f|running|vault locked|unreadable', 'missing: the server runs, and so does the worker, paused');
like($cluster->sql(q{SELECT severity || ': ' || detail || ' ' || hint FROM conduit_doctor() WHERE finding ~ '^keyring_'}),
	qr/^error: could not open keyring file .*: No such file or directory .*base64 of 32 random bytes.*mode 0600/, 'missing: the doctor says what is wrong and what to do');
$cluster->sql("SELECT conduit_register_connector('test', '$definition')");
$id = $cluster->sql(q{SELECT conduit_create_connection('alice', 'test')});
for my $call (q{conduit_set_client('test', 'cid', 'the-client-secret')}, "conduit_store_credential('$id', NULL, '$secret')", 'conduit_adopt()', 'conduit_rewrap()', 'conduit_refresh_due()')
{
	(my $name = $call) =~ s/\(.*//s;
	like($cluster->error("SELECT $call"), locked('\w+'), "missing: $name() says so");
}
is($cluster->sql('SELECT (SELECT count(*) FROM conduit.client) + (SELECT count(*) FROM conduit.credential)'), '0', 'missing: nothing is half-written');
like($cluster->error("SELECT conduit_vend('alice', '$id')"), qr/^PT404\|credential not found/, 'missing: what needs no key is answered');
ok(slurp_file($node->logfile) =~ /LOG:  conduit: refresh is paused: the keyring cannot be used/, 'missing: the log says so');

use_keyring("k1:$k1\n");
ok($cluster->poll("SELECT paused IS NULL AND vault = 'open' FROM conduit_health()") , 'appeared: a reload opens the vault');
$cluster->sql(q{SELECT conduit_set_client('test', 'cid', 'the-client-secret')});
$cluster->store($id, $grant);
is($cluster->sql("SELECT access_token FROM conduit_vend('alice', '$id')"), $grant->{access_token}, 'appeared: a credential is stored and vended');
ok($cluster->poll('SELECT ok FROM conduit_health()'), 'appeared: all is well');
is($cluster->sql("SELECT refreshed FROM conduit_refresh('alice', '$id')"), 't', 'appeared: and refreshed');

# ---- gone again: who has it keeps it ----

{
	my $session = $cluster->session;
	my $offset = -s $node->logfile;
	my $token = $session->query("SELECT access_token FROM conduit_vend('alice', '$id')");

	use_keyring(undef);
	$node->wait_for_log('conduit keyring is not loaded, the former one stays in force: could not open keyring file', $offset);
	is($session->query("SELECT access_token FROM conduit_vend('alice', '$id')"), $token, 'gone: a session that has it goes on');
	$cluster->set_clock(3500);
	ok($cluster->poll("SELECT generation = 3 FROM conduit.credential WHERE connection_id = '$id'"), 'gone: and so does the worker');
	like($cluster->error("SELECT conduit_vend('alice', '$id')"), locked('unreadable'), 'gone: a new session has none');
	$session->quit;
	use_keyring("k1:$k1\n");
	is($cluster->error("SELECT conduit_vend('alice', '$id')"), '', 'gone: until it is back');
}

# ---- refused ----

my $file = $cluster->keyring_file;
for my $case (
	[ 'readable by the group', 'permissions', sub { chmod 0640, $file } ],
	[ 'readable by others', 'permissions', sub { chmod 0604, $file } ],
	[ 'writable by the group', 'permissions', sub { chmod 0620, $file } ],
	[ 'a symbolic link', 'unreadable', sub { rename $file, "$file.real"; symlink "$file.real", $file } ],
	[ 'a directory', 'unreadable', sub { unlink $file; mkdir $file } ],
	[ 'empty', 'no_primary', sub { $cluster->write_keyring('') } ],
	[ 'of two keys without a primary', 'no_primary', sub { $cluster->write_keyring("k1:$k1\nk2:$k2\n") } ],
	[ 'of a key that is too short', 'malformed', sub { $cluster->write_keyring("k1:c2hvcnQ=\n") } ],
	[ 'of the same id twice', 'malformed', sub { $cluster->write_keyring("*k1:$k1\nk1:$k2\n") } ],
	[ 'of two primaries', 'malformed', sub { $cluster->write_keyring("*k1:$k1\n*k2:$k2\n") } ],
	[ 'prose', 'malformed', sub { $cluster->write_keyring("the keys are in the safe\n") } ])
{
	my ($what, $code, $make) = @$case;
	my $before = blobs();

	$make->();
	like($cluster->error("SELECT conduit_vend('alice', '$id')"), locked($code), "a file that is $what is refused");
	like($cluster->error(qq{SELECT conduit_store_credential('$id', NULL, '{"access_token": "new", "expires_in": 60}')}), locked($code), 'for storing, too');
	is($cluster->sql(qq{SELECT count(*) FROM conduit_doctor() WHERE severity = 'error' AND finding = 'keyring_$code'}), '1', 'and the doctor says why');
	is(blobs(), $before, 'nothing was sealed');
	rmdir $file;
	unlink $file, "$file.real";
	$cluster->write_keyring("k1:$k1\n");
}
{
	my $inside = $node->data_dir . '/keyring';

	append_to_file($inside, "k1:$k1\n");
	chmod 0600, $inside;
	for my $path ($inside, PostgreSQL::Test::Utils::tempdir() . '/link')
	{
		symlink $node->data_dir, $path if $path ne $inside;
		$path .= '/keyring' if $path ne $inside;
		$cluster->setting('conduit.keyring_file', $path);
		like($cluster->error("SELECT conduit_vend('alice', '$id')"), locked('in_data_directory'), 'a file inside of the data directory is refused');
	}
	for my $case ([ '', 'not_set' ], [ 'keyring', 'unreadable' ])
	{
		$cluster->setting('conduit.keyring_file', $case->[0]);
		like($cluster->error("SELECT conduit_vend('alice', '$id')"), locked($case->[1]), "conduit.keyring_file = '$case->[0]' is refused");
	}
	unlink $inside;
	$node->safe_psql('postgres', 'ALTER SYSTEM RESET conduit.keyring_file');
	use_keyring("k1:$k1\n");
	is($cluster->error("SELECT conduit_vend('alice', '$id')"), '', 'and with the right one all is well');
	ok($cluster->poll('SELECT ok FROM conduit_health()'), 'for the worker, too');
}

# ---- another key under the same id ----

{
	my $before = blobs();
	my $sent = $provider->counts->{total};

	use_keyring("k1:$k3\n");
	like($cluster->error("SELECT conduit_vend('alice', '$id')"), qr/^PT500\|credential cannot be opened\|cannot_open\|/, 'wrong: nothing opens');
	like($cluster->error(qq{SELECT conduit_store_credential('$id', NULL, '{"access_token": "new", "expires_in": 60}')}), locked('key_mismatch'), 'wrong: nothing is stored');
	like($cluster->error(q{SELECT conduit_set_client('test', 'cid', 'another')}), locked('key_mismatch'), 'wrong: no client is set');
	like($cluster->error('SELECT conduit_rewrap()'), locked('key_mismatch'), 'wrong: nothing is wrapped anew');
	is($cluster->sql(q{SELECT severity || ': ' || hint FROM conduit_doctor() WHERE finding = 'key_mismatch'}), 'error: Restore the right key under this id; give a new key a new id.', 'wrong: the doctor says what to do');
	is(blobs_by_key(), 'k1:mismatch:3', 'wrong: conduit_keyring() says so');
	# The worker has it as well: it must neither send nor seal.
	$cluster->set_clock(7100);
	like($cluster->error("SELECT conduit_refresh('alice', '$id')"), qr/^PT500\|vault is locked\|worker_keyring/, 'wrong: nothing is refreshed');
	is(blobs(), $before, 'wrong: nothing was sealed');
	is($provider->counts->{total}, $sent, 'wrong: nothing was sent');
	is($cluster->sql("SELECT status FROM conduit_get_connection('alice', '$id')"), 'ACTIVE', 'wrong: no connection is lost');
	use_keyring("k1:$k1\n");
	ok($cluster->poll("SELECT generation = 4 FROM conduit.credential WHERE connection_id = '$id'"), 'wrong: with the right key refreshing goes on');
}

# ---- rotation ----

{
	my $other = $cluster->connection('bob', 'test', ($provider->issue(1, expires_in => 3600))[0]);
	my $n;

	is(blobs_by_key(), 'k1:good:5', 'rotation: all is sealed under the first key');
	use_keyring("k1:$k1\n*k2:$k2\n");
	ok($cluster->poll('SELECT ok FROM conduit_health()'), 'rotation: a second one is the primary now');
	$cluster->store($other, ($provider->issue(1, expires_in => 3600))[0]);
	is(blobs_by_key(), 'k1:good:3 k2:good:2', 'rotation: what is stored is sealed under it');
	is($cluster->sql("SELECT refreshed FROM conduit_refresh('alice', '$id')"), 't', 'rotation: what is under the first one still opens');
	is(blobs_by_key(), 'k1:good:1 k2:good:4', 'rotation: and what the worker refreshes moves');
	$cluster->connection("owner $_", 'test', ($provider->issue(1, expires_in => 3600))[0]) for 1 .. 3;
	use_keyring("*k1:$k1\nk2:$k2\n");
	$n = 0;
	while ((my $rewrapped = $cluster->sql('SELECT conduit_rewrap(4)')) > 0)
	{
		cmp_ok($rewrapped, '<=', 4, 'rotation: in batches');
		last if ++$n > 20;
	}
	is(blobs_by_key(), 'k1:good:11 k2:good:0', 'rotation: and back, all of them');
	use_keyring("k1:$k1\n*k2:$k2\n");
	1 while $cluster->sql('SELECT conduit_rewrap()') > 0;
	is(blobs_by_key(), 'k1:good:0 k2:good:11', 'rotation: until none is left under the first');

	use_keyring("k2:$k2\n");
	is($cluster->error("SELECT conduit_vend('alice', '$id')"), '', 'rotation: which may be removed then');
	is($cluster->sql("SELECT refreshed FROM conduit_refresh('alice', '$id')"), 't', 'rotation: a refresh works, client included');
	ok($cluster->poll('SELECT ok FROM conduit_health()'), 'rotation: all is well');
	is($cluster->sql('SELECT conduit_rewrap()'), '0', 'rotation: nothing is left to do');
}

# ---- a key that is not there ----

{
	my $before = blobs();

	use_keyring("k3:$k3\n");
	like($cluster->error("SELECT conduit_vend('alice', '$id')"), qr/^PT500\|key not in keyring\|unknown_key k2\|Add the key/, 'unknown: the error says which key is missing');
	like(blobs_by_key(), qr/\bk2:missing:11\b/, 'unknown: so does conduit_keyring()');
	is(blobs(), $before, 'unknown: nothing was sealed') if $cluster->error("SELECT conduit_refresh('alice', '$id')") =~ /^PT500\|/;
	is($cluster->sql("SELECT status FROM conduit_get_connection('alice', '$id')"), 'ACTIVE', 'unknown: no connection is lost');
	use_keyring("k2:$k2\n");
	is($cluster->error("SELECT conduit_vend('alice', '$id')"), '', 'unknown: with it all opens again');
}

# ---- the name of the ring tells a physical copy ----

{
	my $sent;

	# The identity, with the name, is what production takes over as.
	use_keyring("\@production\nk2:$k2\n");
	ok($cluster->poll("SELECT paused = 'not adopted' FROM conduit_health()"), 'name: a ring of another name is another place');
	$cluster->sql('SELECT conduit_adopt()');
	ok($cluster->poll('SELECT ok FROM conduit_health()'), 'name: until it is adopted');

	$cluster->stop;
	$node->backup_fs_cold('copy');
	my $copy_node = PostgreSQL::Test::Cluster->new('copy');
	$copy_node->init_from_backup($node, 'copy');
	my $copy = bless { %$cluster, node => $copy_node, keyring_file => "$file.copy" }, ref $cluster;

	$copy->write_keyring("\@staging\nk2:$k2\n");
	$copy_node->append_conf('postgresql.conf', "conduit.keyring_file = '$file.copy'");
	$sent = $provider->counts->{total};
	$copy_node->start;
	$copy->wait_for_worker;
	ok($copy->poll("SELECT worker = 'running' AND paused = 'not adopted' FROM conduit_health()"), 'name: a physical copy with a ring of another name is paused');
	is($copy->error("SELECT conduit_vend('alice', '$id')"), '', 'name: it vends');
	$copy->set_clock(20000);
	like($copy->error("SELECT conduit_vend('alice', '$id')"), qr/^PT500\|refresh is paused\|/, 'name: but does not refresh');
	is($provider->counts->{total}, $sent, 'name: nothing was sent');
	$copy_node->stop;
	$node->start;
	$cluster->wait_for_worker;
	ok($cluster->poll('SELECT ok FROM conduit_health()'), 'name: the original goes on');
	is($cluster->sql("SELECT refreshed FROM conduit_refresh('alice', '$id')"), 't', 'name: with its tokens');
}

done_testing();
