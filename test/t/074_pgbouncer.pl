# A facade behind PostgREST behind PgBouncer, where each transaction may have
# another session: nothing of one request may be found by the next.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Conduit::Cluster;
use Conduit::PostgREST;
use Conduit::Token;
use IO::Socket::INET;
use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my ($pgbouncer) = grep { -x } map { "$_/pgbouncer" } split(/:/, $ENV{PATH}), '/usr/sbin';
die 'pgbouncer is not installed' unless $pgbouncer;

my $cluster = Conduit::Cluster->new('main');
my $key = Conduit::Token->new;
$cluster->connector('acme', token_url => 'http://127.0.0.1:1/token');
$cluster->sql(qq{
	CREATE ROLE anon; CREATE ROLE authenticated; CREATE ROLE authenticator LOGIN NOINHERIT; GRANT anon, authenticated TO authenticator;
	CREATE SCHEMA api; GRANT USAGE ON SCHEMA api TO anon, authenticated;
	SELECT conduit_expose('api'); SELECT conduit_set_jwt_key('api', '@{[ $key->jwk ]}')});
my %id = map { $_ => $cluster->connection($_, 'acme', { access_token => "token-of-$_", expires_in => 3600 }) } qw(alice bob);
my %api_key = map { $_ => $cluster->sql("SELECT api_key FROM conduit_create_api_key('$_', 'k', '{*}')") } qw(alice bob);

my $dir = PostgreSQL::Test::Utils::tempdir('pgbouncer');
my $holder = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1', LocalPort => 0) or die "no port: $!";
my $port = $holder->sockport;
close $holder;
append_to_file("$dir/users", qq{"authenticator" ""\n});
append_to_file("$dir/pgbouncer.ini", <<"INI");
[databases]
app = host=@{[ $cluster->node->host ]} port=@{[ $cluster->node->port ]} dbname=app
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $port
unix_socket_dir =
auth_type = trust
auth_file = $dir/users
pool_mode = transaction
default_pool_size = 1
logfile = $dir/log
ignore_startup_parameters = extra_float_digits
INI
my $bouncer = IPC::Run::start([ $pgbouncer, "$dir/pgbouncer.ini" ], '<', \undef, '>', "$dir/out", '2>', "$dir/err");
my $up = 0;
for (1 .. 300)
{
	last if $up = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port);
	usleep(100_000);
}
ok($up, 'PgBouncer listens');
my $rest = Conduit::PostgREST->start($cluster->node, 'app', host => '127.0.0.1', port => $port, prepared => 0, listen => 0, jwt_secret => $key->jwk);

foreach my $round (1 .. 3)
{
	foreach my $owner (qw(alice bob))
	{
		my $other = $owner eq 'alice' ? 'bob' : 'alice';
		my @backend = ('X-Conduit-Key' => $api_key{$owner});
		my @browser = $key->bearer(sub => $owner, role => 'authenticated');
		is($rest->post('conduit_vend', { connection_id => $id{$owner} }, @backend)->{json}{access_token}, "token-of-$owner", "$owner vends");
		is($rest->get('conduit_vend', { connection_id => $id{$owner} })->{status}, 401, 'and nobody after it');
		is($rest->post('conduit_vend', { connection_id => $id{$other} }, @backend)->{status}, 404, 'not what is another\'s');
		is($rest->get('conduit_get_connection', { connection_id => $id{$owner} }, @browser)->{json}{owner}, $owner, "$owner looks");
		is($rest->get('conduit_list_connections')->{status}, 401, 'and nobody after it');
		is($rest->post('conduit_vend', { connection_id => $id{$owner} }, @browser)->{status}, 403, 'a browser is no backend');
		is($rest->get('conduit_vend', { connection_id => $id{$owner} }, @backend)->{headers}{'cache-control'}, 'no-store', 'no cache keeps it');
	}
}
is($cluster->sql(q{SELECT count(DISTINCT pid) FROM pg_stat_activity WHERE usename = 'authenticator'}), '1', 'all by one session');
$rest->stop;
$bouncer->signal('TERM');
$bouncer->finish;
done_testing();
