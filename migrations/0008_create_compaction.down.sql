-- Drops what compaction remembers. What was compacted stays so; buckets are
-- looked at from their beginning again.
ALTER TABLE millrace.session_reports DROP COLUMN sending_op;
DROP TABLE millrace.compaction, millrace.bucket_rewrites, millrace.bucket_compactions;
COMMENT ON SCHEMA millrace IS 'Millrace sidecar: history of the sources and a window on it. At migration 7.';
