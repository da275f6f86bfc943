// What an official client is told to do, the same in Node and in a page. The
// test decides what must be true; see client.mjs for the form of commands.
import { column, FetchStrategy, Schema, SyncStreamConnectionMethod, Table } from '@powersync/common';

export const schema = new Schema({
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

// connector is what an app writes: it gives credentials, and sends what waits
// to the app's own backend. With custom write checkpoints the backend's answer
// has a number, or takes the number that the client chose.
function connector(client, custom, checkpoints) {
  const post = async (path, body) => {
    const response = await fetch(client.upload + path, {
      method: 'POST',
      headers: { Authorization: `Bearer ${client.token}`, 'Content-Type': 'application/json' },
      body: JSON.stringify(body)
    });
    if (!response.ok) {
      throw new Error(`upload: ${response.status} ${await response.text()}`);
    }
    return response;
  };
  const requests = custom && checkpoints === 'requests';
  return {
    ...(requests && {
      async postCheckpointRequest(clientId, requestId) {
        return (await (await post('/checkpoint', { client_id: clientId, checkpoint_request_id: requestId })).json()).checkpoint;
      }
    }),
    async fetchCredentials() {
      client.fetched++;
      return { endpoint: client.endpoint, token: client.token };
    },
    async uploadData(db) {
      for (let tx = await db.getNextCrudTransaction(); tx; tx = await db.getNextCrudTransaction()) {
        const ops = tx.crud.map((e) => ({ op: e.op, type: e.table, id: e.id, data: e.opData ?? null }));
        const response = await post(requests ? '?numbers=client' : '', { client_id: await db.getClientId(), transactions: [{ id: String(tx.transactionId), ops }] });
        client.uploads.push(ops.length);
        await tx.complete(custom && !requests ? (await response.json()).checkpoint : undefined);
      }
    }
  };
}

// performer does commands with databases that openDatabase gives.
export function performer(openDatabase) {
  const clients = new Map();
  const actions = {
    async open(c) {
      const db = openDatabase(c);
      await db.init();
      clients.set(c.user, { db, endpoint: c.endpoint, token: c.token, upload: c.upload, uploads: [], fetched: 0, subscriptions: [] });
    },
    async connect(c, client) {
      await client.db.connect(connector(client, c.custom ?? false, c.checkpoints), {
        connectionMethod: c.transport === 'web-socket' ? SyncStreamConnectionMethod.WEB_SOCKET : SyncStreamConnectionMethod.HTTP,
        fetchStrategy: c.sequential ? FetchStrategy.Sequential : FetchStrategy.Buffered,
        checkpointMode: c.checkpoints ?? 'legacy',
        crudUploadThrottleMs: 50,
        retryDelayMs: 500
      });
    },
    // Credentials that the client gets when it asks next.
    async token(c, client) {
      client.token = c.token;
    },
    async sync(c, client) {
      await client.db.waitForFirstSync();
    },
    async subscribe(c, client) {
      client.subscriptions.push(await client.db.syncStream(c.stream, c.parameters).subscribe());
    },
    async unsubscribe(c, client) {
      for (const s of client.subscriptions.splice(0)) s.unsubscribe();
      await client.db.syncStream(c.stream, c.parameters).unsubscribeAll();
    },
    async disconnect(c, client) {
      await client.db.disconnect();
    },
    async close(c, client) {
      await client.db.close();
      clients.delete(c.user);
    },
    async status(c, client) {
      const s = client.db.currentStatus;
      return {
        connected: s.connected,
        hasSynced: s.hasSynced ?? false,
        downloadError: s.downloadError?.message ?? '',
        uploadError: s.uploadError?.message ?? '',
        fetched: client.fetched
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
  return {
    perform: async (c) => (await actions[c.do](c, clients.get(c.user))) ?? null,
    async close() {
      for (const { db } of clients.values()) await db.close();
    }
  };
}
