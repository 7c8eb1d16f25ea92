/* The history of an edit: the original, and each result that was edited again. */

import { all, get, load } from "./jobs.js";
import { resultOf, shownInput, smallInput, smallResult } from "./pictures.js";
import { W } from "./words.js";

const LONGEST = 50;

/** The frames up to a job and on from it: the original first. Each is `{path, small, label, text}`,
 * and all but the original have `{job, n}`. */
export async function framesOf(job) {
  const frames = [frameOf(job, 1)];
  for (let first = job; first.request?.parent && frames.length < LONGEST;) {
    const n = first.request.parent_n ?? 1;
    try {
      first = await load(first.request.parent);
    } catch {
      break; // deleted, or of another person: its result is the original of what follows
    }
    frames.unshift(frameOf(first, n));
  }
  for (let last = job; frames.length < LONGEST;) {
    const next = childrenOf(last.request_id)[0];
    if (!next) break;
    frames.at(-1).n = next.request.parent_n ?? 1;
    frames.push(frameOf(next, 1));
    last = next;
  }
  const original = frames[0].job;
  frames.unshift({
    path: shownInput(original),
    small: smallInput(original.request_id),
    label: W.original,
    text: "",
  });
  frames.forEach((frame, index) =>
    Object.assign(frame, { index, label: index ? W.result(index) : W.original }),
  );
  return frames.map(withPaths);
}

function frameOf(job, n) {
  return { job, n, text: job.prompt ?? "" };
}

function withPaths(frame) {
  if (!frame.job) return frame;
  const { request_id: id, status } = frame.job;
  const isDone = status === "completed";
  return {
    ...frame,
    isDone,
    path: isDone ? resultOf(id, frame.n) : shownInput(frame.job),
    small: isDone ? smallResult(id, frame.n) : smallInput(id),
  };
}

/** The edits of a job's results that this page knows, the newest first. */
function childrenOf(id) {
  return all().filter(
    (job) => job.request?.parent === id && job.status !== "failed" && job.status !== "cancelled",
  );
}

/** The edits of the same picture, this job among them, in the order of their submission. */
export function siblingsOf(job) {
  const { parent, parent_n: n = 1 } = job.request ?? {};
  if (!parent) return [job];
  return childrenOf(parent)
    .filter((each) => (each.request.parent_n ?? 1) === n)
    .reverse();
}

/** The shape of a job's pictures, as far as it is known. */
export function ratioOf(job) {
  if (job?.width) return job.width / job.height;
  const parent = job?.request?.parent && get(job.request.parent);
  return parent?.width ? parent.width / parent.height : 1.5;
}
