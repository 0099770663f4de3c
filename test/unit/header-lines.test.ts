// What is noticed of a header while it passes: the number of its Received lines, and its Message-ID, in pieces of any
// size.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { HeaderLines } from '../../src/inbound/header-lines.ts';

const passed = (text: string, pieceOctets: number): HeaderLines => {
  const lines = new HeaderLines();
  const octets = Buffer.from(text, 'latin1');
  for (let at = 0; at < octets.length; at += pieceOctets) lines.pass(octets.subarray(at, at + pieceOctets));
  return lines;
};

for (const [text, wanted] of [
  ['Received: a\n\tb\nX: y\nRECEIVED: c\n\nReceived: body\n', 2],
  ['\nReceived: body\n', 0],
  ['Received : a\nReceivedX: b\n Received: c\n', 0],
  ['', 0],
  [`${'Received: a\n'.repeat(150)}\n`, 150],
  // Beyond the first 64 KiB nothing is counted: it costs time, and no honest way makes such a header.
  [`X: ${'y'.repeat(70_000)}\nReceived: a\n\n`, 0],
] as const)
  test(`Received lines of ${JSON.stringify(text.slice(0, 30))} are ${wanted}, in pieces of any size`, () => {
    for (const octets of [1, 2, 7, 100, 1_000_000])
      assert.equal(passed(text, octets).receivedCount, wanted, `${octets}`);
  });

for (const [text, wanted] of [
  ['Subject: x\nMessage-ID: <one@example.net>\nX: <no@example.net>\n\n', '<one@example.net>'],
  ['message-id :\n\t<one@example.net>\n\n', '<one@example.net>'],
  ['Message-ID:\n <one@\n example.net>\n\n', undefined],
  ['Message-Id: <one@example.net>\nMessage-ID: <two@example.net>\n\n', '<one@example.net>'],
  ['Message-ID: none\nMessage-ID: <two@example.net>\n\n', undefined],
  ['X-Message-ID: <x@example.net>\nMessage-IDs: <y@example.net>\nMIME-Version: <z>\n\n', undefined],
  ['X: y\n Message-ID: <folded@example.net>\n\n', undefined],
  ['Message-ID: none\nReceived: a\n <of-another-field@example.net>\n\n', undefined],
  ['X: y\n\nMessage-ID: <body@example.net>\n', undefined],
  ['Message-ID: <no-end-of-line@example.net>', undefined],
  [`Message-ID: ${'y'.repeat(2000)}<late@example.net>\n\n`, undefined],
  [`X: ${'y'.repeat(70_000)}\nMessage-ID: <beyond@example.net>\n\n`, undefined],
] as const)
  test(`the Message-ID of ${JSON.stringify(text.slice(0, 60))} is ${wanted}, in pieces of any size`, () => {
    for (const octets of [1, 2, 7, 100, 1_000_000]) assert.equal(passed(text, octets).messageId, wanted, `${octets}`);
  });
