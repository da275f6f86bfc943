// @vitest-environment happy-dom
import { act, StrictMode, useState } from "react";
import type { ReactElement } from "react";
import { createRoot } from "react-dom/client";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import type { Millrace } from "../src/client/millrace.js";
import { Listeners } from "../src/client/signals.js";
import { Watch } from "../src/client/watch.js";
import { MillraceProvider, useMillrace, useQuery, useStatus } from "../src/react.js";
import type { SyncStatus } from "../src/status.js";
import { initialStatus } from "../src/status.js";

/** The part of a database the hooks use. */
class FakeDb {
  status: SyncStatus = initialStatus;
  readonly statuses = new Listeners<SyncStatus>();
  readonly changes = new Listeners<readonly string[] | null>();
  readonly rows = new Map<string, unknown[]>();
  watching = 0;

  onStatus(fn: (s: SyncStatus) => void): () => void {
    return this.statuses.add(fn);
  }

  watch(sql: string, params: readonly unknown[]): Watch<unknown> {
    return new Watch<unknown>(
      {
        run: async () => {
          const rows = this.rows.get(sql + JSON.stringify(params));
          if (rows === undefined) throw new Error("no such table");
          return rows;
        },
        tables: async () => ["todos"],
        onChange: (fn) => {
          this.watching++;
          const undo = this.changes.add(fn);
          return () => {
            this.watching--;
            undo();
          };
        },
      },
      { throttle: 0 },
    );
  }
}

let db: FakeDb;
let root: ReturnType<typeof createRoot>;
let element: HTMLElement;
(globalThis as { IS_REACT_ACT_ENVIRONMENT?: boolean }).IS_REACT_ACT_ENVIRONMENT = true;

const settle = (): Promise<void> => act(async () => void (await vi.advanceTimersByTimeAsync(15)));

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
  db = new FakeDb();
  element = document.createElement("div");
  root = createRoot(element);
});
afterEach(async () => {
  await act(async () => root.unmount());
  await settle();
  expect(db.watching).toBe(0);
  vi.useRealTimers();
});

function show(app: ReactElement): Promise<void> {
  return act(async () => root.render(<StrictMode><MillraceProvider db={db as unknown as Millrace}>{app}</MillraceProvider></StrictMode>));
}

it("useQuery follows its tables, its parameters and its errors", async () => {
  let setList: (l: string) => void = () => {};
  const states: string[] = [];
  function App(): ReactElement {
    const [list, set] = useState("a");
    setList = set;
    const { data, loading, error } = useQuery<{ t: string }>("SELECT t FROM todos WHERE l = ?", [list]);
    const state = `${data.map((r) => r.t).join()}|${loading ? "loading" : ""}|${error?.message ?? ""}`;
    if (states.at(-1) !== state) states.push(state);
    return <p>{state}</p>;
  }
  db.rows.set('SELECT t FROM todos WHERE l = ?["a"]', [{ t: "Milk" }]);
  db.rows.set('SELECT t FROM todos WHERE l = ?["b"]', [{ t: "Oats" }]);
  await show(<App />);
  await settle();
  expect(element.textContent).toBe("Milk||");
  db.rows.set('SELECT t FROM todos WHERE l = ?["a"]', [{ t: "Milk" }, { t: "Bread" }]);
  db.changes.tell(["todos"]);
  await settle();
  expect(element.textContent).toBe("Milk,Bread||");
  await act(async () => setList("b"));
  await settle();
  expect(element.textContent).toBe("Oats||");
  await act(async () => setList("missing"));
  await settle();
  expect(element.textContent).toBe("Oats||no such table");
  // The old data stays while a changed query loads.
  expect(states).toEqual(["|loading|", "Milk||", "Milk,Bread||", "Milk,Bread|loading|", "Oats||", "Oats|loading|", "Oats||no such table"]);
  expect(db.watching).toBe(0); // it ended with the error
});

it("useStatus renders again when the status changes", async () => {
  function App(): ReactElement {
    const s = useStatus();
    return <p>{s.connected ? "connected" : "offline"} {s.pendingUploads}</p>;
  }
  await show(<App />);
  expect(element.textContent).toBe("offline 0");
  await act(async () => {
    db.status = { ...db.status, connected: true, pendingUploads: 2 };
    db.statuses.tell(db.status);
  });
  expect(element.textContent).toBe("connected 2");
});

it("hooks without a provider say so", () => {
  let said = "";
  function App(): ReactElement {
    try {
      useMillrace();
    } catch (e) {
      said = String(e);
    }
    return <p />;
  }
  return act(async () => root.render(<App />)).then(() => expect(said).toContain("no MillraceProvider"));
});
