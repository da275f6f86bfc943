-- Creates the shadows in which a table is copied that replaces what definitions
-- have of it, and the log of schema changes. New tables and a column with a
-- constant default: no lock but a short one on copies.

ALTER TABLE millrace.copies ADD COLUMN shadow boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN millrace.copies.shadow IS 'The table is copied into a shadow, which replaces its part of the definitions when it is exact.';
COMMENT ON TABLE millrace.copies IS 'Copies of source tables into definitions being built, or into shadows. Written with the flush that merges a chunk, so that a crash resumes at the cursor.';

ALTER TABLE millrace.source_tables ADD COLUMN member oid NOT NULL DEFAULT 0, ADD COLUMN filter text NOT NULL DEFAULT '';
COMMENT ON TABLE millrace.source_tables IS 'The source tables the rules use or used. A table keeps its number when it is renamed, made again under its name or changes its identity.';
COMMENT ON COLUMN millrace.source_tables.oid IS 'OID of the table on the source; 0 if it is not there any more.';
COMMENT ON COLUMN millrace.source_tables.columns IS 'Published columns in attribute order: [{"name", "type_oid", "type"}]; empty if the table has to be copied before its changes count.';
COMMENT ON COLUMN millrace.source_tables.member IS 'OID of the table''s entry in the publication; 0 if it has all tables.';
COMMENT ON COLUMN millrace.source_tables.filter IS 'The publication''s row filter, SQL; empty if there is none.';

CREATE TABLE millrace.shadow_rows (
  copy bigint NOT NULL,
  row_key text COLLATE "C" NOT NULL,
  definition integer NOT NULL,
  bucket text COLLATE "C" NOT NULL,
  type text NOT NULL,
  row_id text COLLATE "C" NOT NULL,
  subkey text COLLATE "C",
  checksum integer NOT NULL,
  digest bigint,
  data text NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX shadow_rows_row ON millrace.shadow_rows (copy, row_key);
COMMENT ON INDEX millrace.shadow_rows_row IS 'The outputs of a row.';
COMMENT ON TABLE millrace.shadow_rows IS 'Outputs of the rows of tables that are copied into a shadow. Never served: one flush makes history of what differs.';
COMMENT ON COLUMN millrace.shadow_rows.copy IS 'The copy; copies.id.';
COMMENT ON COLUMN millrace.shadow_rows.row_key IS 'Row key, as in row_state.';
COMMENT ON COLUMN millrace.shadow_rows.definition IS 'The bucket definition.';
COMMENT ON COLUMN millrace.shadow_rows.bucket IS 'Logical name of the bucket.';
COMMENT ON COLUMN millrace.shadow_rows.type IS 'Output table.';
COMMENT ON COLUMN millrace.shadow_rows.row_id IS 'Client id of the row.';
COMMENT ON COLUMN millrace.shadow_rows.subkey IS 'Subkey of its ops, if they have one.';
COMMENT ON COLUMN millrace.shadow_rows.checksum IS 'Checksum of the PUT that would carry it.';
COMMENT ON COLUMN millrace.shadow_rows.digest IS 'Digest of the data; null unless unchanged updates are suppressed.';
COMMENT ON COLUMN millrace.shadow_rows.data IS 'Finished JSON text.';

CREATE TABLE millrace.shadow_lookups (
  copy bigint NOT NULL,
  row_key text COLLATE "C" NOT NULL,
  definition integer NOT NULL,
  key text COLLATE "C" NOT NULL,
  outputs text NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX shadow_lookups_row ON millrace.shadow_lookups (copy, row_key);
COMMENT ON INDEX millrace.shadow_lookups_row IS 'The lookups of a row.';
COMMENT ON TABLE millrace.shadow_lookups IS 'Lookups of the rows of tables that are copied into a shadow.';
COMMENT ON COLUMN millrace.shadow_lookups.copy IS 'The copy; copies.id.';
COMMENT ON COLUMN millrace.shadow_lookups.row_key IS 'Row key, as in row_state.';
COMMENT ON COLUMN millrace.shadow_lookups.definition IS 'The lookup definition.';
COMMENT ON COLUMN millrace.shadow_lookups.key IS 'Canonical JSON array of the values that are looked up.';
COMMENT ON COLUMN millrace.shadow_lookups.outputs IS 'JSON text of what a match yields.';

CREATE TABLE millrace.shadow_errors (
  copy bigint NOT NULL,
  row_key text COLLATE "C" NOT NULL,
  definition integer NOT NULL,
  message text NOT NULL
);
CREATE INDEX shadow_errors_row ON millrace.shadow_errors (copy, row_key);
COMMENT ON INDEX millrace.shadow_errors_row IS 'The errors of a row.';
COMMENT ON TABLE millrace.shadow_errors IS 'Errors of the rows of tables that are copied into a shadow.';
COMMENT ON COLUMN millrace.shadow_errors.copy IS 'The copy; copies.id.';
COMMENT ON COLUMN millrace.shadow_errors.row_key IS 'Row key, as in row_state.';
COMMENT ON COLUMN millrace.shadow_errors.definition IS 'The definition.';
COMMENT ON COLUMN millrace.shadow_errors.message IS 'What was wrong.';

CREATE TABLE millrace.schema_events (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  source smallint NOT NULL REFERENCES millrace.sources ON DELETE CASCADE,
  object text NOT NULL,
  change text NOT NULL,
  action text NOT NULL,
  code text NOT NULL,
  cure text NOT NULL,
  copy bigint,
  ended_at timestamptz
);
CREATE INDEX schema_events_open ON millrace.schema_events (source, object) WHERE code <> '' AND ended_at IS NULL;
COMMENT ON SEQUENCE millrace.schema_events_id_seq IS 'Numbers of events.';
COMMENT ON INDEX millrace.schema_events_open IS 'What a person must act upon.';
COMMENT ON TABLE millrace.schema_events IS 'Changes of the sources'' tables as they were noticed; the view schema_changes is for people.';
COMMENT ON COLUMN millrace.schema_events.id IS 'Number of the event.';
COMMENT ON COLUMN millrace.schema_events.at IS 'When it was noticed.';
COMMENT ON COLUMN millrace.schema_events.source IS 'The source.';
COMMENT ON COLUMN millrace.schema_events.object IS 'The table or other object.';
COMMENT ON COLUMN millrace.schema_events.change IS 'What happened.';
COMMENT ON COLUMN millrace.schema_events.action IS 'What was done about it, or what it needs.';
COMMENT ON COLUMN millrace.schema_events.code IS 'Code (MR1014, ...) where a person must act; else empty.';
COMMENT ON COLUMN millrace.schema_events.cure IS 'The exact SQL or setting; empty if nobody must act.';
COMMENT ON COLUMN millrace.schema_events.copy IS 'The copy it caused; copies.id.';
COMMENT ON COLUMN millrace.schema_events.ended_at IS 'When what needed a person was found to be cured.';

COMMENT ON SCHEMA millrace IS 'Millrace sidecar: history of the sources and a window on it. At migration 6.';
