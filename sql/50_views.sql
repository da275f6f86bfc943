-- The views for people and monitoring. A function in a view reads tables with
-- the caller's rights, so those granted to pg_monitor use none of ours.

CREATE OR REPLACE VIEW millrace.replication AS
SELECT s.name AS source, s.database, s.slot, s.publication,
  s.durable, r.received, r.confirmed, r.head,
  greatest(r.head - s.durable, 0)::bigint AS lag_bytes,
  CASE WHEN r.head <= s.durable THEN 0 ELSE round(extract(epoch FROM clock_timestamp() - h.published)::numeric, 3) END AS lag_seconds,
  r.retained AS retained_bytes, r.slot_state, nullif(r.waiting_for, '') AS waiting_for,
  nullif(r.error_code, '') AS error_code, nullif(r.error, '') AS error, r.at AS reported_at
FROM millrace.sources s
CROSS JOIN millrace.head h
LEFT JOIN millrace.source_reports r ON r.source = s.id
WHERE s.lost_at IS NULL
ORDER BY s.id;
COMMENT ON VIEW millrace.replication IS 'How far each source is followed, and what it waits for.';
COMMENT ON COLUMN millrace.replication.source IS 'The source''s name in the configuration.';
COMMENT ON COLUMN millrace.replication.database IS 'Database on the source.';
COMMENT ON COLUMN millrace.replication.slot IS 'Logical replication slot on the source.';
COMMENT ON COLUMN millrace.replication.publication IS 'Publication on the source.';
COMMENT ON COLUMN millrace.replication.durable IS 'End of the newest source transaction contained in the newest checkpoint.';
COMMENT ON COLUMN millrace.replication.received IS 'End of the newest WAL received.';
COMMENT ON COLUMN millrace.replication.confirmed IS 'Position confirmed to the slot.';
COMMENT ON COLUMN millrace.replication.head IS 'Insert position of the source when last asked.';
COMMENT ON COLUMN millrace.replication.lag_bytes IS 'Bytes of WAL between head and durable; all databases of the source write it.';
COMMENT ON COLUMN millrace.replication.lag_seconds IS 'Seconds since the newest contained transaction was committed on its source; 0 if nothing is missing.';
COMMENT ON COLUMN millrace.replication.retained_bytes IS 'Bytes of WAL the slot holds back on the source; null if unknown.';
COMMENT ON COLUMN millrace.replication.slot_state IS 'wal_status of the slot.';
COMMENT ON COLUMN millrace.replication.waiting_for IS 'What keeps the source from going on, in words.';
COMMENT ON COLUMN millrace.replication.error_code IS 'Code of the last failure (MR1003, ...), until there is progress.';
COMMENT ON COLUMN millrace.replication.error IS 'The last failure in words, until there is progress.';
COMMENT ON COLUMN millrace.replication.reported_at IS 'When the decoder last reported; old if it is down.';

CREATE OR REPLACE VIEW millrace.status AS
SELECT
  (SELECT s.id FROM millrace.rule_sets s WHERE s.active_from <= h.op_id ORDER BY s.active_from DESC LIMIT 1) AS rule_set,
  h.op_id, h.seq, h.at AS checkpoint_at, h.published,
  h.writer AS decoder, l.at AS heartbeat_at,
  (SELECT jsonb_object_agg(r.source, jsonb_build_object('bytes', r.lag_bytes, 'seconds', r.lag_seconds)) FROM millrace.replication r) AS lag,
  (SELECT string_agg(r.source || ': ' || r.waiting_for, '; ') FROM millrace.replication r) AS waiting_for,
  (SELECT string_agg(r.source || ': ' || coalesce(r.error_code || ' ', '') || r.error, '; ') FROM millrace.replication r) AS errors,
  b.rule_set AS building_rule_set, b.tables AS copy_tables, b.tables_done AS copy_tables_done, b.rows AS copy_rows, b.estimate AS copy_estimate,
  (SELECT count(*) FROM millrace.row_errors) AS row_errors,
  (SELECT max(clock_timestamp() - a.xact_start) FROM pg_stat_activity a
    WHERE a.datname = current_database() AND a.backend_xmin IS NOT NULL AND a.pid <> pg_backend_pid()) AS oldest_snapshot,
  (SELECT coalesce(sum(r.connections), 0)::bigint FROM millrace.relay_reports r WHERE r.at > clock_timestamp() - interval '1 minute') AS sessions,
  (SELECT coalesce(sum(i.ids), 0)::bigint FROM millrace.shared_ids i) AS shared_ids
