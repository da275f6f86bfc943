/**
 * A small synchronous surface over the official SQLite wasm build: one
 * connection, cached statements, and direct access to the wasm heap for the
 * ingest's own bind loop. The same class runs in node, in memory, and in the
 * worker that owns the database.
 */

/** The part of the SQLite build that is used. */
export interface SqliteModule {
  readonly wasm: {
    readonly exports: unknown;
    heap8u(): Uint8Array;
    alloc(bytes: number): number;
    dealloc(pointer: number): void;
    peek32(pointer: number): number;
    poke32(pointer: number, value: number): unknown;
  };
}

/** What a column can hold. Integers beyond 2^53 come as bigint. */
export type Value = string | number | bigint | null | Uint8Array;
/** What can be bound; true and false become 1 and 0. */
export type Param = Value | boolean;

/** An error of SQLite; `code` is its extended result code. */
export class SqliteError extends Error {
  override readonly name = "MillraceSqliteError";
  constructor(
    message: string,
    readonly code: number,
  ) {
    super(message);
  }
}

/** The C functions used, without the conversions the JavaScript API adds to them. */
export interface Exports {
  sqlite3_prepare_v3(db: number, sql: number, bytes: number, flags: number, stmt: number, tail: number): number;
  sqlite3_step(stmt: number): number;
  sqlite3_reset(stmt: number): number;
  sqlite3_finalize(stmt: number): number;
  sqlite3_clear_bindings(stmt: number): number;
  sqlite3_bind_parameter_count(stmt: number): number;
  sqlite3_bind_null(stmt: number, i: number): number;
  sqlite3_bind_int(stmt: number, i: number, v: number): number;
  sqlite3_bind_int64(stmt: number, i: number, v: bigint): number;
  sqlite3_bind_double(stmt: number, i: number, v: number): number;
  sqlite3_bind_text(stmt: number, i: number, p: number, bytes: number, destructor: number): number;
  sqlite3_bind_blob(stmt: number, i: number, p: number, bytes: number, destructor: number): number;
  sqlite3_column_count(stmt: number): number;
  sqlite3_column_type(stmt: number, i: number): number;
  sqlite3_column_int64(stmt: number, i: number): bigint;
  sqlite3_column_double(stmt: number, i: number): number;
  sqlite3_column_text(stmt: number, i: number): number;
  sqlite3_column_blob(stmt: number, i: number): number;
  sqlite3_column_bytes(stmt: number, i: number): number;
  sqlite3_column_name(stmt: number, i: number): number;
  sqlite3_stmt_readonly(stmt: number): number;
  sqlite3_get_autocommit(db: number): number;
  sqlite3_changes(db: number): number;
  sqlite3_errmsg(db: number): number;
  sqlite3_extended_errcode(db: number): number;
  sqlite3_close_v2(db: number): number;
}

export const SQLITE_ROW = 100;
export const SQLITE_DONE = 101;
/** The memory stays as it is until the next bind or reset. */
export const STATIC = 0;
/** SQLite makes a copy. */
export const TRANSIENT = -1;
const PREPARE_PERSISTENT = 1;

const encoder = new TextEncoder();
const decoder = new TextDecoder();
const noBytes = new Uint8Array(0);

/** Rows as one array per column: the cheapest form to hand to another thread. */
export interface Columns {
  readonly names: readonly string[];
  readonly values: readonly (readonly Value[])[];
  readonly rows: number;
}

/** A prepared statement; it belongs to its connection, which finalizes it. */
export class Statement {
  constructor(
    private readonly db: Connection,
    readonly pointer: number,
    readonly sql: string,
  ) {}

  /** True if it cannot change the database. */
  get readonly(): boolean {
    return this.db.exports.sqlite3_stmt_readonly(this.pointer) !== 0;
  }

