// What it takes to say that two samples of times are alike.

/**
 * How far apart two samples are, in standard deviations of what chance does (Mann and Whitney's U: by rank, so that one
 * slow answer is no more than one).
 */
export function distance(one: readonly number[], other: readonly number[]): number {
  let u = 0;
  for (const a of one) for (const b of other) u += a > b ? 1 : a === b ? 0.5 : 0;
  const mean = (one.length * other.length) / 2;
  return (u - mean) / Math.sqrt((mean * (one.length + other.length + 1)) / 6);
}

export const middle = (list: readonly number[]): number => list.toSorted((a, b) => a - b)[list.length >> 1] ?? 0;
