# The example application, as its one command starts it, driven in a browser:
# test/browser/nextjs.js tells the story and looks for tokens.  Here it is
# started and stopped, and the servers' logs are looked through.
use strict;
use warnings;
use Cwd qw(abs_path);
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Conduit::Provider;
use HTTP::Tiny;
use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $root = abs_path("$FindBin::RealBin/../..");
my $http = HTTP::Tiny->new(proxy => undef, http_proxy => undef, https_proxy => undef);
my ($bindir) = run_command([ 'pg_config', '--bindir' ]);

# All of it, by the one command.
my $port = PostgreSQL::Test::Cluster::get_free_port();
local $ENV{PORT} = $port;
local $ENV{PG_CONFIG} = "$bindir/pg_config";
my ($said, $complained) = ('', '');
# A shell cannot trap what it was started to ignore, as it is in the background of another.
local $SIG{INT} = 'DEFAULT';
my $start = IPC::Run::start([ "$root/examples/nextjs/start.sh" ], '<', \'', '>', \$said, '2>', \$complained,
	my $timer = IPC::Run::timeout(900));
eval { $start->pump until $said =~ /Ctrl-C stops/ };
if ($said !~ /Ctrl-C stops/)
{
	eval { $start->kill_kill };
	BAIL_OUT("start.sh: $@\n$said\n$complained");
}

my %fact = $said =~ /^    (provider|service|PostgREST|logs) +(\S+)$/mg;
my ($place) = $fact{logs} =~ m{^(/.*)/\*\.log$};
my $app = "http://localhost:$port";
like($said, qr/Open .*\Q$app\E/, 'start.sh starts everything');

# What must not be seen, of what the application itself knows.
my %setting = slurp_file("$place/build/examples/nextjs/.env.production") =~ /^(\w+)=(.*)$/mg;
like($setting{CONDUIT_API_KEY}, qr/^cdt_\w+/, 'the application has an API key');
my @secrets = @setting{qw(CONDUIT_API_KEY SESSION_PASSWORD OIDC_CLIENT_SECRET)};

# The story; the browser's driver is as the lock file has it.
Conduit::Provider->ensure_modules('browser');
my $images = $ENV{CONDUIT_SCREENSHOTS};
my $facts = JSON::PP->new->utf8->encode({
	app => $app, issuer => $fact{provider}, files => $fact{service}, secrets => \@secrets, images => $images,
	executable => $ENV{CHROMIUM} // '/usr/bin/chromium', sandbox => JSON::PP::false });
my ($story, $story_errors) = ('', '');
eval {
	IPC::Run::run([ 'node', "$root/test/browser/nextjs.js" ], '<', \$facts, '>', \$story, '2>', \$story_errors, IPC::Run::timeout(400));
};
my $told = '';
foreach my $line (split /\n/, $story)
{
	if ($line =~ /^(not )?ok - (.*)/) { ok(!$1, $2); }
	elsif ($line =~ /^#/) { diag(substr($line, 0, 400)); }
	else { $told = $line; }
}
is($told, 'done', 'the story was told to its end') or diag(substr($story_errors, -2000));

# The key cannot vend, whoever has it.
my $vend = $http->post("$fact{PostgREST}/rpc/conduit_vend", {
	headers => { 'content-type' => 'application/json', 'x-conduit-key' => $setting{CONDUIT_API_KEY}, 'x-conduit-owner' => 'alice' },
	content => '{"connection_id": "00000000-0000-0000-0000-000000000000"}' });
is($vend->{status}, 403, 'the application\'s key is not good for vending');

# The servers' logs.
my $issued = JSON::PP::decode_json($http->get("$fact{provider}/control/secrets")->{content});
my $links = JSON::PP::decode_json($http->get("$fact{service}/control/links")->{content});
my @tokens = map { @$_ } values %$issued;
cmp_ok(scalar @tokens, '>', 10, 'tokens and codes were handed out');
foreach my $name (qw(app postgrest postgresql))
{
	my $log = slurp_file("$place/$name.log") . (-f "$place/$name.out" ? slurp_file("$place/$name.out") : '');
	my @seen = grep { index($log, $_) >= 0 } @tokens, @secrets, @$links;
	is(scalar @seen, 0, "none of them, and no secret, is in the log of $name");
}

# Ctrl-C.
$start->signal('INT');
eval { $start->finish };
ok(!-e $place, 'Ctrl-C leaves nothing');
is($http->get($app)->{status}, 599, 'and nobody listens');

done_testing();
