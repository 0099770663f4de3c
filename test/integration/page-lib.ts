// For the tests of the page: a server that captures, from the sources; Debian's Chromium; and mails to look at.
import { fork, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type SendMailOptions, createTransport } from 'nodemailer';
import { type Browser, type Page, chromium } from 'playwright-core';
import { eventually } from './client.ts';
import { root } from './compose-lib.ts';
import { freePort } from '../ports.ts';

type Own = (undo: () => Promise<unknown>) => void;

export type Capture = Readonly<{
  url: string;
  smtpPort: number;
  send(...mails: readonly SendMailOptions[]): Promise<void>;
  /** The same ports and folders, a new process. */
  restart(): Promise<void>;
}>;

/** A server with SLIM_CAPTURE=on. It ends with what `own` undoes. */
export async function startCapture(own: Own, settings: Record<string, string> = {}): Promise<Capture> {
  const folder = mkdtempSync(join(tmpdir(), 'slimsmtp-page-'));
  own(async () => rmSync(folder, { recursive: true }));
  const smtpPort = await freePort();
  const httpPort = await freePort();
  const environment = {
    PATH: process.env['PATH'] ?? '',
    SLIM_CAPTURE: 'on',
    SLIM_HOSTNAME: 'mail.example.com',
    SLIM_LISTEN: `smtp://127.0.0.1:${smtpPort}`,
    SLIM_HTTP: `127.0.0.1:${httpPort}`,
    SLIM_DATA: join(folder, 'data'),
    SLIM_MAIL_ROOT: join(folder, 'mail'),
    ...settings,
  };
  const url = `http://127.0.0.1:${httpPort}`;
  const start = async () => {
    const flags = ['--disallow-code-generation-from-strings', '--disable-proto=delete'];
    const child = spawn(process.execPath, [...flags, join(root, 'src/cli.ts'), 'serve'], {
      cwd: folder,
      env: environment,
    });
    let said = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (data: Buffer) => (said += data));
    const answers = () =>
      fetch(`${url}/health`).then(
        answer => answer.ok,
        () => false,
      );
    await eventually('the server answers', answers, 20_000).catch((error: Error) => {
      child.kill('SIGKILL');
      throw new Error(`${error.message}\n${said}`);
    });
    return child;
  };
  let server = await start();
  const stop = async (): Promise<void> => {
    server.kill('SIGTERM');
    if (server.exitCode === null && server.signalCode === null) await once(server, 'exit');
  };
  own(stop);
  return {
    url,
    smtpPort,
    async send(...mails) {
      const transport = createTransport({ host: '127.0.0.1', port: smtpPort, ignoreTLS: true, pool: true });
      for (const mail of mails) await transport.sendMail(mail);
      transport.close();
    },
    async restart() {
      await stop();
      server = await start();
    },
  };
}

/** A connection to a browser of its own, which ends with what `own` undoes. */
export async function startBrowser(own: Own): Promise<Browser> {
  const child = fork(join(root, 'test/integration/page-browser.ts'), { execArgv: [] });
  own(async () => {
    const ended = once(child, 'exit');
    child.disconnect();
    await ended;
  });
  const [endpoint] = (await Promise.race([once(child, 'message'), once(child, 'exit')])) as [unknown];
  if (typeof endpoint !== 'string') throw new Error('Chromium did not start; test/setup/engine.sh installs it.');
  return chromium.connect(endpoint);
}

type Look = Readonly<{ width?: number; height?: number; scheme?: 'dark' | 'light' }>;

/**
 * A new page at the address of the server; `complaints` are its exceptions and what its own CSP refused, not that of a
 * mail.
 */
export async function openPage(
  browser: Browser,
  url: string,
  { width = 1280, height = 800, scheme = 'light' }: Look = {},
) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: scheme, locale: 'en-GB' });
  context.setDefaultTimeout(30_000);
  const page = await context.newPage();
  const complaints: string[] = [];
  page.on('pageerror', error => complaints.push(error.message));
  page.on(
    'console',
    said => said.type() === 'error' && !said.location().url.includes('/view/') && complaints.push(said.text()),
  );
  await page.goto(url);
  await page
    .locator('#live.on')
    .waitFor()
    .catch(() => {
      throw new Error(`the page is not live: ${complaints.join('; ')}`);
    });
  return { page, complaints, close: () => context.close() };
}

