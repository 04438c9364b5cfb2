package Conduit::PgBouncer;

=head1 NAME

Conduit::PgBouncer - a PgBouncer in transaction mode in front of a server

=head1 SYNOPSIS

  my $bouncer = Conduit::PgBouncer->start($cluster->node, 'app');
  my $rest = Conduit::PostgREST->start($cluster->node, 'app', $bouncer->place);

Lets user C<authenticator> into one database.  All clients share one session of
the server, so that each finds what the one before has left.  Ends with the
object.

=cut

use strict;
use warnings;

use Carp;
use IO::Socket::INET;
use IPC::Run ();
use PostgreSQL::Test::Utils;
use Time::HiRes qw(usleep);

sub start
{
	my ($class, $node, $database) = @_;
	my ($program) = grep { -x } map { "$_/pgbouncer" } split(/:/, $ENV{PATH}), '/usr/sbin';
	croak 'pgbouncer is not installed' unless $program;
	my $dir = PostgreSQL::Test::Utils::tempdir('pgbouncer');
	my $holder = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1', LocalPort => 0) or croak "no port: $!";
	my $self = bless { owner => $$, port => $holder->sockport }, $class;

	close $holder;
	append_to_file("$dir/users", qq{"authenticator" ""\n});
	append_to_file("$dir/pgbouncer.ini", <<"INI");
[databases]
$database = host=@{[ $node->host ]} port=@{[ $node->port ]} dbname=$database
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $self->{port}
unix_socket_dir =
auth_type = trust
auth_file = $dir/users
pool_mode = transaction
default_pool_size = 1
logfile = $dir/log
ignore_startup_parameters = extra_float_digits
INI
	$self->{run} = IPC::Run::start([ $program, "$dir/pgbouncer.ini" ], '<', \undef, '>', "$dir/out", '2>', "$dir/err");
	for (1 .. 300)
	{
		return $self if IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->{port});
		usleep(100_000);
	}
	croak 'PgBouncer did not start: ' . slurp_file("$dir/log");
}

# Options of Conduit::PostgREST->start(): there are no prepared statements, and LISTEN is of no use.
sub place { return (host => '127.0.0.1', port => $_[0]{port}, prepared => 0, listen => 0); }

sub stop
{
	my ($self) = @_;
	my $run = delete $self->{run} or return;

	$run->signal('TERM');
	$run->finish;
	return;
}

sub DESTROY
{
	my ($self) = @_;
	local ($?, $@);

	$self->stop if $self->{owner} == $$;
	return;
}

1;
