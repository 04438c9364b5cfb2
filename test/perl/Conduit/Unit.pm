# A server with the module of test/unit in it, for tests by tables.
#
#   my $unit = Conduit::Unit->new('name', qw(unit_connector.sql));
#   $unit->check_all('title', [ 'case', 'an SQL expression', 'its text' ], [ 'case', 'expression', qr/pattern/ ]);
#
# try(statement) is an SQL function: "ok " and the answer, or the error as
# "SQLSTATE message / detail".

package Conduit::Unit;

use strict;
use warnings;

use Exporter qw(import);
use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT_OK = qw(bytes literal);

my $unit = "$FindBin::RealBin/../unit";

# The module's SQL functions are made from files of test/unit.
sub new
{
	my ($class, $name, @files) = @_;
	my $module = $ENV{CONDUIT_UNIT_MODULE} // "$unit/conduit_unit.so";
	die "$module is missing: run make in test/unit" unless -f $module;

	my $node = PostgreSQL::Test::Cluster->new($name);
	$node->init(extra => [ '--encoding=UTF8', '--locale=C' ]);
	$node->append_conf('postgresql.conf', "shared_preload_libraries = '$module'\nlog_statement = none\n");
	$node->start;
	$node->safe_psql('postgres', slurp_file("$unit/$_"), extra_params => [ '-v', "module=$module" ]) for @files;
	$node->safe_psql('postgres', q{
CREATE FUNCTION try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text;
	message text;
	detail text;
BEGIN
	EXECUTE statement INTO answer;
	RETURN 'ok ' || answer;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
	RETURN SQLSTATE || ' ' || message || ' / ' || detail;
END $$});
	return bless { node => $node }, $class;
}

sub node { return $_[0]{node}; }

# Literals of SQL.
sub literal
{
	my ($text) = @_;
	$text =~ s/'/''/g;
	return "'$text'";
}

sub bytes { return q{'\x} . unpack('H*', $_[0]) . q{'}; }

# Evaluates many expressions in one session; one line of answer each.
sub evaluate
{
	my ($self, @expressions) = @_;
	my $out = $self->{node}->safe_psql('postgres', join("\n", map { "SELECT $_;" } @expressions));
	return split /\n/, $out, -1;
}

# Cases of [ name, expression, expected ]; expected may be a pattern.
sub check_all
{
	my ($self, $title, @cases) = @_;
	subtest $title => sub {
		my @answers = $self->evaluate(map { $_->[1] } @cases);
		is(scalar @answers, scalar @cases, 'every case has an answer');
		for my $i (0 .. $#cases)
		{
			my ($name, undef, $expected) = @{ $cases[$i] };
			if (ref $expected) { like($answers[$i], $expected, $name); }
			else { is($answers[$i], $expected, $name); }
		}
	};
	return;
}

sub set_conf
{
	my ($self, $name, $value) = @_;
	$self->{node}->safe_psql('postgres', "ALTER SYSTEM SET $name = '$value'");
	$self->{node}->reload;
	$self->{node}->poll_query_until('postgres', "SELECT current_setting('$name') = '$value'")
	  or die "$name did not change";
	return;
}

1;
