// The program of the judging child. In the image it is a bundle of its own, judge.mjs: nobody else loads mailauth, not
// even as text.
import { runJudge } from './child.ts';

await runJudge();
