-- Takes away how rows of several sources are told apart. Short ACCESS EXCLUSIVE
-- locks on tables of a few rows.

ALTER TABLE millrace.sources DROP COLUMN plain_ids, DROP COLUMN was, DROP COLUMN lost_at, DROP COLUMN lost_reason;
ALTER TABLE millrace.definition_versions DROP COLUMN without;
DROP TABLE millrace.shared_ids;
ALTER TABLE millrace.source_reports DROP COLUMN restart_at, DROP COLUMN safe_wal, DROP COLUMN wal_rate, DROP COLUMN findings;
ALTER TABLE millrace.head DROP COLUMN renewed;

COMMENT ON SCHEMA millrace IS 'Millrace sidecar: history of the sources and a window on it. At migration 6.';
