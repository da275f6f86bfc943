-- Rights to read. Roles belong to the whole server, and the role that migrates
-- may not be allowed to make one: then an administrator makes millrace_reader
-- and the next migration run grants it its rights.

DO $$
BEGIN
  IF to_regrole('millrace_reader') IS NULL THEN
    CREATE ROLE millrace_reader NOLOGIN;
    COMMENT ON ROLE millrace_reader IS 'Reads all of schema millrace on a Millrace sidecar, customers'' data included.';
  END IF;
EXCEPTION
  WHEN insufficient_privilege THEN
    RAISE NOTICE 'role millrace_reader is missing and could not be created: create it, then run the migration again';
  -- Another migration made it at this moment.
  WHEN duplicate_object OR unique_violation THEN NULL;
END $$;

DO $$
BEGIN
  IF to_regrole('millrace_reader') IS NOT NULL THEN
    GRANT USAGE ON SCHEMA millrace TO millrace_reader;
    GRANT SELECT ON ALL TABLES IN SCHEMA millrace TO millrace_reader;
    -- An open transaction of a reader would keep dead rows everywhere.
    BEGIN
      ALTER ROLE millrace_reader SET statement_timeout = '5min';
      ALTER ROLE millrace_reader SET idle_in_transaction_session_timeout = '1min';
    EXCEPTION
      -- Not ours to set; or another migration sets it at this moment.
      WHEN insufficient_privilege OR object_in_use THEN NULL;
      WHEN internal_error THEN NULL;
    END;
  END IF;
  GRANT USAGE ON SCHEMA millrace TO pg_monitor;
  GRANT SELECT ON millrace.status, millrace.replication, millrace.slot_health, millrace.definitions, millrace.schema_changes, millrace.rules TO pg_monitor;
EXCEPTION WHEN insufficient_privilege THEN
  RAISE NOTICE 'rights of millrace_reader or pg_monitor could not be granted: %', SQLERRM;
END $$;
