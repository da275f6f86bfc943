-- What is in a bucket. Each function shows what clients may see: op ids up to
-- the head, of definitions in the rule set in force. They write the definition
-- into the query, so that the planner sees one partition, whose primary key gives a
-- bucket in order.

CREATE OR REPLACE FUNCTION millrace.open_bucket(bucket text, as_of bigint,
  OUT id bigint, OUT definition integer, OUT op_id bigint, OUT served boolean, OUT last_op bigint, OUT ops bigint, OUT checksum integer)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
DECLARE
  v_floor bigint;
BEGIN
  SELECT n.id, n.definition, least(open_bucket.as_of, h.op_id), millrace.serves(n.definition, least(open_bucket.as_of, h.op_id)),
    coalesce(t.last_op, 0), coalesce(t.ops, 0), coalesce(t.checksum, 0), coalesce(f.floor_op, 0)
  INTO open_bucket.id, open_bucket.definition, open_bucket.op_id, open_bucket.served,
    open_bucket.last_op, open_bucket.ops, open_bucket.checksum, v_floor
  FROM millrace.head h CROSS JOIN millrace.bucket_names n
  LEFT JOIN millrace.bucket_totals t ON t.bucket = n.id
  LEFT JOIN millrace.bucket_floors f ON f.bucket = n.id
  WHERE n.id = millrace.find_bucket(open_bucket.bucket);
  IF served AND op_id < v_floor THEN
    RAISE EXCEPTION 'bucket % cannot be shown at op % any more: it is compacted up to %', open_bucket.bucket, op_id, v_floor
      USING ERRCODE = 'object_not_in_prerequisite_state',
        HINT = format('Ask for op %s or later, or leave it out. compaction.horizon says how much is kept.', v_floor);
  END IF;
END $$;
COMMENT ON FUNCTION millrace.open_bucket(text, bigint) IS
  'Resolves a bucket and an op id (null: now) for the functions below, with the bucket''s running totals of now. Raises an error where history was compacted.';

