-- Adds what is remembered of sources beside each other: how their rows are told
-- apart, and which histories are lost and have a successor. Short ACCESS EXCLUSIVE locks on tables of a few rows; a release before
-- this one works on beside it.

ALTER TABLE millrace.sources ADD COLUMN plain_ids boolean NOT NULL DEFAULT true;
COMMENT ON COLUMN millrace.sources.plain_ids IS 'Its rows may go to clients without a subkey: no other source with one of its connection tags does so.';

ALTER TABLE millrace.sources
  ADD COLUMN was text,
  ADD COLUMN lost_at timestamptz,
  ADD COLUMN lost_reason text,
  ADD CONSTRAINT sources_lost CHECK ((lost_at IS NULL) = (was IS NULL) AND (lost_at IS NULL) = (lost_reason IS NULL));
COMMENT ON COLUMN millrace.sources.was IS 'Of a source whose history is lost: the name it had, which its successor has now; else null.';
COMMENT ON COLUMN millrace.sources.lost_at IS 'When its history was found to be lost; null while it is followed. Its rows stay until the definitions they are in are dropped.';
COMMENT ON COLUMN millrace.sources.lost_reason IS 'Why, in words.';

ALTER TABLE millrace.definition_versions ADD COLUMN without smallint[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN millrace.definition_versions.without IS 'Sources (sources.id) whose present history began after it: nothing of theirs goes into it, since it has rows of the history before.';

ALTER TABLE millrace.head ADD COLUMN renewed bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN millrace.head.renewed IS 'How often all wire prefixes were replaced, because the sidecar had gone back in time.';

ALTER TABLE millrace.source_reports
  ADD COLUMN restart_at pg_lsn,
  ADD COLUMN safe_wal bigint,
  ADD COLUMN wal_rate bigint,
  ADD COLUMN findings text[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN millrace.source_reports.restart_at IS 'restart_lsn of the slot: where the WAL begins that it holds back.';
COMMENT ON COLUMN millrace.source_reports.safe_wal IS 'Bytes of WAL that may be written before the slot is in danger; null if there is no limit or it is unknown.';
COMMENT ON COLUMN millrace.source_reports.wal_rate IS 'Bytes of WAL the source writes in an hour, at the rate of the last hour; null if unknown.';
COMMENT ON COLUMN millrace.source_reports.findings IS 'What stops nothing but should be looked after, each with its code and cure.';

CREATE TABLE millrace.shared_ids (
  definition integer PRIMARY KEY,
  ids bigint NOT NULL CHECK (ids > 0),
  example text NOT NULL,
  counted_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE millrace.shared_ids IS 'Rows of clients that come from more than one source at once, and so replace each other. Counted every ten minutes where several sources are read by one definition; definitions without any are not here.';
COMMENT ON COLUMN millrace.shared_ids.definition IS 'The bucket definition.';
COMMENT ON COLUMN millrace.shared_ids.ids IS 'How many ids, counted in each bucket.';
COMMENT ON COLUMN millrace.shared_ids.example IS 'One of them: bucket, output table and id.';
COMMENT ON COLUMN millrace.shared_ids.counted_at IS 'When it was counted.';

COMMENT ON SCHEMA millrace IS 'Millrace sidecar: history of the sources and a window on it. At migration 7.';
