// The HTTP server: bounded, and for programs and people that reach it by its address. It knows nothing of mail.
// Promises:
// - A request costs a bounded time and memory (limits.ts); one that fails is answered in JSON with a sentence, never a
//   stack.
// - No web page elsewhere may read or change anything: an `Origin` that is not our own is refused, and so is a `Host`
//   with a dot that is neither an address nor our name. A page whose name leads to us (DNS rebinding) has such a Host.
// RFC 9110, RFC 9112; Fetch standard, 'Origin header'.
import { once } from 'node:events';
import { type IncomingMessage, type Server, type ServerResponse, createServer } from 'node:http';
import { isIP } from 'node:net';
import { Readable, type Duplex } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import * as usualLimits from './limits.ts';

export type Request = Readonly<{
  /** What stands in the path at `{Name}`. */
  inPath: Readonly<Record<string, string>>;
  query: URLSearchParams;
  headers: IncomingMessage['headers'];
  client: string;
  /** Reads the whole body. Rejects with a `Problem`. */
  body(): Promise<Buffer>;
  /** Aborted when the client is gone. */
  gone: AbortSignal;
}>;

export type Answer = Readonly<{
  status: number;
  headers?: Readonly<Record<string, string>>;
  body?: string | Buffer | AsyncIterable<Buffer>;
}>;

export type Route = Readonly<{
  method: 'GET' | 'POST' | 'PUT' | 'DELETE';
  /** `{Name}` stands for a part without a slash. */
  path: string;
  /** A sentence for its users, in the OpenAPI document. */
  about: string;
  /** Parameters of the query, each with a sentence. */
  query?: Readonly<Record<string, string>>;
  maxBodyOctets?: number;
  answer(request: Request): Answer | Promise<Answer>;
}>;

export type ServerOptions = Readonly<{
  host: string | undefined;
  port: number;
  hostname: string;
  routes: readonly Route[];
  /** Takes over a connection that wants a WebSocket at that path; false where there is none. */
  onUpgrade?: (path: string, request: IncomingMessage, socket: Duplex, head: Buffer) => boolean;
  /** Called at a surprise. `request` is its method and path. */
  onTrouble: (request: string, error: unknown) => void;
  /** Limits in place of the usual ones, for tests. */
  limits?: Partial<Record<keyof typeof usualLimits, number>>;
}>;

/** Why a request cannot be served, in a sentence for whoever sent it. */
export class Problem extends Error {
  readonly status: number;
  constructor(status: number, sentence: string) {
    super(sentence);
    this.status = status;
  }
}

/** These are on every answer. A page may load nothing unless its own route says so. */
const usualHeaders: Readonly<Record<string, string>> = {
  'Cache-Control': 'no-store',
  'Content-Security-Policy': "default-src 'none'; frame-ancestors 'none'",
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Referrer-Policy': 'no-referrer',
  'X-Content-Type-Options': 'nosniff',
};

export const json = (value: unknown, status = 200): Answer => ({
  status,
  headers: { 'Content-Type': 'application/json' },
  body: JSON.stringify(value),
});
export const text = (body: string, type = 'text/plain; charset=utf-8'): Answer => ({
  status: 200,
  headers: { 'Content-Type': type },
  body,
});
const toAnswer = ({ status, message }: Problem): Answer => json({ Error: message }, status);

const advice: Readonly<Record<string, string>> = {
  EADDRINUSE: 'another program listens there; stop it or choose another port in SLIM_HTTP',
  EACCES: 'ports below 1024 need root or CAP_NET_BIND_SERVICE; choose another port in SLIM_HTTP',
  EADDRNOTAVAIL: 'this host has no such address; correct SLIM_HTTP',
};

/** Resolves when it listens; rejects with a sentence that names the address when it cannot. */
export async function openServer(options: ServerOptions): Promise<Server> {
  const { host, port, hostname, onUpgrade = () => false } = options;
  const limits = { ...usualLimits, ...options.limits };
  const find = router(options.routes);
  const bodies = { octets: 0, maxOctets: limits.maxBodiesOctets };
  let requests = 0;
  const settings = {
    maxHeaderSize: limits.maxHeaderOctets,
    requireHostHeader: false,
    // How often Node looks whether a header or a request is late.
    connectionsCheckingInterval: limits.checkMs,
  };
  const server = createServer(settings, (request, response) => {
    requests += 1;
    response.once('close', () => (requests -= 1));
    const carryOut = async (): Promise<Answer> => {
      if (requests > limits.maxRequests) throw new Problem(503, 'Too many requests at once; try again later.');
      refuseStrangers(request, hostname);
      const { url, ...found } = find(request);
      const gone = new AbortController();
      response.once('close', () => gone.abort());
      return found.route.answer({
        inPath: found.inPath,
        query: url.searchParams,
        headers: request.headers,
        client: request.socket.remoteAddress ?? '',
        body: () => readBody(request, found.route.maxBodyOctets ?? limits.maxBodyOctets, bodies),
        gone: gone.signal,
      });
    };
    carryOut()
      .catch((error: unknown) => {
        if (error instanceof Problem) return toAnswer(error);
        options.onTrouble(`${request.method} ${request.url?.slice(0, 200)}`, error);
        return toAnswer(new Problem(500, 'The server failed at this request; its log says more.'));
      })
      .then(answer => send(answer, request, response))
      .catch(() => response.destroy()); // the client is gone, or reads too slowly
  });
  server.headersTimeout = limits.headerMs;
  server.requestTimeout = limits.requestMs;
  server.keepAliveTimeout = limits.keepAliveMs;
  server.timeout = limits.idleMs;
  server.maxConnections = limits.maxConnections;
  server.on('upgrade', (request, socket, head) => {
    socket.on('error', () => socket.destroy());
    try {
      refuseStrangers(request, hostname);
      if (onUpgrade(parseUrl(request).pathname, request, socket, head)) return;
      throw new Problem(404, 'There is no WebSocket here.');
    } catch (error) {
      const { status, message } = error instanceof Problem ? error : new Problem(500, 'The server failed here.');
      socket.end(`HTTP/1.1 ${status} Refused\r\nConnection: close\r\n\r\n${message}\r\n`);
    }
  });
  server.listen({ port, ...(host !== undefined && { host, ipv6Only: true }) });
  await once(server, 'listening').catch((cause: NodeJS.ErrnoException) => {
    throw new Error(`SLIM_HTTP: cannot listen on ${host ?? ''}:${port}: ${advice[cause.code ?? ''] ?? cause.message}`);
  });
  // Such an error may be that no descriptors are left. Without a listener for the event the process would end.
  return server.on('error', error => options.onTrouble('', error));
}

