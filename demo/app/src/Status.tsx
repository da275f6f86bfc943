import type { SyncStatus } from "@millrace/client";
import type { Ref } from "react";
import type { Device } from "./device";
import type { Latency } from "./edits";
import { useLatency } from "./hooks";
import { IconBolt, IconGauge } from "./icons";

type Mood = "good" | "busy" | "off" | "bad";

/** What the device is doing, in a word. */
export function describe(s: SyncStatus, online: boolean): { readonly mood: Mood; readonly text: string; readonly why: string } {
  if (!online) return { mood: "off", text: "Offline", why: "switched off; everything works on the local database" };
  if (s.downloadProgress !== null && s.downloadProgress.total > 0) {
    const { downloaded, total } = s.downloadProgress;
    return { mood: "busy", text: `Downloading ${Math.floor((100 * downloaded) / total)} %`, why: `${downloaded} of ${total} ops` };
  }
  if (s.uploadError !== null) return { mood: "bad", text: "Upload waits", why: s.uploadError.message };
  if (!s.connected) return { mood: s.downloadError === null ? "busy" : "bad", text: s.downloadError === null ? "Connecting …" : "Reconnecting …", why: s.downloadError?.message ?? "the server is being reached" };
  if (s.uploading || s.pendingUploads > 0) return { mood: "busy", text: "Uploading …", why: "" };
  if (!s.hasSynced) return { mood: "busy", text: "First sync …", why: "" };
  return { mood: "good", text: "In sync", why: s.lastSyncedAt === null ? "" : `since ${s.lastSyncedAt.toLocaleTimeString()}` };
}

export function StatusPill({ status, online }: { readonly status: SyncStatus; readonly online: boolean }) {
  const { mood, text, why } = describe(status, online);
  return (
    <span className={`pill ${mood}`} role="status" title={why}>
      <span className="dot" aria-hidden="true" />
      {text}
    </span>
  );
}

interface FooterProps {
  readonly device: Device;
  readonly status: SyncStatus;
  readonly open: boolean;
  readonly opener: Ref<HTMLButtonElement>;
  readonly onToggle: () => void;
}

/** Last checkpoint, latency of the last change, and the way to the rest. */
export function Footer({ device, status, open, opener, onToggle }: FooterProps) {
  const latency = useLatency(device);
  return (
    <footer className="pane-foot">
      <span className="fact" title="Op id of the checkpoint that is shown">
        checkpoint <b className="checkpoint">{String(status.checkpoint)}</b>
        {status.lastSyncedAt !== null && <span className="at"> at {status.lastSyncedAt.toLocaleTimeString([], { hour12: false })}</span>}
      </span>
      {latency !== null && (
        <span className="fact latency" title={explain(latency)}>
          <IconBolt />
          <b>{duration(latency.ms)}</b> {word(latency)}
        </span>
      )}
      <button ref={opener} type="button" className="quiet drawer-button" aria-expanded={open} aria-label="Under the hood" onClick={onToggle}>
        <IconGauge />
        <span className="drawer-label">Under the hood</span>
      </button>
    </footer>
  );
}

function word(l: Latency): string {
  switch (l.kind) {
    case "edit":
      return "edit to here";
    case "commit":
      return "source to here";
    case "confirmed":
      return "there and back";
  }
}

function explain(l: Latency): string {
  switch (l.kind) {
    case "edit":
      return "From the edit on another device until it was visible here";
    case "commit":
      return "From the time the row has at the source until it was visible here";
    case "confirmed":
      return "From an edit here, through backend, source and sidecar, until it was back";
  }
}

export function duration(ms: number): string {
  if (ms < 1000) return `${Math.max(1, Math.round(ms))} ms`;
  return ms < 60_000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 60_000)} min`;
}
