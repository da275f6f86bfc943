/** The storage layout. SPEC.md, "Storage", tells how its parts work together. */

/** Version of the internal tables. */
export const FORMAT = 1;

/** The gate's target while a local write has no write checkpoint yet: nothing reaches it. */
export const OPEN_TARGET = 9223372036854775807n;

/** Stands for "everything" in mr_synced. */
export const FULL_PRIORITY = -1;

/** The wave of versions readers never see. */
export const HIDDEN = -1;

export const INTERNAL_TABLES = `
CREATE TABLE IF NOT EXISTS mr_state (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  format INTEGER NOT NULL,
  client_id TEXT NOT NULL,
  tx INTEGER NOT NULL DEFAULT 0,        -- number of the newest local transaction
  target INTEGER NOT NULL DEFAULT 0,    -- the gate: write checkpoint that must be seen before publishing
  custom INTEGER NOT NULL DEFAULT 0,    -- 1: target is the backend's number; has a meaning while target is one
  seen INTEGER NOT NULL DEFAULT 0,      -- write checkpoint of the newest validated completion
  complete INTEGER NOT NULL DEFAULT 0,  -- op id of the newest validated full completion
  pending INTEGER NOT NULL DEFAULT 0,   -- 1: what is stored is exactly that completion, and it is not published yet
  views TEXT NOT NULL DEFAULT '',       -- fingerprint of the app schema the views were made from
  wave INTEGER NOT NULL DEFAULT 0       -- the newest wave given to a bucket
);
CREATE TABLE IF NOT EXISTS mr_waves (
  wave INTEGER PRIMARY KEY              -- versions of these waves are not visible; -1 is always here
);
INSERT OR IGNORE INTO mr_waves VALUES (-1);
CREATE TABLE IF NOT EXISTS mr_buckets (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT UNIQUE,                     -- null: dropped; its published rows go with the next full publication
  position INTEGER NOT NULL DEFAULT 0,  -- every op up to here is stored
  settled INTEGER NOT NULL DEFAULT 0,   -- 1: was in a validated completion, so every op up to mr_state.complete is stored too
  checksum INTEGER NOT NULL DEFAULT 0,  -- sum of the stored ops since the last CLEAR
  published INTEGER NOT NULL DEFAULT 0, -- versions up to here are published; newer ones are staged
  cleared INTEGER NOT NULL DEFAULT 0,   -- a staged CLEAR: versions up to here are void once published
  wave INTEGER NOT NULL DEFAULT 0,      -- wave of what is staged; 0: nothing is
  at_last INTEGER NOT NULL DEFAULT 0,   -- ops at the last completion, for progress
  since INTEGER NOT NULL DEFAULT 0      -- ops received since then
);
CREATE TABLE IF NOT EXISTS mr_types (
  id INTEGER PRIMARY KEY,               -- n of mr_rows_<n> or mr_local_<n>
  name TEXT NOT NULL UNIQUE             -- type of rows; local-only tables have a NUL before their name
);
CREATE TABLE IF NOT EXISTS mr_touched (
  type INTEGER NOT NULL,                -- rows with several versions, some of them staged or local:
  id TEXT NOT NULL,                     -- a publication decides which one is shown
  PRIMARY KEY (type, id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mr_queue (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  tx INTEGER NOT NULL,                  -- local transaction; uploaded as a whole
  op TEXT NOT NULL,                     -- PUT, PATCH, DELETE
  type TEXT NOT NULL,
  row_id TEXT NOT NULL,
  data TEXT,                            -- JSON object; null for DELETE
  attempts INTEGER NOT NULL DEFAULT 0,
  last_error TEXT,
  last_attempt INTEGER                  -- unix milliseconds
);
CREATE INDEX IF NOT EXISTS mr_queue_tx ON mr_queue (tx);
CREATE TABLE IF NOT EXISTS mr_rejected (
  id INTEGER PRIMARY KEY,
  tx INTEGER NOT NULL,
  op TEXT NOT NULL,
  type TEXT NOT NULL,
  row_id TEXT NOT NULL,
  data TEXT,
  reason TEXT NOT NULL,
  at INTEGER NOT NULL                   -- unix milliseconds
);
CREATE TABLE IF NOT EXISTS mr_synced (
  priority INTEGER PRIMARY KEY,         -- -1: everything
  op_id INTEGER NOT NULL,
  at INTEGER NOT NULL                   -- unix milliseconds
);
CREATE TABLE IF NOT EXISTS mr_streams (
  name TEXT NOT NULL,
  params TEXT NOT NULL,                 -- canonical JSON object
  priority INTEGER NOT NULL,            -- -1: the stream's own
  ttl INTEGER NOT NULL,                 -- milliseconds to keep it after its last subscriber left
  expires INTEGER,                      -- unix milliseconds; null while subscribed
  PRIMARY KEY (name, params)
);
CREATE TABLE IF NOT EXISTS mr_changes (type TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mr_done (
  n INTEGER PRIMARY KEY,                -- writes whose outcome a tab may ask for again
  key TEXT NOT NULL UNIQUE,
  changes INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS mr_kv (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
`;

/** The table of a type: versions of its rows. */
export const rowsTable = (n: number): string => `mr_rows_${n}`;
/** The table of a local-only table. */
export const localTable = (n: number): string => `mr_local_${n}`;

/** Makes the table of a type. */
export const createRows = (n: number): string => `
CREATE TABLE ${rowsTable(n)} (
  id TEXT NOT NULL,
  bucket INTEGER NOT NULL,              -- 0: a local write that the published state does not contain
  subkey TEXT NOT NULL,
  op_id INTEGER NOT NULL,               -- 0 for a local write
  wave INTEGER NOT NULL,                -- readers see the version unless this is in mr_waves
  checksum INTEGER NOT NULL,            -- of the op
  data TEXT                             -- JSON object; null: removed
);
CREATE INDEX ${rowsTable(n)}_id ON ${rowsTable(n)} (id);
CREATE INDEX ${rowsTable(n)}_bucket ON ${rowsTable(n)} (bucket);
`;

export const createLocal = (n: number): string => `
CREATE TABLE ${localTable(n)} (id TEXT PRIMARY KEY, data TEXT NOT NULL);
`;

/** The name of a local-only table in mr_types. */
export const localName = (table: string): string => "\0" + table;

/** True for the versions readers see. */
export const VISIBLE = "wave NOT IN (SELECT wave FROM mr_waves)";

/** An SQL string literal. */
export const sqlText = (s: string): string => "'" + s.replaceAll("'", "''") + "'";
/** A quoted identifier. */
export const sqlName = (s: string): string => '"' + s.replaceAll('"', '""') + '"';
