# A tenant that moves to another cluster, by the commands of docs/scaling.md: its
# credentials are good there, gone here, and revoked nowhere.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Conduit::Cluster;
use Conduit::Provider;
use File::Temp ();
use IPC::Run ();
use JSON::PP ();
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Utils;
use Test::More;

my $provider = Conduit::Provider->start('scripted');
my %clusters = map { $_ => Conduit::Cluster->new($_) } qw(from to);
my ($from, $to) = @clusters{qw(from to)};
$_->connector('acme', token_url => $provider->url . '/token', revoke_url => $provider->url . '/revoke') foreach $from, $to;

my (%id, %grant);
foreach my $owner (qw(alice bob carol))
{
	foreach my $tenant ('t7', 't8')
	{
		my $key = "$tenant/$owner";

		($grant{$key}) = $provider->issue(1, expires_in => 3600);
		$grant{$key}{note} = "note of $key" x 2000;
		$id{$key} = $from->sql("SELECT conduit_create_connection('$owner', 'acme', 'account of $key', tenant => '$tenant')");
		$from->sql("SELECT conduit_store_credential('$id{$key}', NULL, \$json\$" . JSON::PP::encode_json($grant{$key}) . "\$json\$, tenant => '$tenant')");
	}
}

# A key pair of gpg's, in a home of its own with a short path: its agent's socket is there.
my $home = File::Temp->newdir('gpg-XXXXXX', TMPDIR => 1);
sub gpg
{
	my ($out, $err);
	IPC::Run::run([ 'gpg', '--homedir', "$home", '--batch', '--quiet', '--no-tty', '--pinentry-mode', 'loopback', '--passphrase', '', @_ ],
		'<', \undef, '>', \$out, '2>', \$err) or die "gpg @_: $err";
	return $out;
}
gpg('--quick-generate-key', 'move@example.org', 'rsa2048', 'cert', 'never');
my ($fingerprint) = gpg('--with-colons', '--list-keys') =~ /^fpr:+(\w+):/m;
gpg('--quick-add-key', $fingerprint, 'rsa2048', 'encr', 'never');
my %key = map { $_ => encode_base64(gpg("--$_", 'move@example.org'), '') } qw(export export-secret-keys);
IPC::Run::run([ 'gpgconf', '--homedir', "$home", '--kill', 'all' ]);

# The page's SQL, as it stands there.
my $page = slurp_file("$FindBin::RealBin/../../docs/scaling.md");
my %part = $page =~ /^<!-- (\w+) -->\n+```sql\n(.*?)^```$/msg;
my $file = PostgreSQL::Test::Utils::tempdir() . '/moved.csv';
sub part
{
	my ($name, %variables) = @_;
	my $sql = ($part{$name} // die "the page has no part $name") =~ s{moved\.csv}{$file}gr;

	return join('', map { "\\set $_ '$variables{$_}'\n" } sort keys %variables) . $sql;
}
sub run_part
{
	my ($cluster, $name, %variables) = @_;

	return $cluster->sql(part($name, %variables));
}

run_part($from, 'pause');
ok($from->poll(q{SELECT paused = 'disabled' AND in_flight = 0 AND parked = 0 FROM conduit_health()}), 'refreshing is paused where the tenant was');
run_part($from, 'export', public_key => $key{export});
unlike(slurp_file($file), qr/\Q$grant{"t7\/$_"}{refresh_token}\E/, "what is carried is sealed ($_)") foreach qw(alice bob carol);

# With little memory, and held up where the last one is to be opened: what a sort has by then it has written.
my $holder = $to->wire;
$holder->query('SELECT pg_advisory_lock(1)');
$to->sql(<<'SQL');
CREATE SCHEMA held;
CREATE SEQUENCE held.opened;
DO $do$
BEGIN
	EXECUTE format($create$
		CREATE FUNCTION held.pgp_pub_decrypt_bytea(bytea, bytea) RETURNS bytea LANGUAGE plpgsql AS $$
		BEGIN
			IF nextval('held.opened') = 3 THEN
				PERFORM pg_advisory_lock(1);
			END IF;
			RETURN %s($1, $2);
		END
		$$
	$create$, 'pgp_pub_decrypt_bytea(bytea, bytea)'::regprocedure::regproc);
END
$do$;
SQL
my $script = PostgreSQL::Test::Utils::tempdir() . '/import.sql';
append_to_file($script, "SET work_mem = '64kB'; SELECT set_config('search_path', 'held,' || current_setting('search_path'), false) \\g /dev/null\n"
	. part('import', private_key => $key{'export-secret-keys'}));
my ($out, $err) = ('', '');
my $import = IPC::Run::start([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', $to->node->connstr('app'), '-f', $script ], '<', \undef, '>', \$out, '2>', \$err);
ok($to->poll(q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}), 'they are being opened');
is($to->sql(q{SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pgp_pub_decrypt_bytea(message%' AND pid <> pg_backend_pid()}), 0, 'a statement with a key that nobody is shown');
my @written = glob($to->node->data_dir . '/base/pgsql_tmp/*');
is(scalar(grep { slurp_file($_) =~ /note of t7/ } @written), 0, 'with nothing in clear');
$holder->query('SELECT pg_advisory_unlock_all()');
$import->finish or die "the import failed: $err";
my %new = $out =~ /^([-0-9a-f]{36})\|([-0-9a-f]{36})\|$/mg;
is(join(' ', sort keys %new), join(' ', sort map { $id{"t7/$_"} } qw(alice bob carol)), 'the tenant\'s connections are taken over, and no others');
run_part($from, 'delete');

foreach my $owner (qw(alice bob carol))
{
	my $old = $id{"t7/$owner"};

	is($to->sql("SELECT access_token FROM conduit_vend('$owner', '$new{$old}', tenant => 't7')"), $grant{"t7/$owner"}{access_token}, "$owner: vended there");
	is($to->sql("SELECT generation FROM conduit_refresh('$owner', '$new{$old}', tenant => 't7')"), 2, 'and refreshed');
	is($to->sql("SELECT conduit_find_connection('$owner', 'acme', tenant => 't7')"), $new{$old}, 'found by owner');
	like($from->error("SELECT conduit_vend('$owner', '$old', tenant => 't7')"), qr/^PT404\|/, 'and unknown here');
	is($from->sql("SELECT generation FROM conduit_refresh('$owner', '$id{qq{t8/$owner}}', tenant => 't8')"), 2, 'where another tenant goes on');
}
is($from->sql('SELECT queued_revocations FROM conduit_health()'), 0, 'nothing waits to be revoked');
is($provider->counts('/revoke')->{total}, 0, 'and nothing was');
is($provider->counts->{reuse}, 0, 'no refresh token was used twice');
is($from->sql(q{SELECT count(*) FROM conduit_events_after(0, tenant => 't7') WHERE kind = 'exported'}), 3, 'the events tell who took them');

done_testing();
