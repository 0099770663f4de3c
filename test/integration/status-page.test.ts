// The status page in Debian's Chromium: its numbers are live, it fits 360 pixels, dark and light, loads nothing from
// elsewhere, and says so when the server does not answer. With PICTURES=FOLDER it also keeps the pictures that the docs
// show.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { Browser, Page } from 'playwright-core';
import { deliver, eventually } from './client.ts';
import { openStage } from './compose-lib.ts';
import { type Capture, startBrowser, startCapture } from './page-lib.ts';

const stage = openStage(after);
let browser: Browser;
let server: Capture;
before(async () => {
  browser = await startBrowser(stage.own);
  server = await startCapture(stage.own, {
    SLIM_CAPTURE: 'off',
    SLIM_DOMAINS: 'example.com',
    SLIM_STORAGES: 'anton@example.com=mail/anton',
  });
});

async function open(path: string, width = 960, scheme: 'dark' | 'light' = 'light') {
  const context = await browser.newContext({ viewport: { width, height: 700 }, colorScheme: scheme });
  const page = await context.newPage();
  const complaints: string[] = [];
  page.on('pageerror', error => complaints.push(error.message));
  page.on('console', said => said.type() === 'error' && complaints.push(said.text()));
  page.on('request', request => request.url().startsWith(server.url) || complaints.push(request.url()));
  await page.goto(`${server.url}${path}`);
  await page.locator('#rows dd').first().waitFor();
  return { page, complaints, close: () => context.close() };
}
const row = async (page: Page, about: string): Promise<string> =>
  (await page.locator(`#rows > div:has(dt:text-is("${about}"))`).innerText()).replaceAll(/\s+/g, ' ');

test('numbers are live, at / as at /status', async () => {
  for (const path of ['/', '/status']) {
    const { page, complaints, close } = await open(path);
    await page.getByText('healthy', { exact: true }).waitFor();
    const first = await row(page, 'messages');
    assert.match(await deliver(server.smtpPort, ['anton@example.com'], 'Subject: x\r\n\r\nx\r\n'), /^250/);
    assert.match(await deliver(server.smtpPort, ['nobody@example.com'], 'Subject: x\r\n\r\nx\r\n'), /^550/);
    await eventually('another number', async () => (await row(page, 'messages')) !== first, 10_000);
    assert.match(await row(page, 'refused'), /[1-9] recipients/);
    await page.getByText(/taken: [1-9]\d* in the last hour/).waitFor();
    assert.deepEqual(complaints, []);
    await close();
  }
});

for (const scheme of ['light', 'dark'] as const)
  for (const width of [960, 360])
    test(`at ${width} px, ${scheme}: nothing sticks out`, async () => {
      const { page, complaints, close } = await open('/status', width, scheme);
      const widest = await page.evaluate<number>('document.documentElement.scrollWidth');
      assert.ok(widest <= width, `${widest}`);
      const ground = await page.evaluate<string>('getComputedStyle(document.body).backgroundColor');
      assert.equal(ground, scheme === 'dark' ? 'rgb(17, 20, 22)' : 'rgb(246, 247, 248)');
      const folder = process.env['PICTURES'];
      const path = join(folder ?? '', `status-${width === 360 ? 'phone-' : ''}${scheme}.png`);
      if (folder !== undefined) await page.screenshot({ path, fullPage: true });
      assert.deepEqual(complaints, []);
      await close();
    });

test('a server that does not answer is told, and so is its return', async () => {
  const { page, close } = await open('/status');
  await page.route('**/status/figures', route => route.abort());
  await page.getByText('no answer', { exact: true }).waitFor();
  await page.unroute('**/status/figures');
  await page.getByText('healthy', { exact: true }).waitFor();
  await close();
});
