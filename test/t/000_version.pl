# The version is the same wherever it stands, and what the library exports is
# what the SQL asks for.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use Conduit::Cluster;

my $top = "$FindBin::RealBin/../..";
my ($version) = slurp_file("$top/conduit.control") =~ /^default_version\s*=\s*'([^']*)'/m;
like($version, qr/^\d+\.\d+\.\d+$/, 'conduit.control has a version');

# A file at the top of the repository, '' if it is missing.
sub contents
{
	my ($name) = @_;
	return -f "$top/$name" ? slurp_file("$top/$name") : '';
}

my $cluster = Conduit::Cluster->new('version');

subtest 'versions' => sub {
	is($cluster->sql('SELECT library_version FROM conduit_health()'), $version, 'the library');
	is($cluster->sql('SELECT version FROM conduit_health()'), $version, 'as the extension tells');
	is($cluster->sql(q{SELECT extversion FROM pg_extension WHERE extname = 'conduit'}), $version, 'the extension');
	is($cluster->sql(q{SELECT default_version FROM pg_available_extensions WHERE name = 'conduit'}), $version, 'the installed control file');
	like(contents('CHANGELOG.md'), qr/^## (?:\[?\Q$version\E\b|Unreleased)/m, 'CHANGELOG.md');

	# It stands in two files, and these two are compared here.
	my @others = grep { index(slurp_file($_), $version) >= 0 } glob("$top/Makefile $top/src/*.c $top/src/*/*.[ch] $top/sql/[a-z]*.sql");
	@others = grep { !/conduit--/ } @others;
	is_deeply(\@others, [], 'no other source says it');
};

# The required fields of the PGXN Meta Spec 1.0.0.
subtest 'META.json' => sub {
	my $meta = eval { JSON::PP->new->utf8->decode(contents('META.json')) };
	is(ref $meta, 'HASH', 'it is JSON') or return;
	my $semver = qr/^(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)(?:-?[A-Za-z][0-9A-Za-z-]*)?$/;
	my $term = qr{^[^\s/\\[:cntrl:]]{2,}$};
	my %licenses = map { $_ => 1 } qw(agpl_3 apache_1_1 apache_2_0 artistic_1 artistic_2 bsd freebsd gfdl_1_2 gfdl_1_3 gpl_1 gpl_2 gpl_3
	  lgpl_2_1 lgpl_3_0 mit mozilla_1_0 mozilla_1_1 openssl perl_5 postgresql qpl_1_0 ssleay sun zlib open_source restricted unrestricted unknown);

	like($meta->{name}, $term, 'name');
	is($meta->{name}, 'conduit', 'which is the extension\'s');
	like($meta->{version}, $semver, 'version');
	is($meta->{version}, $version, 'which is the version');
	like($meta->{abstract}, qr/\S/, 'abstract');
	my $maintainers = ref $meta->{maintainer} ? $meta->{maintainer} : [ $meta->{maintainer} ];
	cmp_ok(scalar @$maintainers, '>', 0, 'maintainer');
	like($_, qr/\S/, 'a maintainer') for @$maintainers;
	my $license = $meta->{license};
	my @licenses = ref $license eq 'ARRAY' ? @$license : ref $license eq 'HASH' ? () : ($license);
	ok((ref $license eq 'HASH' && %$license) || (@licenses && !grep { !$licenses{$_} } @licenses), 'license');
	is($meta->{'meta-spec'}{version}, '1.0.0', 'meta-spec.version');

	my $provides = $meta->{provides};
	is(ref $provides, 'HASH', 'provides');
	ok($provides->{conduit}, 'conduit is provided');
	for my $name (sort keys %$provides)
	{
		my $extension = $provides->{$name};
		like($name, $term, "$name: its name");
		like($extension->{version}, $semver, "$name: version");
		ok(-f "$top/$extension->{file}", "$name: $extension->{file} is there");
		ok(!defined $extension->{docfile} || -f "$top/$extension->{docfile}", "$name: its documentation is there");
	}
	is($provides->{conduit}{version}, $version, 'in this version');

	for my $phase (values %{ $meta->{prereqs} // {} })
	{
		like($_, qr/^(?:requires|recommends|suggests|conflicts)$/, "prereqs: $_") for keys %$phase;
	}
	like($meta->{release_status} // 'stable', qr/^(?:stable|testing|unstable)$/, 'release_status');
};

subtest 'symbols' => sub {
	my $libdir = $cluster->node->config_data('--pkglibdir');
	my ($symbols) = run_command([ 'nm', '-D', '--defined-only', "$libdir/conduit.so" ]);
	my %exported = map { (split / /)[-1] => 1 } grep { / [TDBRVWi] / } split /\n/, $symbols;
	cmp_ok(scalar(keys %exported), '>', 30, 'the library exports symbols');
	my @foreign = grep { !/^(?:conduit_|pg_finfo_conduit_|Pg_magic_func$|_PG_init$|_init$|_fini$)/ } sort keys %exported;
	is_deeply(\@foreign, [], 'all of which are named after it');

	my @functions = split /\n/, $cluster->sql(q{
		SELECT p.prosrc FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
		JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
		JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'conduit'
		WHERE l.lanname = 'c' ORDER BY 1});
	cmp_ok(scalar @functions, '>', 20, 'there are functions in C');
	for my $function (@functions)
	{
		ok($exported{$function} && $exported{"pg_finfo_$function"}, "$function has its symbol");
	}
	my %wanted = map { ("pg_finfo_$_" => 1) } @functions;
	is_deeply([ grep { /^pg_finfo_/ && !$wanted{$_} } sort keys %exported ], [], 'and no symbol is without its function');
};

subtest 'the script' => sub {
	# every function has a comment of a summary, a blank line and a description
	my @bare = split /\n/, $cluster->sql(q{
		SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
		JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'conduit'
		WHERE p.proname LIKE 'conduit\_%' AND COALESCE(obj_description(p.oid, 'pg_proc'), '') !~ '^[^\n]+\.\n\n[^\n]+'});
	is_deeply(\@bare, [], 'all functions are described');
	my @overloads = split /\n/, $cluster->sql(q{SELECT proname FROM pg_proc WHERE proname LIKE 'conduit\_%' GROUP BY 1 HAVING count(*) > 1});
	is_deeply(\@overloads, [], 'none is overloaded');
	is($cluster->sql(q{SELECT string_agg(relname, ' ') FROM pg_class WHERE relnamespace = 'conduit'::regnamespace AND relkind = 'r'
		AND NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'conduit' AND pg_class.oid = ANY (extconfig))}), 'profile',
		'all tables are dumped but the profiles, which the script fills');
};

done_testing();
