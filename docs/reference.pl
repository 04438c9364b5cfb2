#!/usr/bin/perl
# Writes the functions' part of docs/reference.md from the COMMENTs in sql/, so
# that the two say the same.
#
#   perl docs/reference.pl            rewrite it
#   perl docs/reference.pl --check    exit with 1 if it is out of date
use strict;
use warnings;
use FindBin;

my $top = "$FindBin::RealBin/..";
my $file = "$top/docs/reference.md";
my ($begin, $end) = ('<!-- functions: made by docs/reference.pl -->', '<!-- end of functions -->');

sub slurp
{
	my ($name) = @_;
	open my $in, '<', $name or die "$name: $!\n";
	local $/;
	return scalar <$in>;
}

# Parts of the extension script with functions, and what they are about.
my @parts = (
	[ connector  => 'Connectors' ],
	[ client     => 'Clients' ],
	[ connection => 'Connections' ],
	[ credential => 'Storing and vending' ],
	[ bulk       => 'Many at once' ],
	[ authorize  => 'Authorizing' ],
	[ refresh    => 'Refreshing' ],
	[ rate       => 'Rate limits' ],
	[ request    => 'Calling APIs' ],
	[ event      => 'Events' ],
	[ health     => 'Health' ],
	[ session    => 'Sessions' ],
	[ api_key    => 'API keys' ],
	[ identity   => 'Who is asking' ],
	[ facade     => 'Facades' ],
	[ key        => 'Keys' ],
	[ profile    => 'Rights' ]);
my %title = map { @$_ } @parts;

# A part with functions that is not listed above would go unnoticed.
foreach my $part (glob("$top/sql/*.sql"))
{
	my ($name) = $part =~ m{([^/]+)\.sql$};
	die "docs/reference.pl does not know sql/$name.sql\n"
	  if !$title{$name} && $name !~ /^conduit--/ && slurp($part) =~ /^CREATE FUNCTION \@extschema\@/m;
}

my $text = '';
foreach my $part (map { $_->[0] } @parts)
{
	my $sql = slurp("$top/sql/$part.sql");
	my %profile = $sql =~ /^SELECT conduit\.settle_rights\('(\w+)', '(\w+)'\)/mg;

	$text .= "\n### $title{$part}\n";
	while ($sql =~ /^CREATE FUNCTION \@extschema\@\.(\w+)\((.*?)\)\s*(?:RETURNS\s+(.*?)\s+)?LANGUAGE/msg)
	{
		my ($name, $arguments, $returns) = ($1, $2, $3);
		my ($comment) = $sql =~ /^COMMENT ON FUNCTION \@extschema\@\.$name\([^)]*\) IS\s*'((?:[^']|'')*)';/ms
		  or die "$name has no comment\n";
		$comment =~ s/''/'/g;
		$arguments =~ s/\s+/ /g;
		my @columns;
		push @columns, $1 while $arguments =~ s/,? ?OUT (\w+ [^,]+)//;
		$arguments =~ s/^ //;
		$returns //= '';
		my $set = $returns =~ s/^SETOF // ? 'set of ' : '';
		$returns = @columns ? '(' . join(', ', @columns) . ')' : $returns;
		my $signature = "$name($arguments)";
		$signature .= "\n  -> $set$returns" if $returns ne 'void';
		$signature =~ s/(.{70,110}[,]) /$1\n     /g;

		my ($summary, $rest) = split /\n\n/, $comment, 2;
		$text .= "\n#### $name\n\n```\n$signature\n```\n\n$summary Profile: $profile{$name}.\n";
		$text .= "\n$_\n" for grep { /\S/ } split /\n/, $rest // '';
	}
}

my $old = slurp($file);
(my $new = $old) =~ s/\Q$begin\E.*?\Q$end\E/$begin\n$text\n$end/s or die "$file has no place for the functions\n";
exit($new eq $old ? 0 : 1) if @ARGV && $ARGV[0] eq '--check';
exit 0 if $new eq $old;
open my $out, '>', $file or die "$file: $!\n";
print $out $new;
close $out or die "$file: $!\n";
