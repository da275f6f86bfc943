import type { Credentials } from "../engine/credentials.js";
import type { Millrace } from "./millrace.js";

/**
 * The app's part of being in sync. Of several pages of one database one is
 * asked at a time.
 */
export interface Connector {
  /**
   * Gives credentials, usually by asking the app's backend; null if there are
   * none, as when nobody is logged in. Called at the first connection, shortly
   * before the token expires, and after the server refused it. Failing is no
   * tragedy: the local database works on, and it is called again later.
   */
  fetchCredentials(signal: AbortSignal): Promise<Credentials | null>;
  /**
   * Sends the waiting transactions to the app's backend: take
   * `db.nextTransaction()`, send it, complete it, until there is none. Called
   * when something waits, and again after a growing delay if it throws. A
   * transaction the backend will never accept must be completed or rejected,
   * or nothing behind it gets through.
   */
  uploadData(db: Millrace, signal: AbortSignal): Promise<void>;
}
