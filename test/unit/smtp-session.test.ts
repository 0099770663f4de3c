// The session under random input: it never throws, says only well-formed replies, never keeps what it was sent, and
// always comes to rest; and the limits that are too large for a dialogue.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { extensionNames } from '../../src/smtp/extensions.ts';
import { replies } from '../../src/smtp/reply.ts';
import { type Action, Session, type SessionOptions, maxRecipients } from '../../src/smtp/session.ts';
import { numbers } from '../numbers.ts';

const options: SessionOptions = {
  hostname: 'mx.example.com',
  extensions: extensionNames.map(name => ({ name })),
  maxSizeBytes: 200,
  needsTls: false,
  needsLogin: false,
  isSecure: false,
};

const lines = [
  'EHLO c',
  'HELO c',
  'EHLO',
  'MAIL FROM:<>',
  'MAIL FROM:<a@example.net> SIZE=10',
  'MAIL FROM:<ü@example.net> SMTPUTF8',
  'RCPT TO:<a@example.com>',
  'RCPT TO:<a@example.com>',
  'RCPT TO:<"a',
  'DATA',
  'DATA',
  'BDAT 5',
  'BDAT 12 LAST',
  'BDAT 0 LAST',
  'BDAT x',
  'RSET',
  'NOOP',
  'VRFY a',
  'HELP',
  'STARTTLS',
  'AUTH PLAIN',
  'AUTH LOGIN =',
  'QUIT',
  'toString',
  '__proto__',
  '.',
  '..',
  'text',
  '',
  '\0',
  '\xff\xfe',
  'x'.repeat(1200),
];
/** Sensible ones now and then, so that soup is met in every state. */
const openings = ['', 'DATA\r\n', 'DATA\r\nx\r\n.\r\n', 'BDAT 3\r\n.\r\n', 'BDAT 0 LAST\r\n'];
const answers = [replies.recipientOk, replies.recipientOk, replies.noSuchMailbox, replies.cannotTell('4.3.0')];
const logins = [replies.loggedIn, replies.challenge(''), replies.loginFailed, replies.cannotLogin];

