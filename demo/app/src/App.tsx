import { useState } from "react";
import { MillraceProvider } from "@millrace/client/react";
import { device } from "./device";
import { IconWave } from "./icons";
import { Pane } from "./Pane";

/** Alice and Bob side by side, or the users the address names (`/?user=alice`). */
export function App({ users }: { readonly users: readonly string[] }) {
  const shown = users.length > 0 ? [...new Set(users)].slice(0, 4) : ["alice", "bob"];
  const single = shown.length === 1;
  const [front, setFront] = useState(0);
  const devices = shown.map((user) => device(user));
  return (
    <div className="app">
      <header className="top">
        <a className="brand" href="/">
          <IconWave />
          <strong>Millrace</strong>
          <span className="brand-sub">{single ? "one device, one SQLite database" : "two devices, two SQLite databases, one Postgres"}</span>
        </a>
        <nav className="top-links" aria-label="Views">
          <a href="/" aria-current={users.length === 0 ? "page" : undefined}>Both</a>
          <a className="device-link" href="/?user=alice" aria-current={single && shown[0] === "alice" ? "page" : undefined}>Alice</a>
          <a className="device-link" href="/?user=bob" aria-current={single && shown[0] === "bob" ? "page" : undefined}>Bob</a>
          <a href="/status">Status</a>
        </nav>
      </header>
      {!single && (
        <div className="front-switch" role="group" aria-label="Device in front">
          {devices.map((d, i) => (
            <button key={d.user} type="button" aria-pressed={i === front} onClick={() => setFront(i)}>
              {d.nameOf(d.user)}
            </button>
          ))}
        </div>
      )}
      <div className={single ? "panes single" : "panes"}>
        {devices.map((d, i) => (
          <MillraceProvider key={d.user} db={d.db}>
            <Pane device={d} front={single || i === front} />
          </MillraceProvider>
        ))}
      </div>
    </div>
  );
}
