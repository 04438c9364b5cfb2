# What the documentation says of functions, settings and files is so.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use File::Basename qw(dirname);
use PostgreSQL::Test::Utils;
use Test::More;

use Conduit::Cluster;

my $top = "$FindBin::RealBin/../..";
my $reference = slurp_file("$top/docs/reference.md");
my $cluster = Conduit::Cluster->new('documentation', settings => "conduit.egress_allow = ''\n");

is(system($^X, "$top/docs/reference.pl", '--check'), 0, 'docs/reference.md has the COMMENTs of sql/; else run docs/reference.pl');
is(system($^X, "$top/docs/catalogue.pl", '--check'), 0, 'docs/catalogue.md has the rows of sql/catalogue.json, which is in its form; else run docs/catalogue.pl');

subtest 'functions' => sub {
	my %documented = map { $_ => 1 } $reference =~ /^#### (\w+)$/mg;
	my @existing = split /\n/, $cluster->sql(q{
		SELECT p.proname FROM pg_proc p JOIN pg_extension e ON e.extname = 'conduit' AND e.extnamespace = p.pronamespace
		WHERE p.proname LIKE 'conduit\_%' ORDER BY 1});
	cmp_ok(scalar @existing, '>', 20, 'there are functions');
	is_deeply([ sort keys %documented ], \@existing, 'the reference has them all and no others');

	# what is named elsewhere exists: there, in facades alone, or as a channel
	my %known = map { $_ => 1 } @existing, qw(conduit_events conduit_needs_reauth conduit_token);
	foreach my $file (glob("$top/*.md $top/docs/*.md"))
	{
		my %unknown = map { $_ => 1 } grep { !$known{$_} } slurp_file($file) =~ /\b(conduit_[a-z_]+)\b(?=\()/g;
		is_deeply([ sort keys %unknown ], [], substr($file, length($top) + 1) . ' names functions that exist');
	}
};

subtest 'settings' => sub {
	my %documented;
	while ($reference =~ /^\| `(conduit\.\w+)` \| ([^|]*?) ?\| (\w+) \|/mg)
	{
		$documented{$1} = "$2|$3";
	}
	my %context = (sighup => 'reload', user => 'user', superuser => 'superuser', postmaster => 'restart');
	my @rows = split /\n/, $cluster->sql(q{
		SELECT name || '|' || context || '|' || COALESCE(boot_val, '') || '|' || COALESCE(unit, '') FROM pg_settings WHERE name LIKE 'conduit.%'});
	my %existing;
	foreach my $row (@rows)
	{
		my ($name, $context, $value, $unit) = split /\|/, $row, -1;
		$existing{$name} = in_words($value, $unit) . "|$context{$context}";
	}
	is_deeply(\%documented, \%existing, 'the reference has them all, with default and context');
};

# As SHOW has it, in units that leave no fraction.
sub in_words
{
	my ($value, $unit) = @_;
	return $value if $unit eq '' || $value eq '0';
	return "$value$unit" unless $unit eq 's' || $unit eq 'ms';
	if ($unit eq 'ms')
	{
		return "${value}ms" if $value % 1000;
		$value /= 1000;
	}
	foreach my $step ([ d => 86400 ], [ h => 3600 ], [ min => 60 ])
	{
		return $value / $step->[1] . $step->[0] if $value % $step->[1] == 0;
	}
	return "${value}s";
}

subtest 'known errors of providers' => sub {
	my @rows = slurp_file("$top/src/provider/known_error.c") =~ /\{SIGNAL_(\w+), "([^"]+)", OUTCOME_(\w+)/g;
	my ($outcomes) = $reference =~ /^## Outcomes and next attempts\n(.*?)^## /ms;
	my %quoted = (CODE => '`%s`', PHRASE => '"%s"', AADSTS => '%s', STATUS => '%s');

	cmp_ok(scalar @rows, '>', 150, 'there are such');
	while (my ($signal, $text, $class) = splice(@rows, 0, 3))
	{
		my $what = sprintf $quoted{$signal}, $text;
		my $pattern = $signal eq 'STATUS' ? qr/^\|[^|]*\Q$what\E\b[^|]*\| \L$class\E \|/m : qr/^\| \L$class\E\b.*(?<![\w`"])\Q$what\E(?![\w`"])/m;
		like($outcomes, $pattern, "$what is \L$class");
	}
};

subtest 'errors' => sub {
	my $source = slurp_file("$top/src/base/report.c");
	my @messages = $source =~ /(?:HTTP_STATE|MAKE_SQLSTATE)\([^)]*\),\s*"([^"]*)"/g;
	cmp_ok(scalar @messages, '>', 10, 'there are messages');
	like($reference, qr/^\| \w{5} \| \Q$_\E \|/m, $_) for @messages;
};

