import type { Diagnostics as Facts, UploadEntry } from "@millrace/client";
import type { ReactNode } from "react";
import { useEffect, useRef, useState } from "react";
import { useMillrace, useStatus } from "@millrace/client/react";
import type { Device } from "./device";
import { message } from "./device";

/** How often the database is asked while the drawer is open. Milliseconds. */
const EVERY = 1000;
const QUEUE_SHOWN = 20;

/** The database from inside: buckets, op ids, checksums, size, upload queue. */
export function Diagnostics({ device, onClose }: { readonly device: Device; readonly onClose: () => void }) {
  const db = useMillrace();
  const status = useStatus();
  const [facts, setFacts] = useState<Facts | null>(null);
  const [queue, setQueue] = useState<readonly UploadEntry[]>([]);
  const [verdict, setVerdict] = useState<string | null>(null);
  const [failure, setFailure] = useState<string | null>(null);
  const box = useRef<HTMLElement>(null);

  useEffect(() => box.current?.focus(), []);
  useEffect(() => {
    let over = false;
    const ask = async (): Promise<void> => {
      try {
        const [f, q] = await Promise.all([db.diagnostics(), db.uploadQueue(QUEUE_SHOWN)]);
        if (over) return;
        setFacts(f);
        setQueue(q);
        setFailure(null);
      } catch (e) {
        if (!over) setFailure(message(e));
      }
    };
    void ask();
    const timer = setInterval(() => void ask(), EVERY);
    return () => {
      over = true;
      clearInterval(timer);
    };
  }, [db, status]);

  async function verify(): Promise<void> {
    setVerdict("recomputing …");
    try {
      const began = performance.now();
      const bad = await db.verify();
      const took = `${Math.max(1, Math.round(performance.now() - began))} ms`;
      setVerdict(bad.length === 0 ? `all right, in ${took}` : `wrong, downloading again: ${bad.join(", ")}`);
    } catch (e) {
      setVerdict(message(e));
    }
  }

  const problem = status.downloadError ?? status.uploadError ?? status.warning;
  return (
    <section ref={box} className="drawer" aria-label="Under the hood" tabIndex={-1} onKeyDown={(e) => e.key === "Escape" && onClose()}>
      <header>
        <h3>Under the hood</h3>
        <button type="button" className="quiet" onClick={() => void verify()}>Verify checksums</button>
        {verdict !== null && <span className="verdict" role="status">{verdict}</span>}
        <button type="button" className="quiet close" onClick={onClose} aria-label="Close">Esc</button>
      </header>
      {failure !== null && <p className="notice bad">{failure}</p>}
      {problem !== null && <p className="notice bad">{problem.message}</p>}
      {facts !== null && (
        <div className="drawer-body">
          <dl>
            <Fact name="Transport">{status.connected ? "WebSocket, /sync/ws" : "none at present"}</Fact>
            <Fact name="Storage">{status.persistent ? "SQLite in the browser's private files" : "SQLite in memory: gone with the page"}</Fact>
            <Fact name="Size">{`${size(facts.bytes)}, ${size(facts.freeBytes)} of it free`}</Fact>
            <Fact name="This page">{db.isOwner ? "has the database, for all pages of this user" : "uses the database through another page"}</Fact>
            <Fact name="Rows">{Object.entries(facts.rows).map(([type, n]) => `${n.toLocaleString("en")} ${type}`).join(", ") || "none"}</Fact>
            <Fact name="Checkpoint">{`${status.checkpoint} shown, ${facts.complete} stored${status.held ? ", held back until own writes are in it" : ""}`}</Fact>
            <Fact name="Write checkpoint">{facts.gateTarget === null ? "waiting for one" : facts.gateTarget <= facts.gateSeen ? `${facts.gateSeen}, seen` : `${facts.gateTarget} asked for, ${facts.gateSeen} seen`}</Fact>
            <Fact name="Device">{facts.clientId}</Fact>
            <Fact name="SQLite">{facts.sqliteVersion}</Fact>
          </dl>
          <div className="scroll" tabIndex={0} role="group" aria-label="Buckets">
            <table className="buckets">
              <thead>
                <tr>
                  <th>Bucket</th>
                  <th className="n">Rows</th>
                  <th className="n">Op id</th>
                  <th className="n">Checksum</th>
                </tr>
              </thead>
              <tbody>
                {facts.buckets.map((b) => (
                  <tr key={b.name}>
                    <td title={b.name}>{short(b.name.replace(/^[^#]*#/, ""))}</td>
                    <td className="n">{b.rows.toLocaleString("en")}</td>
                    <td className="n">{`${b.published}${b.position !== b.published ? ` → ${b.position}` : ""}`}</td>
                    <td className="n">{hex(b.checksum)}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
          {queue.length > 0 && (
            <>
              <h4>Upload queue</h4>
              <ol className="queue">
                {queue.map((e) => (
                  <li key={String(e.number)}>
                    <code>{e.op}</code> {e.type} <span className="row-id">{e.id}</span>
                    {e.attempts > 0 && <span className="attempts"> {e.attempts} tries: {e.lastError}</span>}
                  </li>
                ))}
              </ol>
            </>
          )}
          <p className="hint">In the browser’s console: <code>{`await devices.${device.user}.getAll("SELECT * FROM todos")`}</code></p>
        </div>
      )}
    </section>
  );
}

function Fact({ name, children }: { readonly name: string; readonly children: ReactNode }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}

/** A bucket's name without its middle, if it is long: what differs is at the end. */
const short = (name: string): string => (name.length <= 38 ? name : `${name.slice(0, 20)}…${name.slice(-16)}`);
const hex = (n: number): string => (n >>> 0).toString(16).padStart(8, "0");

function size(bytes: number): string {
  return bytes < 1 << 20 ? `${Math.round(bytes / 1024)} KiB` : `${(bytes / (1 << 20)).toFixed(1)} MiB`;
}
