// The official web client, unmodified, over HTTP streams.
import { column, Schema, SyncStreamConnectionMethod, Table } from "@powersync/common";
import { PowerSyncDatabase } from "@powersync/web";

const schema = new Schema({
  items: new Table({ name: column.text, note: column.text, quantity: column.integer, price: column.real, shelf: column.text }),
});
const worker = "/official/worker/worker.js"; // from the package, as is

export async function open({ file, vfs, endpoint, token }) {
  const db = new PowerSyncDatabase({ schema, database: { dbFilename: file + ".db", vfs, worker }, sync: { worker } });
  await db.init();
  const connector = { fetchCredentials: async () => ({ endpoint, token }), uploadData: async () => {} };
  return {
    async sync() {
      const connected = db.connect(connector, { connectionMethod: SyncStreamConnectionMethod.HTTP });
      await Promise.all([connected, db.waitForFirstSync()]);
    },
    persistent: () => true, // both storages that run.mjs asks for are
    all: (sql, params) => db.getAll(sql, params),
  };
}
