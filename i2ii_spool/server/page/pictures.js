/* Pictures: those of jobs, which the server has, and those that a person gives. */

import * as api from "./api.js";
import { h } from "./dom.js";

const SMALL = 480;
const KEPT = 300;
const UNSHOWN = /\.(tiff?|heic|heif|mpo)$/i;
export const ACCEPT = "image/*,.heic,.heif,.tif,.tiff,.avif";

const urls = new Map();

/** The paths of a job's pictures. */
export const resultOf = (id, n = 1) => `/result/${id}?n=${n}`;
export const inputOf = (id, n = 1) => `/inputs/${id}?n=${n}`;
export const smallResult = (id, n = 1) => `/thumbnails/${id}?of=result&n=${n}&side=${SMALL}`;
export const smallInput = (id, n = 1) => `/thumbnails/${id}?of=input&n=${n}&side=${SMALL}`;

/** The first picture of a job as given, as browsers can show it: not every one shows TIFF. */
export function shownInput(job, n = 1) {
  const id = job.request_id;
  return UNSHOWN.test(job.inputs?.[n - 1] ?? "")
    ? `/thumbnails/${id}?of=input&n=${n}&side=1600`
    : inputOf(id, n);
}

/** What a list shows of a job: its result, or what was given. */
export function cover(job, version = "") {
  const path =
    job.status === "completed" ? smallResult(job.request_id) : smallInput(job.request_id);
  return version ? `${path}&_=${version}` : path;
}

/** An `<img>` of a path of the server. With a token it is fetched, since an `<img>` sends none. */
export function picture(path, alt = "", attributes = {}) {
  const image = h("img", {
    alt,
    draggable: "false",
    decoding: "async",
    loading: "lazy",
    ...attributes,
  });
  image.dataset.path = path;
  if (path.startsWith("blob:") || path.startsWith("/page/") || !api.token()) image.src = path;
  else seen.observe(image);
  return image;
}

const seen = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      urlOf(target.dataset.path).then(
        (url) => {
          target.src = url;
        },
        () => target.dispatchEvent(new Event("error")),
      );
    }
  },
  { rootMargin: "600px" },
);

function urlOf(path) {
  const url = urls.get(path) ?? blobOf(path).then((blob) => URL.createObjectURL(blob));
  urls.delete(path);
  urls.set(path, url); // the newest last
  url.catch(() => urls.delete(path));
  if (urls.size > KEPT) {
    const [oldest, gone] = urls.entries().next().value;
    urls.delete(oldest);
    gone.then(
      (each) => URL.revokeObjectURL(each),
      () => {},
    );
  }
  return url;
}

/** The bytes of a picture of the server. */
export async function blobOf(path) {
  return (await api.request(path)).blob();
}

/** Save what the server has under this path. */
export async function download(path, name) {
  save(await blobOf(path), name);
}

export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** The name under which a result is saved. */
export function fileName(job, n = 1) {
  const end = (job.outputs?.[n - 1] ?? "result.png").split(".").pop();
  const base = (job.name || job.request_id).replace(/[/\\:*?"<>|\p{Cc}]/gu, "_");
  return `${base}${n > 1 ? `-${n}` : ""}.${end}`;
}

/** One picture that is to be edited: a file that a person has given, or the result of a job. */
export class Given {
  /** `from` is `{id, n}` of a result. Its bytes are fetched when they are needed. */
  constructor(blob, name, from = null) {
    Object.assign(this, { blob, name, from, url: null, width: 0, height: 0 });
  }

  /** Result `n` of a job. */
  static ofResult(job, n) {
    const given = new Given(null, fileName(job, n), { id: job.request_id, n });
    return Object.assign(given, { width: job.width, height: job.height });
  }

  /** A small `<img>` of it, or its name where the browser cannot show it. */
  toSmall(alt) {
    if (this.from && !this.url) return picture(smallResult(this.from.id, this.from.n), alt);
    if (this.url) return picture(this.url, alt);
    return h("span.unshown", { title: this.name }, this.name.split(".").pop().toUpperCase());
  }

  async bytes() {
    this.blob ??= await blobOf(resultOf(this.from.id, this.from.n));
    return this.blob;
  }

  /** Its size in pixels and a small picture of it, where the browser can decode it. */
  async look() {
    try {
      const bitmap = await createImageBitmap(this.blob);
      this.width = bitmap.width;
      this.height = bitmap.height;
      this.url = URL.createObjectURL(await scaled(bitmap, SMALL, "image/webp"));
      bitmap.close();
    } catch {
      /* TIFF and HEIC: the server shows them once they are sent */
    }
    return this;
  }

  /** The same picture with at most so many pixels. */
  async shrink(pixels) {
    const bitmap = await createImageBitmap(this.blob);
    const side =
      Math.max(bitmap.width, bitmap.height) * Math.sqrt(pixels / (bitmap.width * bitmap.height));
    const type = this.blob.type === "image/png" ? "image/png" : "image/jpeg";
    const blob = await scaled(bitmap, Math.floor(side), type);
    bitmap.close();
    return new Given(blob, this.name, this.from).look();
  }
}

async function scaled(bitmap, side, type) {
  const scale = Math.min(1, side / Math.max(bitmap.width, bitmap.height));
  const canvas = h("canvas", {
    width: Math.max(1, Math.floor(bitmap.width * scale)),
    height: Math.max(1, Math.floor(bitmap.height * scale)),
  });
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return new Promise((done) => canvas.toBlob(done, type, 0.92));
}

/** The pictures of a drop or a paste. A picture dragged from the page names its path. */
export async function picturesOf(transfer) {
  const files = [...transfer.files].filter(isPicture);
  if (files.length) return files.map((file) => new Given(file, file.name));
  const path = transfer.getData("text/x-i2ii-path");
  if (!path) return [];
  const from = /^\/result\/([^?]+)\?n=(\d)/.exec(path);
  const given = new Given(
    await blobOf(path),
    "picture.png",
    from && { id: from[1], n: Number(from[2]) },
  );
  return [await given.look()];
}

/** Whether a file is a picture as far as its type and name tell; its bytes are the server's to
 * judge. */
export function isPicture(file) {
  return (
    file.type.startsWith("image/") || UNSHOWN.test(file.name) || /\.(avif|jxl)$/i.test(file.name)
  );
}

/** The pictures of the clipboard. */
export async function paste() {
  const found = [];
  for (const item of await navigator.clipboard.read()) {
    const type = item.types.find((each) => each.startsWith("image/"));
    if (type) found.push(new Given(await item.getType(type), `pasted.${type.slice(6)}`));
  }
  return found;
}
