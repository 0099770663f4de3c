// The judging child in trouble: one that is late, one that cannot be started, a DNS that is down.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { openJudge } from '../vectors/judging.ts';
import type { Zone } from '../vectors/zone.ts';

const rejects: Zone = { '_dmarc.example.com': { TXT: [['v=DMARC1; p=reject']] } };
const forged = Buffer.from('From: a@example.com\nSubject: x\n\nhello\n');

describe('a child that is late or ends', () => {
  it('is killed: that message is temperror, and the others are judged by another child', async () => {
    const own = openJudge({ messageMs: 4000 });
    const silent: Zone = { ...rejects, 'example.net': 'SILENT', '.': 'SILENT' };
    const late = own.judge({ from: 'a@example.net' }, forged, silent);
    await pause(1200);
    const other = own.judge({ from: 'a@example.net' }, forged, silent);
    await pause(1200);
    // The DNS is there again for the child that comes next.
    assert.equal((await own.judge({ client: undefined }, forged, rejects)).dmarc.result, 'none');
    const { dmarc } = await late;
    assert.deepEqual([dmarc.result, dmarc.reason], ['temperror', 'judging took too long']);
    assert.equal((await other).dmarc.result, 'fail');
    own.close();
  });

  it('that cannot be started is temperror, and not tried for each message', async () => {
    const own = openJudge({ argv: ['/nowhere/judge.mjs'] });
    const started = performance.now();
    for (const _ of [1, 2, 3]) assert.equal((await own.judge({}, forged, {})).dmarc.result, 'temperror');
    assert.ok(performance.now() - started < 5000);
    own.close();
  });
});

describe('signatures whose keys are slow', () => {
  it('leave time for the key of the author', async () => {
    const own = openJudge();
    const field = (domain: string): string =>
      `DKIM-Signature: v=1; a=rsa-sha256; d=${domain}; s=s; h=from; bh=s14J+iztnrytnRYzb7lhFG/jS/vrxWJnnahfijFMnco=; b=eHh4\n`;
    const names = ['1', '2', '3'].map(n => `${n}.example.net`);
    const zone: Zone = { ...rejects, ...Object.fromEntries(names.map(name => [`s._domainkey.${name}`, 'SILENT'])) };
    const header = [...names, 'example.com'].map(field).join('');
    const { dmarc, dkim } = await own.judge({}, Buffer.from(`${header}From: a@example.com\n\nx\n`), zone);
    assert.equal(dkim.length, 4);
    assert.equal(dmarc.result, 'fail');
    own.close();
  });
});

describe('a DNS that is down', () => {
  it('slows the first message by its deadline, and the others not at all', async () => {
    const own = openJudge();
    const down: Zone = { ...rejects, 'example.net': 'SILENT', '.': 'SILENT', '_dmarc.example.com': 'SILENT' };
    const timed = async (zone: Zone) => {
      const started = performance.now();
      const { dmarc } = await own.judge({ from: 'a@example.net' }, forged, zone);
      return [dmarc.result, Math.round(performance.now() - started)] as const;
    };
    const [first, firstMs] = await timed(down);
    assert.equal(first, 'temperror');
    assert.ok(firstMs < 9000, `${firstMs} ms`);
    const [second, secondMs] = await timed(down);
    assert.equal(second, 'temperror');
    assert.ok(secondMs < 500, `${secondMs} ms`);
    // It comes back, and one look finds out.
    await pause(3600);
    await timed(rejects);
    await pause(300);
    assert.equal((await timed(rejects))[0], 'fail');
    own.close();
  });
});