subtest 'fields of connectors' => sub {
	my @known = slurp_file("$top/src/provider/connector.c") =~ /^\t\{"(\w+)", [A-Z| ]+, \w+/mg;
	cmp_ok(scalar @known, '>', 80, 'there are fields');
	my %documented;
	foreach my $names (slurp_file("$top/docs/connectors.md") =~ /^\| ((?:`\w+`(?:, )?)+) \| (?:all|code|client|jwt|renew|token)\b/mg)
	{
		$documented{$_}++ for $names =~ /`(\w+)`/g;
	}
	is_deeply([ sort keys %documented ], [ sort @known, 'extends' ], 'docs/connectors.md has a row for each of them and for no other');
	is_deeply([ grep { $documented{$_} > 1 } sort keys %documented ], [], 'and one only');
};

# docs/connectors.md as a reader would type it, from top to bottom: what is SQL
# succeeds, what has a prompt ends in the error that is shown.
subtest 'examples of connectors' => sub {
	my $session = $cluster->session;
	my $text = slurp_file("$top/docs/connectors.md");
	my ($statements, $errors) = (0, 0);

	my $run = sub {
		my ($sql) = @_;
		my $allowed = $session->query('SHOW conduit.egress_allow');
		$session->query($sql);
		my $error = $session->error =~ s/^psql:[^:]*:\d+: //mgr;
		if ($sql =~ /pg_reload_conf/)
		{
			my $patience = 10000;
			1 while $session->query('SHOW conduit.egress_allow') eq $allowed && $patience-- > 0;
			die 'the configuration was not read again' if $patience < 0;
		}
		return $error;
	};
	$session->query('\set VERBOSITY default');
	while ($text =~ /^```(sql)?\n(.*?)^```$|^\| `(\w+)` \| DETAIL \|\n\|[-|]*\n((?:\|[^\n]*\n)+)/msg)
	{
		my ($sql, $block, $field, $rows) = ($1, $2, $3, $4);
		if (defined $field)
		{
			foreach my $row (split /\n/, $rows)
			{
				my ($value, $detail) = $row =~ /^\| `(.*)` \| `(.*)` \|$/ or die $row;
				like($run->(qq{SELECT conduit_register_connector('x', '{"extends": "acme", "$field": "$value"}');}), qr/^DETAIL:  \Q$detail\E$/m, "$field $value");
				$errors++;
			}
		}
		elsif ($sql)
		{
			is($run->($block), '', 'runs: ' . substr($block =~ s/\s+/ /gr, 0, 70));
			$statements++;
		}
		else
		{
			foreach my $example (split /^=# /m, $block =~ s/^\n//mgr)
			{
				next unless $example =~ /\A(.*?;)\n(ERROR: .*)\z/s;
				is($run->($1), $2, "error: $1");
				$errors++;
			}
		}
	}
	cmp_ok($statements, '>', 20, 'there are statements');
	cmp_ok($errors, '>', 30, 'there are errors');
	$session->quit;
};

subtest 'links' => sub {
	foreach my $file (glob("$top/*.md $top/docs/*.md $top/bench/*.md $top/test/*.md $top/test/provider/*.md"))
	{
		my $text = slurp_file($file);
		my @broken;
		while ($text =~ /\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)/g)
		{
			my ($name, $anchor) = ($1, $2);
			my $target = $name eq '' ? $file : dirname($file) . "/$name";
			if (!-e $target)
			{
				push @broken, $name;
				next;
			}
			next unless defined $anchor;
			my %anchors = map { s/[^\w\- ]//gr =~ tr/ A-Z/-a-z/r => 1 } slurp_file($target) =~ /^#+ (.*)$/mg;
			push @broken, "$name#$anchor" unless $anchors{$anchor};
		}
		is_deeply(\@broken, [], substr($file, length($top) + 1));
	}
};

done_testing();
