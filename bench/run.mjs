// `npm run bench -- [growth] [options]`: see main.ts. Plain JavaScript that Node 18 can run: it finds or installs Node
// 24 and hands over.
// Promises: Ctrl-C and SIGTERM let the benchmark end what it started and unmount what it mounted; its status is ours.
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { ensure } from '../.node24/ensure.mjs';

const main = fileURLToPath(new URL('main.ts', import.meta.url));
const child = spawn(ensure('test'), [main, ...process.argv.slice(2)], { stdio: 'inherit' });
// A terminal sends Ctrl-C to the child too; we only wait for it to be done.
process.on('SIGINT', () => {});
process.on('SIGTERM', () => child.kill('SIGTERM'));
child.on('exit', code => process.exit(code ?? 1));
