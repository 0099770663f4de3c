// What becomes of a message: which copies are made, what they say of how it came there, and what the queue gets.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import {
  behindHead,
  isForwardedOnly,
  isHandedOver,
  plan,
  sharedHead,
  successes,
  toJunk,
} from '../../src/inbound/plan.ts';
import type { Destination } from '../../src/inbound/policy.ts';
import { type Route, routeKey } from '../../src/mail/message.ts';
import { CannotTell, type Found } from '../../src/mail/ports.ts';
import { type Envelope, parseRecipient, parseSender } from '../../src/smtp/envelope.ts';

const maildir = (name: string): Route => ({ kind: 'maildir', path: `/m/${name}`, root: '/m' });
const home = (account: string): Route => ({ kind: 'account', account, folder: 'Maildir' });
type To = readonly [rcpt: string, found?: Found];

function envelope(mail: string, ...recipients: readonly To[]): Envelope<Destination> {
  const sender = parseSender(`FROM:${mail}`, () => true);
  assert.ok(!('code' in sender));
  return {
    ...sender,
    helo: 'c',
    protocol: 'ESMTP',
    recipients: recipients.map(([text, found]) => {
      const recipient = parseRecipient(`TO:${text}`, () => true, true);
      assert.ok(!('code' in recipient));
      return { ...recipient, ticket: { domain: recipient.address.domain, ...(found && { found }) } };
    }),
  };
}
const own = (...routes: Route[]): Found => ({ routes });
const shared = (...routes: Route[]): Found => ({ routes, via: 'shared' });
const all: Found = { routes: [maildir('default')], via: 'catch-all' };
const alias: Found = { routes: [maildir('anton')], via: 'alias' };

describe('a head that all copies have', () => {
  const head = 'Delivered-To: sales@x\n';
  const to: readonly To[] = [['<sales@x>', shared(maildir('anton'), home('berta'))], ['<dora@elsewhere>']];

  it('goes into the message, and the copies have none; nor have those that wait', () => {
    const mail = envelope('<a@y>', ...to);
    assert.equal(sharedHead(plan(mail)), head);
    assert.deepEqual(behindHead(plan(mail), head).copies, [maildir('anton'), home('berta')]);
    const { copies, entries } = behindHead(plan(mail, new Set([routeKey(home('berta'))])), head);
    assert.deepEqual(copies, [maildir('anton')]);
    assert.deepEqual(
      entries.map(({ recipients }) => recipients.map(({ routes }) => routes)),
      [[[home('berta')], undefined]],
    );
  });

  it('is none where one copy has another, or none', () => {
    for (const other of [own(maildir('carla')), all]) {
      const mail = envelope('<a@y>', ...to, ['<carla@x>', other]);
      assert.equal(sharedHead(plan(mail)), '');
      assert.deepEqual(behindHead(plan(mail), ''), plan(mail));
    }
  });
});

describe('the copies', () => {
  const cases: readonly (readonly [what: string, to: readonly To[], copies: readonly object[]])[] = [
    [
      'of own addresses are alike',
      [
        ['<anton@x>', own(maildir('anton'))],
        ['<berta@x>', own(maildir('berta'))],
      ],
      [maildir('anton'), maildir('berta')],
    ],
    [
      'are made once, whoever led there',
      [
        ['<a@x>', own(maildir('m'))],
        ['<b@x>', own(maildir('m'))],
      ],
      [maildir('m')],
    ],
    [
      'name what led to the catch-all',
      [
        ['<one@x>', all],
        ['<two@x>', all],
      ],
      [{ ...maildir('default'), head: 'Delivered-To: one@x\nDelivered-To: two@x\n' }],
    ],
    [
      'name an address once',
      [
        ['<one@x>', all],
        ['<one@x>', all],
      ],
      [{ ...maildir('default'), head: 'Delivered-To: one@x\n' }],
    ],
    [
      'name an alias, and the own address with it',
      [
        ['<anton@x>', own(maildir('anton'))],
        ['<a.n@x>', alias],
      ],
      [{ ...maildir('anton'), head: 'Delivered-To: anton@x\nDelivered-To: a.n@x\n' }],
    ],
    [
      'never name what led to another mailbox',
      [
        ['<sales@x>', shared(home('anton'), home('berta'))],
        ['<secret@x>', shared(home('carla'))],
        ['<dora@x>', own(maildir('dora'))],
      ],
      [
        { ...home('anton'), head: 'Delivered-To: sales@x\n' },
        { ...home('berta'), head: 'Delivered-To: sales@x\n' },
        { ...home('carla'), head: 'Delivered-To: secret@x\n' },
        maildir('dora'),
      ],
    ],
    ['are none for mail that goes elsewhere', [['<a@elsewhere.example>']], []],
  ];
  for (const [what, to, copies] of cases)
    it(what, () => assert.deepEqual(plan(envelope('<me@y>', ...to)).copies, copies));
});

