-- What is in a bucket. Each function shows what clients may see: op ids up to
-- the head, of definitions in the rule set in force.

CREATE OR REPLACE FUNCTION millrace.bucket_at(bucket text, as_of bigint, OUT id bigint, OUT definition integer, OUT op_id bigint, OUT served boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
  SELECT n.id, n.definition, least(bucket_at.as_of, h.op_id), millrace.serves(n.definition, least(bucket_at.as_of, h.op_id))
  FROM millrace.bucket_names n, millrace.head h WHERE n.id = millrace.find_bucket(bucket_at.bucket)
$$;
COMMENT ON FUNCTION millrace.bucket_at(text, bigint) IS
  'Resolves a bucket and an op id (null: now) for the functions below.';

CREATE OR REPLACE FUNCTION millrace.ops_between(bucket text, after bigint, upto bigint, lim integer DEFAULT 1000)
RETURNS TABLE (op_id bigint, kind text, type text, row_id text, subkey text, checksum integer, data text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
DECLARE
  v record;
BEGIN
  SELECT * INTO v FROM millrace.bucket_at(ops_between.bucket, ops_between.upto);
  IF v.served THEN
    RETURN QUERY
    SELECT o.op_id, (ARRAY['PUT', 'REMOVE', 'MOVE', 'CLEAR'])[o.kind], o.type, o.row_id, o.subkey, o.checksum, o.data
    FROM millrace.ops o
    WHERE o.definition = v.definition AND o.bucket = v.id AND o.op_id > ops_between.after AND o.op_id <= v.op_id
    ORDER BY o.op_id LIMIT ops_between.lim;
  END IF;
END $$;
COMMENT ON FUNCTION millrace.ops_between(text, bigint, bigint, integer) IS
  'The ops of a bucket with after < op_id <= upto (null: the newest checkpoint), at most lim (null: all), in order: what a client at "after" is sent.';

CREATE OR REPLACE FUNCTION millrace.bucket_rows(bucket text, as_of bigint DEFAULT NULL)
RETURNS TABLE (type text, row_id text, subkey text, op_id bigint, data text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
DECLARE
  v record;
BEGIN
  SELECT * INTO v FROM millrace.bucket_at(bucket_rows.bucket, bucket_rows.as_of);
  IF v.served THEN
    RETURN QUERY
    SELECT l.type, l.row_id, l.subkey, l.op_id, l.data FROM (
      SELECT DISTINCT ON (o.type, o.row_id, o.subkey) o.*
      FROM (
        SELECT p.*, max(p.op_id) FILTER (WHERE p.kind = 4) OVER () AS clear
        FROM millrace.ops p
        WHERE p.definition = v.definition AND p.bucket = v.id AND p.op_id <= v.op_id) o
      WHERE o.kind IN (1, 2) AND o.op_id > coalesce(o.clear, 0)
      ORDER BY o.type, o.row_id, o.subkey, o.op_id DESC) l
    WHERE l.kind = 1
    ORDER BY l.type, l.row_id, l.subkey;
  END IF;
END $$;
COMMENT ON FUNCTION millrace.bucket_rows(text, bigint) IS
  'The rows of a bucket, folded from its ops, at an op id (null: now). Of several rows with one (type, row_id) a client shows the one with the greatest op_id.';

CREATE OR REPLACE FUNCTION millrace.bucket_checksum(bucket text, as_of bigint DEFAULT NULL)
RETURNS TABLE (op_id bigint, ops bigint, checksum integer)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
DECLARE
  v record;
BEGIN
  SELECT * INTO v FROM millrace.bucket_at(bucket_checksum.bucket, bucket_checksum.as_of);
  IF v.served THEN
    RETURN QUERY
    SELECT v.op_id, count(*), coalesce(millrace.wrap32(sum(o.checksum)), 0)
    FROM (
      SELECT p.op_id, p.checksum, max(p.op_id) FILTER (WHERE p.kind = 4) OVER () AS clear
      FROM millrace.ops p
      WHERE p.definition = v.definition AND p.bucket = v.id AND p.op_id <= v.op_id) o
    WHERE o.op_id >= coalesce(o.clear, 0);
  END IF;
END $$;
COMMENT ON FUNCTION millrace.bucket_checksum(text, bigint) IS
  'Number and wrapping sum (32 bits, signed) of the stored checksums of a bucket''s ops since its last CLEAR, at an op id (null: now).';

CREATE OR REPLACE FUNCTION millrace.verify_bucket(bucket text)
RETURNS TABLE (bucket_name text, ok boolean, ops bigint, wrong_ops bigint, first_wrong_op bigint, recomputed integer, running integer,
  rows bigint, running_rows bigint, running_ops bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
-- Any bucket, served or not: this is about the history itself.
DECLARE
  v record;
BEGIN
  SELECT * INTO v FROM millrace.bucket_at(verify_bucket.bucket, NULL);
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
