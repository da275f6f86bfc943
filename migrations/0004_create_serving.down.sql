-- Drops what relays write. Write checkpoints are lost: clients that wait for one
-- ask again.
DROP TABLE millrace.session_reports, millrace.relay_reports, millrace.bucket_floors, millrace.write_requests;
DROP SEQUENCE millrace.write_checkpoint_ids;
COMMENT ON SCHEMA millrace IS 'Millrace sidecar: history of the sources and a window on it. At migration 3.';
