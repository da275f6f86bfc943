-- What compaction has left, and what it will do.

CREATE OR REPLACE VIEW millrace.bucket_bloat AS
SELECT n.id, d.wire_prefix || '#' || n.name AS bucket, n.definition,
  t.rows, t.ops, t.ops - t.rows AS dead_ops, t.bytes,
  greatest(t.ops - t.rows - coalesce(c.residue, 0), 0) AS new_dead_ops,
  t.last_op, coalesce(f.floor_op, 0) AS floor_op, coalesce(c.compacted_to, 0) AS compacted_to,
  c.finished_at AS compacted_at, c.rewritten_at, r.asked_at AS rewrite_asked_at
FROM millrace.bucket_totals t
JOIN millrace.bucket_names n ON n.id = t.bucket
JOIN millrace.definition_versions d ON d.id = n.definition
LEFT JOIN millrace.bucket_compactions c ON c.bucket = t.bucket
LEFT JOIN millrace.bucket_floors f ON f.bucket = t.bucket
LEFT JOIN millrace.bucket_rewrites r ON r.bucket = t.bucket
WHERE t.ops > t.rows;
COMMENT ON VIEW millrace.bucket_bloat IS 'Buckets with more ops than rows: what compaction left, or has not come to yet. ORDER BY dead_ops DESC for the worst.';
COMMENT ON COLUMN millrace.bucket_bloat.id IS 'Number of the bucket.';
COMMENT ON COLUMN millrace.bucket_bloat.bucket IS 'Wire name: <wire prefix>#<logical name>.';
COMMENT ON COLUMN millrace.bucket_bloat.definition IS 'Number of its definition; definitions.id.';
COMMENT ON COLUMN millrace.bucket_bloat.rows IS 'Rows it holds.';
COMMENT ON COLUMN millrace.bucket_bloat.ops IS 'Ops stored.';
COMMENT ON COLUMN millrace.bucket_bloat.dead_ops IS 'Ops that are no row: superseded and not compacted yet, or left as a MOVE, REMOVE or CLEAR.';
COMMENT ON COLUMN millrace.bucket_bloat.bytes IS 'Bytes of data of its ops.';
COMMENT ON COLUMN millrace.bucket_bloat.new_dead_ops IS 'About how many of the dead ops came since it was last compacted. Compaction takes it within an interval from 16 on, if they are at least half as many as the rows, or from 100,000 on; else once a day.';
COMMENT ON COLUMN millrace.bucket_bloat.last_op IS 'Op id of its newest op.';
COMMENT ON COLUMN millrace.bucket_bloat.floor_op IS 'It cannot be shown at checkpoints below this one any more; 0 if it was never rewritten.';
COMMENT ON COLUMN millrace.bucket_bloat.compacted_to IS 'Up to which op id superseded ops are gone; 0 if it was never compacted.';
COMMENT ON COLUMN millrace.bucket_bloat.compacted_at IS 'When it was last compacted.';
COMMENT ON COLUMN millrace.bucket_bloat.rewritten_at IS 'When its old rows were last to be appended again, so that more could be cleared; at most once a day.';
COMMENT ON COLUMN millrace.bucket_bloat.rewrite_asked_at IS 'Since when the decoder is to append old rows of it again; null if it is not.';

DO $$
BEGIN
  GRANT SELECT (id, definition, rows, ops, dead_ops, bytes, new_dead_ops, last_op, floor_op, compacted_to, compacted_at, rewritten_at, rewrite_asked_at)
    ON millrace.bucket_bloat TO pg_monitor;
EXCEPTION WHEN insufficient_privilege THEN
  RAISE NOTICE 'rights of pg_monitor could not be granted: %', SQLERRM;
END $$;
