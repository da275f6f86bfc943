-- Adds what is shown of sources that a deploy waits for, and the removal of a
-- source that is not configured any more. Short ACCESS EXCLUSIVE locks on tables
-- of a few rows; a release before this one works on beside it.

ALTER TABLE millrace.source_reports ADD COLUMN holds integer;
COMMENT ON COLUMN millrace.source_reports.holds IS 'The rule set being built that cannot come into force before this source has copied what it needs; null for none.';

ALTER TABLE millrace.sources
  ADD COLUMN removal_requested_at timestamptz,
  ADD COLUMN removal_requested_by text;
COMMENT ON COLUMN millrace.sources.removal_requested_at IS 'When somebody asked for its rows to be removed (millrace source remove); the decoder does it if the source is not configured any more.';
COMMENT ON COLUMN millrace.sources.removal_requested_by IS 'Role that asked.';

COMMENT ON SCHEMA millrace IS 'Millrace sidecar: history of the sources and a window on it. At migration 13.';
