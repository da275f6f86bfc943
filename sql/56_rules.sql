-- Which rules are in force, which were, and what is being built.

CREATE OR REPLACE VIEW millrace.rules AS
SELECT r.id AS rule_set, r.state, r.file, r.rolls_back, r.active_from, r.created_at, r.activated_at, r.retired_at, r.ended_at,
  jsonb_array_length(r.mapping) AS definitions,
  (SELECT count(DISTINCT m->'definition') FROM jsonb_array_elements(r.mapping) m
    WHERE NOT EXISTS (SELECT FROM millrace.rule_sets o WHERE o.id < r.id AND o.mapping @> jsonb_build_array(jsonb_build_object('definition', m->'definition')))) AS new_definitions,
  c.tables AS copy_tables, c.tables_done AS copy_tables_done, c.rows AS copy_rows, c.estimate AS copy_estimate,
  octet_length(r.content) AS bytes, md5(r.content) AS md5,
  CASE WHEN r.state = 'building' THEN (
    SELECT string_agg(format('source %s: %s', s.name, coalesce(nullif(p.error, ''), nullif(p.waiting_for, ''), 'preparing')), '; ' ORDER BY s.id)
    FROM millrace.source_reports p JOIN millrace.sources s ON s.id = p.source WHERE p.holds = r.id AND s.lost_at IS NULL) END AS waiting_for
FROM millrace.rule_sets r
CROSS JOIN LATERAL (
  SELECT count(*) AS tables, count(*) FILTER (WHERE c.state = 'done') AS tables_done,
    coalesce(sum(c.rows), 0)::bigint AS rows, coalesce(sum(greatest(c.estimate, c.rows)), 0)::bigint AS estimate
  FROM millrace.copies c WHERE c.rule_set = r.id) c
ORDER BY r.id;
COMMENT ON VIEW millrace.rules IS 'Every rule set there was, with what was copied for it. Its file as deployed: SELECT content FROM millrace.rule_sets WHERE id = …';
COMMENT ON COLUMN millrace.rules.rule_set IS 'Number of the rule set; grows with each deploy and roll-back.';
COMMENT ON COLUMN millrace.rules.state IS 'building, active, retired (still fed, ready for roll-back), dropped, or abandoned (replaced before it was built).';
COMMENT ON COLUMN millrace.rules.file IS 'Name of the file; empty if the decoder deployed it at its start.';
COMMENT ON COLUMN millrace.rules.rolls_back IS 'The earlier rule set it is a roll-back to.';
COMMENT ON COLUMN millrace.rules.active_from IS 'Op id since which it is in force, or was.';
COMMENT ON COLUMN millrace.rules.created_at IS 'When it was deployed.';
COMMENT ON COLUMN millrace.rules.activated_at IS 'When it came into force.';
COMMENT ON COLUMN millrace.rules.retired_at IS 'When another one replaced it.';
COMMENT ON COLUMN millrace.rules.ended_at IS 'When it was dropped or abandoned.';
COMMENT ON COLUMN millrace.rules.definitions IS 'Number of its definitions.';
COMMENT ON COLUMN millrace.rules.new_definitions IS 'How many of them no earlier rule set had: those that had to be built.';
COMMENT ON COLUMN millrace.rules.copy_tables IS 'Tables copied for it.';
COMMENT ON COLUMN millrace.rules.copy_tables_done IS 'Tables copied in full.';
COMMENT ON COLUMN millrace.rules.copy_rows IS 'Rows copied.';
COMMENT ON COLUMN millrace.rules.copy_estimate IS 'Rows expected.';
COMMENT ON COLUMN millrace.rules.bytes IS 'Length of the file.';
COMMENT ON COLUMN millrace.rules.md5 IS 'MD5 of the file, to compare it with one at hand.';
COMMENT ON COLUMN millrace.rules.waiting_for IS 'While it is being built: the sources that have not copied what its new definitions need, and what each is at or why it is down. A source that only definitions read which are fed already is not waited for.';
