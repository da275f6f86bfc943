/**
 * Errors apps may tell apart. `name` is stable; compare it rather than using
 * instanceof, which fails where a package is loaded twice.
 */
export class MillraceError extends Error {
  override name = "MillraceError";
  /** True if doing the same again may succeed: nothing was written. */
  readonly retryable: boolean = false;
}

/** A statement SQLite refused; `code` is SQLite's extended result code. */
export class QueryError extends MillraceError {
  override name = "MillraceQueryError";
  constructor(
    message: string,
    readonly code: number,
  ) {
    super(message);
  }
}

/** The database was closed. */
export class ClosedError extends MillraceError {
  override name = "MillraceClosedError";
  constructor() {
    super("the database is closed");
  }
}

/** The tab that owned the database went away, or took too long, in the middle of an interactive transaction; nothing of it was written. */
export class TransactionLostError extends MillraceError {
  override name = "MillraceTransactionLostError";
  override readonly retryable = true;
}

/** The database could not be opened. */
export class OpenError extends MillraceError {
  override name = "MillraceOpenError";
}

/** What an error is as data, for another thread. */
export interface ErrorData {
  readonly name: string;
  readonly message: string;
  readonly code?: number;
}

export function errorData(e: unknown): ErrorData {
  if (!(e instanceof Error)) return { name: "Error", message: String(e) };
  const code = (e as { code?: unknown }).code;
  return { name: e.name, message: e.message, ...(typeof code === "number" ? { code } : {}) };
}

/** The error in this thread's classes. */
export function errorFrom(d: ErrorData): Error {
  switch (d.name) {
    case "MillraceSqliteError":
    case "MillraceQueryError":
      return new QueryError(d.message, d.code ?? 1);
    case "MillraceTransactionLostError":
      return new TransactionLostError(d.message);
    case "MillraceClosedError":
      return new ClosedError();
    case "MillraceOpenError":
      return new OpenError(d.message);
  }
  const e = new Error(d.message);
  e.name = d.name;
  return e;
}