  /** Binds parameters, all of them. */
  bind(params: readonly Param[]): void {
    const x = this.db.exports;
    const want = x.sqlite3_bind_parameter_count(this.pointer);
    if (want !== params.length) throw new SqliteError(`${params.length} parameters for ${want} places in: ${this.sql}`, 25);
    for (let i = 0; i < params.length; i++) this.bindOne(i + 1, params[i] as Param);
  }

  private bindOne(i: number, v: Param): void {
    const x = this.db.exports;
    let rc: number;
    if (v === null || v === undefined) rc = x.sqlite3_bind_null(this.pointer, i);
    else if (typeof v === "string") {
      const n = this.db.write(v, 0);
      rc = x.sqlite3_bind_text(this.pointer, i, this.db.scratch, n, TRANSIENT);
    } else if (typeof v === "number") {
      if (Number.isInteger(v) && Math.abs(v) <= Number.MAX_SAFE_INTEGER && !Object.is(v, -0)) {
        rc = (v | 0) === v ? x.sqlite3_bind_int(this.pointer, i, v) : x.sqlite3_bind_int64(this.pointer, i, BigInt(v));
      } else rc = x.sqlite3_bind_double(this.pointer, i, v);
    } else if (typeof v === "bigint") {
      if (BigInt.asIntN(64, v) !== v) throw new SqliteError(`parameter ${i}: ${v} does not fit 64 bits`, 25);
      rc = x.sqlite3_bind_int64(this.pointer, i, v);
    } else if (typeof v === "boolean") rc = x.sqlite3_bind_int(this.pointer, i, v ? 1 : 0);
    else if (v instanceof Uint8Array) {
      this.db.reserve(v.length);
      this.db.heap().set(v, this.db.scratch);
      rc = x.sqlite3_bind_blob(this.pointer, i, this.db.scratch, v.length, TRANSIENT);
    } else throw new SqliteError(`parameter ${i} is a ${typeof v}: text, numbers, booleans, Uint8Array and null can be bound`, 25);
    if (rc !== 0) this.db.fail(this.sql);
  }

  /** Makes one step; true if there is a row. */
  step(): boolean {
    const rc = this.db.exports.sqlite3_step(this.pointer);
    if (rc === SQLITE_ROW) return true;
    if (rc === SQLITE_DONE) return false;
    const error = this.db.error(this.sql);
    this.reset();
    throw error;
  }

  reset(): void {
    this.db.exports.sqlite3_reset(this.pointer);
    this.db.exports.sqlite3_clear_bindings(this.pointer);
  }

  /** Column i of the present row. */
  value(i: number): Value {
    const x = this.db.exports;
    switch (x.sqlite3_column_type(this.pointer, i)) {
      case 1: {
        const v = x.sqlite3_column_double(this.pointer, i);
        return Math.abs(v) <= Number.MAX_SAFE_INTEGER ? v : x.sqlite3_column_int64(this.pointer, i);
      }
      case 2:
        return x.sqlite3_column_double(this.pointer, i);
      case 3: {
        const p = x.sqlite3_column_text(this.pointer, i);
        return this.db.text(p, x.sqlite3_column_bytes(this.pointer, i));
      }
      case 4: {
        const p = x.sqlite3_column_blob(this.pointer, i);
        const n = x.sqlite3_column_bytes(this.pointer, i);
        return n === 0 ? new Uint8Array(0) : this.db.heap().slice(p, p + n);
      }
    }
    return null;
  }

  get width(): number {
    return this.db.exports.sqlite3_column_count(this.pointer);
  }

  names(): string[] {
    return Array.from({ length: this.width }, (_, i) => this.db.cString(this.db.exports.sqlite3_column_name(this.pointer, i)));
  }
}

export class Connection {
  readonly exports: Exports;
  private readonly statements = new Map<string, Statement>();
  private memory: Uint8Array = noBytes;
  private scratchBytes = 0;
  /** Address of the scratch area; moves when it grows. */
  scratch = 0;
  private closed = false;

