-- The slots of the sources: what they hold back, and for how long that goes well.

CREATE OR REPLACE VIEW millrace.slot_health AS
SELECT s.name AS source, s.slot, r.slot_state AS state, r.restart_at, r.confirmed, r.head,
  r.retained AS retained_bytes, r.safe_wal AS safe_bytes,
  CASE WHEN r.safe_wal IS NOT NULL AND r.retained IS NOT NULL
    THEN round(100.0 * r.safe_wal / nullif(r.safe_wal + r.retained, 0), 1) END AS budget_left_percent,
  r.wal_rate AS wal_bytes_per_hour,
  CASE WHEN r.safe_wal IS NOT NULL AND r.wal_rate > 0 AND r.safe_wal / r.wal_rate < 48
    THEN make_interval(secs => round(3600.0 * r.safe_wal / r.wal_rate)::float8) END AS fills_in,
  CASE WHEN r.restart_at IS NULL OR r.confirmed IS NULL OR r.head - r.restart_at <= 67108864 THEN NULL
    WHEN r.head - r.confirmed >= r.confirmed - r.restart_at THEN 'the decoder, which has not read further'
    ELSE 'the oldest transaction that runs on the source' END AS held_by,
  CASE WHEN r.error_code = 'MR1030' OR r.slot_state = 'lost' THEN 'MR1030'
    WHEN r.slot_state = 'unreserved' OR r.safe_wal <= r.retained OR r.safe_wal IS NULL AND r.retained > 10737418240 THEN 'MR1031' END AS code,
  CASE WHEN r.error_code = 'MR1030' OR r.slot_state = 'lost' THEN 'nothing: its tables are copied again with a new slot; see replication.error'
    WHEN r.slot_state = 'unreserved' OR r.safe_wal <= r.retained
      THEN 'raise max_slot_wal_keep_size on the source (ALTER SYSTEM SET max_slot_wal_keep_size = ...; SELECT pg_reload_conf();), or find out what held_by waits for'
    WHEN r.safe_wal IS NULL AND r.retained > 10737418240
      THEN 'more than 10 GiB of WAL are kept and nothing limits it: watch the source''s disk, or set max_slot_wal_keep_size or decoder.slot_max_lag' END AS cure,
  (SELECT count(*) FROM millrace.sources o WHERE o.was = s.name) AS histories_lost,
  (SELECT o.lost_reason FROM millrace.sources o WHERE o.was = s.name ORDER BY o.lost_at DESC LIMIT 1) AS last_lost_reason,
  (SELECT max(o.lost_at) FROM millrace.sources o WHERE o.was = s.name) AS last_lost_at,
  r.findings, r.at AS reported_at
FROM millrace.sources s
LEFT JOIN millrace.source_reports r ON r.source = s.id
WHERE s.lost_at IS NULL
ORDER BY s.id;
COMMENT ON VIEW millrace.slot_health IS 'The replication slot of each source: what it holds back, how long that goes well, and what was lost before.';
COMMENT ON COLUMN millrace.slot_health.source IS 'The source''s name in the configuration.';
COMMENT ON COLUMN millrace.slot_health.slot IS 'Its slot.';
COMMENT ON COLUMN millrace.slot_health.state IS 'wal_status: reserved and extended are well, unreserved may be lost at the next checkpoint of the source, lost is.';
COMMENT ON COLUMN millrace.slot_health.restart_at IS 'Where the WAL begins that it holds back.';
COMMENT ON COLUMN millrace.slot_health.confirmed IS 'Position confirmed to it.';
COMMENT ON COLUMN millrace.slot_health.head IS 'Insert position of the source when last asked.';
COMMENT ON COLUMN millrace.slot_health.retained_bytes IS 'Bytes of WAL it holds back.';
COMMENT ON COLUMN millrace.slot_health.safe_bytes IS 'Bytes of WAL that may be written before it is in danger; null without max_slot_wal_keep_size.';
COMMENT ON COLUMN millrace.slot_health.budget_left_percent IS 'safe_bytes as a part of all the WAL that the slot may hold back.';
COMMENT ON COLUMN millrace.slot_health.wal_bytes_per_hour IS 'Bytes of WAL the source writes in an hour, at the rate of the last hour.';
COMMENT ON COLUMN millrace.slot_health.fills_in IS 'When safe_bytes are written at that rate, if nothing is read meanwhile; null if that takes more than 48 hours, without a limit, or while the rate is unknown.';
COMMENT ON COLUMN millrace.slot_health.held_by IS 'What holds back more than 64 MiB: the decoder (head is far ahead of confirmed), or the oldest transaction that runs on the source (confirmed is far ahead of restart_at).';
COMMENT ON COLUMN millrace.slot_health.code IS 'MR1030: lost. MR1031: half of the budget is used, or the next checkpoint of the source may invalidate the slot.';
COMMENT ON COLUMN millrace.slot_health.cure IS 'What to do about it.';
COMMENT ON COLUMN millrace.slot_health.histories_lost IS 'How often the source''s history was lost and built anew.';
COMMENT ON COLUMN millrace.slot_health.last_lost_reason IS 'Why it was, the last time.';
COMMENT ON COLUMN millrace.slot_health.last_lost_at IS 'When.';
COMMENT ON COLUMN millrace.slot_health.findings IS 'What stops nothing but should be looked after, with code and cure: slots nobody reads, few slots left, tables that do not exist, and more.';
COMMENT ON COLUMN millrace.slot_health.reported_at IS 'When the decoder last reported; old if it is down.';
