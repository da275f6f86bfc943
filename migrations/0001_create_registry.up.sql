-- Creates what the decoder remembers about sources, source tables, rule sets
-- and copies. New tables only: no lock on anything, the previous release (none)
-- is not affected.

CREATE TABLE millrace.sources (
  id smallint PRIMARY KEY CHECK (id > 0),
  name text COLLATE "C" NOT NULL UNIQUE CHECK (name <> '' AND octet_length(name) <= 200),
  system_id text NOT NULL,
  timeline integer NOT NULL,
  database text NOT NULL,
  slot text NOT NULL,
  publication text NOT NULL,
  publication_oid oid NOT NULL,
  consistent_point pg_lsn NOT NULL DEFAULT '0/0',
  exported text NOT NULL DEFAULT '',
  durable pg_lsn NOT NULL DEFAULT '0/0',
  created_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE millrace.sources IS 'The source databases whose changes are followed. All positions of a row belong to its (system_id, timeline, database).';
COMMENT ON COLUMN millrace.sources.id IS 'Number of the source, never reused.';
COMMENT ON COLUMN millrace.sources.name IS 'The source''s name in the configuration, the connection tag of rules.';
COMMENT ON COLUMN millrace.sources.system_id IS 'system_identifier of the source cluster.';
COMMENT ON COLUMN millrace.sources.timeline IS 'Timeline of the source cluster when last connected.';
COMMENT ON COLUMN millrace.sources.database IS 'Database on the source.';
COMMENT ON COLUMN millrace.sources.slot IS 'Name of the logical replication slot on the source.';
COMMENT ON COLUMN millrace.sources.publication IS 'Name of the publication on the source.';
COMMENT ON COLUMN millrace.sources.publication_oid IS 'OID of the publication: tells whether it was made again under the same name.';
COMMENT ON COLUMN millrace.sources.consistent_point IS 'Where the slot began; 0/0 while it is not known to exist.';
COMMENT ON COLUMN millrace.sources.exported IS 'Text of the snapshot exported when the slot was made (xmin:xmax:xip): the transactions the slot never delivers.';
COMMENT ON COLUMN millrace.sources.durable IS 'End of the newest source transaction contained in the sidecar; reading resumes here. Only grows.';
COMMENT ON COLUMN millrace.sources.created_at IS 'When the source was first seen.';

CREATE TABLE millrace.source_reports (
  source smallint PRIMARY KEY REFERENCES millrace.sources ON DELETE CASCADE,
  received pg_lsn NOT NULL,
  applied pg_lsn NOT NULL,
  confirmed pg_lsn NOT NULL,
  head pg_lsn NOT NULL,
  head_at timestamptz,
  retained bigint,
  slot_state text NOT NULL,
  waiting_for text NOT NULL,
  error_code text NOT NULL,
  error text NOT NULL,
  at timestamptz NOT NULL
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE millrace.source_reports IS 'The present condition of each source as its reader last described it. For people: nothing depends on it.';
COMMENT ON COLUMN millrace.source_reports.source IS 'The source.';
COMMENT ON COLUMN millrace.source_reports.received IS 'End of the newest WAL received.';
COMMENT ON COLUMN millrace.source_reports.applied IS 'End of what the newest checkpoint contained at that time.';
COMMENT ON COLUMN millrace.source_reports.confirmed IS 'Position confirmed to the slot.';
COMMENT ON COLUMN millrace.source_reports.head IS 'Insert position of the source when it was last asked.';
COMMENT ON COLUMN millrace.source_reports.head_at IS 'When the source was last asked for head.';
COMMENT ON COLUMN millrace.source_reports.retained IS 'Bytes of WAL the slot holds back on the source; null if unknown.';
COMMENT ON COLUMN millrace.source_reports.slot_state IS 'wal_status of the slot.';
COMMENT ON COLUMN millrace.source_reports.waiting_for IS 'What keeps the source from going on, in words; empty if nothing does.';
COMMENT ON COLUMN millrace.source_reports.error_code IS 'Code of the last failure (MR1003, ...); empty once there was progress.';
COMMENT ON COLUMN millrace.source_reports.error IS 'The last failure in words; empty once there was progress.';
COMMENT ON COLUMN millrace.source_reports.at IS 'When this report was written.';

CREATE TABLE millrace.source_tables (
  id integer PRIMARY KEY CHECK (id > 0),
  source smallint NOT NULL REFERENCES millrace.sources,
  oid oid NOT NULL,
  schema text NOT NULL,
  name text NOT NULL,
  identity text NOT NULL CHECK (identity IN ('default', 'index', 'full', 'nothing')),
  key_columns text[] NOT NULL,
  columns jsonb NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE millrace.source_tables IS 'The source tables the rules use or used. A table that is dropped and made again is a new row.';
COMMENT ON COLUMN millrace.source_tables.id IS 'Number of the table, never reused.';
COMMENT ON COLUMN millrace.source_tables.source IS 'The source the table is in.';
COMMENT ON COLUMN millrace.source_tables.oid IS 'OID of the table on the source.';
COMMENT ON COLUMN millrace.source_tables.schema IS 'Schema of the table on the source.';
COMMENT ON COLUMN millrace.source_tables.name IS 'Name of the table on the source.';
COMMENT ON COLUMN millrace.source_tables.identity IS 'Replica identity: default, index, full or nothing.';
COMMENT ON COLUMN millrace.source_tables.key_columns IS 'The columns whose texts make the row key, in attribute order.';
COMMENT ON COLUMN millrace.source_tables.columns IS 'Published columns in attribute order: [{"name", "type_oid", "type"}].';
COMMENT ON COLUMN millrace.source_tables.created_at IS 'When the table was first seen.';
COMMENT ON COLUMN millrace.source_tables.updated_at IS 'When this description last changed.';

CREATE TABLE millrace.definition_versions (
  id integer PRIMARY KEY CHECK (id > 0),
  kind text NOT NULL CHECK (kind IN ('bucket', 'lookup')),
  hash text COLLATE "C" NOT NULL,
  key text NOT NULL,
  name text NOT NULL,
  wire_prefix text COLLATE "C" UNIQUE,
  created_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (kind, hash),
  CHECK ((kind = 'bucket') = (wire_prefix IS NOT NULL)),
  CHECK (wire_prefix ~ '^[a-z2-7]{4,16}$')
);
COMMENT ON TABLE millrace.definition_versions IS 'Bucket and lookup definitions by content. History belongs to a definition, not to a deploy: a rule set that compiles to the same hash uses the same row, history and buckets.';
COMMENT ON COLUMN millrace.definition_versions.id IS 'Number of the definition, never reused; the partitions of ops and row_state are named after it.';
COMMENT ON COLUMN millrace.definition_versions.kind IS 'bucket: produces rows of buckets. lookup: a parameter index.';
COMMENT ON COLUMN millrace.definition_versions.hash IS 'Hash of the normalised meaning, including the versions of the functions, casts and type mappings used.';
COMMENT ON COLUMN millrace.definition_versions.key IS 'Name inside the compiled rules file it first came from; rule_sets.mapping has the one of each set.';
COMMENT ON COLUMN millrace.definition_versions.name IS 'The bucket definition or stream it first came from.';
COMMENT ON COLUMN millrace.definition_versions.wire_prefix IS 'Random text that starts the wire names of its buckets: <wire prefix>#<logical name>. Null for lookups.';
COMMENT ON COLUMN millrace.definition_versions.created_at IS 'When its history began.';

CREATE TABLE millrace.rule_sets (
  id integer PRIMARY KEY CHECK (id > 0),
  content text NOT NULL,
  state text NOT NULL CHECK (state IN ('building', 'active', 'retired')),
  active_from bigint UNIQUE CHECK (active_from > 0),
  mapping jsonb NOT NULL CHECK (jsonb_typeof(mapping) = 'array'),
  created_at timestamptz NOT NULL DEFAULT now(),
  activated_at timestamptz,
  retired_at timestamptz,
  CHECK ((state = 'building') = (active_from IS NULL))
);
CREATE UNIQUE INDEX rule_sets_one_active ON millrace.rule_sets (state) WHERE state = 'active';
COMMENT ON INDEX millrace.rule_sets_one_active IS 'At most one rule set is active.';
COMMENT ON TABLE millrace.rule_sets IS 'Deployed contents of the rules file. The set in force at op id C is the one with the greatest active_from <= C.';
COMMENT ON COLUMN millrace.rule_sets.id IS 'Number of the deploy, from 1.';
COMMENT ON COLUMN millrace.rule_sets.content IS 'The rules file as deployed.';
COMMENT ON COLUMN millrace.rule_sets.state IS 'building: new definitions are being copied, nothing of it is served. active: in force. retired: replaced, still fed until it is dropped.';
COMMENT ON COLUMN millrace.rule_sets.active_from IS 'Op id since which the set is in force; null until activated.';
COMMENT ON COLUMN millrace.rule_sets.mapping IS 'Which definition each part of the file maps to: [{"key", "kind", "name", "definition"}]. Relays read this and never hash.';
COMMENT ON COLUMN millrace.rule_sets.created_at IS 'When it was deployed.';
COMMENT ON COLUMN millrace.rule_sets.activated_at IS 'When it was activated.';
COMMENT ON COLUMN millrace.rule_sets.retired_at IS 'When another set replaced it.';

CREATE TABLE millrace.copies (
  id bigint PRIMARY KEY CHECK (id > 0),
  rule_set integer NOT NULL REFERENCES millrace.rule_sets ON DELETE CASCADE,
  source_table integer NOT NULL REFERENCES millrace.source_tables,
  definitions integer[] NOT NULL,
  state text NOT NULL CHECK (state IN ('waiting', 'running', 'done')),
  filenode bigint NOT NULL CHECK (filenode >= 0),
  end_page bigint NOT NULL CHECK (end_page >= 0),
  cursor_page bigint NOT NULL CHECK (cursor_page >= 0),
  rows bigint NOT NULL CHECK (rows >= 0),
  estimate bigint NOT NULL,
  wait_for bigint[] NOT NULL,
  started_at timestamptz,
  done_at timestamptz
) WITH (fillfactor = 50);
CREATE INDEX copies_rule_set ON millrace.copies (rule_set);
COMMENT ON INDEX millrace.copies_rule_set IS 'Progress of a rule set.';
COMMENT ON TABLE millrace.copies IS 'Copies of source tables into definitions being built. Written with the flush that merges a chunk, so that a crash resumes at the cursor.';
COMMENT ON COLUMN millrace.copies.id IS 'Number of the copy, never reused.';
COMMENT ON COLUMN millrace.copies.rule_set IS 'The rule set being built.';
COMMENT ON COLUMN millrace.copies.source_table IS 'The table being copied.';
COMMENT ON COLUMN millrace.copies.definitions IS 'The definitions it is copied into.';
COMMENT ON COLUMN millrace.copies.state IS 'waiting: for transactions to become visible. running. done: every page merged and nothing left to read again.';
COMMENT ON COLUMN millrace.copies.filenode IS 'relfilenode the cursor belongs to; 0 until planned.';
COMMENT ON COLUMN millrace.copies.end_page IS 'First page that need not be read.';
COMMENT ON COLUMN millrace.copies.cursor_page IS 'First page not merged yet.';
COMMENT ON COLUMN millrace.copies.rows IS 'Rows merged.';
COMMENT ON COLUMN millrace.copies.estimate IS 'Rows expected; -1 if unknown.';
COMMENT ON COLUMN millrace.copies.wait_for IS 'Transaction ids of the source that must be visible before the copy may be planned.';
COMMENT ON COLUMN millrace.copies.started_at IS 'When reading began.';
COMMENT ON COLUMN millrace.copies.done_at IS 'When it was done.';

CREATE TABLE millrace.rereads (
  copy bigint NOT NULL REFERENCES millrace.copies ON DELETE CASCADE,
  row_key text COLLATE "C" NOT NULL CHECK (octet_length(row_key) <= 2048),
  full_key text,
  PRIMARY KEY (copy, row_key)
);
COMMENT ON TABLE millrace.rereads IS 'Rows of a table being copied that must be read again, because the stream did not tell their long values.';
COMMENT ON COLUMN millrace.rereads.copy IS 'The copy.';
COMMENT ON COLUMN millrace.rereads.row_key IS 'Row key; above 2,048 bytes its start and its SHA-256.';
COMMENT ON COLUMN millrace.rereads.full_key IS 'The whole row key if row_key is shortened; else null.';

COMMENT ON TABLE millrace.schema_migrations IS 'Which migration the schema is at; kept by golang-migrate.';
COMMENT ON COLUMN millrace.schema_migrations.version IS 'Number of the last migration.';
COMMENT ON COLUMN millrace.schema_migrations.dirty IS 'True while a migration runs, or if it was interrupted.';

COMMENT ON SCHEMA millrace IS 'Millrace sidecar: history of the sources and a window on it. At migration 1.';
