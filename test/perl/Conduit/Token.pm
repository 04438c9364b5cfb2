package Conduit::Token;

=head1 NAME

Conduit::Token - JWTs for tests, by HS256

=head1 SYNOPSIS

  my $key = Conduit::Token->new;
  $cluster->sql("SELECT conduit_set_jwt_key('api', '" . $key->jwk . "')");
  my %headers = $key->bearer(sub => 'alice', role => 'authenticated');

=cut

use strict;
use warnings;
use Digest::SHA qw(hmac_sha256);
use JSON::PP ();
use MIME::Base64 qw(encode_base64url);

my $json = JSON::PP->new->utf8->canonical;

sub new
{
	my ($class) = @_;
	open(my $random, '<:raw', '/dev/urandom') or die "could not open /dev/urandom: $!";
	read($random, my $secret, 32) == 32 or die "could not read /dev/urandom";
	return bless { secret => $secret }, $class;
}

sub jwk { return $json->encode({ kty => 'oct', k => encode_base64url($_[0]{secret}) }); }

# Claims as they are given; exp is in an hour unless they say so.
sub sign
{
	my ($self, $claims, $header) = @_;
	my $text = join('.', map { encode_base64url($json->encode($_)) } { alg => 'HS256', typ => 'JWT', %{ $header // {} } }, { exp => time + 3600, %$claims });
	return $text . '.' . encode_base64url(hmac_sha256($text, $self->{secret}));
}

sub bearer
{
	my ($self, %claims) = @_;
	return (Authorization => 'Bearer ' . $self->sign(\%claims));
}

1;
