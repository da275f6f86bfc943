-- Adds what is remembered of sources beside each other: how their rows are told
-- apart. Short ACCESS EXCLUSIVE locks on tables of a few rows; a release before
-- this one works on beside it.

ALTER TABLE millrace.sources ADD COLUMN plain_ids boolean NOT NULL DEFAULT true;
COMMENT ON COLUMN millrace.sources.plain_ids IS 'Its rows may go to clients without a subkey: no other source with one of its connection tags does so.';

COMMENT ON SCHEMA millrace IS 'Millrace sidecar: history of the sources and a window on it. At migration 7.';
