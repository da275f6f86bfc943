-- Finding what people name.

CREATE OR REPLACE FUNCTION millrace.rule_set_at(op_id bigint) RETURNS integer
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
  SELECT r.id FROM millrace.rule_sets r WHERE r.active_from <= rule_set_at.op_id ORDER BY r.active_from DESC LIMIT 1
$$;
COMMENT ON FUNCTION millrace.rule_set_at(bigint) IS
  'The rule set in force at an op id: the one with the greatest active_from at or below it. Null before the first.';

CREATE OR REPLACE FUNCTION millrace.serves(definition integer, op_id bigint) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
  SELECT EXISTS (SELECT FROM millrace.rule_sets r WHERE r.id = millrace.rule_set_at(serves.op_id)
    AND r.mapping @> jsonb_build_array(jsonb_build_object('definition', serves.definition)))
$$;
COMMENT ON FUNCTION millrace.serves(integer, bigint) IS
  'Whether a definition is in the rule set in force at an op id. Only then clients see anything of it.';

CREATE OR REPLACE FUNCTION millrace.find_bucket(bucket text) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
DECLARE
  v_ids bigint[];
  v_known text[];
BEGIN
  -- Wire name: <wire prefix>#<logical name>.
  SELECT array_agg(n.id) INTO v_ids
  FROM millrace.definition_versions d JOIN millrace.bucket_names n ON n.definition = d.id
  WHERE d.wire_prefix = split_part(find_bucket.bucket, '#', 1)
    AND n.name = substr(find_bucket.bucket, strpos(find_bucket.bucket, '#') + 1);
  IF v_ids IS NULL THEN
    -- Logical name, among the definitions in force.
    SELECT array_agg(n.id), array_agg(d.wire_prefix || '#' || n.name) INTO v_ids, v_known
    FROM millrace.head h, millrace.definition_versions d JOIN millrace.bucket_names n ON n.definition = d.id
    WHERE n.name = find_bucket.bucket AND millrace.serves(d.id, h.op_id);
  END IF;
  IF cardinality(v_ids) > 1 THEN
    RAISE EXCEPTION 'bucket % is in several definitions', find_bucket.bucket
      USING ERRCODE = 'ambiguous_parameter', HINT = format('Use one of the wire names: %s.', array_to_string(v_known, ', '));
  END IF;
  IF v_ids IS NOT NULL THEN
    RETURN v_ids[1];
  END IF;
  -- The names before and after it in order are the nearest ones.
  SELECT array_agg(a.name ORDER BY a.name) INTO v_known FROM millrace.head h
  CROSS JOIN LATERAL (
    SELECT d.id FROM millrace.definition_versions d WHERE d.kind = 'bucket' AND millrace.serves(d.id, h.op_id)
  ) d CROSS JOIN LATERAL (
    (SELECT n.name FROM millrace.bucket_names n WHERE n.definition = d.id AND n.name >= find_bucket.bucket ORDER BY n.name LIMIT 2)
    UNION ALL
    (SELECT n.name FROM millrace.bucket_names n WHERE n.definition = d.id AND n.name < find_bucket.bucket ORDER BY n.name DESC LIMIT 2)
  ) a WHERE split_part(a.name, '[', 1) = split_part(find_bucket.bucket, '[', 1)
    OR NOT EXISTS (SELECT FROM millrace.bucket_names n WHERE n.definition = d.id
      AND n.name >= split_part(find_bucket.bucket, '[', 1) || '[' AND n.name < split_part(find_bucket.bucket, '[', 1) || '\');
  RAISE EXCEPTION 'there is no bucket %', find_bucket.bucket
    USING ERRCODE = 'undefined_object', HINT = coalesce(
      format('Nearest: %s. The view millrace.buckets lists all; a bucket that never had a row is not stored.', array_to_string(v_known[:6], ', ')),
      'No bucket has had a row yet.');
END $$;
COMMENT ON FUNCTION millrace.find_bucket(text) IS
  'Number of a bucket given by wire name, or by logical name among the definitions in force. Raises an error that names the nearest buckets if there is none.';

CREATE OR REPLACE FUNCTION millrace.find_source_tables(source_table text) RETURNS integer[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
DECLARE
  v_ids integer[];
  v_names text[];
BEGIN
  SELECT array_agg(t.id), array_agg(DISTINCT s.name || '.' || t.schema || '.' || t.name) INTO v_ids, v_names
  FROM millrace.source_tables t JOIN millrace.sources s ON s.id = t.source
  WHERE find_source_tables.source_table IN (t.schema || '.' || t.name, s.name || '.' || t.schema || '.' || t.name,
    CASE WHEN t.schema = 'public' THEN t.name END);
  IF cardinality(v_names) > 1 THEN
    RAISE EXCEPTION 'table % is in several sources', find_source_tables.source_table
      USING ERRCODE = 'ambiguous_parameter', HINT = format('Use one of: %s.', array_to_string(v_names, ', '));
  END IF;
  IF v_ids IS NULL THEN
    SELECT array_agg(DISTINCT t.schema || '.' || t.name) INTO v_names FROM millrace.source_tables t;
    RAISE EXCEPTION 'the rules use no source table %', find_source_tables.source_table
      USING ERRCODE = 'undefined_table', HINT = coalesce(format('They use: %s.', array_to_string(v_names, ', ')), 'No source table is known yet.');
  END IF;
  RETURN v_ids;
END $$;
COMMENT ON FUNCTION millrace.find_source_tables(text) IS
  'Numbers of a source table given as schema.table (table for one in public), or source.schema.table; several if it was dropped and made again. Raises an error that names the known tables if there is none.';

CREATE OR REPLACE FUNCTION millrace.op_time(op_id bigint) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
  SELECT c.at FROM millrace.checkpoint_log c WHERE c.op_id >= op_time.op_id ORDER BY c.op_id, c.seq LIMIT 1
$$;
COMMENT ON FUNCTION millrace.op_time(bigint) IS
  'When an op id was committed: exact for the last hour, to the minute before; null if it is not committed yet.';
