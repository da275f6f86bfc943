/** `@millrace/client/react`: hooks over a {@link Millrace} database. */
import { createContext, createElement, useContext, useEffect, useMemo, useState, useSyncExternalStore } from "react";
import type { ReactElement, ReactNode } from "react";
import type { Millrace } from "./client/millrace.js";
import type { AnyRow } from "./client/rows.js";
import type { WatchOptions } from "./client/watch.js";
import type { Param } from "./sqlite/connection.js";
import type { SyncStatus } from "./status.js";

const Context = createContext<Millrace | null>(null);

export interface MillraceProviderProps {
  readonly db: Millrace;
  readonly children?: ReactNode;
}

/** Gives the database to the hooks below it. */
export function MillraceProvider({ db, children }: MillraceProviderProps): ReactElement {
  return createElement(Context.Provider, { value: db }, children);
}

/** The database of the nearest MillraceProvider. */
export function useMillrace(): Millrace {
  const db = useContext(Context);
  if (db === null) throw new Error("there is no MillraceProvider above this component");
  return db;
}

/** A live query's state. */
export interface QueryResult<T> {
  /** The newest result; empty before the first. Stays while a changed query loads. */
  readonly data: readonly T[];
  /** Before the first result of this query. */
  readonly loading: boolean;
  /** Why the query ended; null while it works. */
  readonly error: Error | null;
}

/** Runs a query and keeps its result up to date. Parameters are compared by value. */
export function useQuery<T = AnyRow>(sql: string, params: readonly Param[] = [], options: Omit<WatchOptions, "signal"> = {}): QueryResult<T> {
  const db = useMillrace();
  const { throttle, tables } = options;
  const key = queryKey(sql, params, throttle, tables);
  const [state, setState] = useState<QueryResult<T> & { readonly key: string }>({ key: "", data: [], loading: true, error: null });
  useEffect(() => {
    const watchOptions = { ...(throttle === undefined ? {} : { throttle }), ...(tables === undefined ? {} : { tables }) };
    return db.watch<T>(sql, params, watchOptions).subscribe(
      (data) => setState({ key, data, loading: false, error: null }),
      (error) => setState((s) => ({ key, data: s.data, loading: false, error })),
    );
    // key stands for sql, params, throttle and tables
  }, [db, key]);
  return useMemo(() => (state.key === key ? state : { data: state.data, loading: true, error: null }), [state, key]);
}

function queryKey(sql: string, params: readonly Param[], throttle: number | undefined, tables: readonly string[] | undefined): string {
  const plain = params.map((p) => (typeof p === "bigint" ? `${p}n` : p instanceof Uint8Array ? [...p] : p));
  return JSON.stringify([sql, plain, throttle, tables]);
}

/** The sync status; renders again when it changes. */
export function useStatus(): SyncStatus {
  const db = useMillrace();
  return useSyncExternalStore(
    (changed) => db.onStatus(changed),
    () => db.status,
    () => db.status,
  );
}
