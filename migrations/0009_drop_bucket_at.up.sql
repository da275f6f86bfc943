-- Drops a function that open_bucket replaces: its columns are others, which
-- CREATE OR REPLACE cannot express. Nothing but functions of the same release
-- calls it.
DROP FUNCTION IF EXISTS millrace.bucket_at(text, bigint);
COMMENT ON SCHEMA millrace IS 'Millrace sidecar: history of the sources and a window on it. At migration 9.';
