// A calendar: items by the second in which something is to happen to them. An item stands in it once, or not at all.

export class Calendar<T> {
  readonly #bySecond = new Map<number, Set<T>>();
  readonly #secondOf = new Map<T, number>();

  /** Enters an item for that time, in ms, rounded up to a second; it stands for no other time any more. */
  plan(item: T, atMs: number): void {
    this.cancel(item);
    const second = Math.ceil(atMs / 1000);
    this.#secondOf.set(item, second);
    const others = this.#bySecond.get(second);
    if (others) others.add(item);
    else this.#bySecond.set(second, new Set([item]));
  }

  cancel(item: T): void {
    const second = this.#secondOf.get(item);
    if (second === undefined) return;
    this.#secondOf.delete(item);
    const others = this.#bySecond.get(second);
    others?.delete(item);
    if (others?.size === 0) this.#bySecond.delete(second);
  }

  get items(): readonly T[] {
    return [...this.#secondOf.keys()];
  }

  /** Takes out all items whose time has come. */
  take(nowMs: number): readonly T[] {
    const due = [...this.#bySecond].filter(([second]) => second * 1000 <= nowMs).flatMap(([, items]) => [...items]);
    for (const item of due) this.cancel(item);
    return due;
  }
}
