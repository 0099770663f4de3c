// What a server does in every run of the crash points with all of trust switched on: signed mail from outside is
// judged, delivered, forwarded and sealed; mail of a login is signed, and its forwards too; some of it while the next
// hop is down.
// Promises: a copy without our results, our signature or our seal, wherever it belongs, counts as torn; each signature
// and seal that the next hop has is verified, by a library that is not ours.
import assert from 'node:assert/strict';
import { createHash, createPrivateKey, createPublicKey, generateKeyPairSync, sign } from 'node:crypto';
import { readFileSync, readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { type Client, dial } from '../integration/client.ts';
import { serveDns } from '../unit/dns.harness.ts';
import { type Ledger, type Letter, type Writing, mailSettings, send } from './account.ts';
import { type Load, chance } from './crash-load.ts';
import { type Play, settled } from './crash-scenario.ts';
import type { Place, Server } from './server.ts';

const [anton, stranger] = ['anton@example.com', 'x@example.net'];
const { privateKey, publicKey } = generateKeyPairSync('ed25519');
const strangersKey = publicKey.export({ type: 'spki', format: 'der' }).subarray(-32).toString('base64');
const strangersRecord = `v=DKIM1; k=ed25519; p=${strangersKey}`;

/** A signature of the stranger's domain, in front of a text (relaxed/simple, From alone). */
function signed(text: string): string {
  const [head = '', body = ''] = text.split(/\r\n\r\n(.*)/s, 2);
  const from = /^From: (.*)$/m.exec(head)?.[1]?.trimEnd() ?? '';
  const bodyHash = createHash('sha256').update(body, 'latin1').digest('base64');
  const tags = `v=1; a=ed25519-sha256; c=relaxed/simple; d=example.net; s=s; h=from; bh=${bodyHash}; b=`;
  const digest = createHash('sha256').update(`from:${from}\r\ndkim-signature:${tags}`).digest();
  return `DKIM-Signature: ${tags}${sign(null, digest, privateKey).toString('base64')}\r\n`;
}

/** Where the machine is so busy that judging takes 15 s, it is temperror, as promised. */
const judgement = String.raw`(?:dkim=pass [^;]*;\s+dmarc=pass [^;]*|spf=temperror [^;]*;\s+dkim=temperror [^;]*;\s+dmarc=temperror [^;]*)`;
const results = String.raw`Authentication-Results: mx\.example\.com; *\n\t${judgement}\n`;
const received = String.raw`Received: from [^]*\sid \w+[^]*; .* \+0000\n$`;
const judged = new RegExp(String.raw`^Return-Path: <[^>]*>\n(?:Delivered-To: .*\n)*${results}${received}`);
const sealed = new RegExp(String.raw`^ARC-Seal: i=1; cv=none;[^]*\nDelivered-To: .*\n${results}${received}`);
const ours = new RegExp(
  String.raw`^DKIM-Signature: v=1; a=rsa-sha256;[^]*? d=example\.com;[^]*?\n(?:Delivered-To: .*\n)?${received}`,
);
const ownCopy = new RegExp(String.raw`^Return-Path: <[^>]*>\n(?:Delivered-To: .*\n)*${received}`);
/** Of both kinds of mail, in a mailbox and at the next hop (whose places are in angle brackets). */
const fromOutside: Writing = { sign: signed, trace: place => (place.startsWith('<') ? sealed : judged) };
const ofLogin: Writing = { trace: place => (place.startsWith('<') ? ours : ownCopy) };

const large = { octets: 400_000 };
const outside = (ledger: Ledger, to: readonly string[], more: Writing = {}): Letter =>
  ledger.write(stranger, to, { ...fromOutside, ...more });
const own = (ledger: Ledger, to: readonly string[], more: Writing = {}): Letter =>
  ledger.write(anton, to, { ...ofLogin, ...more });

async function login(server: Server): Promise<Client> {
  const session = await dial(server.submissionsPort, '127.0.0.1', true);
  await session.say(`AUTH PLAIN ${Buffer.from('\0anton\0secret').toString('base64')}`);
  return session;
}
/** Letters of one kind, in one session. */
async function post(session: Client, letters: readonly Letter[]): Promise<void> {
  for (const letter of letters) if (!(await send(session, letter))) break;
  session.socket.destroy();
}

/** Needs a DNS of its own, for the stranger's key. */
export async function openTrust(after: (undo: () => Promise<void>) => void): Promise<Play> {
  const undo = { after: (end: () => void) => after(async () => end()) } as Parameters<typeof serveDns>[0];
  const texts: Readonly<Record<string, string>> = {
    's._domainkey.example.net': strangersRecord,
    '_dmarc.example.net': 'v=DMARC1; p=reject',
  };
  const { port } = await serveDns(undo, ({ name, type }) => {
    const data = type === 'TXT' ? texts[name.toLowerCase()] : undefined;
    return [data === undefined ? { rcode: 3 } : { answers: [{ type: 'TXT', name, ttl: 60, data }] }];
  });
  return {
    settings: (place, sink) => {
      const { SLIM_TRUSTED_NETWORKS: _, ...mail } = mailSettings(place);
      const trust = { SLIM_VERIFY: 'on', SLIM_DKIM: 'on', SLIM_USERS: 'anton:secret' };
      return { ...mail, ...sink.settings, ...trust, SLIM_RESOLVER: `127.0.0.1:${port}` };
    },
    async run(ledger, place, sink, server) {
      const strangers = [
        outside(ledger, [anton]),
        outside(ledger, ['far@example.com']),
        outside(ledger, ['both@example.com', 'berta@example.com'], large),
        outside(ledger, ['far@example.com', 'both@example.com', anton]),
      ];
      const owns = [
        own(ledger, ['x@peer.example']),
        own(ledger, ['berta@example.com', 'y@peer.example'], large),
        own(ledger, ['far@example.com']),
        own(ledger, ['z@peer.example', 'refused@peer.example']),
      ];
      await post(await dial(server.port), strangers);
      await post(await login(server), owns);
      if (!server.hasEnded()) await sink.up();
      let isSettled = await settled(ledger, place, server);
      // What leaves at once is in the journal alone.
      if (isSettled) {
        const forward = post(await dial(server.port), [outside(ledger, ['far@example.com'])]);
        await Promise.all([forward, post(await login(server), [own(ledger, ['w@peer.example'])])]);
        isSettled = await settled(ledger, place, server);
      }
      await server.stop();
      return isSettled;
    },
    check: async (place, sink) => {
      for (const { content } of sink.taken) await verify(content, keysOf(place));
    },
  };
}

/** A server that has made its keys; it is left with nothing but them. */
export async function makeKeys(play: Play, place: Place, sink: Parameters<Play['settings']>[1]): Promise<void> {
  const server = await place.start(play.settings(place, sink), { isPatient: true });
  for (let tries = 0; tries < 600 && keysOf(place).size < 2; tries += 1)
    await new Promise(resolve => setTimeout(resolve, 50));
  await server.stop();
  assert.equal(keysOf(place).size, 2, server.log());
}

/** Both kinds of mail, as fast as they are answered; half of the sessions have logged in. */
export function trustLoad(ledger: Ledger, server: Server, seed: number, sessions: number): Load {
  let isOver = false;
  const random = chance(seed);
  const one = async (_: unknown, index: number): Promise<void> => {
    const isOwn = index % 2 === 0;
    const session = await (isOwn ? login(server) : dial(server.port));
    for (;;) {
      if (isOver || session.socket.destroyed) break;
      const draw = random();
      const more = draw < 0.1 ? large : {};
      const letter = isOwn
        ? own(ledger, [draw < 0.7 ? 'x@peer.example' : 'far@example.com'], more)
        : outside(ledger, draw < 0.4 ? [anton] : ['far@example.com', 'berta@example.com'], more);
      if (!(await send(session, letter))) break;
    }
    session.socket.destroy();
  };
  const all = Promise.all(Array.from({ length: sessions }, one));
  return {
    async stop() {
      isOver = true;
      await all;
    },
  };
}

/** Names and records: of our keys, and of the stranger's. */
function keysOf(place: Place): ReadonlyMap<string, string> {
  const folder = join(place.folder, 'data', 'dkim', 'example.com');
  const keys = new Map([['s._domainkey.example.net', strangersRecord]]);
  try {
    for (const file of readdirSync(folder).filter(name => name.endsWith('.pem'))) {
      const key = createPublicKey(createPrivateKey(readFileSync(join(folder, file))));
      const p = key.export({ type: 'spki', format: 'der' }).toString('base64');
      keys.set(`${file.slice(0, -4)}._domainkey.example.com`, `v=DKIM1; k=rsa; p=${p}`);
    }
  } catch {} // they are not made yet
  return keys;
}

type Status = { readonly status: { readonly result: string } };
const require = createRequire(import.meta.url);
const { dkimVerify } = require('mailauth/lib/dkim/verify.js') as {
  dkimVerify: (message: Buffer, options: object) => Promise<{ arc: unknown; results: readonly Status[] }>;
};
const { arc } = require('mailauth/lib/arc/index.js') as { arc: (found: unknown, options: object) => Promise<Status> };

async function verify(content: Buffer, keys: ReadonlyMap<string, string>): Promise<void> {
  const resolver = async (name: string): Promise<string[][]> => {
    const text = keys.get(name.toLowerCase());
    if (text === undefined) throw Object.assign(new Error(name), { code: 'ENOTFOUND' });
    return [[text]];
  };
  const options = { resolver, strict: true };
  const found = await dkimVerify(content, options);
  const text = content.toString('latin1');
  const verified = found.results.map(({ status }) => status.result);
  assert.deepEqual(verified, ['pass'], text.slice(0, 3000));
  if (text.startsWith('ARC-Seal:'))
    assert.equal((await arc(found.arc, options)).status.result, 'pass', text.slice(0, 3000));
}
