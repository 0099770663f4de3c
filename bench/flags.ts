// The flags of Node under which our server runs, as src/cli.ts has them.
export const nodeFlags = [
  '--disallow-code-generation-from-strings',
  '--disable-proto=delete',
  '--max-semi-space-size=4',
  '--initial-old-space-size=32',
  '--no-parallel-scavenge',
  '--invocation-count-for-turbofan=20000',
];
