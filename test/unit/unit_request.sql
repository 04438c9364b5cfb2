-- The functions of unit_request.c.  :module is the module's absolute path.
CREATE FUNCTION unit_token_request(definition text, kind text, fields text, secrets boolean DEFAULT false) RETURNS text AS :'module' LANGUAGE C STRICT;
CREATE FUNCTION unit_revoke_request(definition text, fields text, secrets boolean DEFAULT false) RETURNS text AS :'module' LANGUAGE C STRICT;
CREATE FUNCTION unit_get_request(definition text, fields text, secrets boolean DEFAULT false) RETURNS text AS :'module' LANGUAGE C STRICT;
CREATE FUNCTION unit_authorize_url(definition text, fields text) RETURNS text AS :'module' LANGUAGE C STRICT;
CREATE FUNCTION unit_scope_join(definition text, fields text) RETURNS text AS :'module' LANGUAGE C STRICT;
CREATE FUNCTION unit_check_key(pem text, algorithm text) RETURNS text AS :'module' LANGUAGE C STRICT;
CREATE FUNCTION unit_token(definition text, kind text, fields text) RETURNS text AS :'module' LANGUAGE C STRICT;
CREATE FUNCTION unit_revoke(definition text, fields text) RETURNS text AS :'module' LANGUAGE C STRICT;
CREATE FUNCTION unit_get(definition text, fields text) RETURNS text AS :'module' LANGUAGE C STRICT;
