-- Many at once.

CREATE FUNCTION @extschema@.conduit_import(connector text, records text, spread interval DEFAULT NULL, tenant text DEFAULT '',
	OUT ordinal integer, OUT connection_id uuid, OUT error text)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION @extschema@.conduit_import(text, text, interval, text) IS
'Creates or renews up to 10000 connections with their credentials, and returns a row for each record: its connection, or an error.

records: a JSON array, as text of at most 64 MB, of objects {"owner", "account", "params", "metadata", "client_id", "secret"}; bind it as a parameter. owner and secret are required; owner and account may be integers. secret: an object as conduit_store_credential() takes it. client_id: the client that the grant was issued under, of conduit_set_client(); the current one if it is not given.
A record renews the connection of its owner, connector and account, or creates it. One without an account is for the owner''s connection without an account, or for the one it was imported into before; so name accounts in every run or in none. params, metadata and client_id that are not given are left as they are. A record that is imported again, with the refresh token that it brought last, changes nothing but metadata while its connection is ACTIVE: the stored token may be a later one. Events are those of conduit_create_connection() and conduit_store_credential().
spread: refreshes that would come together are spread over so long: tokens that have expired are refreshed up to that much later (at once if they are vended), others up to that much earlier, and those that are due and not expired at once.
A bad record does not stop the others. error is a stable code, never what the record says: json, not_an_object, unknown_key, too_long; owner, account, params, metadata, client_id or secret, followed by what is wrong with it (client_id unknown; secret and the codes of conduit_store_credential()); duplicate, a record for the same connection came before; several, the owner has several connections without an account; revoked, the owner has ended it: create it with conduit_create_connection() if it is to be again; concurrent, others kept changing it.
Errors: 22023 unknown connector, connector is retired, invalid records, invalid spread; PT500 vault is locked.';

SELECT conduit.settle_rights('conduit_import', 'service');
