-- Drops the head. A sidecar is rebuilt from its sources.
DROP TABLE millrace.checkpoint_log, millrace.leader, millrace.head;
COMMENT ON SCHEMA millrace IS 'Millrace sidecar: history of the sources and a window on it. At migration 2.';
