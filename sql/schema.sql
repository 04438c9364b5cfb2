-- Assembled by make from the parts in sql/, in the order the Makefile gives.
\echo Use "CREATE EXTENSION conduit" to load this file. \quit

-- The public functions may not share a schema with what is private.  First, for
-- that schema is there and CREATE SCHEMA would only say so.
DO $$
BEGIN
	IF (SELECT n.nspname FROM pg_catalog.pg_extension e
		JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace
		WHERE e.extname OPERATOR(pg_catalog.=) 'conduit') OPERATOR(pg_catalog.=) 'conduit'
	THEN
		RAISE EXCEPTION 'the public functions cannot be created in schema conduit'
			USING ERRCODE = '22023',
				  HINT = 'Schema conduit holds the private tables. Create another schema for the functions, for example: CREATE SCHEMA broker; CREATE EXTENSION conduit SCHEMA broker;';
	END IF;
END
$$;

-- A plain CREATE SCHEMA: it fails where somebody has prepared one, and the
-- schema goes with the extension.
CREATE SCHEMA conduit;
REVOKE ALL ON SCHEMA conduit FROM PUBLIC;
COMMENT ON SCHEMA conduit IS 'Tables and internals of Conduit; private to its owner';

-- References to connectors and connections are kept by the functions, under
-- row locks, not by foreign keys: those look with a REPEATABLE READ caller's
-- own snapshot, which misses what is newer, and fail with an error that quotes
-- keys.

-- Text that is compared for identity is in collation C: one order everywhere,
-- whatever the database's locale or its library's version.

CREATE SEQUENCE conduit.connector_revision;