FROM millrace.head h
CROSS JOIN millrace.leader l
LEFT JOIN (
  SELECT r.id AS rule_set, count(c.id) AS tables, count(c.id) FILTER (WHERE c.state = 'done') AS tables_done,
    sum(c.rows)::bigint AS rows, sum(greatest(c.estimate, c.rows))::bigint AS estimate
  FROM millrace.rule_sets r LEFT JOIN millrace.copies c ON c.rule_set = r.id
  WHERE r.id = (SELECT max(m.id) FROM millrace.rule_sets m WHERE m.state = 'building')
  GROUP BY r.id) b ON true;
COMMENT ON VIEW millrace.status IS 'One row: where the sidecar stands.';
COMMENT ON COLUMN millrace.status.shared_ids IS 'Ids that rows of several sources have in one bucket, so that they replace each other on clients; see millrace.shared_ids. Counted every ten minutes.';
COMMENT ON COLUMN millrace.status.rule_set IS 'The active rule set; null before the first is built.';
COMMENT ON COLUMN millrace.status.op_id IS 'Op id of the newest checkpoint.';
COMMENT ON COLUMN millrace.status.seq IS 'Number of the newest checkpoint.';
COMMENT ON COLUMN millrace.status.checkpoint_at IS 'When the newest checkpoint was written.';
COMMENT ON COLUMN millrace.status.published IS 'Commit time, on its source, of the newest source transaction contained.';
COMMENT ON COLUMN millrace.status.decoder IS 'The decoder that leads.';
COMMENT ON COLUMN millrace.status.heartbeat_at IS 'Its last heartbeat, every two seconds; old if it is down.';
COMMENT ON COLUMN millrace.status.lag IS 'Per source: {"bytes", "seconds"}, as in the view replication.';
COMMENT ON COLUMN millrace.status.waiting_for IS 'What sources wait for, in words.';
COMMENT ON COLUMN millrace.status.errors IS 'Present failures of sources.';
COMMENT ON COLUMN millrace.status.building_rule_set IS 'The rule set being built, if any.';
COMMENT ON COLUMN millrace.status.copy_tables IS 'Tables copied for it.';
COMMENT ON COLUMN millrace.status.copy_tables_done IS 'Tables copied in full.';
COMMENT ON COLUMN millrace.status.copy_rows IS 'Rows copied.';
COMMENT ON COLUMN millrace.status.copy_estimate IS 'Rows expected.';
COMMENT ON COLUMN millrace.status.row_errors IS 'Source rows that could not be evaluated or stored; see millrace.row_errors.';
COMMENT ON COLUMN millrace.status.sessions IS 'Connected clients, as relays that live last reported.';
COMMENT ON COLUMN millrace.status.oldest_snapshot IS 'Age of the oldest open transaction with a snapshot in this database, as far as you may see: it keeps dead rows from being removed.';

CREATE OR REPLACE VIEW millrace.definitions AS
SELECT d.id, d.kind, d.name, d.key, d.wire_prefix, d.hash,
  CASE WHEN d.dropped_at IS NOT NULL THEN 'dropped' WHEN d.retired_at IS NOT NULL THEN 'dropping'
    WHEN bool_or(r.state = 'active') THEN 'active' WHEN bool_or(r.state = 'building') THEN 'building'
    WHEN bool_or(r.state = 'retired') THEN 'retired' ELSE 'unused' END AS state,
  array_agg(r.id ORDER BY r.id) FILTER (WHERE r.id IS NOT NULL) AS rule_sets,
  (SELECT count(*) FROM millrace.bucket_names n WHERE n.definition = d.id) AS buckets,
  CASE d.kind WHEN 'bucket' THEN pg_total_relation_size(to_regclass('millrace.ops_' || d.id)) + pg_total_relation_size(to_regclass('millrace.row_state_' || d.id)) END AS disk_bytes,
  d.created_at, d.retired_at, d.dropped_at
