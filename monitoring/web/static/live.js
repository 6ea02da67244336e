// The second view: traffic, confidence and drift of the chosen model, from the exporter's metrics.

import * as api from "./api.js";
import { element, percent, write } from "./elements.js";
import { Line } from "./line.js";

const INTERVAL = 2000; // milliseconds
const POINTS = 150; // of a line: five minutes
const CLASSES = 10; // that are shown
const SHIFTS = { input: "other images", label: "another mix of classes", "": "none" };
const SENTENCES = { input: "differ from those of validation", label: "have another mix of classes" };

const byId = (id) => document.getElementById(id);
const total = (counts) => Object.values(counts).reduce((one, other) => one + other, 0);
const share = (part, whole) => (whole > 0 ? part / whole : null);
const failed = (codes) => total(Object.fromEntries(Object.entries(codes).filter(([code]) => code >= "500")));

export class Live {
  #versions = new Map(); // by model and version
  #timer = 0;
  #asking = false; // an exporter that is slow gets one request at a time

  constructor(page) {
    this.page = page;
  }

  show(on) {
    clearInterval(this.#timer);
    if (!on) return;
    this.#timer = setInterval(() => document.hidden || this.refresh(), INTERVAL);
    this.refresh();
  }

  async refresh() {
    if (this.#asking) return;
    this.#asking = true;
    try {
      this.#show(await api.figures(), this.page.model);
    } catch (failure) {
      this.#say(failure.message, "bad");
    } finally {
      this.#asking = false;
    }
  }

  #show(figures, model) {
    const versions = figures.versions.filter((version) => version.model === model);
    const nodes = versions.map((version) => {
      const key = `${version.model} ${version.version}`;
      if (!this.#versions.has(key)) this.#versions.set(key, new Version(key));
      const view = this.#versions.get(key);
      view.show(version, performance.now() / 1000);
      return view.node;
    });
    const shown = byId("versions").children;
    if (nodes.length !== shown.length || nodes.some((node, place) => node !== shown[place]))
      byId("versions").replaceChildren(...nodes);
    const empty = `No figures of ${model} yet: they come with its first answers.`;
    if (!figures.up) this.#say("The server does not answer: these are its last figures. Start it with make serve.", "bad");
    else this.#say(versions.length || !model ? "" : empty, "");
  }

  #say(text, kind) {
    byId("live-notice").className = `notice ${kind}`;
    write(byId("live-notice"), text);
  }
}

/** A figure with its line and a sentence. */
class Tile {
  constructor(title) {
    this.value = element("p", { className: "value" }, "–");
    this.note = element("p", { className: "dim" });
    this.line = new Line();
    this.title = title;
    this.points = [];
    this.node = element("div", { className: "tile" }, element("h3", {}, title), this.value, this.line.node, this.note);
  }

  /** Show the latest known value, or the `overall` one until there is any. */
  show(point, text, note, { overall = null, ...options } = {}) {
    this.points.push(point);
    if (this.points.length > POINTS) this.points.shift();
    const known = this.points.filter((value) => value !== null);
    const latest = known.at(-1) ?? overall;
    write(this.value, latest === null ? "–" : text(latest));
    write(this.note, note);
    const range = known.length ? `lowest ${text(Math.min(...known))}, highest ${text(Math.max(...known))}` : "no values yet";
    this.line.show(this.points, `${this.title}, last minutes: ${range}`, options);
  }
}

/** The figures of one version. */
class Version {
  #previous = null;

  constructor(title) {
    this.badge = element("span", { className: "badge" });
    this.traffic = new Tile("Requests a second");
    this.confidence = new Tile("Mean confidence");
    this.unfamiliar = new Tile("Unfamiliar images");
    this.drift = new Tile("Drift");
    const tiles = [this.traffic, this.confidence, this.unfamiliar, this.drift].map((tile) => tile.node);
    this.verdict = element("p", { className: "notice", role: "status", hidden: true });
    this.windows = element("div", { className: "windows" });
    this.tables = element("div", { className: "windows" });
    this.node = element(
      "section",
      { className: "version", "aria-label": title },
      element("header", {}, element("h2", {}, title), this.badge),
      element("div", { className: "tiles" }, ...tiles),
      this.verdict,
      this.windows,
      this.tables,
    );
  }

