// A line of the latest values, for people who see it; its label says the same in words.

import { drawn } from "./elements.js";

const WIDTH = 100;
const HEIGHT = 40;
const EDGE = 3;

export class Line {
  constructor() {
    this.path = drawn("path");
    this.limit = drawn("path", { class: "limit" });
    this.node = drawn(
      "svg",
      { class: "line", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" },
      this.limit,
      this.path,
    );
  }

  /** Show values, null for none, from 0 to `highest` or beyond; `limit` is a dashed line. */
  show(values, label, { highest = 0, limit = null } = {}) {
    const top = Math.max(highest, limit ?? 0, ...values.map((value) => value ?? 0)) || 1;
    const y = (value) => HEIGHT - EDGE - (value / top) * (HEIGHT - 2 * EDGE);
    const step = (WIDTH - 2) / Math.max(1, values.length - 1);
    let text = "";
    let pen = false;
    values.forEach((value, place) => {
      // A value without neighbours is a line of no length: with round ends a dot.
      if (value !== null) text += `${pen ? "L" : "M"}${(1 + place * step).toFixed(2)} ${y(value).toFixed(2)}${pen ? "" : "h0"}`;
      pen = value !== null;
    });
    this.path.setAttribute("d", text);
    this.limit.setAttribute("d", limit === null ? "" : `M0 ${y(limit).toFixed(2)}H${WIDTH}`);
    this.node.setAttribute("aria-label", label);
  }
}
