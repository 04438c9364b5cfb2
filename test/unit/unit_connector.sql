-- The functions of unit_connector.c.  :module is the module's absolute path.
CREATE FUNCTION unit_connector(definition text, load boolean DEFAULT false) RETURNS text AS :'module' LANGUAGE C STRICT;
CREATE FUNCTION unit_connector_members(definition text, names text DEFAULT '') RETURNS text AS :'module' LANGUAGE C STRICT;
CREATE FUNCTION unit_slug_valid(text) RETURNS boolean AS :'module' LANGUAGE C STRICT;
CREATE FUNCTION unit_client_use(definition text) RETURNS text AS :'module' LANGUAGE C STRICT;
CREATE FUNCTION unit_expand(definition text, template text, params text) RETURNS text AS :'module' LANGUAGE C STRICT;
CREATE FUNCTION unit_expand_revoke(definition text, params text, token text, client_id text) RETURNS text AS :'module' LANGUAGE C STRICT;
CREATE FUNCTION unit_text_fill(definition text, template text, params text) RETURNS text AS :'module' LANGUAGE C STRICT;
CREATE FUNCTION unit_check_params(definition text, params text) RETURNS text AS :'module' LANGUAGE C STRICT;
CREATE FUNCTION unit_token_origin(definition text, params text) RETURNS text AS :'module' LANGUAGE C STRICT;
CREATE FUNCTION unit_template_origin(definition text, template text, params text) RETURNS text AS :'module' LANGUAGE C STRICT;
