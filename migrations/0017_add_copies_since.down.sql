-- Takes away where a source stood when a shadow was registered: shadows take all
-- of the stream again. A short ACCESS EXCLUSIVE lock on a table of a few rows.

ALTER TABLE millrace.copies DROP COLUMN since;

COMMENT ON SCHEMA millrace IS 'Millrace sidecar: history of the sources and a window on it. At migration 16.';