CREATE TABLE conduit.connector (
	slug		text COLLATE "C" PRIMARY KEY,
	extends		text COLLATE "C",
	definition	jsonb NOT NULL,
	resolved	jsonb NOT NULL,
	builtin		boolean NOT NULL DEFAULT false,
	retired		boolean NOT NULL DEFAULT false,
	revision	bigint NOT NULL DEFAULT pg_catalog.nextval('conduit.connector_revision'),
	created_at	timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	updated_at	timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
COMMENT ON TABLE conduit.connector IS 'Definitions of providers: as registered, and resolved with what they extend';

CREATE TABLE conduit.client (
	id				uuid PRIMARY KEY,
	tenant			text COLLATE "C" NOT NULL,
	connector		text COLLATE "C" NOT NULL,
	client_id		text COLLATE "C" NOT NULL,
	current			boolean NOT NULL,
	redirect_uris	text[] NOT NULL DEFAULT '{}',
	created_at		timestamptz NOT NULL,
	updated_at		timestamptz NOT NULL,
	UNIQUE (tenant, connector, client_id)
);
CREATE UNIQUE INDEX client_current_key ON conduit.client (tenant, connector) WHERE current;
CREATE INDEX client_connector_idx ON conduit.client (connector);
COMMENT ON TABLE conduit.client IS 'OAuth apps under which connectors are used; one current per tenant and connector';

CREATE TABLE conduit.client_secret (
	id				uuid PRIMARY KEY,
	client			uuid NOT NULL REFERENCES conduit.client (id) ON DELETE CASCADE,
	origin			text COLLATE "C" NOT NULL,
	secret			bytea NOT NULL CHECK (pg_catalog.octet_length(secret) OPERATOR(pg_catalog.<=) 131072),
	created_at		timestamptz NOT NULL,
	last_success_at	timestamptz
);
ALTER TABLE conduit.client_secret ALTER COLUMN secret SET STORAGE EXTERNAL;
ALTER TABLE conduit.client_secret ALTER COLUMN secret SET STATISTICS 0;
CREATE INDEX client_secret_client_idx ON conduit.client_secret (client, created_at);
COMMENT ON TABLE conduit.client_secret IS 'Sealed secrets of clients, bound to the origin of the token endpoint';

CREATE TABLE conduit.connection (
	id				uuid PRIMARY KEY,
	tenant			text COLLATE "C" NOT NULL,
	owner			text COLLATE "C" NOT NULL,
	connector		text COLLATE "C" NOT NULL,
	account			text COLLATE "C",
	account_label	text,
	status			text COLLATE "C" NOT NULL DEFAULT 'ACTIVE'
					CHECK (status OPERATOR(pg_catalog.=) ANY ('{ACTIVE,NEEDS_REAUTH,REVOKED}'::text[])),
	status_reason	text,
	client_id		text COLLATE "C",
	requested_scopes text[],
	params			jsonb NOT NULL DEFAULT '{}',
	metadata		jsonb NOT NULL DEFAULT '{}',
	last_generation	bigint NOT NULL DEFAULT 0,
	created_at		timestamptz NOT NULL,
	updated_at		timestamptz NOT NULL
);
CREATE UNIQUE INDEX connection_account_key ON conduit.connection (tenant, owner, connector, account)
	WHERE account IS NOT NULL AND status OPERATOR(pg_catalog.<>) 'REVOKED';
CREATE INDEX connection_revoked_idx ON conduit.connection (tenant, owner, connector, account)
	WHERE status OPERATOR(pg_catalog.=) 'REVOKED';
CREATE INDEX connection_owner_idx ON conduit.connection (tenant, owner, id);
CREATE INDEX connection_needs_reauth_idx ON conduit.connection (id)
	WHERE status OPERATOR(pg_catalog.=) 'NEEDS_REAUTH';
CREATE INDEX connection_client_idx ON conduit.connection (client_id, account);
CREATE INDEX connection_connector_idx ON conduit.connection (connector, client_id);
COMMENT ON TABLE conduit.connection IS 'One owner''s authorized account at a connector';
COMMENT ON COLUMN conduit.connection.last_generation IS
	'Generation of the credential that was destroyed last: a later one continues from it, so that no reply of an old flight fits';

-- What a vend reads stands here, in one row, columns of fixed width first.
CREATE TABLE conduit.credential (
	connection_id	uuid PRIMARY KEY,
	generation		bigint NOT NULL,
	expires_at		timestamptz,
	due_at			timestamptz,
	refresh_at		timestamptz,
	next_attempt_at	timestamptz,
	issued_at		timestamptz NOT NULL,
	refreshed_at	timestamptz,
	refresh_expires_at timestamptz,
	lifetime		double precision NOT NULL DEFAULT 0,
	attempts		integer NOT NULL DEFAULT 0,
	in_doubt		boolean NOT NULL DEFAULT false,
	status			text COLLATE "C" NOT NULL,
	kind			text COLLATE "C" NOT NULL
					CHECK (kind OPERATOR(pg_catalog.=) ANY ('{OAUTH2,API_KEY,BASIC,CLIENT,JWT}'::text[])),
	tenant			text COLLATE "C" NOT NULL,
	owner			text COLLATE "C" NOT NULL,
	connector		text COLLATE "C" NOT NULL,
	origin			text COLLATE "C" NOT NULL,
	token_type		text,
	scope			text,
	own_client		text COLLATE "C",
	last_error		text,
	last_error_code	text,
	last_error_at	timestamptz,
	imported		bytea,
	access			bytea CHECK (pg_catalog.octet_length(access) OPERATOR(pg_catalog.<=) 1048576),
	refresh			bytea CHECK (pg_catalog.octet_length(refresh) OPERATOR(pg_catalog.<=) 1048576)
) WITH (fillfactor = 80);
ALTER TABLE conduit.credential ALTER COLUMN access SET STORAGE EXTERNAL;
ALTER TABLE conduit.credential ALTER COLUMN refresh SET STORAGE EXTERNAL;
ALTER TABLE conduit.credential ALTER COLUMN access SET STATISTICS 0;
ALTER TABLE conduit.credential ALTER COLUMN refresh SET STATISTICS 0;
CREATE INDEX credential_refresh_at_idx ON conduit.credential (refresh_at, connection_id) WHERE refresh_at IS NOT NULL;
COMMENT ON TABLE conduit.credential IS 'The sealed secret of a connection: access part and refresh part apart';
COMMENT ON COLUMN conduit.credential.due_at IS 'From when on a reader asks for a refresh: expiry less lead and jitter';
COMMENT ON COLUMN conduit.credential.refresh_at IS 'When the worker refreshes it unasked; NULL: never';
COMMENT ON COLUMN conduit.credential.own_client IS
	'Id of the client by which the credential mints its tokens, whose secret is in refresh; NULL: by the connector''s, or not by a client';
COMMENT ON COLUMN conduit.credential.imported IS
	'Digest of the refresh token that conduit_import() brought last: imported again, it does not take the place of its successors';
COMMENT ON COLUMN conduit.credential.in_doubt IS
	'The refresh token may have been consumed by a request whose answer never came';

-- Written by the worker alone; without foreign keys, so that nobody's lock on
-- a connection can hold up a claim.
CREATE TABLE conduit.flight (
	connection_id	uuid PRIMARY KEY,
	generation		bigint NOT NULL,
	attempt			integer NOT NULL,
	in_doubt		boolean NOT NULL,
	incarnation		uuid NOT NULL,
	claimed_at		timestamptz NOT NULL,
	tenant			text COLLATE "C" NOT NULL,
	owner			text COLLATE "C" NOT NULL,
	connector		text COLLATE "C" NOT NULL,
	origin			text COLLATE "C" NOT NULL,
	account			text COLLATE "C",
	client_id		text COLLATE "C",
	params			jsonb NOT NULL,
	outcome			text COLLATE "C",
	code			text,
	reply_at		timestamptz,
	retry_after		double precision,
	issued_at		timestamptz,
	expires_at		timestamptz,
	refresh_expires_at timestamptz,
	lifetime		double precision,
	token_type		text,
	scope			text,
	new_params		jsonb,
	new_metadata	jsonb,
	access			bytea,
	refresh			bytea
);
ALTER TABLE conduit.flight ALTER COLUMN access SET STORAGE EXTERNAL;
ALTER TABLE conduit.flight ALTER COLUMN refresh SET STORAGE EXTERNAL;
ALTER TABLE conduit.flight ALTER COLUMN access SET STATISTICS 0;
ALTER TABLE conduit.flight ALTER COLUMN refresh SET STATISTICS 0;
COMMENT ON TABLE conduit.flight IS
	'Refreshes in progress; outcome is set when the reply is parked here because somebody''s open transaction holds the row it belongs to';

-- Made by conduit_authorize(), from then on written by the worker alone.
CREATE TABLE conduit.authorize_state (
	id				uuid PRIMARY KEY,
	state_hash		bytea NOT NULL UNIQUE,
	tenant			text COLLATE "C" NOT NULL,
	owner			text COLLATE "C" NOT NULL,
	connector		text COLLATE "C" NOT NULL,
	origin			text COLLATE "C" NOT NULL,
	client_id		text COLLATE "C" NOT NULL,
	redirect_uri	text NOT NULL,
	scopes			text[] NOT NULL,
	params			jsonb NOT NULL,
	metadata		jsonb NOT NULL,
	connection_id	uuid,
	verifier		bytea,
	created_at		timestamptz NOT NULL,
	expires_at		timestamptz NOT NULL,
	status			text COLLATE "C" NOT NULL DEFAULT 'open'
					CHECK (status OPERATOR(pg_catalog.=) ANY ('{open,claimed,received,parked,done,failed}'::text[])),
	code_hash		bytea,
	incarnation		uuid,
	closed_at		timestamptz,
	result			uuid,
	outcome			text COLLATE "C",
	reason			text,
	token_origin	text COLLATE "C",
	next_step	text COLLATE "C",
	granted			bytea,
	issued_at		timestamptz,
	token_expires_at timestamptz,
	refresh_expires_at timestamptz,
	lifetime		double precision,
	token_type		text,
	scope			text,
	account			text COLLATE "C",
	account_label	text
);
ALTER TABLE conduit.authorize_state ALTER COLUMN verifier SET STORAGE EXTERNAL;
ALTER TABLE conduit.authorize_state ALTER COLUMN granted SET STORAGE EXTERNAL;
ALTER TABLE conduit.authorize_state ALTER COLUMN verifier SET STATISTICS 0;
ALTER TABLE conduit.authorize_state ALTER COLUMN granted SET STATISTICS 0;
CREATE INDEX authorize_state_unsettled_idx ON conduit.authorize_state (id)
	WHERE status OPERATOR(pg_catalog.=) ANY ('{claimed,received,parked}'::text[]);
CREATE INDEX authorize_state_owner_idx ON conduit.authorize_state (tenant, owner, expires_at);
CREATE INDEX authorize_state_expires_at_idx ON conduit.authorize_state (expires_at);
COMMENT ON TABLE conduit.authorize_state IS
	'Authorizations under way: what a state stands for, and what came of it; removed a day later';
COMMENT ON COLUMN conduit.authorize_state.state_hash IS 'SHA-256: the state itself is known to its owner alone';
COMMENT ON COLUMN conduit.authorize_state.status IS
	'open; claimed: its code may have been sent; received: the token is here, further requests are to be made; parked: here, waiting for somebody''s open transaction; done; failed';
COMMENT ON COLUMN conduit.authorize_state.granted IS 'What the provider has granted, sealed, until it stands in conduit.credential';

CREATE SEQUENCE conduit.event_id_seq;
CREATE SEQUENCE conduit.event_seq;
CREATE TABLE conduit.event (
	id				bigint PRIMARY KEY DEFAULT pg_catalog.nextval('conduit.event_id_seq'),
	seq				bigint UNIQUE,
	at				timestamptz NOT NULL,
	kind			text COLLATE "C" NOT NULL,
	tenant			text COLLATE "C" NOT NULL,
	connection_id	uuid,
	owner			text COLLATE "C",
	connector		text COLLATE "C",
	account			text COLLATE "C",
	old_status		text COLLATE "C",
	new_status		text COLLATE "C",
	reason			text
);
CREATE INDEX event_unnumbered_idx ON conduit.event (id) WHERE seq IS NULL;
CREATE INDEX event_at_idx ON conduit.event (at);
CREATE INDEX event_alert_idx ON conduit.event (connector, tenant, id)
	WHERE kind OPERATOR(pg_catalog.=) ANY ('{connector_alert,connector_recovered}'::text[]);
COMMENT ON TABLE conduit.event IS 'Every change of state, numbered in commit order by the worker';

CREATE TABLE conduit.revocation (
	id				uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
	connection_id	uuid NOT NULL,
	generation		bigint NOT NULL,
	tenant			text COLLATE "C" NOT NULL,
	owner			text COLLATE "C" NOT NULL,
	connector		text COLLATE "C" NOT NULL,
	origin			text COLLATE "C" NOT NULL,
	account			text COLLATE "C",
	client_id		text COLLATE "C",
	params			jsonb NOT NULL,
	access			bytea,
	refresh			bytea,
	queued_at		timestamptz NOT NULL,
	next_attempt_at	timestamptz NOT NULL,
	attempts		integer NOT NULL DEFAULT 0,
	last_error		text,
	last_error_code	text
);
CREATE INDEX revocation_connector_idx ON conduit.revocation (connector, next_attempt_at);
CREATE INDEX revocation_next_attempt_at_idx ON conduit.revocation (next_attempt_at);
ALTER TABLE conduit.revocation ALTER COLUMN access SET STORAGE EXTERNAL;
ALTER TABLE conduit.revocation ALTER COLUMN refresh SET STORAGE EXTERNAL;
ALTER TABLE conduit.revocation ALTER COLUMN access SET STATISTICS 0;
ALTER TABLE conduit.revocation ALTER COLUMN refresh SET STATISTICS 0;
COMMENT ON TABLE conduit.revocation IS
	'Grants to be revoked at their providers; the sealed tokens stay bound to the place they were taken from';

-- Written by the worker alone.
CREATE TABLE conduit.key (
	id			text COLLATE "C" PRIMARY KEY,
	check_value	bytea NOT NULL,
	wraps		bigint NOT NULL DEFAULT 0,
	created_at	timestamptz NOT NULL
);
COMMENT ON TABLE conduit.key IS 'Check values and wrap counts of the keys of the keyring; no key';

CREATE TABLE conduit.setting (
	name		text COLLATE "C" PRIMARY KEY,
	value		text NOT NULL,
	updated_at	timestamptz NOT NULL
);
COMMENT ON TABLE conduit.setting IS 'Facts about this database: the identity that tells it from a clone';

CREATE TABLE conduit.last_use (
	connection_id	uuid PRIMARY KEY,
	used_on			date NOT NULL
);
COMMENT ON TABLE conduit.last_use IS 'Day of each connection''s last vend, written by the worker';

-- Who may come in, and by what.

CREATE TABLE conduit.facade (
	schema_name	text COLLATE "C" PRIMARY KEY,
	tenant		text COLLATE "C" NOT NULL,
	options		jsonb NOT NULL DEFAULT '{}',
	created_at	timestamptz NOT NULL,
	updated_at	timestamptz NOT NULL,
	dropped_at	timestamptz
);
CREATE INDEX facade_tenant_idx ON conduit.facade (tenant);
COMMENT ON TABLE conduit.facade IS 'Schemas that conduit_expose() has made a facade in';
COMMENT ON COLUMN conduit.facade.dropped_at IS 'The schema was dropped: the worker destroys what belongs to its tenant';

CREATE TABLE conduit.jwt_key (
	schema_name	text COLLATE "C" PRIMARY KEY REFERENCES conduit.facade (schema_name) ON DELETE CASCADE,
	id			uuid NOT NULL UNIQUE,
	jwk			bytea NOT NULL CHECK (pg_catalog.octet_length(jwk) OPERATOR(pg_catalog.<=) 131072),
	created_at	timestamptz NOT NULL
);
ALTER TABLE conduit.jwt_key ALTER COLUMN jwk SET STORAGE EXTERNAL;
ALTER TABLE conduit.jwt_key ALTER COLUMN jwk SET STATISTICS 0;
COMMENT ON TABLE conduit.jwt_key IS 'Sealed keys that prove the tokens of a facade''s callers';

CREATE TABLE conduit.trusted_caller (
	tenant		text COLLATE "C" NOT NULL,
	name		text COLLATE "C" NOT NULL,
	issuer		text COLLATE "C",
	audience	text COLLATE "C",
	subjects	text[],
	claims		jsonb NOT NULL,
	created_at	timestamptz NOT NULL,
	PRIMARY KEY (tenant, name)
);
COMMENT ON TABLE conduit.trusted_caller IS 'Which proven tokens are a backend''s: those that match all that a row names';

CREATE TABLE conduit.mac_key (
	singleton	boolean PRIMARY KEY DEFAULT true CHECK (singleton),
	id			uuid NOT NULL UNIQUE,
	secret		bytea NOT NULL,
	created_at	timestamptz NOT NULL
);
ALTER TABLE conduit.mac_key ALTER COLUMN secret SET STORAGE EXTERNAL;
ALTER TABLE conduit.mac_key ALTER COLUMN secret SET STATISTICS 0;
COMMENT ON TABLE conduit.mac_key IS 'The sealed key under which API keys have their MAC';

CREATE TABLE conduit.api_key (
	id			uuid PRIMARY KEY,
	tenant		text COLLATE "C" NOT NULL,
	owner		text COLLATE "C",
	name		text NOT NULL,
	scopes		text[] NOT NULL,
	mac			bytea NOT NULL,
	created_at	timestamptz NOT NULL,
	expires_at	timestamptz,
	revoked_at	timestamptz,
	rotated_from uuid,
	last_used_at timestamptz
);
CREATE INDEX api_key_owner_idx ON conduit.api_key (tenant, owner, id);
COMMENT ON TABLE conduit.api_key IS 'Server-to-server keys: no key, a MAC of its secret';

CREATE TABLE conduit.session (
	id			uuid PRIMARY KEY,
	hash		bytea NOT NULL,
	tenant		text COLLATE "C" NOT NULL,
	owner		text COLLATE "C" NOT NULL,
	connection_id uuid,
	ttl			double precision NOT NULL,
	created_at	timestamptz NOT NULL,
	last_used_at timestamptz,
	expires_at	timestamptz NOT NULL,
	ends_at		timestamptz NOT NULL
);
CREATE INDEX session_expires_idx ON conduit.session (expires_at);
CREATE INDEX session_owner_idx ON conduit.session (tenant, owner);
COMMENT ON TABLE conduit.session IS 'Opaque handles for cookies: no key, its SHA-256';

-- Rows of sealed secrets are for their owner alone: also roles that may read
-- every table (pg_read_all_data) see none.
ALTER TABLE conduit.client_secret ENABLE ROW LEVEL SECURITY;
ALTER TABLE conduit.credential ENABLE ROW LEVEL SECURITY;
ALTER TABLE conduit.flight ENABLE ROW LEVEL SECURITY;
ALTER TABLE conduit.revocation ENABLE ROW LEVEL SECURITY;
ALTER TABLE conduit.jwt_key ENABLE ROW LEVEL SECURITY;
ALTER TABLE conduit.mac_key ENABLE ROW LEVEL SECURITY;
ALTER TABLE conduit.api_key ENABLE ROW LEVEL SECURITY;
ALTER TABLE conduit.session ENABLE ROW LEVEL SECURITY;
ALTER TABLE conduit.authorize_state ENABLE ROW LEVEL SECURITY;

-- All user data, with the sequences behind it.
SELECT pg_catalog.pg_extension_config_dump('conduit.connector_revision', '');
SELECT pg_catalog.pg_extension_config_dump('conduit.connector', 'WHERE NOT builtin');
SELECT pg_catalog.pg_extension_config_dump('conduit.client', '');
SELECT pg_catalog.pg_extension_config_dump('conduit.client_secret', '');
SELECT pg_catalog.pg_extension_config_dump('conduit.connection', '');
SELECT pg_catalog.pg_extension_config_dump('conduit.credential', '');
SELECT pg_catalog.pg_extension_config_dump('conduit.flight', '');
SELECT pg_catalog.pg_extension_config_dump('conduit.authorize_state', '');
SELECT pg_catalog.pg_extension_config_dump('conduit.event_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('conduit.event_seq', '');
SELECT pg_catalog.pg_extension_config_dump('conduit.event', '');
SELECT pg_catalog.pg_extension_config_dump('conduit.revocation', '');
SELECT pg_catalog.pg_extension_config_dump('conduit.key', '');
SELECT pg_catalog.pg_extension_config_dump('conduit.setting', '');
SELECT pg_catalog.pg_extension_config_dump('conduit.last_use', '');
SELECT pg_catalog.pg_extension_config_dump('conduit.facade', '');
SELECT pg_catalog.pg_extension_config_dump('conduit.jwt_key', '');
SELECT pg_catalog.pg_extension_config_dump('conduit.trusted_caller', '');
SELECT pg_catalog.pg_extension_config_dump('conduit.mac_key', '');
SELECT pg_catalog.pg_extension_config_dump('conduit.api_key', '');
SELECT pg_catalog.pg_extension_config_dump('conduit.session', '');