describe('a session', () => {
  it('never throws, speaks well-formed replies and comes to rest, on 2,500 random dialogues', () => {
    const below = numbers(5321);
    let kept = 0;
    for (let n = 0; n < 2500; n++) {
      const session = new Session({ ...options, isSecure: below(4) === 0, needsTls: below(8) === 0 });
      let hasBegun = false;
      const state = { isClosed: false };
      let said = '';
      const act = (): void => {
        for (let steps = 0; ; steps++) {
          assert.ok(steps < 2000, 'it goes round and round');
          const action: Action = session.next();
          said += session.output();
          if (below(300) === 0) session.end(replies.shuttingDown); // whatever it is doing
          if (action.kind === 'read') return;
          if (action.kind === 'close') return void (state.isClosed = true);
          if (action.kind === 'secure') session.secured();
          if (action.kind === 'authenticate') session.answer(logins[below(logins.length)] ?? replies.loggedIn);
          if (action.kind === 'sender') session.answer(below(20) > 0 ? replies.senderOk : replies.notYourAddress);
          if (action.kind === 'recipient') session.answer(answers[below(answers.length)] ?? replies.recipientOk);
          if (action.kind === 'begin') {
            assert.ok(!hasBegun, 'a message begins while another has not ended');
            hasBegun = below(5) > 0;
            session.answer(hasBegun ? replies.sendMessage : replies.notStored('4.3.0'));
          }
          if (action.kind === 'chunk') assert.ok(hasBegun && action.data.length > 0);
          if (action.kind === 'commit' || action.kind === 'discard') {
            assert.ok(hasBegun, `${action.kind} without a message`);
            hasBegun = false;
            if (action.kind === 'commit') kept += 1;
            if (action.kind === 'commit') session.answer(replies.kept('Delivered', '1'));
          }
        }
      };
      act();
      for (let i = 0; i < 25 && !state.isClosed; i++) {
        const opening = `EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@example.com>\r\n${openings[below(openings.length)]}`;
        const end = below(40) > 0 ? '\r\n' : '\n\r'[below(2)];
        const sent = Buffer.from(below(6) === 0 ? opening : `${lines[below(lines.length)]}${end}`);
        const at = below(sent.length + 1);
        for (const piece of [sent.subarray(0, at), sent.subarray(at)]) {
          if (state.isClosed) break;
          session.receive(Buffer.from(piece));
          act();
        }
      }
      if (!state.isClosed) {
        session.end(replies.timeout);
        act();
      }
      assert.ok(state.isClosed && !hasBegun, 'it did not end, or left a message behind');
      assert.equal(session.next().kind, 'close');
      assert.match(said, /^(?:\d{3}-[ -~]{0,506}\r\n|\d{3} [ -~]{0,506}\r\n)+$/);
    }
    assert.ok(kept > 300, `only ${kept} messages came through: the soup is too thin`);
  });

  it('works off pipelined commands by portions: their replies are sent, and others have their turn', () => {
    const session = new Session(options);
    session.receive(Buffer.from('EHLO a\r\n'.repeat(900)));
    let [replied, portions] = [0, 0];
    for (let action = session.next(); ; action = session.next()) {
      const output = session.output();
      assert.ok(output.length < 5000, `${output.length} octets of replies at once`);
      replied += output.match(/^250 /gm)?.length ?? 0;
      if (action.kind === 'read') break;
      assert.equal(action.kind, 'flush');
      portions += 1;
    }
    assert.equal(replied, 900);
    assert.ok(portions > 30, `${portions}`);
  });

  it('ends with 421 after 1,000 commands that no message comes of; a message that was kept begins anew', () => {
    const session = new Session(options);
    const say = (text: string): string => {
      session.receive(Buffer.from(text));
      let said = '';
      for (;;) {
        const action = session.next();
        said += session.output();
        if (action.kind === 'read' || action.kind === 'close') return said;
        if (action.kind === 'sender') session.answer(replies.senderOk);
        if (action.kind === 'recipient') session.answer(replies.recipientOk);
        if (action.kind === 'begin') session.answer(replies.sendMessage);
        if (action.kind === 'commit') session.answer(replies.ok);
      }
    };
    const message = 'MAIL FROM:<>\r\nRCPT TO:<a@example.com>\r\nDATA\r\nx\r\n.\r\n';
    // RCPT and BDAT do not count: they have bounds of their own.
    assert.doesNotMatch(say(`EHLO a\r\n${'NOOP\r\n'.repeat(999)}${message}`), /^421/m);
    assert.doesNotMatch(say('NOOP\r\n'.repeat(999)), /^421/m);
    assert.match(say('MAIL FROM:<>\r\nHELP\r\nNOOP\r\n'), /^421 4\.7\.0 Too many idle commands\r\n$/m);
  });

  it('takes 1,000 recipients, and says 452 to the next', () => {
    const session = new Session(options);
    session.receive(Buffer.from(`EHLO c\r\nMAIL FROM:<>\r\n${'RCPT TO:<a@example.com>\r\n'.repeat(1001)}DATA\r\n`));
    let recipients = 0;
    let output = '';
    for (let action = session.next(); action.kind !== 'read'; action = session.next()) {
      output += session.output();
      if (action.kind === 'flush' || action.kind === 'refused') continue;
      if (action.kind === 'begin') recipients = action.envelope.recipients.length;
      const answer = action.kind === 'sender' ? replies.senderOk : replies.recipientOk;
      session.answer(action.kind === 'begin' ? replies.sendMessage : answer);
    }
    assert.equal(recipients, maxRecipients);
    const said = `${output}${session.output()}`.split('\r\n');
    assert.equal(said.filter(line => line === '250 2.1.5 Recipient OK').length, 1000);
    assert.equal(said.at(-3), '452 4.5.3 Too many recipients, send the message again for the others');
  });

  it('keeps no more than a line of what it was sent', t => {
    const concat = t.mock.method(Buffer, 'concat');
    const session = new Session(options);
    for (let i = 0; i < 5000; i++) {
      session.receive(Buffer.from('x'));
      session.next();
    }
    for (const call of concat.mock.calls) assert.ok((call.result?.length ?? 0) <= 4097);
  });

  it('ends even when its driver ends it while a message is about to begin', () => {
    const session = new Session(options);
    session.receive(Buffer.from('EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@example.com>\r\nDATA\r\n'));
    assert.equal(session.next().kind, 'sender');
    session.answer(replies.senderOk);
    assert.equal(session.next().kind, 'recipient');
    session.answer(replies.recipientOk);
    assert.equal(session.next().kind, 'begin');
    session.end(replies.timeout);
    session.answer(replies.sendMessage);
    session.end(replies.shuttingDown); // a second farewell is not said
    assert.deepEqual([session.next().kind, session.next().kind], ['discard', 'close']);
    assert.equal(session.output().match(/^421 /gm)?.length, 1);
  });
});
