/** Listeners that are told of something; adding one gives its undo. */
export class Listeners<T> {
  private readonly all = new Set<(v: T) => void>();

  add(fn: (v: T) => void): () => void {
    const mine = (v: T): void => fn(v); // the same function may be added twice
    this.all.add(mine);
    return () => void this.all.delete(mine);
  }

  tell(v: T): void {
    for (const fn of [...this.all]) fn(v);
  }
}
