-- What happened to the tables of the sources.

CREATE OR REPLACE VIEW millrace.schema_changes AS
SELECT e.id, e.at, s.name AS source, e.object, e.change, e.action,
  CASE
    WHEN e.code <> '' AND e.ended_at IS NULL THEN 'needs action'
    WHEN e.code <> '' THEN 'cured'
    WHEN c.state IN ('waiting', 'running') THEN 'copying'
    ELSE 'done' END AS state,
  nullif(e.code, '') AS code, nullif(e.cure, '') AS cure,
  c.rows AS copied_rows, nullif(c.estimate, -1) AS estimated_rows, coalesce(e.ended_at, c.done_at) AS ended_at
FROM millrace.schema_events e
JOIN millrace.sources s ON s.id = e.source
LEFT JOIN millrace.copies c ON c.id = e.copy
ORDER BY e.id;
COMMENT ON VIEW millrace.schema_changes IS 'Changes of the sources'' tables as they were noticed, and the action each took or needs.';
COMMENT ON COLUMN millrace.schema_changes.id IS 'Number of the change.';
COMMENT ON COLUMN millrace.schema_changes.at IS 'When it was noticed.';
COMMENT ON COLUMN millrace.schema_changes.source IS 'The source.';
COMMENT ON COLUMN millrace.schema_changes.object IS 'The table or other object.';
COMMENT ON COLUMN millrace.schema_changes.change IS 'What happened.';
COMMENT ON COLUMN millrace.schema_changes.action IS 'What was done about it, or what it needs.';
COMMENT ON COLUMN millrace.schema_changes.state IS 'needs action: a person must act, see cure. copying: rows are read again. cured, done: nothing is left to do.';
COMMENT ON COLUMN millrace.schema_changes.code IS 'Code of what a person must act upon.';
COMMENT ON COLUMN millrace.schema_changes.cure IS 'The exact SQL or setting.';
COMMENT ON COLUMN millrace.schema_changes.copied_rows IS 'Rows copied because of it.';
COMMENT ON COLUMN millrace.schema_changes.estimated_rows IS 'Rows expected.';
COMMENT ON COLUMN millrace.schema_changes.ended_at IS 'When nothing was left to do; null while something is, and for what needed nothing.';

CREATE OR REPLACE VIEW millrace.unsynced_rows AS
SELECT s.name AS source, t.schema || '.' || t.name AS source_table, e.row_key, d.name AS definition, e.message, e.at
FROM millrace.row_errors e
JOIN millrace.source_tables t ON t.id = e.source_table
JOIN millrace.sources s ON s.id = t.source
JOIN millrace.definition_versions d ON d.id = e.definition;
COMMENT ON VIEW millrace.unsynced_rows IS 'Rows of the sources that are not synced, and why: text that is not UTF-8, data above the size limit, an expression that fails. An update cures them.';
COMMENT ON COLUMN millrace.unsynced_rows.source IS 'The source.';
COMMENT ON COLUMN millrace.unsynced_rows.source_table IS 'The table.';
COMMENT ON COLUMN millrace.unsynced_rows.row_key IS 'Row key: the key column''s text, or the JSON array of several; "bytes:" and hex digits if it is no text.';
COMMENT ON COLUMN millrace.unsynced_rows.definition IS 'The definition in which the row is missing.';
COMMENT ON COLUMN millrace.unsynced_rows.message IS 'What was wrong.';
COMMENT ON COLUMN millrace.unsynced_rows.at IS 'When it was found.';
