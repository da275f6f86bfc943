-- Adds what changes of the rules need while a decoder runs: requests by people,
-- the ends of rule sets and of definitions, tables that no rules use any more.
-- Locks four small tables for a moment; the previous release works beside it
-- until a rule set ends.

ALTER TABLE millrace.rule_sets
  DROP CONSTRAINT rule_sets_state_check,
  DROP CONSTRAINT rule_sets_check,
  ADD CONSTRAINT rule_sets_state_check CHECK (state IN ('building', 'active', 'retired', 'dropped', 'abandoned')),
  ADD CONSTRAINT rule_sets_check CHECK ((state IN ('building', 'abandoned')) = (active_from IS NULL)),
  ADD COLUMN file text NOT NULL DEFAULT '',
  ADD COLUMN rolls_back integer,
  ADD COLUMN ended_at timestamptz;
CREATE UNIQUE INDEX rule_sets_one_building ON millrace.rule_sets (state) WHERE state = 'building';
COMMENT ON INDEX millrace.rule_sets_one_building IS 'At most one rule set is being built.';
COMMENT ON COLUMN millrace.rule_sets.state IS 'building: new definitions are being copied, nothing of it is served. active: in force. retired: replaced, still fed for rules_keep. dropped: replaced and no longer fed. abandoned: replaced before it was built.';
COMMENT ON COLUMN millrace.rule_sets.active_from IS 'Op id since which the set is in force, or was; null if it never was.';
COMMENT ON COLUMN millrace.rule_sets.file IS 'Name of the file it was deployed from.';
COMMENT ON COLUMN millrace.rule_sets.rolls_back IS 'The earlier rule set it is a roll-back to; else null.';
COMMENT ON COLUMN millrace.rule_sets.ended_at IS 'When it was dropped or abandoned.';

ALTER TABLE millrace.definition_versions
  DROP CONSTRAINT definition_versions_kind_hash_key,
  ADD COLUMN retired_at timestamptz,
  ADD COLUMN dropped_at timestamptz,
  ADD CONSTRAINT definition_versions_ends CHECK (dropped_at IS NULL OR retired_at IS NOT NULL);
CREATE UNIQUE INDEX definition_versions_content ON millrace.definition_versions (kind, hash) WHERE retired_at IS NULL;
COMMENT ON INDEX millrace.definition_versions_content IS 'One history for each content. A content that comes back after its definition was retired gets a new definition.';
COMMENT ON COLUMN millrace.definition_versions.retired_at IS 'Since when it is no longer fed and belongs to no rule set that is; null while it does. Never undone.';
COMMENT ON COLUMN millrace.definition_versions.dropped_at IS 'When its history was dropped.';

ALTER TABLE millrace.source_tables ADD COLUMN forgotten_at timestamptz;
COMMENT ON COLUMN millrace.source_tables.forgotten_at IS 'Since when no rules use the table, so that nothing of it is fed; null while they do. A table that is used again is a new row.';

CREATE TABLE millrace.rule_requests (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  kind text NOT NULL CHECK (kind IN ('deploy', 'rollback')),
  content text CHECK (octet_length(content) <= 1048576),
  file text NOT NULL DEFAULT '',
  target integer,
  requested_by text NOT NULL DEFAULT session_user,
  requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'done', 'refused', 'superseded')),
  rule_set integer,
  message text NOT NULL DEFAULT '',
  answered_at timestamptz,
  CHECK ((kind = 'deploy') = (content IS NOT NULL)),
  CHECK ((state = 'pending') = (answered_at IS NULL))
);
CREATE INDEX rule_requests_pending ON millrace.rule_requests (id) WHERE state = 'pending';
COMMENT ON INDEX millrace.rule_requests_pending IS 'What the decoder has not answered yet.';
COMMENT ON TABLE millrace.rule_requests IS 'Changes of the rules that people asked for: millrace rules deploy and rollback write here, the decoder answers.';
COMMENT ON SEQUENCE millrace.rule_requests_id_seq IS 'Numbers of requests.';
COMMENT ON COLUMN millrace.rule_requests.id IS 'Number of the request.';
COMMENT ON COLUMN millrace.rule_requests.kind IS 'deploy: put content in force. rollback: go back to an earlier rule set.';
COMMENT ON COLUMN millrace.rule_requests.content IS 'The rules file to deploy; null for a roll-back.';
COMMENT ON COLUMN millrace.rule_requests.file IS 'Name of the file.';
COMMENT ON COLUMN millrace.rule_requests.target IS 'The rule set to go back to; null for the one before.';
COMMENT ON COLUMN millrace.rule_requests.requested_by IS 'Role that asked.';
COMMENT ON COLUMN millrace.rule_requests.requested_at IS 'When it was asked.';
COMMENT ON COLUMN millrace.rule_requests.state IS 'pending. done: rule_set is what it led to. refused: message says why; nothing has changed. superseded: a later request came before a decoder saw this one.';
COMMENT ON COLUMN millrace.rule_requests.rule_set IS 'The rule set it led to; it may still be building.';
COMMENT ON COLUMN millrace.rule_requests.message IS 'The answer in words.';
COMMENT ON COLUMN millrace.rule_requests.answered_at IS 'When the decoder answered.';

COMMENT ON SCHEMA millrace IS 'Millrace sidecar: history of the sources and a window on it. At migration 5.';
