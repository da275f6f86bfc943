import type { Sqlite3Static } from "@sqlite.org/sqlite-wasm";
import { Connection } from "../sqlite/connection.js";
import { LOG_PAGES } from "../store/store.js";
import { folder } from "./meeting.js";

/**
 * Statements every connection begins with. Exclusive locking comes first: WAL
 * has no shared memory here, and anything before it makes a reopened database
 * fail in a way that looks like corruption.
 */
const SETUP = `
PRAGMA locking_mode = exclusive;
PRAGMA page_size = 8192;
PRAGMA journal_mode = wal;
PRAGMA synchronous = normal;
PRAGMA cache_size = -51200;
PRAGMA temp_store = memory;
PRAGMA recursive_triggers = 0;
PRAGMA wal_autocheckpoint = ${LOG_PAGES};
`;

/** How long files may still be held by an owner that is going. Milliseconds. */
const HANDLES_FREED_WITHIN = 2_000;
const RETRY_EVERY = 50;

export interface Opened {
  readonly db: Connection;
  /** Gives the files up, once the connection is closed. */
  readonly release: () => void;
  /** False: in memory. */
  readonly persistent: boolean;
  /** Why not, for the console. */
  readonly reason?: unknown;
}

/**
 * Opens the database of a name, in the browser's origin private file system, or
 * in memory where the browser refuses that. Called only while holding the
 * database's lock: a pool that fails to install because another worker holds
 * its files must not be cleaned up, which would delete them.
 */
export async function openDatabase(sqlite3: Sqlite3Static, name: string): Promise<Opened> {
  try {
    const pool = await installPool(sqlite3, name);
    const db = new pool.OpfsSAHPoolDb("/millrace.sqlite3");
    const connection = new Connection(sqlite3, db.pointer as number);
    connection.exec(SETUP);
    return { db: connection, persistent: true, release: () => pool.pauseVfs() };
  } catch (reason) {
    if (await exists(name)) throw reason; // there is data: hiding it behind an empty database would look like its loss
    const db = new sqlite3.oo1.DB(":memory:", "c");
    const connection = new Connection(sqlite3, db.pointer as number);
    connection.exec(`PRAGMA temp_store = memory`);
    return { db: connection, persistent: false, reason, release: () => {} };
  }
}

async function installPool(sqlite3: Sqlite3Static, name: string): Promise<Awaited<ReturnType<Sqlite3Static["installOpfsSAHPoolVfs"]>>> {
  const until = Date.now() + HANDLES_FREED_WITHIN;
  for (;;) {
    try {
      const options = { name: "opfs-millrace", directory: folder(name), initialCapacity: 6, preserveOnInitFailure: true, forceReinitIfPreviouslyFailed: true };
      const pool = await sqlite3.installOpfsSAHPoolVfs(options);
      if (pool.isPaused()) await pool.unpauseVfs(); // this worker has owned the database before
      return pool;
    } catch (e) {
      const held = e instanceof Error && (e.name === "NoModificationAllowedError" || e.name === "InvalidStateError");
      if (!held || Date.now() > until) throw e;
      await new Promise((resolve) => setTimeout(resolve, RETRY_EVERY));
    }
  }
}

async function exists(name: string): Promise<boolean> {
  try {
    const root = await navigator.storage.getDirectory();
    const dir = await root.getDirectoryHandle(folder(name));
    await dir.getDirectoryHandle(".opaque");
    return true;
  } catch {
    return false;
  }
}
