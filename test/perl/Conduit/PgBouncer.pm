package Conduit::PgBouncer;

=head1 NAME

Conduit::PgBouncer - a PgBouncer in transaction mode in front of servers

=head1 SYNOPSIS

  my $bouncer = Conduit::PgBouncer->start($cluster->node, 'app');
  my $rest = Conduit::PostgREST->start($cluster->node, 'app', $bouncer->place);

  my $pool = Conduit::PgBouncer->pool('app = host=127.0.0.2,127.0.0.3 port=5433 dbname=app');
  $cluster->sql('SELECT 1', connstr => $pool->connstr('app'));

C<start> lets user C<authenticator> into one database.  All clients share one
session of the server, so that each finds what the one before has left.  C<pool>
takes the lines of section [databases] as they are, and lets in who runs the
tests.  Both end with the object.

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
	return $class->pool("$database = host=@{[ $node->host ]} port=@{[ $node->port ]} dbname=$database",
		user => 'authenticator', default_pool_size => 1);
}

sub pool
{
	my ($class, $databases, %settings) = @_;
	my ($program) = grep { -x } map { "$_/pgbouncer" } split(/:/, $ENV{PATH}), '/usr/sbin';
	croak 'pgbouncer is not installed' unless $program;
	my $dir = PostgreSQL::Test::Utils::tempdir('pgbouncer');
	my $holder = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1', LocalPort => 0) or croak "no port: $!";
	my $self = bless { owner => $$, dir => $dir, port => $holder->sockport }, $class;
	my $me = getpwuid($>);

	close $holder;
	append_to_file("$dir/users", qq{"@{[ delete $settings{user} // $me ]}" ""\n});
	$self->{settings} = <<"INI" . join('', map { "$_ = $settings{$_}\n" } sort keys %settings);
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $self->{port}
unix_socket_dir =
auth_type = trust
auth_file = $dir/users
admin_users = $me
pool_mode = transaction
logfile = $dir/log
ignore_startup_parameters = extra_float_digits
INI
	$self->_write($databases);
	$self->{run} = IPC::Run::start([ $program, "$dir/pgbouncer.ini" ], '<', \undef, '>', "$dir/out", '2>', "$dir/err");
	for (1 .. 300)
	{
		return $self if IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->{port});
		last unless $self->{run}->pumpable;
		usleep(100_000);
	}
	croak 'PgBouncer did not start: ' . slurp_file("$dir/err");
}

sub _write
{
	my ($self, $databases) = @_;

	unlink "$self->{dir}/pgbouncer.ini";
	append_to_file("$self->{dir}/pgbouncer.ini", "[databases]\n$databases\n$self->{settings}");
	return;
}

# Options of Conduit::PostgREST->start(): there are no prepared statements, and LISTEN is of no use.
sub place { return (host => '127.0.0.1', port => $_[0]{port}, prepared => 0, listen => 0); }

sub connstr
{
	my ($self, $database) = @_;
	return "host=127.0.0.1 port=$self->{port} dbname=$database";
}

# Other lines of section [databases], put in force as an administrator would; the node lends its psql.
sub databases
{
	my ($self, $node, $databases) = @_;

	$self->_write($databases);
	$node->psql('pgbouncer', 'RELOAD', connstr => $self->connstr('pgbouncer'), on_error_die => 1);
	return;
}

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
