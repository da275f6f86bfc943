-- Takes away live changes of the rules. Rule sets and definitions that have
-- ended are forgotten; their history is gone already, or is left behind.
DROP TABLE millrace.rule_requests;
DELETE FROM millrace.rule_sets WHERE state IN ('dropped', 'abandoned');
DELETE FROM millrace.definition_versions WHERE retired_at IS NOT NULL;
DROP INDEX millrace.rule_sets_one_building, millrace.definition_versions_content;
ALTER TABLE millrace.rule_sets
  DROP COLUMN file, DROP COLUMN rolls_back, DROP COLUMN ended_at,
  DROP CONSTRAINT rule_sets_state_check,
  DROP CONSTRAINT rule_sets_check,
  ADD CONSTRAINT rule_sets_state_check CHECK (state IN ('building', 'active', 'retired')),
  ADD CONSTRAINT rule_sets_check CHECK ((state = 'building') = (active_from IS NULL));
ALTER TABLE millrace.definition_versions
  DROP COLUMN retired_at, DROP COLUMN dropped_at,
  ADD CONSTRAINT definition_versions_kind_hash_key UNIQUE (kind, hash);
ALTER TABLE millrace.source_tables DROP COLUMN forgotten_at;
COMMENT ON SCHEMA millrace IS 'Millrace sidecar: history of the sources and a window on it. At migration 4.';
