-- The functions of unit_fuzz.c.  :module is the module's absolute path.
CREATE FUNCTION unit_fuzz_replies(definition text, bodies bytea[], seed bigint, rounds integer,
	now timestamptz DEFAULT '2030-01-01 00:00:00+00') RETURNS text AS :'module' LANGUAGE C STRICT;
