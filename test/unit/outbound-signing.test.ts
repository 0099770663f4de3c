// Where a transport is given a signer: what goes out begins with its signatures, in the form in which it leaves; and
// mail that cannot be signed now waits.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { CannotTell, type Signer } from '../../src/mail/ports.ts';
import { readMessage } from '../../src/mail/message.ts';
import { serve, start, words } from './outbound.harness.ts';

/** Signs with the form, and the octets that it was shown. */
const signerOf = (asked: string[]): Signer => ({
  sign: async (message, entry, form) => {
    asked.push(`${entry.id} ${form}`);
    const text = readMessage(message, message.returnPathBytes, message.sizeBytes).toString('latin1');
    return `Signature: ${form}\n ${text.length}\n`;
  },
});

describe('signed mail', () => {
  it('begins with the signature, in each of its transactions', async t => {
    const server = await serve(t, { answer: line => (line.startsWith('MAIL') ? '250 ok' : undefined) });
    const asked: string[] = [];
    const { send } = start(t, [server], { signer: signerOf(asked), maxRecipients: 1 });
    assert.match(words(await send({ to: 'a@x.example b@x.example' })), /^delivered.*\ndelivered/);
    const [visit] = server.visits;
    const signed = 'Signature: as it is\r\n 18\r\nSubject: x\r\n\r\nhello\r\n';
    assert.deepEqual(visit?.messages, [signed, signed]);
    assert.equal(asked.length, 1);
    const [mail = ''] = visit?.lines.filter(line => line.startsWith('MAIL')) ?? [];
    assert.match(mail, new RegExp(`SIZE=${signed.length}\\b`));
  });

  it('of a large message begins with it too', async t => {
    const server = await serve(t, { extensions: ['SIZE 10000000'] });
    const { send } = start(t, [server], { signer: signerOf([]) });
    const content = `Subject: x\n\n${'0123456789\n'.repeat(50_000)}`;
    assert.match(words(await send({ content })), /^delivered/);
    const [message = ''] = server.visits[0]?.messages ?? [];
    assert.equal(message, `Signature: as it is\r\n ${content.length}\r\n${content.replaceAll('\n', '\r\n')}`);
  });

  it('is signed after it was converted, and in that form', async t => {
    const server = await serve(t, { extensions: [] });
    const asked: string[] = [];
    const { send } = start(t, [server], { signer: signerOf(asked) });
    assert.match(words(await send({ is8Bit: true, content: 'Subject: x\n\ngr\xfc\xdfe\n' })), /^delivered/);
    const [message = ''] = server.visits[0]?.messages ?? [];
    const [, octets, rest = ''] = /^Signature: 7bit \r\n (\d+)\r\n(.*)$/s.exec(message) ?? [];
    assert.match(rest, /gr=FC=DFe/);
    assert.equal(Number(octets), rest.replaceAll('\r\n', '\n').length);
  });

  it('that cannot be signed now waits with that reason, and the session goes on to the next message', async t => {
    const server = await serve(t);
    let isBroken = true;
    const signer: Signer = {
      sign: async () => {
        if (isBroken) throw new CannotTell('the DKIM keys of example.com cannot be read', { status: '4.7.5' });
        return '';
      },
    };
    const { send } = start(t, [server], { signer });
    assert.match(words(await send()), /^deferred 4\.7\.5 mx1\.example the DKIM keys of example\.com cannot be read/);
    isBroken = false;
    assert.match(words(await send()), /^delivered/);
    assert.equal(server.visits.length, 1);
    assert.deepEqual(server.visits[0]?.messages, ['Subject: x\r\n\r\nhello\r\n']);
  });
});
