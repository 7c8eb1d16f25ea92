/* Telling a person who looks elsewhere: title, favicon, and, if they wish, sound and notification. */

import { h, keep, kept } from "./dom.js";
import { onEnd, queued, running, subscribe } from "./jobs.js";
import { cover } from "./pictures.js";
import { W } from "./words.js";

const SIDE = 32;
const icon = document.querySelector("link[rel=icon]");
const plain = icon.href;
let ended = 0; // jobs that have ended while nobody looked
let wished = kept("tell", false);
let name = "";

/** Whether the person wishes to be told. */
export const isWished = () => wished;

/** The name of the view that the title shows. */
export function setName(text) {
  name = text;
  update();
}

/** Ask for the browser's permission, or stop telling. */
export async function toggle() {
  wished = !wished;
  keep("tell", wished);
  if (!wished) return;
  beep();
  if (window.Notification?.permission === "default") await Notification.requestPermission();
}

function update() {
  const live = running().length + queued().length;
  const count = live ? `(${live}) ` : ended ? "✓ " : "";
  document.title = `${count}${name ? `${name} – ` : ""}i2ii`;
  icon.href = live || ended ? draw(live) : plain;
}

function draw(live) {
  const canvas = h("canvas", { width: SIDE, height: SIDE });
  const context = canvas.getContext("2d");
  context.fillStyle = "#0d6b56";
  context.beginPath();
  context.arc(SIDE / 2, SIDE / 2, SIDE / 2, 0, 2 * Math.PI);
  context.fill();
  context.fillStyle = "#fff";
  context.font = "bold 20px sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(live ? (live > 9 ? "9+" : live) : "✓", SIDE / 2, SIDE / 2 + 1);
  return canvas.toDataURL();
}

function beep() {
  const audio = new AudioContext();
  const tone = new OscillatorNode(audio, { frequency: 660 });
  const volume = new GainNode(audio, { gain: 0.08 });
  volume.gain.exponentialRampToValueAtTime(0.001, audio.currentTime + 0.4);
  tone.connect(volume).connect(audio.destination);
  tone.start();
  tone.stop(audio.currentTime + 0.4);
  tone.onended = () => audio.close();
}

function notify(job) {
  if (window.Notification?.permission !== "granted") return;
  const told = new Notification(W.statuses[job.status], {
    body: job.prompt,
    tag: job.request_id,
    icon: cover(job),
  });
  told.onclick = () => {
    window.focus();
    location.hash = `job/${job.request_id}`;
    told.close();
  };
}

onEnd((job) => {
  if (job.status === "cancelled" || !document.hidden) return;
  ended += 1;
  update();
  if (!wished) return;
  beep();
  notify(job);
});
subscribe(update);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) ended = 0;
  update();
});
