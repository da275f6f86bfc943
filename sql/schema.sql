-- The schema of a freshly migrated sidecar, as the catalog has it; functions and
-- views by their signatures. For reading and for reviewing changes, not for
-- running. Made by: go test ./sql -run TestSchema -update

TYPE millrace.row_output
  -- One output of a source row: a row in a bucket.
  bucket bigint
    -- The bucket; bucket_names.id.
  since_op bigint
    -- Op id with which the row entered the bucket.
  digest bigint
    -- Digest of the data last put; null unless unchanged updates are suppressed.
  type text
    -- Output table.
  row_id text COLLATE "C"
    -- Client id of the row; null in row_state where it is the row key.
  subkey text COLLATE "C"
    -- Subkey of its ops, if they have one.

TABLE millrace.bucket_compactions WITH (fillfactor=70, autovacuum_vacuum_scale_factor=0.05)
  -- How far each bucket is compacted. Whoever compacts a bucket holds the lock of its row. The view bucket_bloat is for people.
  bucket bigint NOT NULL
    -- The bucket; bucket_names.id.
  compacted_to bigint NOT NULL DEFAULT 0
    -- No op at or below is superseded by another at or below.
  upto bigint NOT NULL DEFAULT 0
    -- Where the pass under way will have compacted to: it compares the ops above compacted_to with those before; 0 if there is none.
  scanned bigint NOT NULL DEFAULT 0
    -- Up to which op id the pass under way has rewritten what is superseded.
  residue bigint NOT NULL DEFAULT 0
    -- Ops less rows that the last pass left: what has come since is worth another.
  finished_at timestamp with time zone
    -- When the last pass ended.
  rewritten_at timestamp with time zone
    -- When old rows of it were last put into bucket_rewrites.
  CONSTRAINT bucket_compactions_check CHECK (((upto = 0) OR (upto > compacted_to)))
  CONSTRAINT bucket_compactions_compacted_to_check CHECK ((compacted_to >= 0))
  CONSTRAINT bucket_compactions_pkey PRIMARY KEY (bucket)
  CONSTRAINT bucket_compactions_scanned_check CHECK ((scanned >= 0))

TABLE millrace.bucket_floors WITH (fillfactor=70)
  -- How far compaction has rewritten each bucket: it may be served at checkpoint C only if floor_op <= C.
  bucket bigint NOT NULL
    -- The bucket; bucket_names.id.
  floor_op bigint NOT NULL
    -- Greatest op id that was a reason for a rewrite. Only grows.
  CONSTRAINT bucket_floors_floor_op_check CHECK ((floor_op > 0))
  CONSTRAINT bucket_floors_pkey PRIMARY KEY (bucket)

TABLE millrace.bucket_names
  -- Every bucket that ever had a row. The view buckets is for people.
  id bigint NOT NULL
    -- Number of the bucket, never reused.
  definition integer NOT NULL
    -- The bucket definition it belongs to.
  name text COLLATE "C" NOT NULL
    -- Logical name, without wire prefix.
  CONSTRAINT bucket_names_definition_name_key UNIQUE (definition, name)
  CONSTRAINT bucket_names_id_check CHECK ((id > 0))
  CONSTRAINT bucket_names_name_check CHECK (((name <> ''::text) AND (octet_length(name) <= 2048)))
  CONSTRAINT bucket_names_pkey PRIMARY KEY (id)

TABLE millrace.bucket_rewrites
  -- Old rows of buckets that the decoder appends again, with their own text, so that what was superseded around them can be cleared. Nearly always empty.
  bucket bigint NOT NULL
    -- The bucket; bucket_names.id.
  definition integer NOT NULL
    -- Its bucket definition.
  live_at bigint NOT NULL
    -- Op id at which each of the ops was the last of its row; a row changed since is left alone.
  op_ids bigint[] NOT NULL
    -- The PUTs of the rows.
  asked_at timestamp with time zone NOT NULL DEFAULT now()
    -- When compaction asked for it.
  CONSTRAINT bucket_rewrites_live_at_check CHECK ((live_at > 0))
  CONSTRAINT bucket_rewrites_pkey PRIMARY KEY (bucket)

TABLE millrace.bucket_totals WITH (fillfactor=50, autovacuum_vacuum_scale_factor=0.05, autovacuum_analyze_scale_factor=0.2)
  -- Running totals of each bucket, updated relatively by each flush. No second index: every update stays on its page (HOT).
  bucket bigint NOT NULL
    -- The bucket; bucket_names.id.
  last_op bigint NOT NULL
    -- Op id of its newest op.
  ops bigint NOT NULL
    -- Number of its ops in millrace.ops.
  rows bigint NOT NULL
    -- Number of rows it holds.
  bytes bigint NOT NULL
    -- Bytes of data of its ops.
  checksum integer NOT NULL
    -- Wrapping sum of the checksums of its ops since the last CLEAR.
  CONSTRAINT bucket_totals_bytes_check CHECK ((bytes >= 0))
  CONSTRAINT bucket_totals_last_op_check CHECK ((last_op > 0))
  CONSTRAINT bucket_totals_ops_check CHECK ((ops >= 0))
  CONSTRAINT bucket_totals_pkey PRIMARY KEY (bucket)
  CONSTRAINT bucket_totals_rows_check CHECK ((rows >= 0))

TABLE millrace.checkpoint_log
  -- Committed checkpoints: all of the last hour, then one a minute without the arrays, as far back as history.keep. The view checkpoints is for people.
  seq bigint NOT NULL
    -- Number of the checkpoint; grows by one with every flush.
  op_id bigint NOT NULL
    -- The newest op id it contains.
  at timestamp with time zone NOT NULL
    -- When it was written.
  published timestamp with time zone
    -- Commit time, on its source, of the newest source transaction contained.
  lsns jsonb NOT NULL
    -- How far each source is contained: {"<source id>": "<lsn>"}.
  buckets bigint[]
    -- Buckets changed since the checkpoint before, ascending; null: unknown (more than 10,000, or older than an hour).
  lookups integer[]
    -- Lookup definitions with changed entries since the checkpoint before; null: unknown.
  CONSTRAINT checkpoint_log_op_id_check CHECK ((op_id >= 0))
  CONSTRAINT checkpoint_log_pkey PRIMARY KEY (seq)
  CONSTRAINT checkpoint_log_seq_check CHECK ((seq > 0))
  CREATE INDEX checkpoint_log_op ON millrace.checkpoint_log USING btree (op_id, seq)
    -- When was an op id committed.

TABLE millrace.compaction WITH (fillfactor=50)
  -- One row: the state of compaction as a whole.
  one boolean NOT NULL DEFAULT true
    -- Always true: there is one row.
  deep_at timestamp with time zone NOT NULL DEFAULT now()
    -- When every bucket with anything superseded was last compacted, however little it was; once a day.
  CONSTRAINT compaction_one_check CHECK (one)
  CONSTRAINT compaction_pkey PRIMARY KEY (one)

