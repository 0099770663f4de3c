// `slimsmtp verify FILE`, as a program: what it prints, and its exit status. No question to the DNS is asked here.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';

const folder = mkdtempSync(join(tmpdir(), 'verify-'));
after(() => rmSync(folder, { recursive: true }));

function run(message: string, ...words: string[]) {
  const file = join(folder, 'message');
  writeFileSync(file, message);
  const script = join(import.meta.dirname, '../../src/cli.ts');
  const environment = { PATH: process.env['PATH'], SLIM_DOMAINS: 'example.com', SLIM_HOSTNAME: 'mx.example.com' };
  const flags = ['--disallow-code-generation-from-strings', '--disable-proto=delete', script, 'verify', file];
  const { stdout, stderr, status } = spawnSync(process.execPath, [...flags, ...words], {
    cwd: folder,
    env: environment,
    encoding: 'utf8',
  });
  return { said: stdout + stderr, status };
}

describe('slimsmtp verify', () => {
  it('judges a file, with CRLF or LF, by the child', () => {
    const message = 'DKIM-Signature: v=1; a=rsa-sha256; d=example.net; s=s; h=from; bh=x; b=x\nSubject: x\n\nx\n';
    for (const text of [message, message.replaceAll('\n', '\r\n')]) {
      const { said, status } = run(text, '--client', '127.0.0.1', '--from', 'a@example.net', '--helo', 'example.net');
      assert.match(
        said,
        /^dkim=fail \(body hash did not verify\) .*\ndmarc=permerror \(there is no author\)\n=> the mailbox: /,
      );
      assert.equal(status, 0);
    }
  });

  it('gives everything as JSON', () => {
    const { said } = run('From: a@example.net\n\nx\n', '--client', '127.0.0.1', '--json');
    const { to, field } = JSON.parse(said) as Record<string, string>;
    assert.equal(to, 'the mailbox');
    assert.match(field ?? '', /^Authentication-Results: mx\.example\.com;\n/);
  });

  it('says what is missing', () => {
    assert.equal(run('x').status, 64);
    assert.match(run('x', '--client', '192.0.2.1', '--from', '@').said, /--from is no address/);
  });
});
