// The page measured: opens a client's database, and offers the steps that
// run.mjs asks for. Both clients run in the same page by the same steps.
const q = new URLSearchParams(location.search);
const { open } = await import(q.get("client"));
const client = await open({ file: q.get("file"), vfs: q.get("vfs"), endpoint: q.get("endpoint"), token: q.get("token") });

/** Watches the gaps between animation frames until the returned function ends it. */
function frames() {
  let last = performance.now();
  let longest = 0;
  let going = true;
  const frame = () => {
    const now = performance.now();
    longest = Math.max(longest, now - last);
    last = now;
    if (going) requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
  return () => {
    going = false;
    frame();
    return longest;
  };
}

/** From connect to the first complete checkpoint, in milliseconds. */
async function sync() {
  const stop = frames();
  const began = performance.now();
  await client.sync();
  const ms = performance.now() - began;
  const longestFrame = stop();
  const read = performance.now();
  const [{ n, chars }] = await client.all("SELECT count(*) AS n, sum(length(note)) AS chars FROM items");
  return { ms, longestFrame, rows: n, chars, readMs: performance.now() - read, persistent: client.persistent() };
}

let reading = false;
let longestRead = 0;
let failures = 0;
let stopped;

/** Reads one row over and over; endReads tells the longest time without an answer. */
function beginReads(id) {
  reading = true;
  stopped = (async () => {
    let last = performance.now();
    while (reading) {
      try {
        const rows = await client.all("SELECT name FROM items WHERE id = ?", [id]);
        if (rows.length !== 1) throw new Error(`${rows.length} rows have the id ${id}`);
        const now = performance.now();
        longestRead = Math.max(longestRead, now - last);
        last = now;
      } catch {
        failures++;
      }
      await new Promise((resolve) => setTimeout(resolve, 0));
    }
    longestRead = Math.max(longestRead, performance.now() - last);
  })();
}

async function endReads() {
  reading = false;
  await stopped;
  return { longestRead, failures };
}

Object.assign(window, { bench: { sync, beginReads, endReads } });