TABLE millrace.copies WITH (fillfactor=50)
  -- Copies of source tables into definitions being built, or into shadows. Written with the flush that merges a chunk, so that a crash resumes at the cursor.
  id bigint NOT NULL
    -- Number of the copy, never reused.
  rule_set integer NOT NULL
    -- The rule set being built.
  source_table integer NOT NULL
    -- The table being copied.
  definitions integer[] NOT NULL
    -- The definitions it is copied into.
  state text NOT NULL
    -- waiting: for transactions to become visible. running. done: every page merged and nothing left to read again.
  filenode bigint NOT NULL
    -- relfilenode the cursor belongs to; 0 until planned.
  end_page bigint NOT NULL
    -- First page that need not be read.
  cursor_page bigint NOT NULL
    -- First page not merged yet.
  rows bigint NOT NULL
    -- Rows merged.
  estimate bigint NOT NULL
    -- Rows expected; -1 if unknown.
  wait_for bigint[] NOT NULL
    -- Transaction ids of the source that must be visible before the copy may be planned.
  started_at timestamp with time zone
    -- When reading began.
  done_at timestamp with time zone
    -- When it was done.
  shadow boolean NOT NULL DEFAULT false
    -- The table is copied into a shadow, which replaces its part of the definitions when it is exact.
  since pg_lsn NOT NULL DEFAULT '0/0'::pg_lsn
    -- Where the source stood when a shadow was registered: what was committed up to there is in the rows that are read, and not taken from the stream; 0/0: all is.
  CONSTRAINT copies_cursor_page_check CHECK ((cursor_page >= 0))
  CONSTRAINT copies_end_page_check CHECK ((end_page >= 0))
  CONSTRAINT copies_filenode_check CHECK ((filenode >= 0))
  CONSTRAINT copies_id_check CHECK ((id > 0))
  CONSTRAINT copies_pkey PRIMARY KEY (id)
  CONSTRAINT copies_rows_check CHECK ((rows >= 0))
  CONSTRAINT copies_rule_set_fkey FOREIGN KEY (rule_set) REFERENCES millrace.rule_sets(id) ON DELETE CASCADE
  CONSTRAINT copies_source_table_fkey FOREIGN KEY (source_table) REFERENCES millrace.source_tables(id)
  CONSTRAINT copies_state_check CHECK ((state = ANY (ARRAY['waiting'::text, 'running'::text, 'done'::text])))
  CREATE INDEX copies_rule_set ON millrace.copies USING btree (rule_set)
    -- Progress of a rule set.

TABLE millrace.custom_write_checkpoints WITH (fillfactor=70, autovacuum_vacuum_scale_factor=0.05)
  -- Write checkpoints that the app's backend wrote as rows of a source, one row per event definition and device. Each came with the checkpoint that contains its source transaction and all before it. The view write_checkpoints is for people.
  definition integer NOT NULL
    -- The event definition; definition_versions.id.
  user_id text COLLATE "C" NOT NULL
    -- Subject of the token, with /<client id> if the client has one.
  id bigint NOT NULL
    -- Greatest number the source had for the device. It only grows.
  seq bigint NOT NULL
    -- Number of the checkpoint it came with.
  at timestamp with time zone NOT NULL DEFAULT clock_timestamp()
    -- When that was.
  CONSTRAINT custom_write_checkpoints_id_check CHECK (((id > 0) AND (id < '9223372036854775807'::bigint)))
  CONSTRAINT custom_write_checkpoints_pkey PRIMARY KEY (definition, user_id)
  CONSTRAINT custom_write_checkpoints_seq_check CHECK ((seq > 0))
  CONSTRAINT custom_write_checkpoints_user_id_check CHECK (((octet_length(user_id) >= 1) AND (octet_length(user_id) <= 2048)))
  CREATE INDEX custom_write_checkpoints_seq ON millrace.custom_write_checkpoints USING btree (seq)
    -- Those that came with the newest checkpoints.

TABLE millrace.definition_versions
  -- Bucket, lookup and event definitions by content. History belongs to a definition, not to a deploy: a rule set that compiles to the same hash uses the same row, history and buckets.
  id integer NOT NULL
    -- Number of the definition, never reused; the partitions of ops and row_state are named after it.
  kind text NOT NULL
    -- bucket: produces rows of buckets. lookup: a parameter index. event: custom write checkpoints.
  hash text COLLATE "C" NOT NULL
    -- Hash of the normalised meaning, including the versions of the functions, casts and type mappings used.
  key text NOT NULL
    -- Name inside the compiled rules file it first came from; rule_sets.mapping has the one of each set.
  name text NOT NULL
    -- The bucket definition, stream or event it first came from.
  wire_prefix text COLLATE "C"
    -- Random text that starts the wire names of its buckets: <wire prefix>#<logical name>. Null for others.
  created_at timestamp with time zone NOT NULL DEFAULT now()
    -- When its history began.
  retired_at timestamp with time zone
    -- Since when it is no longer fed and belongs to no rule set that is; null while it does. Never undone.
  dropped_at timestamp with time zone
    -- When its history was dropped.
  without smallint[] NOT NULL DEFAULT '{}'::smallint[]
    -- Sources (sources.id) whose present history began after it: nothing of theirs goes into it, since it has rows of the history before.
  CONSTRAINT definition_versions_check CHECK (((kind = 'bucket'::text) = (wire_prefix IS NOT NULL)))
  CONSTRAINT definition_versions_ends CHECK (((dropped_at IS NULL) OR (retired_at IS NOT NULL)))
  CONSTRAINT definition_versions_id_check CHECK ((id > 0))
  CONSTRAINT definition_versions_kind_check CHECK ((kind = ANY (ARRAY['bucket'::text, 'lookup'::text, 'event'::text])))
  CONSTRAINT definition_versions_pkey PRIMARY KEY (id)
  CONSTRAINT definition_versions_wire_prefix_check CHECK ((wire_prefix ~ '^[a-z2-7]{4,16}$'::text))
  CONSTRAINT definition_versions_wire_prefix_key UNIQUE (wire_prefix)
  CREATE UNIQUE INDEX definition_versions_content ON millrace.definition_versions USING btree (kind, hash) WHERE (retired_at IS NULL)
    -- One history for each content. A content that comes back after its definition was retired gets a new definition.

TABLE millrace.ended_outputs WITH (autovacuum_vacuum_insert_scale_factor=0.1)
  -- Outputs that ended by a delete, an update or an error, kept for history.keep (7 days by default), so that "where did this row go" has an answer.
  definition integer NOT NULL
    -- The bucket definition.
  source_table integer NOT NULL
    -- The source table.
  row_key text COLLATE "C" NOT NULL
    -- Row key, as in row_state.
  ended_op bigint NOT NULL
    -- Op id of the REMOVE.
  since_op bigint NOT NULL
    -- Op id with which the row had entered the bucket.
  bucket bigint NOT NULL
    -- The bucket it left; bucket_names.id.
  type text NOT NULL
    -- Output table.
  row_id text COLLATE "C" NOT NULL
    -- Client id of the row.
  subkey text COLLATE "C"
    -- Subkey of its ops, if they have one.
  CONSTRAINT ended_outputs_check CHECK (((since_op > 0) AND (ended_op > since_op)))
  CONSTRAINT ended_outputs_pkey PRIMARY KEY (ended_op)
  CREATE INDEX ended_outputs_row ON millrace.ended_outputs USING btree (source_table, row_key)
    -- For row_history.

TABLE millrace.head WITH (fillfactor=10, autovacuum_vacuum_scale_factor=0, autovacuum_vacuum_threshold=500)
  -- One row: the newest checkpoint, and who may write the next. It is updated last in every flush, so a snapshot of the sidecar is one consistent checkpoint.
  one boolean NOT NULL DEFAULT true
    -- Always true: there is one row.
  fence bigint NOT NULL
    -- Grows with each change of the writer; a writer with another number commits nothing.
  op_id bigint NOT NULL
    -- The newest op id; every op at or below is committed.
  seq bigint NOT NULL
    -- Number of the newest checkpoint; grows by one with every flush.
  at timestamp with time zone NOT NULL
    -- When the newest checkpoint was written.
  published timestamp with time zone
    -- Commit time, on its source, of the newest source transaction contained.
  writer text
    -- Name of the decoder that holds the fence.
  writer_pid integer
    -- Process id of its writing backend here; with writer_start it names the session to end at a take-over.
  writer_start timestamp with time zone
    -- backend_start of that backend.
  system_id text
    -- system_identifier of this sidecar when the fence was last taken.
  timeline bigint
    -- Timeline of this sidecar when the fence was last taken; another one makes op_id jump by 2^32.
  renewed bigint NOT NULL DEFAULT 0
    -- How often all wire prefixes were replaced, because the sidecar had gone back in time.
  CONSTRAINT head_fence_check CHECK ((fence >= 0))
  CONSTRAINT head_one_check CHECK (one)
  CONSTRAINT head_op_id_check CHECK ((op_id >= 0))
  CONSTRAINT head_pkey PRIMARY KEY (one)
  CONSTRAINT head_seq_check CHECK ((seq >= 0))

