import type { OwnerPeer } from "./link.js";
import type { Param } from "../sqlite/connection.js";
import type { UploadOp } from "../store/queue.js";
import type { AnyRow } from "./rows.js";
import { toRows } from "./rows.js";

/** What a write did. */
export interface ExecuteResult<T = AnyRow> {
  /** Rows changed; 0 for tables of the schema, which are views. */
  readonly changes: number;
  /** What a RETURNING clause gives. */
  readonly rows: T[];
}

/** An open write transaction. Inside it, wait for nothing but its own methods: everybody else waits for it. */
export class Transaction {
  /** @internal */
  constructor(
    private readonly peer: OwnerPeer,
    private readonly id: number,
  ) {}

  /** Runs one statement. */
  async execute<T = AnyRow>(sql: string, params: readonly Param[] = []): Promise<ExecuteResult<T>> {
    const r = await this.peer.call("statement", [this.id, sql, params]);
    return { changes: r.changes, rows: toRows<T>(r) };
  }

  /** Reads, with what the transaction has written. */
  async getAll<T = AnyRow>(sql: string, params: readonly Param[] = []): Promise<T[]> {
    return (await this.execute<T>(sql, params)).rows;
  }

  /** The first row, null if there is none. */
  async get<T = AnyRow>(sql: string, params: readonly Param[] = []): Promise<T | null> {
    return (await this.getAll<T>(sql, params))[0] ?? null;
  }
}

/** The oldest local transaction that waits for upload: all rows it wrote, in order. */
export interface UploadTransaction {
  /**
   * Number on this device: with the client id the key by which a backend
   * recognises a transaction that is sent again.
   */
  readonly id: bigint;
  readonly ops: readonly UploadOp[];
  /**
   * Takes it out of the queue: the backend has accepted it durably. Twice is
   * harmless. A backend that applies uploads later gives a number with its
   * answer (custom write checkpoints): the device waits until the server tells
   * it of that or a greater one. The number of the transaction that empties the
   * queue counts; it only grows on a device.
   */
  complete(writeCheckpoint?: bigint | string | number): Promise<void>;
  /**
   * Takes it out of the queue because the backend will never accept it. It is
   * kept, with the reason, among the rejected uploads; its rows go back to the
   * server's version with the next checkpoint.
   */
  reject(reason: string): Promise<void>;
}
