-- What the other tests use: pgcrypto in a schema of its own, and helpers.
\set VERBOSITY terse
CREATE SCHEMA crypto;
CREATE EXTENSION pgcrypto SCHEMA crypto;

CREATE SCHEMA t;

-- The error a statement ends in, all that a client sees of it.
CREATE FUNCTION t.error(statement text, OUT state text, OUT message text, OUT detail text, OUT hint text)
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	state := '00000';
	message := 'no error';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
END
$$;

-- The same in one line, with every field that an error has.
CREATE FUNCTION t.whole_error(statement text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	field text[] := '{}';
BEGIN
	EXECUTE statement;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	DECLARE
		state text; message text; detail text; hint text; col text; con text; typ text; tab text; sch text;
	BEGIN
		GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
			detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT, col = COLUMN_NAME, con = CONSTRAINT_NAME,
			typ = PG_DATATYPE_NAME, tab = TABLE_NAME, sch = SCHEMA_NAME;
		RETURN concat_ws('|', state, message, detail, hint, col, con, typ, tab, sch);
	END;
END
$$;

-- Polls, for what the worker does meanwhile.
CREATE PROCEDURE t.wait_for(condition text)
LANGUAGE plpgsql AS $$
DECLARE
	met boolean;
BEGIN
	FOR i IN 1..6000 LOOP
		PERFORM pg_stat_clear_snapshot();
		EXECUTE 'SELECT ' || condition INTO met;
		IF met THEN
			RETURN;
		END IF;
		PERFORM pg_sleep(0.01);
	END LOOP;
	RAISE EXCEPTION 'waited in vain for %', condition;
END
$$;
CREATE PROCEDURE t.wait_for_worker() LANGUAGE sql
AS $$ CALL t.wait_for($c$ (SELECT worker = 'running' FROM conduit_health()) $c$) $$;