TABLE millrace.leader WITH (fillfactor=10, autovacuum_vacuum_scale_factor=0, autovacuum_vacuum_threshold=500)
  -- One row: the heartbeat of the decoder that holds the fence. Apart from head, so that no flush holds it up.
  one boolean NOT NULL DEFAULT true
    -- Always true: there is one row.
  fence bigint NOT NULL
    -- The fence the heartbeat belongs to.
  beat bigint NOT NULL
    -- Grows every two seconds while the leader lives; standbys take over when it stands still.
  at timestamp with time zone NOT NULL
    -- Time of the last beat.
  CONSTRAINT leader_one_check CHECK (one)
  CONSTRAINT leader_pkey PRIMARY KEY (one)

TABLE millrace.lookups WITH (autovacuum_vacuum_scale_factor=0.1)
  -- Parameter lookups with history: an entry is in force at op id C iff added <= C < removed. Ended entries are kept for history.keep.
  added bigint NOT NULL
    -- Op id since which it is in force; each change of a lookup takes a number of its own.
  removed bigint NOT NULL DEFAULT '9223372036854775807'::bigint
    -- Op id since which it is no longer in force; the greatest bigint while it is.
  definition integer NOT NULL
    -- The lookup definition.
  source_table integer NOT NULL
    -- The source table.
  row_key text COLLATE "C" NOT NULL
    -- Row key, as in row_state.
  key text COLLATE "C" NOT NULL
    -- Canonical JSON array of the values that are looked up.
  outputs text NOT NULL
    -- JSON text of what a match yields.
  CONSTRAINT lookups_added_check CHECK ((added > 0))
  CONSTRAINT lookups_check CHECK ((removed > added))
  CONSTRAINT lookups_key_check CHECK ((octet_length(key) <= 2048))
  CONSTRAINT lookups_pkey PRIMARY KEY (added)
  CREATE INDEX lookups_key ON millrace.lookups USING btree (definition, key, removed)
    -- Entries in force for a key.
  CREATE INDEX lookups_removed ON millrace.lookups USING btree (removed) WHERE (removed < '9223372036854775807'::bigint)
    -- Entries that ended in a range of op ids, and those due for deletion.
  CREATE INDEX lookups_row ON millrace.lookups USING btree (definition, source_table, row_key) WHERE (removed = '9223372036854775807'::bigint)
    -- Live entries of a source row.

TABLE millrace.ops PARTITION BY LIST (definition)
  -- The history of every bucket. An op exists for a client at checkpoint C iff its definition is in the set in force at C and op_id <= C. Partitioned by definition: ops_<definition>.
  bucket bigint NOT NULL
    -- The bucket; bucket_names.id.
  op_id bigint NOT NULL
    -- Number of the op: unique, growing in commit order over all buckets, never reused.
  definition integer NOT NULL
    -- The bucket definition; decides the partition.
  checksum integer NOT NULL
    -- Checksum of the op (millrace.op_checksum); of a MOVE that of the op it replaces, of a CLEAR the sum of all it replaces.
  kind smallint NOT NULL
    -- 1 PUT, 2 REMOVE, 3 MOVE (superseded), 4 CLEAR (everything below is void).
  type text
    -- Output table of the row; null for MOVE and CLEAR.
  row_id text COLLATE "C"
    -- Client id of the row; null for MOVE and CLEAR.
  subkey text COLLATE "C"
    -- Source row inside (type, row_id); null where the source row's key is the row id.
  data text
    -- Finished JSON text of a PUT, exactly as hashed and sent; else null.
  CONSTRAINT ops_pkey PRIMARY KEY (definition, bucket, op_id)
  CONSTRAINT ops_shape CHECK (((op_id > 0) AND CASE kind WHEN 1 THEN ((type IS NOT NULL) AND (row_id IS NOT NULL) AND (data IS NOT NULL)) WHEN 2 THEN ((type IS NOT NULL) AND (row_id IS NOT NULL) AND (data IS NULL)) ELSE ((kind = ANY (ARRAY[3, 4])) AND (type IS NULL) AND (row_id IS NULL) AND (data IS NULL)) END))

UNLOGGED TABLE millrace.relay_reports WITH (fillfactor=50, autovacuum_vacuum_scale_factor=0, autovacuum_vacuum_threshold=500)
  -- Relays as they last reported, every ten seconds. The view relays is for people.
  id text COLLATE "C" NOT NULL
    -- Random, one per process.
  name text NOT NULL
    -- Host and process.
  listen text NOT NULL
    -- Address clients reach it at.
  started_at timestamp with time zone NOT NULL
    -- When it started.
  op_id bigint NOT NULL
    -- Newest op id it has published to its sessions.
  rule_sets integer[] NOT NULL
    -- Rule sets its sessions use.
  connections integer NOT NULL
    -- Connected clients.
  at timestamp with time zone NOT NULL
    -- When it last reported.
  CONSTRAINT relay_reports_pkey PRIMARY KEY (id)

TABLE millrace.rereads
  -- Rows of a table being copied that must be read again, because the stream did not tell their long values.
  copy bigint NOT NULL
    -- The copy.
  row_key text COLLATE "C" NOT NULL
    -- Row key; above 2,048 bytes its start and its SHA-256.
  full_key text
    -- The whole row key if row_key is shortened; else null.
  CONSTRAINT rereads_copy_fkey FOREIGN KEY (copy) REFERENCES millrace.copies(id) ON DELETE CASCADE
  CONSTRAINT rereads_pkey PRIMARY KEY (copy, row_key)
  CONSTRAINT rereads_row_key_check CHECK ((octet_length(row_key) <= 2048))

TABLE millrace.row_errors
  -- Source rows that a definition could not evaluate, or whose output cannot be stored; they have no output there until an update cures them.
  definition integer NOT NULL
    -- The definition.
  source_table integer NOT NULL
    -- The source table.
  row_key text COLLATE "C" NOT NULL
    -- Row key, as in row_state.
  message text NOT NULL
    -- What was wrong, without the row's values in full.
  at timestamp with time zone NOT NULL DEFAULT now()
    -- When it was found.
  CONSTRAINT row_errors_message_check CHECK ((octet_length(message) <= 1000))
  CONSTRAINT row_errors_pkey PRIMARY KEY (definition, source_table, row_key)

TABLE millrace.row_state PARTITION BY LIST (definition)
  -- The outputs each source row has now: exactly what the ops say of it. A row for every source row with output; written only when its outputs change. The first output, usually the only one, is in columns: that is far cheaper to write than an array. Partitioned by definition: row_state_<definition>, each with the primary key (source_table, row_key).
  definition integer NOT NULL
    -- The bucket definition; decides the partition.
  source_table integer NOT NULL
    -- The source table.
  bucket bigint NOT NULL
    -- Of the first output: the bucket; bucket_names.id.
  since_op bigint NOT NULL
    -- Of the first output: op id with which the row entered the bucket.
  digest bigint
    -- Of the first output: digest of the data last put; null unless unchanged updates are suppressed.
  row_key text COLLATE "C" NOT NULL
    -- Row key: the key column's text, or the JSON array of several; above 2,048 bytes its start and its SHA-256.
  type text NOT NULL
    -- Of the first output: output table.
  row_id text COLLATE "C"
    -- Of the first output: client id of the row; null where it is the row key.
  subkey text COLLATE "C"
    -- Of the first output: subkey of its ops, if they have one.
  more millrace.row_output[]
    -- The other outputs; null if there are none.

