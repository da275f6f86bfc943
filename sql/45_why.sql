-- Why a row is with a user, or not, as far as the data tells. What rules say of a
-- row that is in no bucket, `millrace explain` tells: it evaluates them.

CREATE OR REPLACE FUNCTION millrace.user_values(stream text, user_id text)
RETURNS TABLE (value jsonb, since_op bigint, until_op bigint, path text)
LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
  -- From the user's id on, what each value found leads to, at most four steps.
  WITH RECURSIVE lookup AS (
    SELECT v.id FROM millrace.definition_versions v CROSS JOIN millrace.head h
    WHERE v.kind = 'lookup' AND v.name = user_values.stream AND millrace.serves(v.id, h.op_id)),
  found (depth, value, since_op, until_op, path) AS (
    SELECT 0, to_jsonb(user_values.user_id), 0::bigint, NULL::bigint, ''::text COLLATE "C"
    UNION
    SELECT f.depth + 1, o.value, greatest(f.since_op, l.added),
      least(f.until_op, nullif(l.removed, 9223372036854775807)),
      (f.path || CASE WHEN f.path = '' THEN '' ELSE ', then ' END || format('row %s of %s.%s', l.row_key, t.schema, t.name)) COLLATE "C"
    FROM found f CROSS JOIN lookup d
    JOIN millrace.lookups l ON l.definition = d.id AND l.key = '[' || f.value::text || ']'
    JOIN millrace.source_tables t ON t.id = l.source_table
    CROSS JOIN LATERAL jsonb_array_elements(l.outputs::jsonb) o (value)
    WHERE f.depth < 4)
  SELECT f.value, f.since_op, f.until_op, f.path FROM found f
$$;
COMMENT ON FUNCTION millrace.user_values(text, text) IS
  'The values that the parameter lookups of a stream or bucket definition give a user, with the op ids since and until which (null: still) and the rows that do it. Lookups with a single key, at most four after another; ended ones as far as history.keep.';

CREATE OR REPLACE FUNCTION millrace.why(source_table text, row_id text, user_id text DEFAULT NULL)
RETURNS TABLE (bucket_name text, definition text, type text, client_row_id text, since_op bigint, since timestamptz,
  last_op bigint, granted boolean, because text, sessions jsonb)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
DECLARE
  v_tables integer[] := millrace.find_source_tables(why.source_table);
  v_head bigint := (SELECT h.op_id FROM millrace.head h);
  v_served integer[] := ARRAY(SELECT d.id FROM millrace.definition_versions d WHERE d.kind = 'bucket' AND millrace.serves(d.id, v_head));
  v record;
  w record;
BEGIN
  sessions := (
    SELECT jsonb_agg(jsonb_build_object('client_id', s.client_id, 'transport', s.transport, 'sent_op', s.sent_op,
      'acknowledged_op', s.acknowledged_op) ORDER BY s.since)
    FROM millrace.sessions s WHERE s.user_id = why.user_id OR starts_with(s.user_id, why.user_id || '/'));
  FOR v IN
    SELECT s.definition AS id, d.name AS stream, d.wire_prefix || '#' || n.name AS wire, n.id AS bucket, u.type, u.row_id, u.since_op, t.last_op,
      CASE WHEN strpos(n.name, '[') > 0 THEN substr(n.name, strpos(n.name, '['))::jsonb ELSE '[]' END AS parameters
    FROM millrace.row_state s CROSS JOIN LATERAL millrace.row_outputs(s) u
    CROSS JOIN LATERAL (SELECT b.id, b.name FROM millrace.bucket_names b WHERE b.id = u.bucket LIMIT 1) n
    JOIN millrace.definition_versions d ON d.id = s.definition
    LEFT JOIN LATERAL (SELECT b.last_op FROM millrace.bucket_totals b WHERE b.bucket = u.bucket LIMIT 1) t ON true
    WHERE s.definition = ANY (v_served) AND s.source_table = ANY (v_tables) AND s.row_key = why.row_id
    ORDER BY u.since_op
  LOOP
    bucket_name := v.wire;
    definition := v.stream;
    type := v.type;
    client_row_id := v.row_id;
    since_op := v.since_op;
    since := millrace.op_time(v.since_op);
    last_op := v.last_op;
    granted := NULL;
    because := NULL;
    IF why.user_id IS NOT NULL THEN
      SELECT count(*) FILTER (WHERE NOT f.missing) = count(*) AS all_there, count(*) AS parameters,
        string_agg(CASE
          WHEN f.path = '' THEN format('%s is the user', f.parameter)
          WHEN f.missing AND f.until_op IS NULL THEN format('nothing gives the user %s', f.parameter)
          WHEN f.missing THEN format('%s gave the user %s until op %s (%s)', f.path, f.parameter, f.until_op, coalesce(millrace.op_time(f.until_op)::text, 'not kept'))
          ELSE format('%s gives the user %s since op %s (%s)', f.path, f.parameter, f.since_op, coalesce(millrace.op_time(f.since_op)::text, 'not kept')) END, '; ') AS text
      INTO w FROM (
        SELECT p.value AS parameter, g.since_op, g.until_op, g.path, g.value IS NULL OR g.until_op IS NOT NULL AS missing
        FROM jsonb_array_elements(v.parameters) p LEFT JOIN LATERAL (
          SELECT * FROM millrace.user_values(v.stream, why.user_id) x WHERE x.value = p.value
          ORDER BY x.until_op DESC NULLS FIRST, length(x.path) LIMIT 1) g ON true) f;
      granted := w.all_there;
      because := CASE WHEN w.parameters = 0 THEN 'the bucket has no parameters' ELSE w.text END;
    END IF;
    RETURN NEXT;
  END LOOP;
END $$;
COMMENT ON FUNCTION millrace.why(text, text, text) IS
  'The buckets a source row is in now, and whether that user gets them: which lookups give the bucket''s parameters to them, or gave until when, and what their live sessions have. granted is what the data tells: conditions on the token or on subscription parameters are not in it. No line: the row is in no bucket; see row_history for where it was, row_errors for why not, and millrace explain for which condition failed.';