describe('the queue', () => {
  it('gets nothing when every copy is made', () =>
    assert.deepEqual(plan(envelope('<me@y>', ['<a@x>', own(maildir('a'))])).entries, []));

  it('gets one entry for those elsewhere, with all that MAIL and RCPT wished for', () => {
    const mail = '<me@y> SMTPUTF8 RET=HDRS ENVID=e1';
    const to = '<b@z> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;c@z';
    assert.deepEqual(plan(envelope(mail, ['<a@x>', own(maildir('a'))], [to])).entries, [
      {
        from: 'me@y',
        isUtf8: true,
        ret: 'HDRS',
        envelopeId: 'e1',
        recipients: [{ address: 'b@z', domain: 'z', notify: ['SUCCESS', 'DELAY'], originalRecipient: 'rfc822;c@z' }],
      },
    ]);
  });

  it('gets a copy that cannot be made for each of its recipients, with its head', () => {
    const unmade = new Set([routeKey(home('b'))]);
    const to: To[] = [
      ['<list@x>', shared(home('a'), home('b'))],
      ['<b@x>', own(home('b'))],
      ['<a@x>', own(home('a'))],
    ];
    const { copies, entries } = plan(envelope('<>', ...to), unmade);
    const copy = { ...home('b'), head: 'Delivered-To: list@x\nDelivered-To: b@x\n' };
    assert.deepEqual(copies, [{ ...home('a'), head: 'Delivered-To: list@x\nDelivered-To: a@x\n' }]);
    assert.deepEqual(entries, [
      {
        from: '',
        isUtf8: false,
        recipients: [
          { address: 'list@x', domain: 'x', routes: [copy], isShared: true },
          { address: 'b@x', domain: 'x', routes: [copy] },
        ],
      },
    ]);
  });

  it('never takes a recipient of whom nothing is known', () => {
    const { recipients, ...rest } = envelope('<me@y>', ['<a@x>']);
    const unknown = recipients.map(recipient => ({ ...recipient, ticket: undefined }));
    assert.throws(() => plan({ ...rest, recipients: unknown }), CannotTell);
  });

  it('never takes a recipient that has neither a copy nor an entry', () => {
    for (const unmade of [new Set<string>(), new Set([routeKey(home('b'))])])
      for (const nowhere of [own(), { routes: [], forwards: [] }])
        assert.throws(
          () => plan(envelope('<me@y>', ['<b@x>', own(home('b'))], ['<a@x>', nowhere]), unmade),
          CannotTell,
        );
  });
});

it('success is told of those that have all their copies and wanted to know', () => {
  const wish = 'NOTIFY=SUCCESS';
  const to: To[] = [
    [`<a@x> ${wish}`, own(home('a'))],
    ['<b@x>', own(home('b'))],
    [`<list@x> ${wish}`, shared(home('a'), home('b'))],
    [`<later@x> ${wish}`, own(home('c'))],
    [`<a@elsewhere.example> ${wish}`],
  ];
  const outcomes = successes(envelope('<me@y>', ...to), new Set([routeKey(home('c'))]));
  assert.deepEqual(
    outcomes.map(({ action, recipient }) => [action, recipient.address]),
    [
      ['delivered', 'a@x'],
      ['expanded', 'list@x'],
    ],
  );
});

describe('a mailbox at an LMTP server', () => {
  const lmtp = { server: 'lmtp://dovecot:24', address: 'anton@x' };
  const there: Found = { routes: [], lmtp: [lmtp] };

  it('gets its mail by the queue, beside copies that stay here', () => {
    const mail = envelope(
      '<a@y>',
      ['<anton+shop@x>', there],
      ['<berta@x>', { ...own(maildir('berta')), lmtp: [lmtp] }],
    );
    const { copies, entries } = plan(mail);
    assert.deepEqual(copies, [maildir('berta')]);
    assert.deepEqual(
      entries.map(({ recipients }) => recipients.map(({ address, routes, lmtp: to }) => [address, routes, to])),
      [
        [
          ['anton+shop@x', undefined, lmtp],
          ['berta@x', undefined, lmtp],
        ],
      ],
    );
  });

  it('does not keep a copy from waiting that cannot be made', () => {
    const mail = envelope('<a@y>', ['<berta@x>', { ...own(maildir('berta')), lmtp: [lmtp] }]);
    const { copies, entries } = plan(mail, new Set([routeKey(maildir('berta'))]));
    assert.deepEqual(copies, []);
    assert.deepEqual(
      entries[0]?.recipients.map(({ routes, lmtp: to }) => [routes, to]),
      [
        [undefined, lmtp],
        [[maildir('berta')], undefined],
      ],
    );
  });

  it('is not delivered yet, whatever was made here', () => {
    const mail = envelope('<a@y>', ['<anton@x> NOTIFY=SUCCESS', { ...own(maildir('m')), lmtp: [lmtp] }]);
    assert.deepEqual(successes(mail, new Set()), []);
  });

  it('gets what is junk, and a forward beside it does not', () => {
    const far = { address: 'f@z', mailbox: { local: 'f', domain: 'z' } as never };
    const mail = envelope('<a@y>', ['<anton@x>', { ...there, forwards: [far] }]);
    assert.equal(isForwardedOnly(mail), false);
    assert.ok(isHandedOver(mail));
    const { entries } = plan(toJunk(mail));
    assert.deepEqual(
      entries.map(({ recipients }) => recipients.map(({ lmtp: to }) => to)),
      [[lmtp]],
    );
  });
});
