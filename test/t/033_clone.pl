# Dumps, restores and copies: all is there, and nothing is refreshed until
# somebody says that the copy takes over.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Conduit::Cluster;
use Conduit::Provider;
use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

my $provider = Conduit::Provider->start('scripted');
my $key = Conduit::Cluster::new_key();
my $cluster = Conduit::Cluster->new('main', keyring => "k1:$key\n");
my $node = $cluster->node;
my $directory = PostgreSQL::Test::Utils::tempdir();
my $paused = qr/^PT500\|refresh is paused\|paused\|.*conduit_adopt\(\)/;

sub in_database
{
	my ($cluster, $database) = @_;
	return bless { %$cluster, database => $database }, ref $cluster;
}

sub dump_to
{
	my ($cluster, $file, @options) = @_;
	my ($out, $err) = ('', '');
	my $ok = IPC::Run::run([ $cluster->node->installed_command('pg_dump'), @options, '-d', $cluster->node->connstr($cluster->database), '-f', $file ],
		'>', \$out, '2>', \$err);
	return $ok ? '' : $err;
}

sub restore
{
	my ($cluster, $file) = @_;
	my ($out, $err) = ('', '');

	$cluster->sql('CREATE DATABASE "' . $cluster->database . '"', database => 'postgres');
	IPC::Run::run([ $cluster->node->installed_command('psql'), '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $cluster->node->connstr($cluster->database), '-f', $file ],
		'>', \$out, '2>', \$err) or die "could not restore: $err";
	is($err, '', 'the dump is restored without a complaint');
	$cluster->wait_for_worker;
	return;
}

# Rights, comments and row security of all that belongs to the extension.
sub rights
{
	my ($cluster) = @_;
	return $cluster->sql(q{
		SELECT string_agg(line, E'\n' ORDER BY line) FROM (
			SELECT p.oid::regprocedure || ' ' || (SELECT string_agg(a::text, ',' ORDER BY a::text) FROM unnest(coalesce(p.proacl, acldefault('f', p.proowner))) a)
				|| ' ' || coalesce(obj_description(p.oid, 'pg_proc'), '-')
			FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
			JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'conduit'
			UNION ALL
			SELECT c.oid::regclass || ' ' || (SELECT string_agg(a::text, ',' ORDER BY a::text) FROM unnest(coalesce(c.relacl, acldefault('r', c.relowner))) a)
				|| ' ' || c.relrowsecurity || ' ' || coalesce(obj_description(c.oid, 'pg_class'), '-')
			FROM pg_class c WHERE c.relnamespace = 'conduit'::regnamespace AND c.relkind IN ('r', 'S')
			UNION ALL
			SELECT n.nspname || ' ' || (SELECT string_agg(a::text, ',' ORDER BY a::text) FROM unnest(coalesce(n.nspacl, acldefault('n', n.nspowner))) a)
				|| ' ' || coalesce(obj_description(n.oid, 'pg_namespace'), '-')
			FROM pg_namespace n WHERE n.nspname = 'conduit') l (line)});
}

# What is stored, but for what says where.
sub content
{
	my ($cluster) = @_;
	return join("\n", map { $cluster->sql("SELECT '$_', md5(string_agg(t::text, ',' ORDER BY t::text)) FROM conduit.$_ t WHERE to_jsonb(t) ->> 'builtin' IS DISTINCT FROM 'true'") }
		qw(connector client client_secret connection credential event));
}

# ---- what is to be copied ----

$node->safe_psql('postgres', 'CREATE ROLE service_role; CREATE ROLE monitor_role; CREATE ROLE admin_role; CREATE ROLE dumper LOGIN; GRANT pg_read_all_data TO dumper');
$cluster->sql(q{SELECT conduit_grant('service_role', 'service'), conduit_grant('monitor_role', 'monitor'), conduit_grant('admin_role', 'admin')});
$cluster->connector('test', token_url => $provider->url . '/token');
$cluster->connector('child', extends => 'test', token_url => $provider->url . '/token');
my %grant;
($grant{$_}) = $provider->issue(1, expires_in => $_ eq 'soon' ? 1800 : 7200) for qw(valid soon parked);
my %id = map { $_ => $cluster->connection('alice', 'test', $grant{$_}) } sort keys %grant;
my $dead = $cluster->connection('alice', 'child', { access_token => 'dead', refresh_token => 'dead', expires_in => 1 });
$provider->script('/token', [ { status => 400, json => { error => 'invalid_grant' } } ]);
$cluster->error("SELECT conduit_refresh('alice', '$dead')");
is($cluster->sql("SELECT status FROM conduit_get_connection('alice', '$dead')"), 'NEEDS_REAUTH', 'one of the connections needs re-authorization');

# One refresh is parked behind somebody's transaction.
$cluster->sql("BEGIN; SELECT FROM conduit.connection WHERE id = '$id{parked}' FOR UPDATE; PREPARE TRANSACTION 'holder'");
$cluster->sql("SELECT conduit_refresh('alice', '$id{parked}')");
my ($family) = $provider->tokens(refresh_token => $grant{parked}{refresh_token});
my $parked = $family->{access_tokens}[-1];
is($cluster->sql('SELECT parked FROM conduit_health()'), '1', 'and one flight is parked');
# Else it would refresh what its copies do not.
$node->safe_psql('postgres', 'ALTER DATABASE app SET conduit.refresh_enabled = off');
ok($cluster->poll("SELECT worker = 'running' AND paused = 'disabled' FROM conduit_health()"), 'the original is paused');

is(dump_to($cluster, "$directory/dump.sql"), '', 'a superuser dumps it');
like(dump_to($cluster, "$directory/refused.sql", '-U', 'dumper'), qr/permission denied|row-level security/, 'nobody else does');
unlike(slurp_file("$directory/dump.sql"), qr/\Q$parked\E|\Q$grant{valid}{access_token}\E|\Q$grant{valid}{refresh_token}\E|the-client-secret/, 'no secret is in the dump in clear');

# A copy: nothing is sent, valid tokens are vended, dead ones are not.
sub is_paused_copy
{
	my ($copy, $what) = @_;
	my $sent = $provider->counts->{total};

	$copy->set_clock(0);
	ok($copy->poll("SELECT worker = 'running' AND paused = 'not adopted' AND NOT ok FROM conduit_health()"), "$what: it is paused, and conduit_health() says why");
	is($copy->sql("SELECT severity FROM conduit_doctor() WHERE finding = 'not_adopted' AND hint ~ 'conduit_adopt'"), 'error', "$what: so does the doctor, and what to do");
	is($copy->sql("SELECT access_token FROM conduit_vend('alice', '$id{valid}')"), $grant{valid}{access_token}, "$what: a valid token is vended");
	$copy->set_clock(1700);
	is($copy->sql("SELECT access_token FROM conduit_vend('alice', '$id{soon}')"), $grant{soon}{access_token}, "$what: one that is due is vended, too");
	$copy->set_clock(2000);
	like($copy->error("SELECT conduit_vend('alice', '$id{soon}')"), $paused, "$what: a dead one is not, and the error says what to do");
	like($copy->error("SELECT conduit_refresh('alice', '$id{valid}')"), qr/^$|$paused/, "$what: nor is one refreshed");
	like($copy->error('SELECT conduit_refresh_due()'), $paused, "$what: nor all that are due");
	ok($copy->poll("SELECT generation = 2 FROM conduit.credential WHERE connection_id = '$id{parked}'"), "$what: the parked reply is in its place");
	is($copy->sql("SELECT access_token FROM conduit_vend('alice', '$id{parked}')"), $parked, "$what: and is vended");
	is($copy->sql("SELECT status, status_reason FROM conduit_get_connection('alice', '$dead')"), 'NEEDS_REAUTH|invalid_grant', "$what: what needs re-authorization still does");
	is($provider->counts->{total}, $sent, "$what: nothing was sent to the provider");
	return;
}

# It takes over: everything is refreshed.
sub is_adopted
{
	my ($copy, $what) = @_;

	$copy->sql('SELECT conduit_adopt()');
	ok($copy->poll("SELECT generation = 2 FROM conduit.credential WHERE connection_id = '$id{soon}'"), "$what: once adopted, what is due is refreshed");
	ok($copy->poll('SELECT ok FROM conduit_health()'), "$what: and all is well");
	is($copy->sql("SELECT refreshed FROM conduit_refresh('alice', '$id{valid}')"), 't', "$what: a caller's refresh works");
	is($copy->sql("SELECT refreshed FROM conduit_refresh('alice', '$id{parked}')"), 't', "$what: also with the token that was parked");
	is($copy->sql('SELECT count(*) FROM conduit_events_after(0)'), $copy->sql('SELECT count(*) FROM conduit.event'), "$what: events are there, and go on");
	$copy->connection('bob', 'test', { access_token => 'new', expires_in => 3600 });
	return;
}

# ---- CREATE DATABASE ... TEMPLATE ----

$cluster->sql(q{ROLLBACK PREPARED 'holder'});
ok($cluster->poll("SELECT generation = 2 FROM conduit.credential WHERE connection_id = '$id{parked}'"), 'the original has its parked reply in its place');
{
	my $copy = in_database($cluster, 'copy');

	$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE app');
	# The first call finds no worker yet, and sends for one.
	like($copy->error('SELECT conduit_refresh_due()'), $paused, 'TEMPLATE: the first call is told that it is a copy');
	is_paused_copy($copy, 'TEMPLATE');
	$node->safe_psql('postgres', 'DROP DATABASE copy');
}

# ---- restored beside the original ----

{
	my $restored = in_database($cluster, 'restored');

	$restored->set_clock(0);
	restore($restored, "$directory/dump.sql");
	# The worker came before the rows did.
	like($restored->error("SELECT conduit_refresh('alice', '$id{valid}')"), qr/^$/, 'restored: a refresh at once is no error while the token lives');
	is($restored->sql("SELECT generation FROM conduit.credential WHERE connection_id = '$id{valid}'"), '1', 'restored: but is not made');
	is(rights($restored), rights($cluster), 'restored: rights, comments and row security are those of the original');
	like(rights($restored), qr/service_role=X/, 'restored: with those of conduit_grant()');
	is_paused_copy($restored, 'restored');
	is(content($restored), content($cluster), 'restored: so is the content');
	is_adopted($restored, 'restored');
	$node->safe_psql('postgres', 'DROP DATABASE restored');
}

# ---- restored into another cluster ----

# What the copy has refreshed is dead here: new tokens for all.
$cluster->set_clock(0);
for my $name (sort keys %id)
{
	($grant{$name}) = $provider->issue(1, expires_in => $name eq 'soon' ? 1800 : 7200);
	$cluster->store($id{$name}, $grant{$name});
}
is(dump_to($cluster, "$directory/dump.sql"), '', 'the original is dumped again');
my $roles = 'CREATE ROLE service_role; CREATE ROLE monitor_role; CREATE ROLE admin_role';

{
	my $other = Conduit::Cluster->new('other', keyring => "k1:$key\n", extension => 0, database => 'app');

	$other->sql($roles, database => 'postgres');
	restore($other, "$directory/dump.sql");
	is(rights($other), rights($cluster), 'another cluster: rights are those of the original');
	is($other->sql("SELECT access_token FROM conduit_vend('alice', '$id{valid}')"), $grant{valid}{access_token}, 'another cluster: a token is vended');
	$other->sql('SELECT conduit_adopt()');
	is($other->sql("SELECT refreshed FROM conduit_refresh('alice', '$id{valid}')"), 't', 'another cluster: once adopted, it is refreshed');
	$other->stop;
}

# ---- restored where the key is another one ----

for my $case (
	[ 'wrong', 'k1', 'credential cannot be opened', 'key_mismatch' ],
	[ 'unknown', 'k2', 'key not in keyring', undef ])
{
	my ($name, $key_id, $message, $finding) = @$case;
	my $wrong = Conduit::Cluster->new($name, keyring => "$key_id:" . Conduit::Cluster::new_key() . "\n", extension => 0, database => 'app');
	my $before;

	$wrong->sql($roles, database => 'postgres');
	restore($wrong, "$directory/dump.sql");
	$before = content($wrong);
	like($wrong->error("SELECT conduit_vend('alice', '$id{valid}')"), qr/^PT500\|$message\|/, "$name key: a vend says: $message");
	if ($finding)
	{
		like($wrong->error("SELECT conduit_store_credential('$id{valid}', NULL, '{\"access_token\": \"new\", \"expires_in\": 60}')"), qr/^PT500\|vault is locked\|key_mismatch\|/, "$name key: nothing is sealed under it");
		like($wrong->error(q{SELECT conduit_set_client('test', 'cid', 'another')}), qr/^PT500\|vault is locked\|key_mismatch\|/, "$name key: by no call");
		is($wrong->sql("SELECT severity FROM conduit_doctor() WHERE finding = '$finding'"), 'error', "$name key: the doctor says so");
		is($wrong->sql("SELECT state FROM conduit_keyring()"), 'mismatch', "$name key: so does conduit_keyring()");
	}
	else
	{
		is($wrong->sql("SELECT string_agg(key_id || ' ' || state, ',' ORDER BY key_id) FROM conduit_keyring() WHERE blobs > 0"), 'k1 missing', "$name key: conduit_keyring() says which one is missing");
	}
	# Adopted or not, nothing is sent: there is nothing to send.
	my $sent = $provider->counts->{total};
	$wrong->sql('SELECT conduit_adopt()');
	$wrong->set_clock(7300);
	like($wrong->error("SELECT conduit_vend('alice', '$id{valid}')"), qr/^PT500\|(?:$message|vault is locked)\|/, "$name key: nor is a dead one refreshed");
	is($provider->counts->{total}, $sent, "$name key: nothing was sent");
	is($wrong->sql("SELECT status FROM conduit_get_connection('alice', '$id{valid}')"), 'ACTIVE', "$name key: no connection is lost");
	is($wrong->sql("SELECT md5(string_agg(access::text || refresh::text, ',' ORDER BY connection_id)) FROM conduit.credential"),
		$cluster->sql("SELECT md5(string_agg(access::text || refresh::text, ',' ORDER BY connection_id)) FROM conduit.credential"), "$name key: nothing was sealed anew");

	# The right key, and all is well.
	$wrong->set_clock(0);
	$wrong->write_keyring("*k1:$key\n");
	$wrong->reload;
	is($wrong->sql("SELECT access_token FROM conduit_vend('alice', '$id{soon}')"), $grant{soon}{access_token}, "$name key: with the right one it opens");
	$wrong->stop;
}

done_testing();
