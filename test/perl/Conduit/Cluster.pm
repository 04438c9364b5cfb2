package Conduit::Cluster;

=head1 NAME

Conduit::Cluster - a temporary server with Conduit in it, for TAP tests

=head1 SYNOPSIS

  my $cluster = Conduit::Cluster->new('main', database => 'app');
  my $node = $cluster->node;                     # a PostgreSQL::Test::Cluster
  $cluster->connector('test', token_url => $provider->url . '/token');
  my $id = $cluster->connection('alice', 'test', $token_response);
  is($cluster->sql(q{SELECT ...}), '...');

Each cluster has a keyring of its own, outside of the data directory, and may
reach loopback addresses by plain http.  Tests never sleep: they move
conduit.clock_offset and poll.

=cut

use strict;
use warnings;
use Conduit::Wire;
use JSON::PP ();
use MIME::Base64 ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

=head2 new($name, %options)

Options: database (default app), schema (where the extension goes, default
public), settings (text for postgresql.conf), keyring (text of the file; undef
for none), start and extension (default 1), init (arguments of init),
install_path (of another PostgreSQL than the one that tests are run with).

=cut

sub new
{
	my ($class, $name, %options) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name, $options{install_path} ? (install_path => $options{install_path}) : ());
	my $self = bless {
		node     => $node,
		database => $options{database} // 'app',
		schema   => $options{schema} // 'public',
		clock    => 0,
	}, $class;

	$node->init(@{ $options{init} // [] });
	$self->{keyring_file} = PostgreSQL::Test::Utils::tempdir() . "/keyring_$name";
	$self->write_keyring(exists $options{keyring} ? $options{keyring} : 'k1:' . new_key() . "\n");
	$node->append_conf('postgresql.conf', <<"CONF");
shared_preload_libraries = 'conduit'
max_connections = 100
max_prepared_transactions = 10
max_worker_processes = 16
log_parameter_max_length = 0
log_parameter_max_length_on_error = 0
conduit.keyring_file = '$self->{keyring_file}'
conduit.egress_allow = '127.0.0.0/8'
CONF
	$node->append_conf('postgresql.conf', $options{settings}) if defined $options{settings};
	return $self unless $options{start} // 1;
	$node->start;
	$self->create_database($self->{database}) if $options{extension} // 1;
	return $self;
}

=head2 $cluster->standby($name, %options)

A hot standby of the cluster, streaming from it, which has replayed all that the
cluster has by now; the cluster was made with init => [ allows_streaming => 1 ].
Its keyring is a copy of its own. Options: node (arguments of the node's new),
settings (text for postgresql.conf).

=cut

sub standby
{
	my ($self, $name, %options) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name, @{ $options{node} // [] });
	my $standby = bless { %$self, node => $node, clock => 0 }, ref $self;

	$standby->{keyring_file} = PostgreSQL::Test::Utils::tempdir() . "/keyring_$name";
	$standby->write_keyring(PostgreSQL::Test::Utils::slurp_file($self->{keyring_file}));
	$self->{node}->backup($name);
	$node->init_from_backup($self->{node}, $name, has_streaming => 1);
	$node->append_conf('postgresql.conf', "conduit.keyring_file = '$standby->{keyring_file}'");
	$node->append_conf('postgresql.conf', $options{settings}) if defined $options{settings};
	$node->start;
	$self->{node}->wait_for_catchup($node);
	return $standby;
}

sub node         { return $_[0]{node} }
sub database     { return $_[0]{database} }
sub keyring_file { return $_[0]{keyring_file} }

# base64 of 32 random bytes
sub new_key
{
	open(my $random, '<:raw', '/dev/urandom') or die "could not open /dev/urandom: $!";
	read($random, my $key, 32) == 32 or die "could not read /dev/urandom";
	return MIME::Base64::encode_base64($key, '');
}

sub write_keyring
{
	my ($self, $text) = @_;
	unlink $self->{keyring_file};
	return unless defined $text;
	my $mask = umask 0077;
	PostgreSQL::Test::Utils::append_to_file($self->{keyring_file}, $text);
	umask $mask;
	return;
}

# Create a database with the extension and wait for its worker.
sub create_database
{
	my ($self, $database, %options) = @_;
	my $schema = $options{schema} // $self->{schema};

	$self->{node}->safe_psql('postgres', qq{CREATE DATABASE "$database"});
	$self->{node}->safe_psql($database, qq{CREATE SCHEMA IF NOT EXISTS "$schema"}) if $schema ne 'public';
	$self->{node}->safe_psql($database, qq{CREATE EXTENSION conduit SCHEMA "$schema" CASCADE});
	$self->wait_for_worker($database);
	return;
}

sub wait_for_worker
{
	my ($self, $database) = @_;
	$database //= $self->{database};
	$self->{node}->poll_query_until('postgres', qq{
		SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'conduit worker' AND datname = '$database' AND state IS NOT NULL})
		or die "no worker in database $database";
	return;
}

sub worker_pid
{
	my ($self, $database) = @_;
	$database //= $self->{database};
	return $self->{node}->safe_psql('postgres',
		qq{SELECT pid FROM pg_stat_activity WHERE backend_type = 'conduit worker' AND datname = '$database'});
}

sub _where { return $_[1]{database} // $_[0]{database}; }
sub _how   { return map { $_ => $_[0]{$_} } grep { exists $_[0]{$_} } 'connstr'; }

# The answer of a query in the cluster's database; dies on an error.  Here as in
# error(), another one is named by "database", another server by "connstr".
sub sql
{
	my ($self, $sql, %options) = @_;
	return $self->{node}->safe_psql(_where($self, \%options), $sql, _how(\%options));
}

# The error a query ends in: "SQLSTATE|MESSAGE|DETAIL|HINT", or '' if it succeeds.
sub error
{
	my ($self, $sql, %options) = @_;
	my ($out, $err) = ('', '');
	$self->{node}->psql(_where($self, \%options), "\\set VERBOSITY verbose\n$sql",
		stdout => \$out, stderr => \$err, on_error_stop => 1, _how(\%options));
	return '' unless $err =~ /^(?:psql:[^\n]*?)?ERROR:\s+(\w{5}): (.*)$/m;
	my @parts = ($1, $2);
	push @parts, $err =~ /^$_:\s+(.*)$/m ? "$1" : '' for qw(DETAIL HINT);
	return join('|', @parts);
}

sub poll
{
	my ($self, $sql, $expected) = @_;
	return $self->{node}->poll_query_until($self->{database}, $sql, $expected // 't');
}

# Register an OAuth connector (and its client "cid") that speaks to $fields{token_url}.
sub connector
{
	my ($self, $slug, %fields) = @_;
	my %definition = (
		name          => "Test $slug",
		auth_type     => 'oauth2_code',
		authorize_url => 'https://provider.example.com/authorize',
		client_auth   => 'post',
		%fields);
	my $secret = delete $definition{client_secret} // 'the-client-secret';
	my $client_id = delete $definition{client_id} // 'cid';
	my $redirect_uris = delete $definition{redirect_uris};
	my $uris = $redirect_uris ? ", ARRAY['" . join("', '", @$redirect_uris) . "']" : '';
	my $json = JSON::PP->new->canonical->encode(\%definition);

	$self->sql(qq{SELECT $self->{schema}.conduit_register_connector('$slug', \$json\$$json\$json\$)});
	$self->sql(qq{SELECT $self->{schema}.conduit_set_client('$slug', '$client_id', '$secret'$uris)});
	return;
}

# Create a connection and store a token response (a hash, or JSON text); returns the id.
sub connection
{
	my ($self, $owner, $slug, $secret, %options) = @_;
	my $account = defined $options{account} ? "'$options{account}'" : 'NULL';
	my $id = $self->sql(qq{SELECT $self->{schema}.conduit_create_connection('$owner', '$slug', $account)});

	$self->store($id, $secret) if defined $secret;
	return $id;
}

sub store
{
	my ($self, $id, $secret) = @_;
	my $json = ref $secret ? JSON::PP->new->canonical->encode($secret) : $secret;
	return $self->sql(qq{SELECT $self->{schema}.conduit_store_credential('$id', NULL, \$json\$$json\$json\$)});
}

# A session by Conduit::Wire: nothing between a test and what the server sends.
sub wire
{
	my ($self, %options) = @_;
	return Conduit::Wire->connect($self->{node}, delete $options{database} // $self->{database}, %options);
}

# What conduit_vend() answers, as vend_text() puts it.
sub vend
{
	my ($self, $owner, $id, $more) = @_;
	return vend_text($self->wire->query(vend_query($owner, $id, $more)));
}

# $more: further arguments, "min_ttl => '1 hour'" for example.
sub vend_query
{
	my ($owner, $id, $more) = @_;
	return "SELECT access_token FROM conduit_vend('$owner', '$id'" . (defined $more ? ", $more" : '') . ')';
}

# An answer of Conduit::Wire in short: "at-7-2", the access token without what
# is random in it; after it " WARNING PT504 http_500" if a warning came along;
# or "ERROR PT504 http_500": the SQLSTATE and the first word of the detail.
sub vend_text
{
	my ($answer) = @_;
	my $short = sub { join(' ', $_[0], $_[1]{C}, ($_[1]{D} // '') =~ /^(\S+)/) };

	return $short->('ERROR', $answer->{error}) if $answer->{error};
	my $token = $answer->{rows}[0][0] // 'NULL';
	$token =~ s/^([a-z]*at-\d+-\d+)-.*/$1/;
	return join(' ', $token, map { $short->('WARNING', $_) } @{ $answer->{notices} });
}

# Begin an authorization; returns the authorize URL and the state.  Further
# arguments of conduit_authorize() as SQL, by name.
sub authorize
{
	my ($self, $owner, $slug, %arguments) = @_;
	my $more = join('', map { ", $_ => $arguments{$_}" } sort keys %arguments);
	my $row = $self->wire->query("SELECT authorize_url, state FROM conduit_authorize(\$1, \$2$more)", $owner, $slug);

	die "conduit_authorize: $row->{error}{C} $row->{error}{M}" if $row->{error};
	return @{ $row->{rows}[0] };
}

# What conduit_authorize_callback() answers: the id, or as error_text() puts it.
# $params: a hash of the redirect's parameters.
sub callback
{
	my ($self, $owner, $state, $code, $params) = @_;
	return callback_text($self->wire->query(callback_query($owner, $state, $code, $params)));
}

# For a session of the test's own: $wire->send(callback_query(...)), callback_text($wire->receive).
sub callback_query
{
	my ($owner, $state, $code, $params) = @_;
	return ('SELECT conduit_authorize_callback($1, $2, $3, $4)', $owner, $state, $code,
		defined $params ? JSON::PP->new->canonical->encode($params) : undef);
}

sub callback_text
{
	my ($answer) = @_;
	return $answer->{error} ? error_text($answer->{error}) : $answer->{rows}[0][0];
}

# "PT400 authorization failed (invalid_state)"
sub error_text
{
	my ($error) = @_;
	return "$error->{C} $error->{M}" . (defined $error->{D} ? " ($error->{D})" : '');
}

# Move what Conduit takes for now, in all processes, by so many seconds in all.
sub set_clock
{
	my ($self, $seconds) = @_;
	$self->{clock} = $seconds;
	$self->{node}->safe_psql('postgres', "ALTER SYSTEM SET conduit.clock_offset = '${seconds}s'");
	$self->reload;
	return;
}

# Reload the configuration and wait until new sessions and the worker have it.
sub reload
{
	my ($self) = @_;
	my $before = $self->{node}->safe_psql('postgres', 'SELECT pg_conf_load_time()');
	$self->{node}->safe_psql('postgres', 'SELECT pg_reload_conf()');
	$self->{node}->poll_query_until('postgres', "SELECT pg_conf_load_time() > '$before'")
		or die 'the configuration was not loaded';
	return;
}

sub setting
{
	my ($self, $name, $value) = @_;
	$self->{node}->safe_psql('postgres', "ALTER SYSTEM SET $name = '$value'");
	$self->reload;
	return;
}

# A psql that stays open, for transactions that others run into.
sub session
{
	my ($self, %options) = @_;
	return Conduit::Cluster::Session->new($self->{node}, $options{database} // $self->{database});
}

sub stop
{
	my ($self, $mode) = @_;
	$self->{node}->stop($mode // 'fast');
	return;
}

package Conduit::Cluster::Session;

use strict;
use warnings;
use IPC::Run ();

sub new
{
	my ($class, $node, $database, $connstr) = @_;
	my $self = bless { in => '', out => '', err => '', sent => 0 }, $class;

	$self->{run} = IPC::Run::start(
		[ $node->installed_command('psql'), '-XAtq', '-v', 'VERBOSITY=verbose', '-d', $connstr // $node->connstr($database), '-f', '-' ],
		'<', \$self->{in}, '>', \$self->{out}, '2>', \$self->{err},
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	$self->{pid} = $self->query('SELECT pg_backend_pid()');
	return $self;
}

# The pid of its backend.
sub pid { return $_[0]{pid}; }

# Begin a query; result() waits for its end.
sub send
{
	my ($self, $sql) = @_;
	my $n = ++$self->{sent};

	$self->{in} .= "$sql\n;\n\\echo end-of-query-$n\n\\warn end-of-query-$n\n";
	$self->{run}->pump_nb;
	return $self;
}

# The answer of the query sent last; what it complained about is in error().
sub result
{
	my ($self) = @_;
	my $end = "end-of-query-$self->{sent}\n";

	$self->{run}->pump until index($self->{out}, $end) >= 0 && index($self->{err}, $end) >= 0;
	(my $out = $self->{out}) =~ s/\n?\Q$end\E.*//s;
	($self->{error} = $self->{err}) =~ s/\Q$end\E.*//s;
	$self->{out} = $self->{err} = '';
	return $out;
}

sub query
{
	my ($self, $sql) = @_;
	return $self->send($sql)->result;
}

sub error { return $_[0]{error}; }

# End it, with a ROLLBACK of what is open.
sub quit
{
	my ($self) = @_;

	$self->{in} .= "\\q\n";
	eval { $self->{run}->finish; };
	return;
}

1;