  show(version, time) {
    const rates = this.#rates(version, time);
    const requests = total(version.requests);
    write(this.badge, version.default ? "answers requests" : "");
    const errors = failed(version.requests);
    const queue = `${version.queue} waiting, workers ready: ${version.workers.READY ?? 0}`;
    this.traffic.show(rates.requests, (rate) => rate.toFixed(1), `${requests} since the start, ${errors} failed; ${queue}`);
    const { sum, images } = version.confidence;
    const mean = share(sum, images);
    const note = mean === null ? "no images yet" : `${percent(mean)} over all ${images} images`;
    this.confidence.show(rates.confidence, percent, note, { highest: 1, overall: mean });
    const strange = share(version.unfamiliar, version.familiarity);
    const unknown = images ? "not measured by this version" : "no images yet";
    const far = strange === null ? unknown : `${percent(strange)} over all images`;
    this.unfamiliar.show(rates.unfamiliar, percent, far, { highest: 1, overall: strange });
    this.#showDrift(version);
    replace(this.tables, [
      table("Images by answer", version.classes),
      table("Requests by status", version.requests),
    ]);
    this.#previous = { ...version, time };
  }

  /** Return the figures of the time since the last look, null where nothing came. */
  #rates(version, time) {
    const before = this.#previous;
    // Counters start again with the server.
    if (!before || total(version.requests) < total(before.requests)) return { requests: null, confidence: null, unfamiliar: null };
    const { confidence: now } = version;
    const { confidence: then } = before;
    return {
      requests: (total(version.requests) - total(before.requests)) / (time - before.time),
      confidence: share(now.sum - then.sum, now.images - then.images),
      unfamiliar: share(version.unfamiliar - before.unfamiliar, version.familiarity - before.familiarity),
    };
  }

  #showDrift({ reference, windows }) {
    const [newest] = windows;
    const ratio = newest ? newest.mmd / newest.threshold : null;
    const note = newest ? `the threshold, newest ${newest.images} images` : reason(reference);
    this.drift.show(ratio === null ? null : Math.max(0, ratio), times, note, { limit: 1 });
    const shifted = windows.filter((window) => window.kind);
    this.verdict.className = `notice ${shifted.length ? "warn" : ""}`;
    const sentences = shifted.map(({ images, kind }) => `The newest ${images} images ${SENTENCES[kind]}.`);
    write(this.verdict, shifted.length ? `Drift. ${sentences.join(" ")}` : newest ? "No drift: the images are like those of validation." : "");
    replace(this.windows, windows.map(windowTable));
  }
}

function times(ratio) {
  return `${ratio.toFixed(2)} ×`;
}

function reason(reference) {
  if (reference === 0) return "this version has no reference images";
  return "shown from 100 images on";
}

function windowTable(window) {
  const { value, low, high } = window.accuracy;
  const rows = [
    ["Shift", SHIFTS[window.kind]],
    ["MMD", `${window.mmd.toFixed(4)}, threshold ${window.threshold.toFixed(4)}`],
    ["Changed", window.changed.join(", ") || "nothing"],
    ["Accuracy, estimated", window.reliable ? `${percent(value)} (${percent(low)} to ${percent(high)})` : "not reliable here"],
  ];
  return rowsTable(`Newest ${window.images} images`, rows);
}

function table(caption, counts) {
  const order = Object.entries(counts).filter(([, count]) => count > 0).sort(([, one], [, other]) => other - one);
  const rows = order.slice(0, CLASSES).map(([name, count]) => [name, String(count)]);
  const hidden = order.length - rows.length;
  if (hidden > 0) rows.push([`${hidden} more`, String(total(Object.fromEntries(order.slice(CLASSES))))]);
  return rowsTable(caption, rows.length ? rows : [["none yet", ""]]);
}

function rowsTable(caption, rows) {
  const lines = rows.map(([name, text]) => element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, text)));
  return element("table", {}, element("caption", {}, caption), element("tbody", {}, ...lines));
}

/** Replace children only if they differ, so that a reader keeps its place. */
function replace(node, children) {
  const same = children.length === node.children.length && children.every((child, place) => child.isEqualNode(node.children[place]));
  if (!same) node.replaceChildren(...children);
}
