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

CREATE OR REPLACE FUNCTION millrace.stay_ops(definition integer, bucket bigint, type text, row_id text, subkey text, since_op bigint, until_op bigint)
RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
-- No index leads from a row to its ops: one would slow down every write. But what
-- is compacted holds one op of a row at most, so that only what came since is read
-- in full. Of the rest the op with which the stay began is looked at first: if it
-- is still there it is the one, otherwise the newest is looked for.
DECLARE
  v_upto bigint := coalesce(stay_ops.until_op, (SELECT h.op_id FROM millrace.head h));
  v_compacted bigint := least(v_upto, greatest(
    (SELECT c.compacted_to FROM millrace.bucket_compactions c WHERE c.bucket = stay_ops.bucket),
    -- Nothing to compact: every op is a row.
    (SELECT t.last_op FROM millrace.bucket_totals t WHERE t.bucket = stay_ops.bucket AND t.ops = t.rows), 0));
  v_mine text := format($q$
    SELECT o.op_id, (ARRAY['PUT', 'REMOVE'])[o.kind] AS kind, o.data::jsonb AS data FROM millrace.ops o
    WHERE o.definition = %s AND o.bucket = $1 AND o.op_id >= $2 AND o.op_id <= $3
      AND o.type = $4 AND o.row_id = $5 AND o.subkey IS NOT DISTINCT FROM $6$q$, stay_ops.definition);
  v_from bigint := stay_ops.since_op;
  v_ended boolean;
  v_at bigint;
  v_one record;
  v_ops jsonb := '[]';
BEGIN
  IF v_compacted >= v_from THEN
    -- Of a stay that has ended, all that may be left is the REMOVE.
    v_ended := coalesce(v_compacted >= stay_ops.until_op, false);
    v_at := CASE WHEN v_ended THEN stay_ops.until_op ELSE v_from END;
    EXECUTE v_mine INTO v_one USING stay_ops.bucket, v_at, v_at, stay_ops.type, stay_ops.row_id, stay_ops.subkey;
    IF v_one.op_id IS NULL AND NOT v_ended THEN
      EXECUTE v_mine || ' ORDER BY o.op_id DESC LIMIT 1' INTO v_one
        USING stay_ops.bucket, v_from + 1, v_compacted, stay_ops.type, stay_ops.row_id, stay_ops.subkey;
    END IF;
    IF v_one.op_id IS NOT NULL THEN
      v_ops := jsonb_build_array(jsonb_build_object('op_id', v_one.op_id, 'kind', v_one.kind, 'at', millrace.op_time(v_one.op_id), 'data', v_one.data));
    END IF;
    v_from := v_compacted + 1;
  END IF;
  IF v_from <= v_upto THEN
    EXECUTE format($q$
      SELECT $7 || coalesce(jsonb_agg(jsonb_build_object('op_id', m.op_id, 'kind', m.kind, 'at', millrace.op_time(m.op_id), 'data', m.data) ORDER BY m.op_id), '[]')
      FROM (%s) m $q$, v_mine) INTO v_ops USING stay_ops.bucket, v_from, v_upto, stay_ops.type, stay_ops.row_id, stay_ops.subkey, v_ops;
  END IF;
  RETURN nullif(v_ops, '[]');
END $$;
COMMENT ON FUNCTION millrace.stay_ops(integer, bigint, text, text, text, bigint, bigint) IS
  'The ops of a row in a bucket from the one with which it entered to the one with which it left (null: it is there), as far as they are kept, as row_history shows them; null if there are none.';

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
    millrace.stay_ops(s.definition, s.bucket, s.type, s.row_id, s.subkey, s.since_op, s.until_op)
  FROM stays s
  JOIN millrace.bucket_names n ON n.id = s.bucket
  JOIN millrace.definition_versions d ON d.id = s.definition
  WHERE v_bucket IS NULL OR s.bucket = v_bucket
  ORDER BY s.since_op;
END $$;
COMMENT ON FUNCTION millrace.row_history(text, text, text) IS
  'In which buckets a source row was, since and until which op id and time (until null: it is there now), within history.keep, with its ops as far as they are kept. source_table is schema.table or source.schema.table; row_id is the key''s text, for several key columns their JSON array.';
