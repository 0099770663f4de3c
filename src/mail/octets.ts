// Octets that are kept in memory: owned, and counted with everything that they keep alive.
// A Buffer is only a view. One octet of a read keeps all 64 KiB that were read with it, and one octet of a copy made by
// Buffer.from keeps Node's pool of 64 KiB. So whoever keeps octets that came from elsewhere keeps them as `Octets`.
// Promises: nobody else changes them; `heldBytes` is what they cost, and never more than about three times their number
// plus one small block. Small pieces are copied into blocks. A large piece that fills most of its buffer is kept as it
// is: a message of 4 KiB that came in one read, and the reads of a large message, are never copied.

declare const owned: unique symbol;

/** Owned octets. Only a `Collector` makes them. */
export type Octets = {
  readonly pieces: readonly Buffer[];
  readonly sizeBytes: number;
  /** The memory that they keep: whole buffers, and what each piece costs besides. */
  readonly heldBytes: number;
  readonly [owned]: true;
};

/** A smaller piece is copied: its own buffer, its views and their bookkeeping would cost more than the copy. */
const smallBytes = 2048;
/** The bookkeeping of a piece: two objects of JavaScript, and an allocation. */
const pieceOverheadBytes = 512;
/** The first block of a collector. Each further one is as large as all before it, up to the largest. */
const minBlockBytes = 1024;
const maxBlockBytes = 64 * 1024;

/** Takes pieces one after the other. A piece that is given to it belongs to it. */
export class Collector {
  #pieces: Buffer[] = [];
  #sizeBytes = 0;
  #heldBytes = 0;
  /** The block that small pieces are copied into, and the first octet in it that is free. */
  #block: Buffer | undefined;
  #used = 0;

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  get heldBytes(): number {
    return this.#heldBytes;
  }

  add(piece: Buffer): void {
    if (piece.length >= smallBytes && piece.length * 2 >= piece.buffer.byteLength)
      this.#push(piece, piece.buffer.byteLength);
    else for (let at = 0; at < piece.length;) at += this.#copy(piece, at);
  }

  /** All octets that came since the last call. */
  take(): Octets {
    const taken = own(this.#pieces, this.#sizeBytes, this.#heldBytes);
    this.#pieces = [];
    this.#sizeBytes = this.#heldBytes = this.#used = 0;
    this.#block = undefined;
    return taken;
  }

  #push(piece: Buffer, bufferBytes: number): void {
    this.#pieces.push(piece);
    this.#sizeBytes += piece.length;
    this.#heldBytes += bufferBytes + pieceOverheadBytes;
  }

  /** Copies what fits into the block, and gives its length. */
  #copy(from: Buffer, at: number): number {
    let block = this.#block;
    if (block === undefined || this.#used === block.length) {
      const wanted = Math.max(from.length - at, this.#sizeBytes, minBlockBytes);
      // Not from Node's pool, which others share.
      block = this.#block = Buffer.allocUnsafeSlow(Math.min(wanted, maxBlockBytes));
      this.#heldBytes += block.length;
      this.#used = 0;
    }
    const start = this.#used;
    const length = from.copy(block, start, at);
    this.#used += length;
    const last = this.#pieces.at(-1);
    // The last piece grows where it ends at this very place.
    if (last?.buffer === block.buffer && last.byteOffset + last.length === block.byteOffset + start) {
      this.#pieces[this.#pieces.length - 1] = block.subarray(last.byteOffset - block.byteOffset, this.#used);
      this.#sizeBytes += length;
    } else this.#push(block.subarray(start, this.#used), 0);
    return length;
  }
}

const own = (pieces: readonly Buffer[], sizeBytes: number, heldBytes: number): Octets =>
  ({ pieces, sizeBytes, heldBytes }) as Octets;

/** Octets of these pieces, which from now on belong to it. */
export function collect(pieces: readonly Buffer[]): Octets {
  const collector = new Collector();
  for (const piece of pieces) collector.add(piece);
  return collector.take();
}

/** Those octets behind these lines. */
export function prepend(front: Buffer, octets: Octets): Octets {
  const before = collect([front]);
  const pieces = [...before.pieces, ...octets.pieces];
  return own(pieces, before.sizeBytes + octets.sizeBytes, before.heldBytes + octets.heldBytes);
}

/** Those octets with these lines behind the first `at` of them. */
export function insert(octets: Octets, at: number, lines: Buffer): Octets {
  const front = collect([Buffer.concat([slice(octets, 0, at), lines])]);
  let skip = at;
  const rest = octets.pieces.flatMap(piece => {
    const part = piece.subarray(skip);
    skip = Math.max(0, skip - piece.length);
    return part.length > 0 ? part : [];
  });
  const sizeBytes = octets.sizeBytes + lines.length;
  return own([...front.pieces, ...rest], sizeBytes, front.heldBytes + octets.heldBytes);
}

/** So many of them from `start`, or as many as there are; without a copy where they lie in one piece. */
export function slice(octets: Octets, start: number, length: number): Buffer {
  const found: Buffer[] = [];
  let skip = start;
  let left = Math.min(length, octets.sizeBytes - start);
  for (const piece of octets.pieces) {
    if (left <= 0) break;
    const part = piece.subarray(skip, skip + left);
    skip = Math.max(0, skip - piece.length);
    left -= part.length;
    if (part.length > 0) found.push(part);
  }
  const [only] = found;
  return found.length === 1 && only ? only : Buffer.concat(found);
}

/**
 * Frees the memory of octets that nobody reads any more, at once and not when it is collected: of a message of 50 MB
 * that is much of the peak. Small ones may share the pool of Node, and stay.
 */
export function free({ buffer, length }: Buffer): void {
  if (length > Buffer.poolSize / 2) (buffer as ArrayBuffer).transfer(0);
}
