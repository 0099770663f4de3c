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
/**
 * For so long, from the start of judging a message, questions of SPF and of keys are waited for: a domain of the
 * sender's whose DNS is slow must not keep DMARC from its answer.
 */
export const partsMs = 9_000;
/**
 * For so long questions of DMARC are waited for. It is less than `messageMs`, so that the child is never killed for a
 * slow DNS.
 */
export const dmarcMs = 13_500;
/** A single question is waited for so long at most. */
export const questionMs = 4_000;
/** When a message has taken so long, the child is killed. */
export const messageMs = 15_000;
/** Octets of the pieces in which content goes to the child; the first piece is there at once. */
export const pieceOctets = 64 * 1024;
/** How many messages are with the child at once, and how many wait for that. */
export const maxAtOnce = 100;
export const maxWaiting = 1_000;
export const idleMs = 10 * 60_000;
/** When a child has ended that has answered nothing at all, none is started for so long. */
export const pauseMs = 5_000;
export const childHeapMb = 128;
