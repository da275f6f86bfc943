-- Adds where a source stood when a shadow was registered: what was committed up
-- to there is not taken from the stream. A short ACCESS EXCLUSIVE lock on a table
-- of a few rows; a release before this one works on beside it, and a shadow that
-- is being filled meanwhile takes all, as before.

ALTER TABLE millrace.copies ADD COLUMN since pg_lsn NOT NULL DEFAULT '0/0';
COMMENT ON COLUMN millrace.copies.since IS 'Where the source stood when a shadow was registered: what was committed up to there is in the rows that are read, and not taken from the stream; 0/0: all is.';

COMMENT ON SCHEMA millrace IS 'Millrace sidecar: history of the sources and a window on it. At migration 17.';
