package Conduit::Wire;

=head1 NAME

Conduit::Wire - the frontend's half of PostgreSQL's protocol

=head1 SYNOPSIS

  my $wire = Conduit::Wire->connect($node, 'app', user => 'backend');
  my $answer = $wire->query('SELECT conduit_store_credential($1, $2, $3)', $id, undef, $secret);
  is_deeply($answer->{rows}, [ [ $id ] ]);
  is($answer->{error}{C}, 'PT404');      # all fields, by the letters of the protocol

  $wire->send('SELECT conduit_vend($1, $2)', 'alice', $id);
  $wire->cancel;
  $answer = $wire->receive;

Parameters travel apart from the statement (Parse, Bind, Execute), as drivers
send them, which psql cannot do before PostgreSQL 16; and an error comes with
every field that the server sent.  Text format, one statement at a time, trust
authentication over the node's socket.  Core Perl alone.

=cut

use strict;
use warnings;

use Carp;
use IO::Select;
use IO::Socket::INET;
use IO::Socket::UNIX;

# Seconds that an answer may take; a test that hangs should say where.
my $timeout = 180;

sub _socket
{
	my ($node) = @_;
	my ($host, $port) = ($node->host, $node->port);
	my $socket =
	  $host =~ m{^[/@]}
	  ? IO::Socket::UNIX->new(Peer => "$host/.s.PGSQL.$port")
	  : IO::Socket::INET->new(PeerAddr => $host, PeerPort => $port);
	croak "cannot connect to $host:$port: $!" unless $socket;
	binmode $socket;
	return $socket;
}

=head2 Conduit::Wire->connect($node, $database, %options)

Options: user (default: the one who runs the tests), and any setting, such as
C<application_name>, for the session.

=cut

sub connect
{
	my ($class, $node, $database, %options) = @_;
	my $self = bless { node => $node, notices => [], notifications => [] }, $class;
	my %startup = (client_encoding => 'UTF8', %options, database => $database);

	$startup{user} //= getpwuid($>);
	$self->{socket} = _socket($node);
	my $text = pack('N', 196608) . join('', map { "$_\0$startup{$_}\0" } sort keys %startup) . "\0";
	$self->_write(pack('N', 4 + length $text) . $text);
	my $answer = $self->receive;
	croak "cannot log in: $answer->{error}{M}" if $answer->{error};
	return $self;
}

sub _write
{
	my ($self, $bytes) = @_;
	local $SIG{PIPE} = 'IGNORE';
	while (length $bytes)
	{
		my $n = syswrite($self->{socket}, $bytes) // return;    # the server's goodbye is there to be read
		substr($bytes, 0, $n) = '';
	}
	return;
}

sub _message { return $_[0] . pack('N', 4 + length $_[1]) . $_[1]; }

=head2 $wire->query($sql, @parameters), $wire->simple($sql)

Runs a statement, by the extended or by the simple protocol, and returns what
C<receive> does.

=head2 $wire->send($sql, @parameters), $wire->receive

The two halves of C<query>.  The answer has C<rows> (arrays of texts and undef),
C<tag>, C<error> (undef, or the fields by letter; C<closed> is set when the
connection ended), C<notices> and C<notifications> that came meanwhile.

=cut

sub send
{
	my ($self, $sql, @parameters) = @_;
	utf8::encode($_) for grep { defined && utf8::is_utf8($_) } $sql, @parameters;
	my $values = join('', map { defined ? pack('N', length $_) . $_ : pack('N', 0xFFFFFFFF) } @parameters);
	return $self->_write(_message('P', "\0$sql\0" . pack('n', 0))
		  . _message('B', "\0\0" . pack('nn', 0, scalar @parameters) . $values . pack('n', 0))
		  . _message('D', "P\0")
		  . _message('E', "\0" . pack('N', 0))
		  . _message('C', "P\0")
		  . _message('S', ''));
}

sub query
{
	my ($self, @arguments) = @_;
	$self->send(@arguments);
	return $self->receive;
}

sub simple
{
	my ($self, $sql) = @_;
	$self->_write(_message('Q', "$sql\0"));
	return $self->receive;
}

# The one value of a query that must succeed.
sub value
{
	my ($self, @arguments) = @_;
	my $answer = $self->query(@arguments);
	croak "$arguments[0]: $answer->{error}{C} $answer->{error}{M}" if $answer->{error};
	return @{ $answer->{rows} } ? $answer->{rows}[0][0] : undef;
}

sub _read
{
	my ($self, $length) = @_;
	my $bytes = '';
	my $select = IO::Select->new($self->{socket});
	while (length $bytes < $length)
	{
		croak "no answer within $timeout s" unless $select->can_read($timeout);
		sysread($self->{socket}, $bytes, $length - length $bytes, length $bytes) or return;
	}
	return $bytes;
}

sub _fields { return map { substr($_, 0, 1) => substr($_, 1) } grep { length } split /\0/, $_[0]; }

sub _row
{
	my ($body) = @_;
	my ($n, $at, @row) = (unpack('n', $body), 2);
	for (1 .. $n)
	{
		my $length = unpack('N', substr($body, $at, 4));
		$at += 4;
		push @row, $length == 0xFFFFFFFF ? undef : substr($body, $at, $length);
		$at += $length unless $length == 0xFFFFFFFF;
	}
	return \@row;
}

sub receive
{
	my ($self) = @_;
	my %answer = (rows => [], notices => [], notifications => []);
	while (1)
	{
		my $head = $self->_read(5);
		my ($type, $length) = defined $head ? unpack('aN', $head) : ();
		my $body = defined $head ? $self->_read($length - 4) : undef;
		if (!defined $body)
		{
			$answer{closed} = 1;
			$answer{error} //= { C => '08006', M => 'connection closed' };
			return \%answer;
		}
		return \%answer if $type eq 'Z';
		if ($type eq 'D') { push @{ $answer{rows} }, _row($body); }
		elsif ($type eq 'C') { ($answer{tag}) = unpack('Z*', $body); }
		elsif ($type eq 'E') { $answer{error} = { _fields($body) }; }
		elsif ($type eq 'N') { push @{ $answer{notices} }, { _fields($body) }; }
		elsif ($type eq 'A') { push @{ $answer{notifications} }, [ unpack('x4 Z* Z*', $body) ]; }
		elsif ($type eq 'K') { @$self{qw(pid key)} = unpack('NN', $body); }
		elsif ($type eq 'R') { croak 'trust authentication only' if unpack('N', $body); }
	}
}

=head2 $wire->cancel, $wire->pid, $wire->close

C<cancel> asks the server to cancel what this session is doing.

=cut

sub pid { return $_[0]{pid}; }

sub cancel
{
	my ($self) = @_;
	my $socket = _socket($self->{node});
	syswrite($socket, pack('NNNN', 16, 80877102, $self->{pid}, $self->{key}));
	sysread($socket, my $nothing, 1);    # the server closes when it has passed it on
	close $socket;
	return;
}

sub close
{
	my ($self) = @_;
	my $socket = delete $self->{socket} or return;
	{
		local $SIG{PIPE} = 'IGNORE';
		syswrite($socket, _message('X', ''));
	}
	CORE::close($socket);
	return;
}

sub DESTROY { $_[0]->close; return; }

1;
