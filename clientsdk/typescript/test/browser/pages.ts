import type { Page } from "playwright-core";

/** What the tests ask of a page. */
export const titles = (p: Page): Promise<string[]> => p.evaluate("db.getAll('SELECT title FROM todos ORDER BY title').then((r) => r.map((x) => x.title))");

export const add = (p: Page, id: string, title: string): Promise<unknown> =>
  p.evaluate(`db.execute("INSERT INTO todos (id, title, done) VALUES (?, ?, 0)", ${JSON.stringify([id, title])})`);

/** True on a page whose writes are all with the server, and which shows a state that has them. */
export const atRest = "syncStatus().connected && syncStatus().hasSynced && syncStatus().pendingUploads === 0 && !syncStatus().held && !syncStatus().uploading && syncStatus().downloadProgress === null";

export const todo = (id: string, title: string): string => JSON.stringify({ id, title, done: 0 });
