// The images that a person chooses or drops, a few requests at a time.

import { Card } from "./card.js";
import { write } from "./elements.js";

const AT_ONCE = 2;

const byId = (id) => document.getElementById(id);

export class Images {
  #cards = [];
  #waiting = [];
  #running = 0;

  /** `page` has the chosen model, the classes of a version, and the largest body. */
  constructor(page) {
    this.page = page;
    const files = byId("files");
    files.addEventListener("change", () => {
      this.add(files.files);
      files.value = ""; // the same file may be chosen again
    });
    byId("clear").addEventListener("click", () => this.#clear());
    byId("heat").addEventListener("change", (event) => {
      for (const card of this.#cards) card.heat(event.target.checked);
    });
    this.#acceptDrops(byId("drop"));
  }

  add(images) {
    for (const image of [...images]) {
      const options = { classes: this.page.classes, heated: () => byId("heat").checked };
      const card = new Card(image, image.name, this.page.model, options);
      byId("cards").prepend(card.node);
      this.#cards.push(card);
      if (image.size > this.page.largest) card.fail(`The file is larger than ${megabytes(this.page.largest)}.`);
      else this.#waiting.push(card);
    }
    this.#next();
  }

  #next() {
    while (this.#running < AT_ONCE && this.#waiting.length) {
      const card = this.#waiting.shift();
      this.#running += 1;
      card.load().finally(() => {
        this.#running -= 1;
        this.#next();
      });
    }
    const open = this.#running + this.#waiting.length;
    byId("progress").textContent = open ? `${open} to answer` : counted(this.#cards.length);
    byId("clear").hidden = this.#cards.length === 0;
  }

  #clear() {
    this.#waiting = [];
    for (const card of this.#cards.splice(0)) card.remove();
    this.#next();
    byId("files").focus();
  }

  #acceptDrops(target) {
    // A browser would open a file that misses the target in place of the page.
    for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());
    document.addEventListener("dragover", () => target.classList.add("over"));
    document.addEventListener("dragleave", () => target.classList.remove("over"));
    document.addEventListener("drop", (event) => {
      target.classList.remove("over");
      if (!target.closest("[hidden]")) this.add(event.dataTransfer.files);
    });
  }
}

export function showLimit(bytes) {
  write(byId("limit"), `up to ${megabytes(bytes)} each`);
}

function counted(images) {
  return images ? `${images} ${images === 1 ? "image" : "images"}` : "";
}

function megabytes(bytes) {
  return `${Math.floor((10 * bytes) / 2 ** 20) / 10} MB`;
}