TABLE millrace.row_wide
  -- Last values of the columns that the source may store out of line: the stream leaves them out when they did not change.
  source_table integer NOT NULL
    -- The source table.
  row_key text COLLATE "C" NOT NULL
    -- Row key, as in row_state.
  "values" bytea NOT NULL
    -- The values, in the decoder's own encoding.
  CONSTRAINT row_wide_pkey PRIMARY KEY (source_table, row_key)

TABLE millrace.rule_requests
  -- Changes of the rules that people asked for: millrace rules deploy and rollback write here, the decoder answers.
  id bigint NOT NULL
    -- Number of the request.
  kind text NOT NULL
    -- deploy: put content in force. rollback: go back to an earlier rule set.
  content text
    -- The rules file to deploy; null for a roll-back.
  file text NOT NULL DEFAULT ''::text
    -- Name of the file.
  target integer
    -- The rule set to go back to; null for the one before.
  requested_by text NOT NULL DEFAULT SESSION_USER
    -- Role that asked.
  requested_at timestamp with time zone NOT NULL DEFAULT clock_timestamp()
    -- When it was asked.
  state text NOT NULL DEFAULT 'pending'::text
    -- pending. done: rule_set is what it led to. refused: message says why; nothing has changed. superseded: a later request came before a decoder saw this one.
  rule_set integer
    -- The rule set it led to; it may still be building.
  message text NOT NULL DEFAULT ''::text
    -- The answer in words.
  answered_at timestamp with time zone
    -- When the decoder answered.
  CONSTRAINT rule_requests_check CHECK (((kind = 'deploy'::text) = (content IS NOT NULL)))
  CONSTRAINT rule_requests_check1 CHECK (((state = 'pending'::text) = (answered_at IS NULL)))
  CONSTRAINT rule_requests_content_check CHECK ((octet_length(content) <= 1048576))
  CONSTRAINT rule_requests_kind_check CHECK ((kind = ANY (ARRAY['deploy'::text, 'rollback'::text])))
  CONSTRAINT rule_requests_pkey PRIMARY KEY (id)
  CONSTRAINT rule_requests_state_check CHECK ((state = ANY (ARRAY['pending'::text, 'done'::text, 'refused'::text, 'superseded'::text])))
  CREATE INDEX rule_requests_pending ON millrace.rule_requests USING btree (id) WHERE (state = 'pending'::text)
    -- What the decoder has not answered yet.

SEQUENCE millrace.rule_requests_id_seq
  -- Numbers of requests.

TABLE millrace.rule_sets
  -- Deployed contents of the rules file. The set in force at op id C is the one with the greatest active_from <= C.
  id integer NOT NULL
    -- Number of the deploy, from 1.
  content text NOT NULL
    -- The rules file as deployed.
  state text NOT NULL
    -- building: new definitions are being copied, nothing of it is served. active: in force. retired: replaced, still fed for rules_keep. dropped: replaced and no longer fed. abandoned: replaced before it was built.
  active_from bigint
    -- Op id since which the set is in force, or was; null if it never was.
  mapping jsonb NOT NULL
    -- Which definition each part of the file maps to: [{"key", "kind", "name", "definition"}]. Relays read this and never hash.
  created_at timestamp with time zone NOT NULL DEFAULT now()
    -- When it was deployed.
  activated_at timestamp with time zone
    -- When it was activated.
  retired_at timestamp with time zone
    -- When another set replaced it.
  file text NOT NULL DEFAULT ''::text
    -- Name of the file it was deployed from.
  rolls_back integer
    -- The earlier rule set it is a roll-back to; else null.
  ended_at timestamp with time zone
    -- When it was dropped or abandoned.
  CONSTRAINT rule_sets_active_from_check CHECK ((active_from > 0))
  CONSTRAINT rule_sets_active_from_key UNIQUE (active_from)
  CONSTRAINT rule_sets_check CHECK (((state = ANY (ARRAY['building'::text, 'abandoned'::text])) = (active_from IS NULL)))
  CONSTRAINT rule_sets_id_check CHECK ((id > 0))
  CONSTRAINT rule_sets_mapping_check CHECK ((jsonb_typeof(mapping) = 'array'::text))
  CONSTRAINT rule_sets_pkey PRIMARY KEY (id)
  CONSTRAINT rule_sets_state_check CHECK ((state = ANY (ARRAY['building'::text, 'active'::text, 'retired'::text, 'dropped'::text, 'abandoned'::text])))
  CREATE UNIQUE INDEX rule_sets_one_active ON millrace.rule_sets USING btree (state) WHERE (state = 'active'::text)
    -- At most one rule set is active.
  CREATE UNIQUE INDEX rule_sets_one_building ON millrace.rule_sets USING btree (state) WHERE (state = 'building'::text)
    -- At most one rule set is being built.

TABLE millrace.schema_events
  -- Changes of the sources' tables as they were noticed; the view schema_changes is for people.
  id bigint NOT NULL
    -- Number of the event.
  at timestamp with time zone NOT NULL DEFAULT clock_timestamp()
    -- When it was noticed.
  source smallint NOT NULL
    -- The source.
  object text NOT NULL
    -- The table or other object.
  change text NOT NULL
    -- What happened.
  action text NOT NULL
    -- What was done about it, or what it needs.
  code text NOT NULL
    -- Code (MR1014, ...) where a person must act; else empty.
  cure text NOT NULL
    -- The exact SQL or setting; empty if nobody must act.
  copy bigint
    -- The copy it caused; copies.id.
  ended_at timestamp with time zone
    -- When what needed a person was found to be cured.
  CONSTRAINT schema_events_pkey PRIMARY KEY (id)
  CONSTRAINT schema_events_source_fkey FOREIGN KEY (source) REFERENCES millrace.sources(id) ON DELETE CASCADE
  CREATE INDEX schema_events_open ON millrace.schema_events USING btree (source, object) WHERE ((code <> ''::text) AND (ended_at IS NULL))
    -- What a person must act upon.

SEQUENCE millrace.schema_events_id_seq
  -- Numbers of events.

TABLE millrace.schema_migrations
  -- Which migration the schema is at; kept by golang-migrate.
  version bigint NOT NULL
    -- Number of the last migration.
  dirty boolean NOT NULL
    -- True while a migration runs, or if it was interrupted.
  CONSTRAINT schema_migrations_pkey PRIMARY KEY (version)

UNLOGGED TABLE millrace.session_reports WITH (fillfactor=50, autovacuum_vacuum_scale_factor=0.1)
  -- Live clients as their relays last reported. The view sessions is for people.
  relay text COLLATE "C" NOT NULL
    -- The relay; relay_reports.id.
  id bigint NOT NULL
    -- Number within the relay.
  user_id text COLLATE "C" NOT NULL
    -- Subject of the token, with /<client id> if the client has one.
  client_id text NOT NULL
    -- Id of the device; empty if the client has none.
  transport text NOT NULL
    -- http, ws or rsocket.
  agent text NOT NULL
    -- SDK and platform, as the client tells.
  buckets integer NOT NULL
    -- Buckets it follows.
  sent_op bigint NOT NULL
    -- Checkpoint it was completely sent last; 0 for none.
  acked_op bigint NOT NULL
    -- Checkpoint it has applied; 0 if it does not tell.
  bytes bigint NOT NULL
    -- Bytes of lines sent, before compression.
  since timestamp with time zone NOT NULL
    -- When it connected.
  sending_op bigint NOT NULL DEFAULT 0
    -- Checkpoint it is being sent; 0 if it has all of the last one. Compaction stays below it for a while.
  CONSTRAINT session_reports_pkey PRIMARY KEY (relay, id)

