/** Numbers, times and sizes in words. */

const INTEGER = new Intl.NumberFormat("en");
const MEBI = 1024 * 1024;

/** What each state of a job is called. */
export const STATES = {
  queued: "queued",
  running: "running",
  cancelling: "cancelling",
  succeeded: "succeeded",
  partially_succeeded: "partly succeeded",
  failed: "failed",
  cancelled: "cancelled",
};

/** "1,204 pages", "1 page". */
export function counted(number, noun) {
  return `${INTEGER.format(number)} ${noun}${number === 1 ? "" : "s"}`;
}

/** "1,204". */
export const grouped = (number) => INTEGER.format(number);

/** "3.4 MB" (of 1,048,576 bytes), "12 KB". */
export function size(bytes) {
  if (bytes >= MEBI) return `${(bytes / MEBI).toFixed(bytes >= 10 * MEBI ? 0 : 1)} MB`;
  return `${INTEGER.format(Math.max(1, Math.round(bytes / 1024)))} KB`;
}

/** "less than a minute", "about 4 minutes", "about 2 hours". */
export function duration(seconds) {
  if (seconds < 45) return "less than a minute";
  if (seconds < 90) return "about a minute";
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `about ${minutes} minutes`;
  return `about ${Math.round(minutes / 60)} hours`;
}

/** A point in time as the reader's clock shows it; the day only where it is not today. */
export function instant(iso) {
  const date = new Date(iso);
  const time = { hour: "2-digit", minute: "2-digit" };
  if (date.toDateString() === new Date().toDateString()) return date.toLocaleTimeString([], time);
  return date.toLocaleString([], { year: "numeric", month: "short", day: "numeric", ...time });
}
