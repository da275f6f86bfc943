// An official client under remote control: it does what the lines on standard
// input say and answers each with a line on standard output, so that the test
// decides what must be true. What the client itself says goes to standard error.
//
//   {"id": 1, "do": "open", "user": "alice", "file": "…", "endpoint": "…", "token": "…", "upload": "…"}
//   {"id": 2, "do": "connect", "user": "alice", "transport": "web-socket", "checkpoints": "requests"}
//   {"id": 3, "do": "query", "user": "alice", "sql": "SELECT …", "args": []}    also: "execute"
//   {"id": 4, "do": "transaction", "user": "alice", "statements": [["INSERT …", []]]}
//   {"id": 5, "do": "subscribe", "user": "alice", "stream": "…", "parameters": {}}    also: "unsubscribe"
//
// actions.mjs has them all. An answer is {"id": 1, "value": …} or {"id": 1, "error": "…"}.
import { createInterface } from 'node:readline';
import { PowerSyncDatabase } from '@powersync/node';
import { performer, schema } from './actions.mjs';

// Standard output is for answers.
console.log = console.info = console.debug = console.error;

const clients = performer(
  (c) => new PowerSyncDatabase({ schema, database: { dbFilename: c.file, implementation: { type: 'node:sqlite' } } })
);

function answer(message) {
  process.stdout.write(JSON.stringify(message) + '\n');
}

for await (const line of createInterface({ input: process.stdin })) {
  const c = JSON.parse(line);
  try {
    answer({ id: c.id, value: await clients.perform(c) });
  } catch (e) {
    answer({ id: c.id, error: String(e?.stack ?? e) });
  }
}
await clients.close();
process.exit(0);
