-- Drops the history. A sidecar is rebuilt from its sources.
DROP TABLE millrace.lookups, millrace.row_errors, millrace.row_wide, millrace.ended_outputs,
  millrace.row_state, millrace.ops, millrace.bucket_totals, millrace.bucket_names;
DROP TYPE millrace.row_output;
COMMENT ON SCHEMA millrace IS 'Millrace sidecar: history of the sources and a window on it. At migration 1.';
