-- Partitions of a bucket definition.

CREATE OR REPLACE PROCEDURE millrace.add_partitions(definition integer)
LANGUAGE plpgsql SET search_path = pg_catalog AS $$
-- A stand-alone table with a CHECK is attached, which queues no reader; a plain
-- CREATE TABLE ... PARTITION OF would wait for every open transaction on ops
-- and make all later readers wait behind it.
DECLARE
  v_parent text;
  v_name text;
BEGIN
  FOREACH v_parent IN ARRAY ARRAY['ops', 'row_state'] LOOP
    v_name := format('%s_%s', v_parent, definition);
    EXECUTE format('CREATE TABLE millrace.%I (LIKE millrace.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES INCLUDING COMMENTS,'
      ' %s CONSTRAINT partition_bound CHECK (definition IS NOT NULL AND definition = %s)) WITH (%s)',
      v_name, v_parent,
      -- The definition is the same in all of a partition: a key without it is
      -- cheaper to compare. (With ops the planner would no longer see that an
      -- index scan gives a bucket in order at little cost.)
      CASE v_parent WHEN 'row_state' THEN 'PRIMARY KEY (source_table, row_key),' END, definition,
      CASE v_parent
        -- Ops are only appended: vacuum early enough that index-only scans
        -- work and freezing is never a large piece of work.
        WHEN 'ops' THEN 'autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_freeze_min_age = 1000000'
        ELSE 'fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.2'
      END);
    EXECUTE format('ALTER TABLE millrace.%I ATTACH PARTITION millrace.%I FOR VALUES IN (%s)', v_parent, v_name, definition);
    EXECUTE format('ALTER TABLE millrace.%I DROP CONSTRAINT partition_bound', v_name);
    EXECUTE format('COMMENT ON TABLE millrace.%I IS %L', v_name, format('Partition of %s for definition %s.', v_parent, definition));
  END LOOP;
END $$;
COMMENT ON PROCEDURE millrace.add_partitions(integer) IS
  'Makes the partitions of ops and row_state for a bucket definition. For the decoder only.';
REVOKE ALL ON PROCEDURE millrace.add_partitions(integer) FROM PUBLIC;