TABLE millrace.shadow_errors
  -- Errors of the rows of tables that are copied into a shadow.
  copy bigint NOT NULL
    -- The copy; copies.id.
  row_key text COLLATE "C" NOT NULL
    -- Row key, as in row_state.
  definition integer NOT NULL
    -- The definition.
  message text NOT NULL
    -- What was wrong.
  CREATE INDEX shadow_errors_row ON millrace.shadow_errors USING btree (copy, row_key)
    -- The errors of a row.

TABLE millrace.shadow_lookups WITH (autovacuum_vacuum_scale_factor=0.05)
  -- Lookups of the rows of tables that are copied into a shadow.
  copy bigint NOT NULL
    -- The copy; copies.id.
  row_key text COLLATE "C" NOT NULL
    -- Row key, as in row_state.
  definition integer NOT NULL
    -- The lookup definition.
  key text COLLATE "C" NOT NULL
    -- Canonical JSON array of the values that are looked up.
  outputs text NOT NULL
    -- JSON text of what a match yields.
  CREATE INDEX shadow_lookups_row ON millrace.shadow_lookups USING btree (copy, row_key)
    -- The lookups of a row.

TABLE millrace.shadow_rows WITH (autovacuum_vacuum_scale_factor=0.05)
  -- Outputs of the rows of tables that are copied into a shadow. Never served: one flush makes history of what differs.
  copy bigint NOT NULL
    -- The copy; copies.id.
  row_key text COLLATE "C" NOT NULL
    -- Row key, as in row_state.
  definition integer NOT NULL
    -- The bucket definition.
  bucket text COLLATE "C" NOT NULL
    -- Logical name of the bucket.
  type text NOT NULL
    -- Output table.
  row_id text COLLATE "C" NOT NULL
    -- Client id of the row.
  subkey text COLLATE "C"
    -- Subkey of its ops, if they have one.
  checksum integer NOT NULL
    -- Checksum of the PUT that would carry it.
  digest bigint
    -- Digest of the data; null unless unchanged updates are suppressed.
  data text NOT NULL
    -- Finished JSON text.
  CREATE INDEX shadow_rows_row ON millrace.shadow_rows USING btree (copy, row_key)
    -- The outputs of a row.

TABLE millrace.shared_ids
  -- Rows of clients that come from more than one source at once, and so replace each other. Counted every ten minutes where several sources are read by one definition; definitions without any are not here.
  definition integer NOT NULL
    -- The bucket definition.
  ids bigint NOT NULL
    -- How many ids, counted in each bucket.
  example text NOT NULL
    -- One of them: bucket, output table and id.
  counted_at timestamp with time zone NOT NULL DEFAULT clock_timestamp()
    -- When it was counted.
  CONSTRAINT shared_ids_ids_check CHECK ((ids > 0))
  CONSTRAINT shared_ids_pkey PRIMARY KEY (definition)

TABLE millrace.source_reports WITH (fillfactor=20, autovacuum_vacuum_scale_factor=0, autovacuum_vacuum_threshold=500)
  -- The present condition of each source as its reader last described it. For people: nothing depends on it.
  source smallint NOT NULL
    -- The source.
  received pg_lsn NOT NULL
    -- End of the newest WAL received.
  applied pg_lsn NOT NULL
    -- End of what the newest checkpoint contained at that time.
  confirmed pg_lsn NOT NULL
    -- Position confirmed to the slot.
  head pg_lsn NOT NULL
    -- Insert position of the source when it was last asked.
  head_at timestamp with time zone
    -- When the source was last asked for head.
  retained bigint
    -- Bytes of WAL the slot holds back on the source; null if unknown.
  slot_state text NOT NULL
    -- wal_status of the slot.
  waiting_for text NOT NULL
    -- What keeps the source from going on, in words; empty if nothing does.
  error_code text NOT NULL
    -- Code of the last failure (MR1003, ...); empty once there was progress.
  error text NOT NULL
    -- The last failure in words; empty once there was progress.
  at timestamp with time zone NOT NULL
    -- When this report was written.
  restart_at pg_lsn
    -- restart_lsn of the slot: where the WAL begins that it holds back.
  safe_wal bigint
    -- Bytes of WAL that may be written before the slot is in danger; null if there is no limit or it is unknown.
  wal_rate bigint
    -- Bytes of WAL the source writes in an hour, at the rate of the last hour; null if unknown.
  findings text[] NOT NULL DEFAULT '{}'::text[]
    -- What stops nothing but should be looked after, each with its code and cure.
  holds integer
    -- The rule set being built that cannot come into force before this source has copied what it needs; null for none.
  CONSTRAINT source_reports_pkey PRIMARY KEY (source)
  CONSTRAINT source_reports_source_fkey FOREIGN KEY (source) REFERENCES millrace.sources(id) ON DELETE CASCADE

TABLE millrace.source_tables
  -- The source tables the rules use or used. A table keeps its number when it is renamed, made again under its name or changes its identity.
  id integer NOT NULL
    -- Number of the table, never reused.
  source smallint NOT NULL
    -- The source the table is in.
  oid oid NOT NULL
    -- OID of the table on the source; 0 if it is not there any more.
  schema text NOT NULL
    -- Schema of the table on the source.
  name text NOT NULL
    -- Name of the table on the source.
  identity text NOT NULL
    -- Replica identity: default, index, full or nothing.
  key_columns text[] NOT NULL
    -- The columns whose texts make the row key, in attribute order.
  columns jsonb NOT NULL
    -- Published columns in attribute order: [{"name", "type_oid", "type"}]; empty if the table has to be copied before its changes count.
  created_at timestamp with time zone NOT NULL DEFAULT now()
    -- When the table was first seen.
  updated_at timestamp with time zone NOT NULL DEFAULT now()
    -- When this description last changed.
  forgotten_at timestamp with time zone
    -- Since when no rules use the table, so that nothing of it is fed; null while they do. A table that is used again is a new row.
  member oid NOT NULL DEFAULT 0
    -- OID of the table's entry in the publication; 0 if it has all tables.
  filter text NOT NULL DEFAULT ''::text
    -- The publication's row filter, SQL; empty if there is none.
  CONSTRAINT source_tables_id_check CHECK ((id > 0))
  CONSTRAINT source_tables_identity_check CHECK ((identity = ANY (ARRAY['default'::text, 'index'::text, 'full'::text, 'nothing'::text])))
  CONSTRAINT source_tables_pkey PRIMARY KEY (id)
  CONSTRAINT source_tables_source_fkey FOREIGN KEY (source) REFERENCES millrace.sources(id)

TABLE millrace.sources WITH (fillfactor=20, autovacuum_vacuum_scale_factor=0, autovacuum_vacuum_threshold=500)
  -- The source databases whose changes are followed. All positions of a row belong to its (system_id, timeline, database).
  id smallint NOT NULL
    -- Number of the source, never reused.
  name text COLLATE "C" NOT NULL
    -- The source's name in the configuration, the connection tag of rules.
  system_id text NOT NULL
    -- system_identifier of the source cluster.
  timeline integer NOT NULL
    -- Timeline of the source cluster when last connected.
  database text NOT NULL
    -- Database on the source.
  slot text NOT NULL
    -- Name of the logical replication slot on the source.
  publication text NOT NULL
    -- Name of the publication on the source.
  publication_oid oid NOT NULL
    -- OID of the publication: tells whether it was made again under the same name.
  consistent_point pg_lsn NOT NULL DEFAULT '0/0'::pg_lsn
    -- Where the slot began; 0/0 while it is not known to exist.
  exported text NOT NULL DEFAULT ''::text
    -- Text of the snapshot exported when the slot was made (xmin:xmax:xip): the transactions the slot never delivers.
  durable pg_lsn NOT NULL DEFAULT '0/0'::pg_lsn
    -- End of the newest source transaction contained in the sidecar; reading resumes here. Only grows.
  created_at timestamp with time zone NOT NULL DEFAULT now()
    -- When the source was first seen.
  plain_ids boolean NOT NULL DEFAULT true
    -- Its rows may go to clients without a subkey: no other source with one of its connection tags does so.
  was text
    -- Of a source whose history is lost: the name it had, which its successor has now; else null.
  lost_at timestamp with time zone
    -- When its history was found to be lost; null while it is followed. Its rows stay until the definitions they are in are dropped.
  lost_reason text
    -- Why, in words.
  removal_requested_at timestamp with time zone
    -- When somebody asked for its rows to be removed (millrace source remove); the decoder does it if the source is not configured any more.
  removal_requested_by text
    -- Role that asked.
  CONSTRAINT sources_id_check CHECK ((id > 0))
  CONSTRAINT sources_lost CHECK ((((lost_at IS NULL) = (was IS NULL)) AND ((lost_at IS NULL) = (lost_reason IS NULL))))
  CONSTRAINT sources_name_check CHECK (((name <> ''::text) AND (octet_length(name) <= 200)))
  CONSTRAINT sources_name_key UNIQUE (name)
  CONSTRAINT sources_pkey PRIMARY KEY (id)

