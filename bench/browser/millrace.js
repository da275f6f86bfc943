// This SDK, as an app uses it: the native WebSocket, its default storage.
import { Millrace, defineSchema, integer, real, table, text } from "/sdk/index.js";

const schema = defineSchema({ items: table({ name: text, note: text, quantity: integer, price: real, shelf: text }) });

export async function open({ file, endpoint, token }) {
  const db = new Millrace({ schema, name: file, worker: () => new Worker("/sdk/worker.js", { type: "module" }) });
  await db.ready();
  return {
    async sync() {
      db.connect({ fetchCredentials: async () => ({ endpoint, token }), uploadData: async () => {} });
      await db.waitForFirstSync();
    },
    persistent: () => db.status.persistent,
    all: (sql, params) => db.getAll(sql, params),
  };
}
