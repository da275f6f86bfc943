// The official web client under remote control: act(command) does what
// client.mjs does for a line. bundle.mjs makes a script of it.
import { PowerSyncDatabase } from '@powersync/web';
import { performer, schema } from './actions.mjs';

const worker = '/worker/worker.js'; // from the package, as is

const clients = performer(
  (c) => new PowerSyncDatabase({ schema, database: { dbFilename: c.file, vfs: c.vfs, worker }, sync: { worker } })
);
window.act = clients.perform;
