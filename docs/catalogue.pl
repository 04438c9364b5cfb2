#!/usr/bin/perl
# Brings sql/catalogue.json into its one form, and writes the table of
# docs/catalogue.md from it, so that the two say the same.
#
#   perl docs/catalogue.pl            rewrite them
#   perl docs/catalogue.pl --check    exit with 1 if one is out of date
#
# The form: slugs sorted, a field a line, fields in the order of the tables of
# docs/connectors.md, members of objects sorted, a variable of params a line.
use strict;
use warnings;
use FindBin;
use JSON::PP ();

my $top = "$FindBin::RealBin/..";
my $data = "$top/sql/catalogue.json";
my $page = "$top/docs/catalogue.md";
my ($begin, $end) = ('<!-- connectors: made by docs/catalogue.pl -->', '<!-- end of connectors -->');
my $scalars = JSON::PP->new->allow_nonref->ascii;

sub slurp
{
	my ($name) = @_;
	open my $in, '<', $name or die "$name: $!\n";
	local $/;
	return scalar <$in>;
}

my $catalogue = JSON::PP->new->utf8->decode(slurp($data));

# ---- the form of the data ----

# The fields that the reference has, in its order: rows of field and who.
my %position;
foreach my $line (split /\n/, slurp("$top/docs/connectors.md"))
{
	my ($names) = $line =~ /^\| ((?:`[a-z_]+`(?:, )?)+) \| (?:all|code|client|jwt|renew|token)\b/ or next;
	$position{$_} //= keys %position for $names =~ /`([a-z_]+)`/g;
}
# What the data says of a row rather than of the provider.
$position{retired} = $position{extends} + 0.5;

sub written
{
	my ($value, @first) = @_;
	if (ref $value eq 'HASH')
	{
		my %rank = map { $first[$_] => $_ } 0 .. $#first;
		my @keys = sort { ($rank{$a} // @first) <=> ($rank{$b} // @first) || $a cmp $b } keys %$value;
		return '{' . join(', ', map { $scalars->encode($_) . ': ' . written($value->{$_}) } @keys) . '}';
	}
	return '[' . join(', ', map { written($_) } @$value) . ']' if ref $value eq 'ARRAY';
	return $scalars->encode($value);
}

sub field
{
	my ($name, $value) = @_;
	return "\t\t\"$name\": " . written($value) if $name ne 'params' || ref $value ne 'HASH';
	my @variables = map { "\t\t\t\"$_\": " . written($value->{$_}, qw(pattern default description)) } sort keys %$value;
	return "\t\t\"params\": {\n" . join(",\n", @variables) . "\n\t\t}";
}

my @rows;
foreach my $slug (sort keys %$catalogue)
{
	my $row = $catalogue->{$slug};
	my @unknown = grep { !defined $position{$_} } sort keys %$row;
	die "sql/catalogue.json: $slug has fields that docs/connectors.md does not know: @unknown\n" if @unknown;
	my @fields = sort { $position{$a} <=> $position{$b} } keys %$row;
	push @rows, "\t\"$slug\": {\n" . join(",\n", map { field($_, $row->{$_}) } @fields) . "\n\t}";
}
my $new_data = "{\n" . join(",\n", @rows) . "\n}\n";

# ---- the table ----

# A row with what it extends.
sub whole
{
	my ($row) = @_;
	my %fields = (defined $row->{extends} ? %{ whole($catalogue->{ $row->{extends} }) } : (), %$row);
	return \%fields;
}

sub duration
{
	my ($seconds) = @_;
	foreach my $unit ([ 86400, 'd' ], [ 3600, 'h' ], [ 60, 'min' ])
	{
		return $seconds / $unit->[0] . " $unit->[1]" if $seconds % $unit->[0] == 0;
	}
	return "$seconds s";
}

my $table = "| slug | name | type | token endpoint | client | rotates | revocation | rate limit |\n|---|---|---|---|---|---|---|---|\n";
foreach my $slug (sort keys %$catalogue)
{
	my $row = whole($catalogue->{$slug});
	my $code = $row->{auth_type} eq 'oauth2_code';
	my ($host) = ($row->{refresh_url} // $row->{token_url} // '') =~ m{^https://([^/?]+)};
	my $client = !defined $host ? undef : $row->{auth_type} eq 'jwt_bearer' ? undef : $row->{client_auth} // 'post';
	my $rotates = !$code ? undef : !defined $row->{refresh_rotates} || $row->{refresh_rotates} ? 'yes' : 'no';
	my $revocation = !$code ? undef : defined $row->{revoke_url} ? lc($row->{revokes} // 'grant') : 'no';
	my $limit = defined $row->{rate_limit_requests} ? "$row->{rate_limit_requests} in " . duration($row->{rate_limit_window_s}) : undef;
	my $name = $row->{name} . ($row->{retired} ? ', retired' : '');
	my @cells = ("`$slug`", $name, "`$row->{auth_type}`", defined $host ? "`$host`" : undef,
		defined $client ? "`$client`" : undef, $rotates, $revocation, $limit);
	$table .= '| ' . join(' | ', map { $_ // "\x{e2}\x{80}\x{93}" } @cells) . " |\n";
}
my $count = keys %$catalogue;
my $old_page = slurp($page);
(my $new_page = $old_page) =~ s/\Q$begin\E.*?\Q$end\E/$begin\n$count connectors.\n\n$table\n$end/s or die "$page has no place for the connectors\n";

my @stale = grep { slurp($_->[0]) ne $_->[1] } ([ $data, $new_data ], [ $page, $new_page ]);
if (@ARGV && $ARGV[0] eq '--check')
{
	print STDERR "$_->[0] is out of date\n" for @stale;
	exit(@stale ? 1 : 0);
}
foreach my $file (@stale)
{
	open my $out, '>', $file->[0] or die "$file->[0]: $!\n";
	print $out $file->[1];
	close $out or die "$file->[0]: $!\n";
}