SEQUENCE millrace.write_checkpoint_ids
  -- Numbers of write checkpoints. It starts at microseconds since 1970, so that numbers never go down, even in a sidecar that was built anew.

TABLE millrace.write_requests WITH (fillfactor=70, autovacuum_vacuum_scale_factor=0.05)
  -- Write checkpoints, one row per device: it may show server data again once a checkpoint contains what the sources had committed when it asked. The view pending_write_checkpoints is for people.
  user_id text COLLATE "C" NOT NULL
    -- Subject of the token, with /<client id> if the client has one.
  id bigint NOT NULL
    -- Newest number asked for. Numbers of one device only grow.
  managed boolean NOT NULL
    -- Whether the server gave the number; else the client did.
  requested_at timestamp with time zone NOT NULL DEFAULT clock_timestamp()
    -- When it was last asked for.
  heads jsonb
    -- Positions of the sources read after the request, that a checkpoint must reach: {"<source id>": "<lsn>"}; null until the decoder has read them.
  acked_id bigint NOT NULL DEFAULT 0
    -- Newest number that a checkpoint contains; 0 for none.
  acked_seq bigint NOT NULL DEFAULT 0
    -- Number of that checkpoint.
  CONSTRAINT write_requests_acked_seq_check CHECK ((acked_seq >= 0))
  CONSTRAINT write_requests_check CHECK (((acked_id >= 0) AND (acked_id <= id)))
  CONSTRAINT write_requests_id_check CHECK (((id > 0) AND (id < '9223372036854775807'::bigint)))
  CONSTRAINT write_requests_pkey PRIMARY KEY (user_id)
  CONSTRAINT write_requests_user_id_check CHECK ((octet_length(user_id) <= 2048))
  CREATE INDEX write_requests_acked ON millrace.write_requests USING btree (acked_seq)
    -- Requests acknowledged by the newest checkpoints.
  CREATE INDEX write_requests_pending ON millrace.write_requests USING btree (requested_at) WHERE (acked_id < id)
    -- Requests that no checkpoint contains yet.

PROCEDURE millrace.add_partitions(IN definition integer) VOLATILE SET search_path=pg_catalog
  -- Makes the partitions of ops and row_state for a bucket definition. For the decoder only.

FUNCTION millrace.bucket_checksum(bucket text, as_of bigint DEFAULT NULL::bigint) RETURNS TABLE(op_id bigint, ops bigint, checksum integer) STABLE SET search_path=pg_catalog
  -- Number of a bucket's ops, and the wrapping sum (32 bits, signed) of their checksums since the last CLEAR, at an op id (null: now): what a client at that checkpoint must have. From the running totals; verify_bucket recomputes them.

FUNCTION millrace.bucket_rows(bucket text, as_of bigint DEFAULT NULL::bigint) RETURNS TABLE(type text, row_id text, subkey text, op_id bigint, data text) STABLE SET search_path=pg_catalog, work_mem=64MB
  -- The rows of a bucket, folded from its ops, at an op id (null: now). Of several rows with one (type, row_id) a client shows the one with the greatest op_id. An op id from before compaction is an error.

FUNCTION millrace.crc32c(data bytea) RETURNS bigint IMMUTABLE STRICT SET search_path=pg_catalog
  -- CRC-32C (Castagnoli) of bytes, 0 to 4294967295. Built in from PostgreSQL 18 on, about 0.1 us a byte before.

FUNCTION millrace.find_bucket(bucket text) RETURNS bigint STABLE SET search_path=pg_catalog
  -- Number of a bucket given by wire name, or by logical name among the definitions in force. Raises an error that names the nearest buckets if there is none.

FUNCTION millrace.find_source_tables(source_table text) RETURNS integer[] STABLE SET search_path=pg_catalog
  -- Numbers of a source table given as schema.table (table for one in public), or source.schema.table; several if it was dropped and made again. Raises an error that names the known tables if there is none.

FUNCTION millrace.fmix32(h bigint) RETURNS bigint IMMUTABLE STRICT SET search_path=pg_catalog
  -- MurmurHash3's 32-bit finaliser of a number from 0 to 4294967295. Without it sums of CRCs would not notice data swapped between two rows.

FUNCTION millrace.op_checksum(kind integer, type text, row_id text, subkey text, data text) RETURNS integer IMMUTABLE SET search_path=pg_catalog
  -- Checksum of a PUT (kind 1) or REMOVE (kind 2) from its parts, 32 bits as a signed integer; null for other kinds, whose checksum cannot be recomputed.

FUNCTION millrace.op_time(op_id bigint) RETURNS timestamp with time zone STABLE SET search_path=pg_catalog
  -- When an op id was committed: exact for the last hour, to the minute before; null if it is not committed yet.

FUNCTION millrace.open_bucket(bucket text, as_of bigint, OUT id bigint, OUT definition integer, OUT op_id bigint, OUT served boolean, OUT last_op bigint, OUT ops bigint, OUT checksum integer) RETURNS record STABLE SET search_path=pg_catalog
  -- Resolves a bucket and an op id (null: now) for the functions below, with the bucket's running totals of now. Raises an error where history was compacted.

FUNCTION millrace.ops_between(bucket text, after bigint, upto bigint, lim integer DEFAULT 1000) RETURNS TABLE(op_id bigint, kind text, type text, row_id text, subkey text, checksum integer, data text) STABLE SET search_path=pg_catalog
  -- The ops of a bucket with after < op_id <= upto (null: the newest checkpoint), at most lim (null: all), in order: what a client at "after" is sent.

FUNCTION millrace.row_history(source_table text, row_id text, bucket text DEFAULT NULL::text) RETURNS TABLE(bucket_name text, type text, client_row_id text, since_op bigint, since timestamp with time zone, until_op bigint, until timestamp with time zone, ops jsonb) STABLE SET search_path=pg_catalog
  -- In which buckets a source row was, since and until which op id and time (until null: it is there now), within history.keep, with its ops as far as they are kept. source_table is schema.table or source.schema.table; row_id is the key's text, for several key columns their JSON array.

FUNCTION millrace.row_outputs(state millrace.row_state) RETURNS SETOF millrace.row_output STABLE SET search_path=pg_catalog
  -- The outputs of a row of row_state.

FUNCTION millrace.rule_set_at(op_id bigint) RETURNS integer STABLE SET search_path=pg_catalog
  -- The rule set in force at an op id: the one with the greatest active_from at or below it. Null before the first.

FUNCTION millrace.serves(definition integer, op_id bigint) RETURNS boolean STABLE SET search_path=pg_catalog
  -- Whether a definition is in the rule set in force at an op id. Only then clients see anything of it.

