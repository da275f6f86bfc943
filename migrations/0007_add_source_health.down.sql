-- Takes away how rows of several sources are told apart. Short ACCESS EXCLUSIVE
-- locks on tables of a few rows.

ALTER TABLE millrace.sources DROP COLUMN plain_ids;

COMMENT ON SCHEMA millrace IS 'Millrace sidecar: history of the sources and a window on it. At migration 6.';
