// The program of the HTTP process. In the image it is a bundle of its own, web.mjs: nobody else loads what parses HTTP
// requests.
import { runWeb } from './child.ts';

await runWeb();
