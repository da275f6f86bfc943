-- Drops custom write checkpoints. Rules with an event cannot be served by the
-- release before: deploy rules without one first, and wait until the definition
-- is dropped; else this fails and changes nothing.
ALTER TABLE millrace.definition_versions DROP CONSTRAINT definition_versions_kind_check;
DELETE FROM millrace.definition_versions WHERE kind = 'event' AND dropped_at IS NOT NULL;
ALTER TABLE millrace.definition_versions ADD CONSTRAINT definition_versions_kind_check CHECK (kind IN ('bucket', 'lookup'));
DROP TABLE millrace.custom_write_checkpoints;
COMMENT ON SCHEMA millrace IS 'Millrace sidecar: history of the sources and a window on it. At migration 9.';