FUNCTION millrace.stay_ops(definition integer, bucket bigint, type text, row_id text, subkey text, since_op bigint, until_op bigint) RETURNS jsonb STABLE SET search_path=pg_catalog
  -- The ops of a row in a bucket from the one with which it entered to the one with which it left (null: it is there), as far as they are kept, as row_history shows them; null if there are none.

FUNCTION millrace.user_values(stream text, user_id text) RETURNS TABLE(value jsonb, since_op bigint, until_op bigint, path text) STABLE SET search_path=pg_catalog
  -- The values that the parameter lookups of a stream or bucket definition give a user, with the op ids since and until which (null: still) and the rows that do it. Lookups with a single key, at most four after another; ended ones as far as history.keep.

FUNCTION millrace.verify_bucket(bucket text) RETURNS TABLE(bucket_name text, ok boolean, ops bigint, wrong_ops bigint, first_wrong_op bigint, recomputed integer, running integer, rows bigint, running_rows bigint, running_ops bigint) STABLE SET search_path=pg_catalog
  -- Recomputes every op checksum of a bucket from its data, their sum, and the counts, and compares them with what is stored and with the running totals. About 30 us an op before PostgreSQL 18.

FUNCTION millrace.why(source_table text, row_id text, user_id text DEFAULT NULL::text) RETURNS TABLE(bucket_name text, definition text, type text, client_row_id text, since_op bigint, since timestamp with time zone, last_op bigint, granted boolean, because text, sessions jsonb) STABLE SET search_path=pg_catalog
  -- The buckets a source row is in now, and whether that user gets them: which lookups give the bucket's parameters to them, or gave until when, and what their live sessions have. granted is what the data tells: conditions on the token or on subscription parameters are not in it. No line: the row is in no bucket; see row_history for where it was, row_errors for why not, and millrace explain for which condition failed.

FUNCTION millrace.wrap32(sum numeric) RETURNS integer IMMUTABLE STRICT SET search_path=pg_catalog
  -- The lowest 32 bits of a sum of checksums, as a signed integer.

VIEW millrace.bucket_bloat
  -- Buckets with more ops than rows: what compaction left, or has not come to yet. ORDER BY dead_ops DESC for the worst.
  id bigint
    -- Number of the bucket.
  bucket text COLLATE "C"
    -- Wire name: <wire prefix>#<logical name>.
  definition integer
    -- Number of its definition; definitions.id.
  rows bigint
    -- Rows it holds.
  ops bigint
    -- Ops stored.
  dead_ops bigint
    -- Ops that are no row: superseded and not compacted yet, or left as a MOVE, REMOVE or CLEAR.
  bytes bigint
    -- Bytes of data of its ops.
  new_dead_ops bigint
    -- About how many of the dead ops came since it was last compacted. Compaction takes it within an interval from 16 on, if they are at least half as many as the rows, or from 100,000 on; else once a day.
  last_op bigint
    -- Op id of its newest op.
  floor_op bigint
    -- It cannot be shown at checkpoints below this one any more; 0 if it was never rewritten.
  compacted_to bigint
    -- Up to which op id superseded ops are gone; 0 if it was never compacted.
  compacted_at timestamp with time zone
    -- When it was last compacted.
  rewritten_at timestamp with time zone
    -- When its old rows were last to be appended again, so that more could be cleared; at most once a day.
  rewrite_asked_at timestamp with time zone
    -- Since when the decoder is to append old rows of it again; null if it is not.

VIEW millrace.buckets
  -- Every bucket that ever had a row, with its running totals.
  bucket text COLLATE "C"
    -- Wire name: <wire prefix>#<logical name>.
  definition text
    -- The bucket definition or stream.
  name text COLLATE "C"
    -- Logical name.
  served boolean
    -- Whether its definition is in the rule set in force.
  rows bigint
    -- Rows it holds.
  ops bigint
    -- Ops stored.
  bytes bigint
    -- Bytes of data of its ops.
  checksum integer
    -- Running sum of its op checksums, 32 bits, signed.
  last_op bigint
    -- Op id of its newest op.

VIEW millrace.checkpoints
  -- Committed checkpoints: all of the last hour, one a minute before.
  seq bigint
    -- Number of the checkpoint.
  op_id bigint
    -- The newest op id it contains.
  at timestamp with time zone
    -- When it was written.
  published timestamp with time zone
    -- Commit time, on its source, of the newest source transaction contained.
  lsns jsonb
    -- How far each source is contained: {"<source>": "<lsn>"}.
  changed_buckets integer
    -- Number of buckets changed since the checkpoint before; null: unknown.
  changed_lookups integer
    -- Number of lookup definitions with changed entries; null: unknown.

VIEW millrace.definitions
  -- Bucket, lookup and event definitions, and the rule sets that use them.
  id integer
    -- Number of the definition.
  kind text
    -- bucket, lookup or event (custom write checkpoints).
  name text
    -- The bucket definition, stream or event it came from.
  key text
    -- Its name inside the compiled rules file.
  wire_prefix text COLLATE "C"
    -- Start of the wire names of its buckets; null for others.
  hash text COLLATE "C"
    -- Hash of its meaning.
  state text
    -- active: in the rule set in force. building: only in one being built. retired: only in replaced ones, still fed. dropping: no longer fed, its history is being dropped. dropped: it is gone. unused: in none.
  rule_sets integer[]
    -- The rule sets it is in.
  buckets bigint
    -- Number of its buckets.
  disk_bytes bigint
    -- Bytes on disk of its ops and row states with their indexes; null for others.
  created_at timestamp with time zone
    -- When its history began.
  retired_at timestamp with time zone
    -- Since when it is no longer fed; null while it is.
  dropped_at timestamp with time zone
    -- When its history was dropped.

VIEW millrace.pending_write_checkpoints
  -- Uploads whose effects no checkpoint contains yet, oldest first: those devices hold server data back. Custom write checkpoints are never among them: they come with the checkpoint that contains them.
  user_id text COLLATE "C"
    -- Subject of the token, with /<client id> if the client has one.
  id bigint
    -- The number that is waited for.
  acknowledged_id bigint
    -- Newest number that was reached.
  requested_at timestamp with time zone
    -- When it was asked for.
  waiting interval
    -- How long ago that was.
  waits_for text COLLATE "C"
    -- What has to happen, in words.

VIEW millrace.relays
  -- Relays that reported within the last minute; each does every ten seconds.
  id text COLLATE "C"
    -- Random, one per process.
  name text
    -- Host and process.
  listen text
    -- Address clients reach it at.
  connections integer
    -- Connected clients.
  op_id bigint
    -- Newest op id it had published to its sessions.
  ops_behind bigint
    -- Op ids between that and the newest checkpoint now.
  rule_sets integer[]
    -- Rule sets its sessions use.
  started_at timestamp with time zone
    -- When it started.
  reported_at timestamp with time zone
    -- When it last reported.

VIEW millrace.replication
  -- How far each source is followed, and what it waits for.
  source text COLLATE "C"
    -- The source's name in the configuration.
  database text
    -- Database on the source.
  slot text
    -- Logical replication slot on the source.
  publication text
    -- Publication on the source.
  durable pg_lsn
    -- End of the newest source transaction contained in the newest checkpoint.
  received pg_lsn
    -- End of the newest WAL received.
  confirmed pg_lsn
    -- Position confirmed to the slot.
  head pg_lsn
    -- Insert position of the source when last asked.
  lag_bytes bigint
    -- Bytes of WAL between head and durable; all databases of the source write it.
  lag_seconds numeric
    -- Seconds since the newest contained transaction was committed on its source; 0 if nothing is missing.
  retained_bytes bigint
    -- Bytes of WAL the slot holds back on the source; null if unknown.
  slot_state text
    -- wal_status of the slot.
  waiting_for text
    -- What keeps the source from going on, in words.
  error_code text
    -- Code of the last failure (MR1003, ...), until there is progress.
  error text
    -- The last failure in words, until there is progress.
  reported_at timestamp with time zone
    -- When the decoder last reported; old if it is down.

