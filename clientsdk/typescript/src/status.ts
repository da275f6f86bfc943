/** A stream the server says is in force. */
export interface StreamStatus {
  readonly name: string;
  /** Given without asking. */
  readonly isDefault: boolean;
  /** Why subscriptions of it give nothing. */
  readonly errors: readonly string[];
}

/** What there is to know about being in sync. Values are snapshots. */
export interface SyncStatus {
  /** The server is reached and lines come in. */
  readonly connected: boolean;
  /** It is being tried. Both false: connect was not called, or the next try waits. */
  readonly connecting: boolean;
  /** Everything was there at least once, at lastSyncedAt. Both survive reloads. */
  readonly hasSynced: boolean;
  readonly lastSyncedAt: Date | null;
  /** By priority, when its buckets and more urgent ones were last shown ahead of the rest. */
  readonly partial: ReadonlyMap<number, Date>;
  /** Op id of the checkpoint readers see; 0 before the first. */
  readonly checkpoint: bigint;
  /** Ops of a newer checkpoint are coming in, `downloaded` of `total`; null while none are. */
  readonly downloadProgress: { readonly downloaded: number; readonly total: number } | null;
  /** A newer state of the server is stored and not shown yet, because it lacks this device's newest writes. */
  readonly held: boolean;
  /** The upload function runs, or its result is being confirmed. */
  readonly uploading: boolean;
  /** Written rows that wait for upload. */
  readonly pendingUploads: number;
  /** The last failures; null once it works again. Trying goes on in any case. */
  readonly downloadError: Error | null;
  readonly uploadError: Error | null;
  /** The server's last complaint that did not end the stream. */
  readonly warning: Error | null;
  readonly streams: readonly StreamStatus[];
  /** False: the browser gives no durable storage, everything is lost with the page. */
  readonly persistent: boolean;
  /** Version of the list of subscriptions that was last completed. */
  readonly coveredStreams: number;
}

export const initialStatus: SyncStatus = {
  connected: false, connecting: false, hasSynced: false, lastSyncedAt: null, partial: new Map(), checkpoint: 0n, downloadProgress: null,
  held: false, uploading: false, pendingUploads: 0, downloadError: null, uploadError: null, warning: null, streams: [], persistent: false, coveredStreams: 0,
};

/** Tells whether two statuses say the same. */
export function sameStatus(a: SyncStatus, b: SyncStatus): boolean {
  return fingerprint(a) === fingerprint(b);
}

function fingerprint(s: SyncStatus): string {
  const say = (e: Error | null): string | null => (e === null ? null : `${e.name}: ${e.message}`);
  return JSON.stringify({
    ...s, checkpoint: String(s.checkpoint), lastSyncedAt: s.lastSyncedAt?.getTime(), partial: [...s.partial].map(([p, at]) => [p, at.getTime()]),
    downloadError: say(s.downloadError), uploadError: say(s.uploadError), warning: say(s.warning),
  });
}
