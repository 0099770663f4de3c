// Debian's Chromium, and playwright's server for it, as a process of its own: playwright makes code from strings, which
// the flags of the tests forbid. Says its address over IPC, and ends with the process that has started it.
import { chromium } from 'playwright-core';

const quiet = ['--disable-background-networking', '--disable-component-update', '--disable-sync', '--no-first-run'];
const server = await chromium.launchServer({
  executablePath: '/usr/bin/chromium',
  host: '127.0.0.1',
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', ...quiet],
});
process.send?.(server.wsEndpoint());
process.on('disconnect', () => void server.close().finally(() => process.exit(0)));