  constructor(
    private readonly sqlite3: SqliteModule,
    /** Address of the open sqlite3 object. */
    readonly db: number,
  ) {
    this.exports = sqlite3.wasm.exports as unknown as Exports;
    this.reserve(1 << 16);
  }

  /** The wasm memory. Growing it detaches views, so this is asked for after every call that may allocate. */
  heap(): Uint8Array {
    if (this.memory.byteLength === 0) this.memory = this.sqlite3.wasm.heap8u();
    return this.memory;
  }

  /** Makes room for so many bytes at `scratch`; their content is lost if it moves. */
  reserve(bytes: number): void {
    if (bytes <= this.scratchBytes) return;
    if (this.scratch !== 0) this.sqlite3.wasm.dealloc(this.scratch);
    this.scratchBytes = 0;
    this.scratch = this.sqlite3.wasm.alloc(bytes);
    this.scratchBytes = bytes;
  }

  /** Writes text at an offset of the scratch area, for which room was reserved unless the offset is 0; gives its bytes. */
  write(s: string, offset: number): number {
    if (offset === 0) this.reserve(3 * s.length);
    const heap = this.heap();
    const at = this.scratch + offset;
    if (s.length <= 48) {
      let i = 0;
      for (; i < s.length; i++) {
        const c = s.charCodeAt(i);
        if (c > 0x7f) break;
        heap[at + i] = c;
      }
      if (i === s.length) return i;
    }
    return encoder.encodeInto(s, heap.subarray(at, this.scratch + this.scratchBytes)).written;
  }

  text(p: number, bytes: number): string {
    return bytes === 0 ? "" : decoder.decode(this.heap().subarray(p, p + bytes));
  }

  cString(p: number): string {
    if (p === 0) return "";
    const heap = this.heap();
    let end = p;
    while (heap[end] !== 0) end++;
    return this.text(p, end - p);
  }

  error(sql: string): SqliteError {
    const message = this.cString(this.exports.sqlite3_errmsg(this.db));
    return new SqliteError(`${message} (in: ${sql.length > 300 ? sql.slice(0, 300) + "…" : sql})`, this.exports.sqlite3_extended_errcode(this.db));
  }

  fail(sql: string): never {
    throw this.error(sql);
  }

  /** Runs statements without results or parameters. */
  exec(sql: string): void {
    let rest = sql;
    while (rest.trim() !== "") {
      const [stmt, tail] = this.compile(rest, 0);
      rest = tail;
      if (stmt === null) continue;
      try {
        while (stmt.step());
      } finally {
        this.exports.sqlite3_finalize(stmt.pointer);
      }
    }
  }

  /** Compiles the first statement of a text; null if there is only space. */
  private compile(sql: string, flags: number): [Statement | null, string] {
    const bytes = encoder.encode(sql);
    const at = this.sqlite3.wasm.alloc(bytes.length + 16);
    try {
      const heap = this.heap();
      const out = (at + bytes.length + 1 + 7) & ~7; // two aligned pointers after the text
      heap.set(bytes, at);
      heap[at + bytes.length] = 0;
      this.sqlite3.wasm.poke32(out, 0);
      this.sqlite3.wasm.poke32(out + 4, 0);
      const rc = this.exports.sqlite3_prepare_v3(this.db, at, bytes.length + 1, flags, out, out + 4);
      if (rc !== 0) this.fail(sql);
      const pointer = this.sqlite3.wasm.peek32(out) >>> 0;
      const tail = this.sqlite3.wasm.peek32(out + 4) >>> 0;
      const rest = decoder.decode(bytes.subarray(tail - at));
      return [pointer === 0 ? null : new Statement(this, pointer, sql), rest];
    } finally {
      this.sqlite3.wasm.dealloc(at);
    }
  }

