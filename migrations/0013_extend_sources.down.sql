-- Takes away what is shown of sources that a deploy waits for, and requests to
-- remove one. Short ACCESS EXCLUSIVE locks on tables of a few rows.

ALTER TABLE millrace.sources DROP COLUMN removal_requested_at, DROP COLUMN removal_requested_by;
ALTER TABLE millrace.source_reports DROP COLUMN holds;

COMMENT ON SCHEMA millrace IS 'Millrace sidecar: history of the sources and a window on it. At migration 12.';
