// What a stranger's message may cost when it is judged: docs/security.md has the same numbers.

/**
 * A header of more lines is not parsed, because that is quadratic in its folded lines: 20,000 short ones in 60 KiB took
 * 1.6 s. SPF and the author's domain alone are judged then. (src/inbound/judging.ts bounds the octets of a header.)
 */
export const maxHeaderLines = 2_500;
/** So much of the From fields is parsed where nothing else is. */
export const maxFromOctets = 16 * 1024;
/** Further signatures are passed over (RFC 6376 §6.1). */
export const maxSignatures = 10;
/** Questions to the DNS for one message. Each part has its own, so that none can use up those of another: 50 in all. */
export const maxQuestions = { spf: 25, keys: 13, dmarc: 12 } as const;
/** From then on no question of SPF and of keys is waited for: a domain of the sender's whose DNS is slow must not keep DMARC from its answer. */
export const partsMs = 9_000;
/** The same for DMARC, so that the child is never killed for a slow DNS. */
export const dmarcMs = 13_500;
/** A question is waited for so long at most. */
export const questionMs = 4_000;
/** Then the child is killed. */
export const messageMs = 15_000;
/** Pieces in which content goes to the child; the first one is there at once. */
export const pieceOctets = 64 * 1024;
/** Messages that are with the child, and those that wait for that. */
export const maxAtOnce = 100;
export const maxWaiting = 1_000;
export const idleMs = 10 * 60_000;
/** After a child that has answered nothing at all, so long none is started. */
export const pauseMs = 5_000;
export const childHeapMb = 128;