FROM millrace.definition_versions d
LEFT JOIN millrace.rule_sets r ON r.mapping @> jsonb_build_array(jsonb_build_object('definition', d.id))
GROUP BY d.id
ORDER BY d.id;
COMMENT ON VIEW millrace.definitions IS 'Bucket, lookup and event definitions, and the rule sets that use them.';
COMMENT ON COLUMN millrace.definitions.id IS 'Number of the definition.';
COMMENT ON COLUMN millrace.definitions.kind IS 'bucket, lookup or event (custom write checkpoints).';
COMMENT ON COLUMN millrace.definitions.name IS 'The bucket definition, stream or event it came from.';
COMMENT ON COLUMN millrace.definitions.key IS 'Its name inside the compiled rules file.';
COMMENT ON COLUMN millrace.definitions.wire_prefix IS 'Start of the wire names of its buckets; null for others.';
COMMENT ON COLUMN millrace.definitions.hash IS 'Hash of its meaning.';
COMMENT ON COLUMN millrace.definitions.state IS 'active: in the rule set in force. building: only in one being built. retired: only in replaced ones, still fed. dropping: no longer fed, its history is being dropped. dropped: it is gone. unused: in none.';
COMMENT ON COLUMN millrace.definitions.rule_sets IS 'The rule sets it is in.';
COMMENT ON COLUMN millrace.definitions.buckets IS 'Number of its buckets.';
COMMENT ON COLUMN millrace.definitions.disk_bytes IS 'Bytes on disk of its ops and row states with their indexes; null for others.';
COMMENT ON COLUMN millrace.definitions.created_at IS 'When its history began.';
COMMENT ON COLUMN millrace.definitions.retired_at IS 'Since when it is no longer fed; null while it is.';
COMMENT ON COLUMN millrace.definitions.dropped_at IS 'When its history was dropped.';

CREATE OR REPLACE VIEW millrace.buckets AS
SELECT d.wire_prefix || '#' || n.name AS bucket, d.name AS definition, n.name, d.served,
  coalesce(t.rows, 0) AS rows, coalesce(t.ops, 0) AS ops, coalesce(t.bytes, 0) AS bytes, coalesce(t.checksum, 0) AS checksum, t.last_op
FROM (
  SELECT v.id, v.name, v.wire_prefix, millrace.serves(v.id, h.op_id) AS served
  FROM millrace.definition_versions v CROSS JOIN millrace.head h WHERE v.kind = 'bucket' AND v.dropped_at IS NULL OFFSET 0) d
JOIN millrace.bucket_names n ON n.definition = d.id
LEFT JOIN millrace.bucket_totals t ON t.bucket = n.id;
COMMENT ON VIEW millrace.buckets IS 'Every bucket that ever had a row, with its running totals.';
COMMENT ON COLUMN millrace.buckets.bucket IS 'Wire name: <wire prefix>#<logical name>.';
COMMENT ON COLUMN millrace.buckets.definition IS 'The bucket definition or stream.';
COMMENT ON COLUMN millrace.buckets.name IS 'Logical name.';
COMMENT ON COLUMN millrace.buckets.served IS 'Whether its definition is in the rule set in force.';
COMMENT ON COLUMN millrace.buckets.rows IS 'Rows it holds.';
COMMENT ON COLUMN millrace.buckets.ops IS 'Ops stored.';
COMMENT ON COLUMN millrace.buckets.bytes IS 'Bytes of data of its ops.';
COMMENT ON COLUMN millrace.buckets.checksum IS 'Running sum of its op checksums, 32 bits, signed.';
COMMENT ON COLUMN millrace.buckets.last_op IS 'Op id of its newest op.';

CREATE OR REPLACE VIEW millrace.checkpoints AS
SELECT c.seq, c.op_id, c.at, c.published,
  (SELECT jsonb_object_agg(coalesce(s.name, p.key), p.value) FROM jsonb_each_text(c.lsns) p LEFT JOIN millrace.sources s ON s.id = p.key::smallint) AS lsns,
  cardinality(c.buckets) AS changed_buckets, cardinality(c.lookups) AS changed_lookups
FROM millrace.checkpoint_log c;
COMMENT ON VIEW millrace.checkpoints IS 'Committed checkpoints: all of the last hour, one a minute before.';
COMMENT ON COLUMN millrace.checkpoints.seq IS 'Number of the checkpoint.';
COMMENT ON COLUMN millrace.checkpoints.op_id IS 'The newest op id it contains.';
COMMENT ON COLUMN millrace.checkpoints.at IS 'When it was written.';
COMMENT ON COLUMN millrace.checkpoints.published IS 'Commit time, on its source, of the newest source transaction contained.';
COMMENT ON COLUMN millrace.checkpoints.lsns IS 'How far each source is contained: {"<source>": "<lsn>"}.';
COMMENT ON COLUMN millrace.checkpoints.changed_buckets IS 'Number of buckets changed since the checkpoint before; null: unknown.';
COMMENT ON COLUMN millrace.checkpoints.changed_lookups IS 'Number of lookup definitions with changed entries; null: unknown.';