/** Throws unless the request may come from a program, or from a page of ours. */
function refuseStrangers({ headers }: IncomingMessage, hostname: string): void {
  const { host = '', origin } = headers;
  const name = host
    .replace(/:\d*$/, '')
    .replace(/^\[(.*)\]$/, '$1')
    .toLowerCase();
  // A name without a dot (localhost, a container's) is nothing that a stranger's DNS can give.
  if (name.includes('.') && isIP(name) === 0 && name !== hostname)
    throw new Problem(
      403,
      `The host ${name.slice(0, 100)} is not ours: use an address, a name without a dot, or SLIM_HOSTNAME.`,
    );
  if (origin !== undefined && URL.parse(origin)?.host !== host.toLowerCase())
    throw new Problem(403, 'Pages of other origins may not use this server.');
}

function parseUrl({ url = '/' }: IncomingMessage): URL {
  const parsed = URL.parse(`http://localhost${url.startsWith('/') ? url : '/'}`);
  if (parsed === null) throw new Problem(400, 'The address of the request is malformed.');
  return parsed;
}

type Found = Readonly<{ route: Route; inPath: Readonly<Record<string, string>>; url: URL }>;

/** Finds the route of a request; throws 404 or 405 as a `Problem`. */
function router(routes: readonly Route[]): (request: IncomingMessage) => Found {
  const compiled = routes.map(route => {
    const pattern = route.path.replaceAll('.', '\\.').replaceAll(/\{(\w+)\}/g, '(?<$1>[^/]+)');
    return { route, pattern: new RegExp(`^${pattern}$`) };
  });
  return request => {
    const url = parseUrl(request);
    const { method = 'GET' } = request;
    const path = url.pathname.length > 1 ? url.pathname.replace(/\/$/, '') : '/';
    const matches = compiled.filter(({ pattern }) => pattern.test(path));
    const match = matches.find(({ route }) => route.method === (method === 'HEAD' ? 'GET' : method));
    if (match) return { route: match.route, inPath: decode(match.pattern.exec(path)?.groups ?? {}), url };
    if (matches.length === 0) throw new Problem(404, `There is nothing at ${path.slice(0, 100)}.`);
    throw new Problem(405, `${method} is not possible at ${path.slice(0, 100)}.`);
  };
}

function decode(groups: Readonly<Record<string, string>>): Record<string, string> {
  try {
    return Object.fromEntries(Object.entries(groups).map(([name, value]) => [name, decodeURIComponent(value)]));
  } catch {
    throw new Problem(400, 'The path of the request is malformed.');
  }
}

async function readBody(
  request: IncomingMessage,
  maxOctets: number,
  bodies: { octets: number; readonly maxOctets: number },
): Promise<Buffer> {
  const pieces: Buffer[] = [];
  let octets = 0;
  try {
    for await (const piece of request as AsyncIterable<Buffer>) {
      octets += piece.length;
      bodies.octets += piece.length;
      if (octets > maxOctets) throw new Problem(413, `The body of the request is larger than ${maxOctets} octets.`);
      if (bodies.octets > bodies.maxOctets) throw new Problem(503, 'No memory for this request now; try again later.');
      pieces.push(piece);
    }
  } finally {
    bodies.octets -= octets;
  }
  return Buffer.concat(pieces);
}

async function send({ status, headers, body = '' }: Answer, request: IncomingMessage, response: ServerResponse) {
  if (response.destroyed) return;
  // The rest of a body that nobody wants is not read: the connection ends behind the answer.
  const isUnread = !request.complete;
  const octets = typeof body === 'string' ? Buffer.from(body) : body;
  const isWhole = Buffer.isBuffer(octets);
  const isHead = request.method === 'HEAD';
  response.writeHead(status, {
    ...usualHeaders,
    // RFC 9110 §8.6: a 204 has no length.
    ...(isWhole && status !== 204 && !isHead && { 'Content-Length': octets.length }),
    ...(isUnread && { Connection: 'close' }),
    ...headers,
  });
  if (isHead) response.end();
  else if (isWhole) response.end(octets);
  else await pipeline(Readable.from(octets), response);
}
