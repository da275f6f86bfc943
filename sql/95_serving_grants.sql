-- Monitoring sees relays and sessions, but not whose they are.

DO $$
BEGIN
  GRANT SELECT ON millrace.relays TO pg_monitor;
  GRANT SELECT (relay, id, transport, agent, buckets, sent_op, acknowledged_op, bytes, since, sending_op) ON millrace.sessions TO pg_monitor;
  GRANT SELECT (requested_at, waiting, waits_for) ON millrace.pending_write_checkpoints TO pg_monitor;
EXCEPTION WHEN insufficient_privilege THEN
  RAISE NOTICE 'rights of pg_monitor could not be granted: %', SQLERRM;
END $$;
