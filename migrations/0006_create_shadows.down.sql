-- Drops the shadows and the log of schema changes: copies into a shadow begin
-- anew after the next Up.
DROP TABLE millrace.schema_events;
DROP TABLE millrace.shadow_errors;
DROP TABLE millrace.shadow_lookups;
DROP TABLE millrace.shadow_rows;
ALTER TABLE millrace.source_tables DROP COLUMN member, DROP COLUMN filter;
ALTER TABLE millrace.copies DROP COLUMN shadow;

COMMENT ON SCHEMA millrace IS 'Millrace sidecar: history of the sources and a window on it. At migration 5.';
