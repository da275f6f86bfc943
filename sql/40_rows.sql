-- Where a source row is and was.

CREATE OR REPLACE FUNCTION millrace.row_outputs(state millrace.row_state)
RETURNS SETOF millrace.row_output
LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
  SELECT state.bucket, state.since_op, state.digest, state.type, coalesce(state.row_id, state.row_key), state.subkey
  UNION ALL
  SELECT m.bucket, m.since_op, m.digest, m.type, coalesce(m.row_id, state.row_key), m.subkey FROM unnest(state.more) m
$$;
COMMENT ON FUNCTION millrace.row_outputs(millrace.row_state) IS
  'The outputs of a row of row_state.';

CREATE OR REPLACE FUNCTION millrace.row_history(source_table text, row_id text, bucket text DEFAULT NULL)
RETURNS TABLE (bucket_name text, type text, client_row_id text, since_op bigint, since timestamptz,
  until_op bigint, until timestamptz, ops jsonb)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
DECLARE
  v_tables integer[] := millrace.find_source_tables(row_history.source_table);
  v_bucket bigint := CASE WHEN row_history.bucket IS NOT NULL THEN millrace.find_bucket(row_history.bucket) END;
  v_head bigint := (SELECT h.op_id FROM millrace.head h);
  v_served integer[] := ARRAY(SELECT d.id FROM millrace.definition_versions d WHERE d.kind = 'bucket' AND millrace.serves(d.id, v_head));
BEGIN
  RETURN QUERY
  WITH stays AS (
    SELECT s.definition, u.bucket, u.type, u.row_id, u.subkey, u.since_op, NULL::bigint AS until_op
    FROM millrace.row_state s CROSS JOIN LATERAL millrace.row_outputs(s) u
    WHERE s.definition = ANY (v_served) AND s.source_table = ANY (v_tables) AND s.row_key = row_history.row_id
    UNION ALL
    SELECT e.definition, e.bucket, e.type, e.row_id, e.subkey, e.since_op, e.ended_op
    FROM millrace.ended_outputs e
    WHERE e.definition = ANY (v_served) AND e.source_table = ANY (v_tables) AND e.row_key = row_history.row_id)
  SELECT d.wire_prefix || '#' || n.name, s.type, s.row_id, s.since_op, millrace.op_time(s.since_op), s.until_op, millrace.op_time(s.until_op),
    (SELECT jsonb_agg(jsonb_build_object('op_id', o.op_id, 'kind', (ARRAY['PUT', 'REMOVE'])[o.kind],
        'at', millrace.op_time(o.op_id), 'data', o.data::jsonb) ORDER BY o.op_id)
      FROM millrace.ops o
      WHERE o.definition = s.definition AND o.bucket = s.bucket AND o.op_id BETWEEN s.since_op AND coalesce(s.until_op, v_head)
        AND o.type = s.type AND o.row_id = s.row_id AND o.subkey IS NOT DISTINCT FROM s.subkey)
  FROM stays s
  JOIN millrace.bucket_names n ON n.id = s.bucket
  JOIN millrace.definition_versions d ON d.id = s.definition
  WHERE v_bucket IS NULL OR s.bucket = v_bucket
  ORDER BY s.since_op;
END $$;
COMMENT ON FUNCTION millrace.row_history(text, text, text) IS
  'In which buckets a source row was, since and until which op id and time (until null: it is there now), within history.keep, with its ops as far as they are kept. source_table is schema.table or source.schema.table; row_id is the key''s text, for several key columns their JSON array.';