export const rows = (page: Page) => page.locator('#rows .row:not(.later)');

const button =
  'display:inline-block;padding:14px 28px;border-radius:8px;background:#0f766e;color:#fff;text-decoration:none;font-weight:600';
const welcome = `<!doctype html><html><head><meta charset="utf-8"><style>
  body { margin: 0; background: #eef2f3; font-family: Helvetica, Arial, sans-serif; color: #1b2a2f }
  .card { max-width: 560px; margin: 32px auto; padding: 40px; background: #fff; border-radius: 12px }
  h1 { font-size: 26px; margin: 0 0 16px } p { line-height: 1.6 } .fine { color: #6b7a80; font-size: 13px }
  </style></head><body><div class="card"><img src="cid:logo@example.com" width="48" height="48" alt="">
  <h1>Welcome aboard, Anton</h1><p>Your account at <b>Example Shop</b> is nearly ready. Confirm your address and we can begin.</p>
  <p><a href="https://shop.example.com/confirm/7f3a" style="${button}">Confirm my address</a></p>
  <p class="fine">You get this message because somebody signed up with your address. If that was not you, do nothing.</p>
  <img src="https://track.example.net/open.gif" width="1" height="1" alt=""></div></body></html>`;
const logo = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><circle cx="12" cy="12" r="12" fill="#f59e0b"/><path d="M7 13l4 4 7-9" fill="none" stroke="#fff" stroke-width="2.5"/></svg>`;

const shop = { name: 'Example Shop', address: 'shop@example.com' };

/** Mails of the kind that a program's tests send; the last one is the newest. */
export const samples: readonly SendMailOptions[] = [
  {
    from: 'cron@build.example.com',
    to: 'admins@example.com',
    subject: 'Nightly backup finished',
    text: 'Backed up 14 databases in 3 min 12 s.\n\nNothing to do.\n',
  },
  {
    from: { name: 'متجر المثال', address: 'arabic@example.com' },
    to: 'layla@example.net',
    subject: 'مرحبًا بك في متجرنا',
    text: 'شكرًا لتسجيلك. رقم الطلب 4711.\nhttps://shop.example.com/ar/4711\n',
  },
  {
    from: { name: 'חנות לדוגמה', address: 'hebrew@example.com' },
    to: 'noa@example.net',
    subject: 'ההזמנה שלך בדרך',
    text: 'ההזמנה 4712 נשלחה היום.\n',
  },
  {
    from: { name: 'Party Planner 🎉', address: 'party@example.com' },
    to: ['berta@example.net', 'carl@example.net', 'dora@example.net'],
    subject: '🎈 You are invited 🎂🥳',
    text: 'Saturday, 8 pm. Bring 🍕.\n',
  },
  {
    from: shop,
    to: 'berta@example.net',
    subject: 'Reset your password',
    text: 'Somebody asked for a new password. The link is good for an hour:\n\nhttps://shop.example.com/reset/91bc\n',
  },
  {
    from: shop,
    to: 'carl@example.net',
    subject: 'Your invoice 2026-1187',
    text: 'The invoice is attached.\n',
    attachments: [
      { filename: 'invoice-2026-1187.pdf', content: Buffer.alloc(182_340, '%PDF-1.7 ') },
      { filename: 'terms and conditions.txt', content: 'Be kind.\n' },
    ],
  },
  {
    from: shop,
    to: { name: 'Anton', address: 'anton@example.net' },
    replyTo: 'help@example.com',
    subject: 'Welcome to Example Shop',
    html: welcome,
    attachments: [{ filename: 'logo.svg', cid: 'logo@example.com', content: logo, contentType: 'image/svg+xml' }],
  },
];
