-- Drops what the decoder remembers. A sidecar is rebuilt from its sources.
COMMENT ON TABLE millrace.schema_migrations IS NULL;
DROP TABLE millrace.rereads, millrace.copies, millrace.rule_sets, millrace.definition_versions,
  millrace.source_tables, millrace.source_reports, millrace.sources;
COMMENT ON SCHEMA millrace IS 'Millrace sidecar: history of the sources and a window on it. At migration 0.';
