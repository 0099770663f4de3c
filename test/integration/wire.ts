// A network cable of a test's own, between a program and a port: it can be cut, as no firewall rule could be without
// root.
import { type AddressInfo, type Server, type Socket, connect, createServer } from 'node:net';

/** The network between a replica and a port: it passes octets on, or swallows them for as long as it is cut. */
export class Wire {
  port = 0;
  /** Octets that are swallowed: all, or only answers. */
  #cut: 'all' | 'answers' | undefined;
  readonly #server: Server;
  readonly #pairs = new Set<Socket>();

  constructor(target: () => { readonly port: number; readonly host: string }) {
    this.#server = createServer(near => {
      const far = connect(target());
      for (const [from, to] of [
        [near, far],
        [far, near],
      ] as const) {
        this.#pairs.add(from);
        from
          .on('error', () => undefined)
          .on('data', octets => {
            if (this.#cut === undefined || (this.#cut === 'answers' && from === near)) to.write(octets);
          })
          .on('close', () => {
            this.#pairs.delete(from);
            if (this.#cut !== 'all') to.destroy();
          });
      }
    });
  }

  async listen(): Promise<this> {
    await new Promise<void>(resolve => this.#server.listen(0, '127.0.0.1', resolve));
    this.port = (this.#server.address() as AddressInfo).port;
    return this;
  }

  /** Nothing arrives any more, or no answer does, and nobody is told. */
  cut(what: 'all' | 'answers' = 'all'): void {
    this.#cut = what;
  }

  /** It is whole again; what was open before is gone. */
  mend(): void {
    for (const socket of this.#pairs) socket.destroy();
    this.#cut = undefined;
  }

  close(): void {
    this.#server.close();
    for (const socket of this.#pairs) socket.destroy();
  }
}