CREATE OR REPLACE FUNCTION millrace.ops_between(bucket text, after bigint, upto bigint, lim integer DEFAULT 1000)
RETURNS TABLE (op_id bigint, kind text, type text, row_id text, subkey text, checksum integer, data text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
DECLARE
  v record;
BEGIN
  SELECT * INTO v FROM millrace.open_bucket(ops_between.bucket, ops_between.upto);
  IF v.served THEN
    RETURN QUERY EXECUTE format($q$
      SELECT o.op_id, (ARRAY['PUT', 'REMOVE', 'MOVE', 'CLEAR'])[o.kind], o.type, o.row_id::text, o.subkey::text, o.checksum, o.data
      FROM millrace.ops o WHERE o.definition = %1$s AND o.bucket = $1 AND o.op_id > $2 AND o.op_id <= $3
      ORDER BY o.op_id LIMIT $4 $q$, v.definition) USING v.id, ops_between.after, v.op_id, ops_between.lim;
  END IF;
END $$;
COMMENT ON FUNCTION millrace.ops_between(text, bigint, bigint, integer) IS
  'The ops of a bucket with after < op_id <= upto (null: the newest checkpoint), at most lim (null: all), in order: what a client at "after" is sent.';

CREATE OR REPLACE FUNCTION millrace.bucket_rows(bucket text, as_of bigint DEFAULT NULL)
RETURNS TABLE (type text, row_id text, subkey text, op_id bigint, data text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog SET work_mem = '64MB' AS $$
-- The newest op of each row is found without the data, which is then read for
-- those that are a PUT. MOVE and CLEAR, which name no row, are a group together.
DECLARE
  v record;
BEGIN
  SELECT * INTO v FROM millrace.open_bucket(bucket_rows.bucket, bucket_rows.as_of);
  IF v.served THEN
    RETURN QUERY EXECUTE format($q$
      WITH newest AS MATERIALIZED (
        SELECT max(p.op_id) AS op_id, max(p.op_id) FILTER (WHERE p.kind = 1) AS put, max(p.op_id) FILTER (WHERE p.kind = 4) AS clear
        FROM millrace.ops p WHERE p.definition = %1$s AND p.bucket = $1 AND p.op_id <= $2
        GROUP BY p.type COLLATE "C", p.row_id, p.subkey)
      SELECT o.type, o.row_id::text, o.subkey::text, o.op_id, o.data
      FROM newest n JOIN millrace.ops o ON o.definition = %1$s AND o.bucket = $1 AND o.op_id = n.put
      WHERE n.put = n.op_id AND n.put > coalesce((SELECT max(c.clear) FROM newest c), 0)
      ORDER BY o.type, o.row_id, o.subkey $q$, v.definition) USING v.id, v.op_id;
  END IF;
END $$;
COMMENT ON FUNCTION millrace.bucket_rows(text, bigint) IS
  'The rows of a bucket, folded from its ops, at an op id (null: now). Of several rows with one (type, row_id) a client shows the one with the greatest op_id. An op id from before compaction is an error.';

CREATE OR REPLACE FUNCTION millrace.bucket_checksum(bucket text, as_of bigint DEFAULT NULL)
RETURNS TABLE (op_id bigint, ops bigint, checksum integer)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
-- The running values, less what came since; only a CLEAR among that makes it
-- necessary to read from the beginning.
DECLARE
  v record;
  v_ops bigint;
  v_sum numeric;
  v_cleared boolean;
BEGIN
  SELECT * INTO v FROM millrace.open_bucket(bucket_checksum.bucket, bucket_checksum.as_of);
  IF NOT v.served THEN
    RETURN;
  END IF;
  op_id := v.op_id;
  IF v.op_id >= v.last_op THEN
    ops := v.ops;
    checksum := v.checksum;
    RETURN NEXT;
    RETURN;
  END IF;
  EXECUTE format($q$
    SELECT count(*), coalesce(sum(o.checksum), 0), coalesce(bool_or(o.kind = 4), false)
    FROM millrace.ops o WHERE o.definition = %1$s AND o.bucket = $1 AND o.op_id > $2 $q$, v.definition)
    INTO v_ops, v_sum, v_cleared USING v.id, v.op_id;
  ops := v.ops - v_ops;
  IF v_cleared THEN
    EXECUTE format($q$
      SELECT coalesce(sum(o.checksum) FILTER (WHERE o.op_id >= o.clear), 0) FROM (
        SELECT p.op_id, p.checksum, coalesce(max(p.op_id) FILTER (WHERE p.kind = 4) OVER (), 0) AS clear
        FROM millrace.ops p WHERE p.definition = %1$s AND p.bucket = $1 AND p.op_id <= $2) o $q$, v.definition)
      INTO v_sum USING v.id, v.op_id;
    checksum := millrace.wrap32(v_sum);
  ELSE
    checksum := millrace.wrap32(v.checksum - v_sum);
  END IF;
  RETURN NEXT;
END $$;
COMMENT ON FUNCTION millrace.bucket_checksum(text, bigint) IS
  'Number of a bucket''s ops, and the wrapping sum (32 bits, signed) of their checksums since the last CLEAR, at an op id (null: now): what a client at that checkpoint must have. From the running totals; verify_bucket recomputes them.';

CREATE OR REPLACE FUNCTION millrace.verify_bucket(bucket text)
RETURNS TABLE (bucket_name text, ok boolean, ops bigint, wrong_ops bigint, first_wrong_op bigint, recomputed integer, running integer,
  rows bigint, running_rows bigint, running_ops bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
-- Any bucket, served or not: this is about the history itself.
DECLARE
  v record;
BEGIN
  SELECT * INTO v FROM millrace.open_bucket(verify_bucket.bucket, NULL);
  RETURN QUERY
  WITH o AS MATERIALIZED (
    SELECT p.op_id, p.kind, p.type, p.row_id, p.subkey, p.checksum,
      coalesce(millrace.op_checksum(p.kind, p.type, p.row_id, p.subkey, p.data), p.checksum) AS again
    FROM millrace.ops p WHERE p.definition = v.definition AND p.bucket = v.id),
  c AS (SELECT coalesce(max(o.op_id) FILTER (WHERE o.kind = 4), 0) AS clear FROM o),
  s AS (
    SELECT count(*) AS ops, count(*) FILTER (WHERE o.again <> o.checksum) AS wrong_ops,
      min(o.op_id) FILTER (WHERE o.again <> o.checksum) AS first_wrong_op,
      coalesce(millrace.wrap32(sum(o.again) FILTER (WHERE o.op_id >= c.clear)), 0) AS recomputed,
      max(o.op_id) AS last_op
    FROM o, c),
  r AS (
    SELECT count(*) AS rows FROM (
      SELECT DISTINCT ON (o.type, o.row_id, o.subkey) o.kind FROM o, c
      WHERE o.kind IN (1, 2) AND o.op_id > c.clear ORDER BY o.type, o.row_id, o.subkey, o.op_id DESC) l
    WHERE l.kind = 1)
  SELECT verify_bucket.bucket,
    s.wrong_ops = 0 AND s.recomputed = coalesce(t.checksum, 0) AND s.ops = coalesce(t.ops, 0)
      AND r.rows = coalesce(t.rows, 0) AND s.last_op IS NOT DISTINCT FROM t.last_op,
    s.ops, s.wrong_ops, s.first_wrong_op, s.recomputed, coalesce(t.checksum, 0), r.rows, coalesce(t.rows, 0), coalesce(t.ops, 0)
  FROM s CROSS JOIN r LEFT JOIN millrace.bucket_totals t ON t.bucket = v.id;
END $$;
COMMENT ON FUNCTION millrace.verify_bucket(text) IS
  'Recomputes every op checksum of a bucket from its data, their sum, and the counts, and compares them with what is stored and with the running totals. About 30 us an op before PostgreSQL 18.';
