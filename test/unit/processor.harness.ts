// How long something takes a processor. For tests of cost: the time on the wall would also count whatever else the
// machine does.

/** The processor time of this thread so far, in milliseconds. */
export function processorMs(): number {
  const { user, system } = process.threadCpuUsage();
  return (user + system) / 1000;
}