VIEW millrace.rules
  -- Every rule set there was, with what was copied for it. Its file as deployed: SELECT content FROM millrace.rule_sets WHERE id = …
  rule_set integer
    -- Number of the rule set; grows with each deploy and roll-back.
  state text
    -- building, active, retired (still fed, ready for roll-back), dropped, or abandoned (replaced before it was built).
  file text
    -- Name of the file; empty if the decoder deployed it at its start.
  rolls_back integer
    -- The earlier rule set it is a roll-back to.
  active_from bigint
    -- Op id since which it is in force, or was.
  created_at timestamp with time zone
    -- When it was deployed.
  activated_at timestamp with time zone
    -- When it came into force.
  retired_at timestamp with time zone
    -- When another one replaced it.
  ended_at timestamp with time zone
    -- When it was dropped or abandoned.
  definitions integer
    -- Number of its definitions.
  new_definitions bigint
    -- How many of them no earlier rule set had: those that had to be built.
  copy_tables bigint
    -- Tables copied for it.
  copy_tables_done bigint
    -- Tables copied in full.
  copy_rows bigint
    -- Rows copied.
  copy_estimate bigint
    -- Rows expected.
  bytes integer
    -- Length of the file.
  md5 text
    -- MD5 of the file, to compare it with one at hand.
  waiting_for text COLLATE "C"
    -- While it is being built: the sources that have not copied what its new definitions need, and what each is at or why it is down. A source that only definitions read which are fed already is not waited for.

VIEW millrace.schema_changes
  -- Changes of the sources' tables as they were noticed, and the action each took or needs.
  id bigint
    -- Number of the change.
  at timestamp with time zone
    -- When it was noticed.
  source text COLLATE "C"
    -- The source.
  object text
    -- The table or other object.
  change text
    -- What happened.
  action text
    -- What was done about it, or what it needs.
  state text
    -- needs action: a person must act, see cure. copying: rows are read again. cured, done: nothing is left to do.
  code text
    -- Code of what a person must act upon.
  cure text
    -- The exact SQL or setting.
  copied_rows bigint
    -- Rows copied because of it.
  estimated_rows bigint
    -- Rows expected.
  ended_at timestamp with time zone
    -- When nothing was left to do; null while something is, and for what needed nothing.

VIEW millrace.sessions
  -- Live clients, as their relays last reported.
  relay text COLLATE "C"
    -- The relay; relays.id.
  id bigint
    -- Number within the relay.
  user_id text COLLATE "C"
    -- Subject of the token, with /<client id> if the client has one: the key of its write checkpoint.
  client_id text
    -- Id of the device; empty if the client has none.
  transport text
    -- http, ws or rsocket.
  agent text
    -- SDK and platform, as the client tells.
  buckets integer
    -- Buckets it follows.
  sent_op bigint
    -- Checkpoint it was completely sent last.
  acknowledged_op bigint
    -- Checkpoint it has applied; null if it does not tell.
  bytes bigint
    -- Bytes of lines sent, before compression.
  since timestamp with time zone
    -- When it connected.
  sending_op bigint
    -- Checkpoint it is being sent; null if it has all of the last one.

VIEW millrace.slot_health
  -- The replication slot of each source: what it holds back, how long that goes well, and what was lost before.
  source text COLLATE "C"
    -- The source's name in the configuration.
  slot text
    -- Its slot.
  state text
    -- wal_status: reserved and extended are well, unreserved may be lost at the next checkpoint of the source, lost is.
  restart_at pg_lsn
    -- Where the WAL begins that it holds back.
  confirmed pg_lsn
    -- Position confirmed to it.
  head pg_lsn
    -- Insert position of the source when last asked.
  retained_bytes bigint
    -- Bytes of WAL it holds back.
  safe_bytes bigint
    -- Bytes of WAL that may be written before it is in danger; null without max_slot_wal_keep_size.
  budget_left_percent numeric
    -- safe_bytes as a part of all the WAL that the slot may hold back.
  wal_bytes_per_hour bigint
    -- Bytes of WAL the source writes in an hour, at the rate of the last hour.
  fills_in interval
    -- When safe_bytes are written at that rate, if nothing is read meanwhile; null if that takes more than 48 hours, without a limit, or while the rate is unknown.
  held_by text
    -- What holds back more than 64 MiB: the decoder (head is far ahead of confirmed), or the oldest transaction that runs on the source (confirmed is far ahead of restart_at).
  code text
    -- MR1030: lost. MR1031: half of the budget is used, or the next checkpoint of the source may invalidate the slot.
  cure text
    -- What to do about it.
  histories_lost bigint
    -- How often the source's history was lost and built anew.
  last_lost_reason text
    -- Why it was, the last time.
  last_lost_at timestamp with time zone
    -- When.
  findings text[]
    -- What stops nothing but should be looked after, with code and cure: slots nobody reads, few slots left, tables that do not exist, and more.
  reported_at timestamp with time zone
    -- When the decoder last reported; old if it is down.

VIEW millrace.status
  -- One row: where the sidecar stands.
  rule_set integer
    -- The active rule set; null before the first is built.
  op_id bigint
    -- Op id of the newest checkpoint.
  seq bigint
    -- Number of the newest checkpoint.
  checkpoint_at timestamp with time zone
    -- When the newest checkpoint was written.
  published timestamp with time zone
    -- Commit time, on its source, of the newest source transaction contained.
  decoder text
    -- The decoder that leads.
  heartbeat_at timestamp with time zone
    -- Its last heartbeat, every two seconds; old if it is down.
  lag jsonb
    -- Per source: {"bytes", "seconds"}, as in the view replication.
  waiting_for text COLLATE "C"
    -- What sources wait for, in words.
  errors text COLLATE "C"
    -- Present failures of sources.
  building_rule_set integer
    -- The rule set being built, if any.
  copy_tables bigint
    -- Tables copied for it.
  copy_tables_done bigint
    -- Tables copied in full.
  copy_rows bigint
    -- Rows copied.
  copy_estimate bigint
    -- Rows expected.
  row_errors bigint
    -- Source rows that could not be evaluated or stored; see millrace.row_errors.
  oldest_snapshot interval
    -- Age of the oldest open transaction with a snapshot in this database, as far as you may see: it keeps dead rows from being removed.
  sessions bigint
    -- Connected clients, as relays that live last reported.
  shared_ids bigint
    -- Ids that rows of several sources have in one bucket, so that they replace each other on clients; see millrace.shared_ids. Counted every ten minutes.

VIEW millrace.unsynced_rows
  -- Rows of the sources that are not synced, and why: text that is not UTF-8, data above the size limit, an expression that fails. An update cures them.
  source text COLLATE "C"
    -- The source.
  source_table text
    -- The table.
  row_key text COLLATE "C"
    -- Row key: the key column's text, or the JSON array of several; "bytes:" and hex digits if it is no text.
  definition text
    -- The definition in which the row is missing.
  message text
    -- What was wrong.
  at timestamp with time zone
    -- When it was found.

VIEW millrace.write_checkpoints
  -- Newest write checkpoint of each device: the numbers that the server gave, those that clients gave, and custom ones, written by the app's backend.
  user_id text COLLATE "C"
    -- Subject of the token, with /<client id> if the client has one.
  kind text
    -- managed: the server gave the number. client: the client did. custom: it came as a row of a source.
  event text
    -- The event definition of a custom one; null for others.
  id bigint
    -- Newest number.
  acknowledged_id bigint
    -- Newest number that a checkpoint contains; null for none.
  seq bigint
    -- Number of that checkpoint; millrace.checkpoints.seq.
  at timestamp with time zone
    -- When it was last asked for, or came in.
  served boolean
    -- Whether clients are told of it: with an event in the rules in force, managed ones are not.
