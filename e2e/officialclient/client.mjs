// An official client under remote control: it does what the lines on standard
// input say and answers each with a line on standard output, so that the test
// decides what must be true. What the client itself says goes to standard error.
//
//   {"id": 1, "do": "open", "user": "alice", "file": "…", "endpoint": "…", "token": "…", "upload": "…"}
//   {"id": 2, "do": "connect", "user": "alice"}            also: "sync", "disconnect", "status", "uploads"
//   {"id": 3, "do": "query", "user": "alice", "sql": "SELECT …", "args": []}    also: "execute"
//   {"id": 4, "do": "transaction", "user": "alice", "statements": [["INSERT …", []]]}
//
// An answer is {"id": 1, "value": …} or {"id": 1, "error": "…"}.
import { createInterface } from 'node:readline';
import { PowerSyncDatabase } from '@powersync/node';
import { column, Schema, SyncStreamConnectionMethod, Table } from '@powersync/common';

// Standard output is for answers.
console.log = console.info = console.debug = console.error;

const schema = new Schema({
  lists: new Table({ name: column.text, owner_id: column.text, created_at: column.text }),
  todos: new Table({
    list_id: column.text,
    title: column.text,
    completed: column.integer,
    created_by: column.text,
    created_at: column.text,
    completed_at: column.text
  }),
  list_members: new Table({ list_id: column.text, user_id: column.text })
});

const clients = new Map();

// connector is what an app writes: it gives credentials, and sends what waits
// to the app's own backend.
function connector(client) {
  return {
    async fetchCredentials() {
      return { endpoint: client.endpoint, token: client.token };
    },
    async uploadData(db) {
      for (let tx = await db.getNextCrudTransaction(); tx; tx = await db.getNextCrudTransaction()) {
        const ops = tx.crud.map((e) => ({ op: e.op, type: e.table, id: e.id, data: e.opData ?? null }));
        const response = await fetch(client.upload, {
          method: 'POST',
          headers: { Authorization: `Bearer ${client.token}`, 'Content-Type': 'application/json' },
          body: JSON.stringify({ client_id: await db.getClientId(), transactions: [{ id: String(tx.transactionId), ops }] })
        });
        if (!response.ok) {
          throw new Error(`upload: ${response.status} ${await response.text()}`);
        }
        client.uploads.push(ops.length);
        await tx.complete();
      }
    }
  };
}

const actions = {
  async open(c) {
    const db = new PowerSyncDatabase({
      schema,
      database: { dbFilename: c.file, implementation: { type: 'node:sqlite' } }
    });
    await db.init();
    clients.set(c.user, { db, endpoint: c.endpoint, token: c.token, upload: c.upload, uploads: [] });
  },
  async connect(c, client) {
    await client.db.connect(connector(client), {
      connectionMethod: SyncStreamConnectionMethod.HTTP,
      retryDelayMs: 500
    });
  },
  async sync(c, client) {
    await client.db.waitForFirstSync();
  },
  async disconnect(c, client) {
    await client.db.disconnect();
  },
  async status(c, client) {
    const s = client.db.currentStatus;
    return {
      connected: s.connected,
      hasSynced: s.hasSynced ?? false,
      downloadError: s.downloadError?.message ?? '',
      uploadError: s.uploadError?.message ?? ''
    };
  },
  async uploads(c, client) {
    return client.uploads;
  },
  async query(c, client) {
    return await client.db.getAll(c.sql, c.args ?? []);
  },
  async execute(c, client) {
    await client.db.execute(c.sql, c.args ?? []);
  },
  async transaction(c, client) {
    await client.db.writeTransaction(async (tx) => {
      for (const [sql, args] of c.statements) {
        await tx.execute(sql, args ?? []);
      }
    });
  }
};

function answer(message) {
  process.stdout.write(JSON.stringify(message) + '\n');
}

for await (const line of createInterface({ input: process.stdin })) {
  const c = JSON.parse(line);
  try {
    const value = await actions[c.do](c, clients.get(c.user));
    answer({ id: c.id, value: value ?? null });
  } catch (e) {
    answer({ id: c.id, error: String(e?.stack ?? e) });
  }
}
for (const { db } of clients.values()) {
  await db.close();
}
process.exit(0);
