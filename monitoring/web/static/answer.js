// What an answer says: its labels as bars, the warning of an unfamiliar image, and its facts in a line.

import { element, milliseconds, percent } from "./elements.js";

/** Return the labels, best first: an object puts names that are numbers in their order. */
export function ranked(labels) {
  return Object.keys(labels).sort((one, other) => labels[other] - labels[one]);
}

/** The labels of an answer as bars, best first; `choose`, if given, makes each of them a button. */
export class Bars {
  #rows = new Map();

  constructor(list, choose) {
    this.list = list;
    this.choose = choose;
  }

  show(labels) {
    const items = ranked(labels).map((label) => {
      if (!this.#rows.has(label)) this.#rows.set(label, this.#row(label));
      const { item, fill, text } = this.#rows.get(label);
      fill.style.width = `${100 * labels[label]}%`;
      text.textContent = percent(labels[label]);
      return item;
    });
    if (items.some((item, place) => item !== this.list.children[place])) this.list.replaceChildren(...items);
  }

  /** Mark the label whose heat map is shown. */
  mark(marked) {
    for (const [label, { body }] of this.#rows) body.setAttribute("aria-pressed", String(label === marked));
  }

  #row(label) {
    const fill = element("span", { className: "fill" });
    const text = element("span", { className: "share" });
    const parts = [fill, element("span", { className: "name" }, label), text];
    const body = this.choose
      ? element("button", { type: "button", className: "label", title: `Show where the model sees ${label}` }, ...parts)
      : element("div", { className: "label" }, ...parts);
    if (this.choose) body.addEventListener("click", () => this.choose(label));
    return { item: element("li", {}, body), body, fill, text };
  }
}

/** Return the warning of an answer, empty if its image is like the training images. */
export function warning({ familiar, familiarity }) {
  if (familiar) return "";
  const nearer = familiarity < 0.001 ? "more than 99.9 %" : percent(1 - familiarity);
  return `Unlike the training images: ${nearer} of the validation images are nearer to them. Do not rely on this answer.`;
}

export function facts(model, { version, seconds, familiarity }) {
  const parts = [`${model} ${version ?? ""}`.trim(), milliseconds(seconds)];
  if (familiarity !== null) parts.push(`familiarity ${familiarity.toFixed(3)}`);
  return parts.join(" · ");
}
