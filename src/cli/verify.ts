// `slimsmtp verify FILE`: what the server would say of a message that came from outside, with its reasons. Needs no
// server.
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import type { Settings } from '../config/settings.ts';
import { findFields } from '../inbound/fields.ts';
import { judgingCheck } from '../inbound/judging.ts';
import { stranger } from '../inbound/peer.ts';
import { isShared } from '../inbound/shared-addresses.ts';
import type { Content, Judge, Judgement } from '../mail/judgement.ts';
import { inMemory } from '../mail/message.ts';
import { parseAddress } from '../smtp/address.ts';
import type { Destination } from '../inbound/policy.ts';
import type { Envelope } from '../smtp/envelope.ts';
import { formatReply } from '../mail/reply.ts';
import { Gatherer } from '../system/gather.ts';
import { systemClock } from '../system/world.ts';
import { openJudges } from '../wiring/judging.ts';
import { type Flags, UsageError, print, standardError as log } from './terminal.ts';

export async function verify(file: string, flags: Flags, settings: Settings): Promise<number> {
  const { client = '', from = '', helo = '' } = flags;
  if (isIP(client) === 0) throw new UsageError('verify wants --client with the IP address that the message came from');
  const reversePath = from === '' ? '' : parseAddress(from);
  if (reversePath === undefined) throw new UsageError(`--from is no address: ${from}`);
  const { hostname, verify: mode } = settings;
  const text = readFileSync(file).toString('latin1').replaceAll('\r\n', '\n');
  const content: Content = { message: inMemory(Buffer.from(text, 'latin1')), start: 0 };
  const judges = await openJudges(settings, { log });
  let judgement: Judgement | undefined;
  const judge: Judge = { judge: async (...asked) => (judgement = await judges.judge(...asked)) };
  const check = judgingCheck({ judge, mode: mode === 'off' ? 'on' : mode, hostname, gatherer: new Gatherer(log) });
  const verdict = await check.judge({
    envelope: { reversePath, helo: helo === '' ? `[${client}]` : helo } as Envelope<Destination>,
    peer: { ...stranger, client, isShared: isShared(client) },
    id: 'none',
    receivedAt: systemClock.now(),
    receivedLines: 0,
    header: async () => '',
    fields: () => findFields(content),
    content: async () => content,
    overwrite: async () => {},
  });
  judges.close();
  if (verdict === undefined) throw new Error('there was nothing to judge');
  const isRefused = 'code' in verdict;
  const to = isRefused ? formatReply(verdict) : verdict.junk ? '.Junk' : 'the mailbox';
  const result = { to, why: verdict.why, field: isRefused ? undefined : verdict.lines, ...judgement };
  return print(flags, result, () => [...reasons(judgement), `=> ${to}: ${verdict.why}`].join('\n'), !isRefused);
}

const reasons = (judgement: Judgement | undefined): readonly string[] =>
  judgement === undefined
    ? ['not judged: the message bears no signature, and the client may be anyone']
    : judgement.results;