  /** Compiles one statement for one use; finalize it. */
  prepareOnce(sql: string): Statement {
    const [stmt, rest] = this.compile(sql, 0);
    if (stmt === null) throw new SqliteError("there is no statement in the text", 21);
    if (rest.replace(/;|--.*|\/\*[\s\S]*?\*\//g, "").trim() !== "") {
      this.finalize(stmt);
      throw new SqliteError(`more than one statement: run them one by one in a transaction (in: ${sql.slice(0, 300)})`, 21);
    }
    return stmt;
  }

  finalize(stmt: Statement): void {
    this.exports.sqlite3_finalize(stmt.pointer);
  }

  /** The statement of a text, compiled once. For the SDK's own texts, of which there are few. */
  statement(sql: string): Statement {
    const have = this.statements.get(sql);
    if (have !== undefined) return have;
    const [stmt] = this.compile(sql, PREPARE_PERSISTENT);
    if (stmt === null) throw new SqliteError("there is no statement in the text", 21);
    this.statements.set(sql, stmt);
    return stmt;
  }

  /** Runs a statement; gives how many rows it changed. */
  run(sql: string, ...params: Param[]): number {
    const s = this.statement(sql);
    s.bind(params);
    try {
      while (s.step());
      return this.exports.sqlite3_changes(this.db);
    } finally {
      s.reset();
    }
  }

  /** The rows, as arrays. */
  all(sql: string, ...params: Param[]): Value[][] {
    const s = this.statement(sql);
    s.bind(params);
    try {
      const out: Value[][] = [];
      const width = s.width;
      while (s.step()) {
        const row: Value[] = new Array<Value>(width);
        for (let i = 0; i < width; i++) row[i] = s.value(i);
        out.push(row);
      }
      return out;
    } finally {
      s.reset();
    }
  }

  /** The first row, undefined if there is none. */
  row(sql: string, ...params: Param[]): Value[] | undefined {
    return this.all(sql, ...params)[0];
  }

  /** The first column of the first row, as an integer; 0 if there is none. */
  integer(sql: string, ...params: Param[]): bigint {
    const v = this.row(sql, ...params)?.[0];
    return typeof v === "bigint" ? v : typeof v === "number" ? BigInt(v) : 0n;
  }

  /** The first column of the rows, as text. */
  texts(sql: string, ...params: Param[]): string[] {
    return this.all(sql, ...params).map((r) => String(r[0]));
  }

  /** Runs a statement of the app. The rows, up to a limit on their number, by column. */
  query(sql: string, params: readonly Param[], readonly: boolean, maxRows: number): Columns & { changes: number } {
    const s = this.prepareOnce(sql);
    try {
      if (readonly && !s.readonly) throw new SqliteError(`this statement writes, use execute: ${sql.slice(0, 300)}`, 8);
      const autocommit = this.autocommit;
      s.bind(params);
      const names = s.names();
      const values: Value[][] = names.map(() => []);
      let rows = 0;
      while (s.step()) {
        if (++rows > maxRows) throw new SqliteError(`the result has more than ${maxRows} rows: use LIMIT`, 18);
        for (let i = 0; i < names.length; i++) (values[i] as Value[]).push(s.value(i));
      }
      if (this.autocommit !== autocommit) {
        if (!this.autocommit) this.exec("ROLLBACK");
        throw new SqliteError("transactions are begun and ended by transaction(), not by statements", 21);
      }
      return { names, values, rows, changes: s.readonly ? 0 : this.exports.sqlite3_changes(this.db) };
    } finally {
      this.finalize(s);
    }
  }

  /** True while no transaction is open. */
  get autocommit(): boolean {
    return this.exports.sqlite3_get_autocommit(this.db) !== 0;
  }

  /** Forgets compiled statements. */
  private forget(): void {
    for (const s of this.statements.values()) this.finalize(s);
    this.statements.clear();
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.forget();
    if (this.scratch !== 0) this.sqlite3.wasm.dealloc(this.scratch);
    this.exports.sqlite3_close_v2(this.db);
  }
}
