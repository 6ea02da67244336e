// One image: its answer, its heat map, and the label that a person gives it.

import * as api from "./api.js";
import { Bars, facts, ranked, warning } from "./answer.js";
import { element, write } from "./elements.js";

export class Card {
  #answer = null;
  #asked = 0; // heat maps, of which only the last is shown
  #urls = [];

  /** `classes` returns those of a version; `heated` says whether heat maps are on. */
  constructor(image, name, model, { classes, heated }) {
    Object.assign(this, { image, name, model, classes, heated });
    this.labels = element("ol", { className: "labels", "aria-label": `Classes of ${name}` });
    this.bars = new Bars(this.labels, (label) => this.#explain(label));
    this.warning = element("p", { className: "notice warn", role: "status", hidden: true });
    this.facts = element("p", { className: "dim facts" }, "Waiting for the answer …");
    this.feedback = element("div", { className: "feedback" });
    this.map = element("figure", { className: "heat", hidden: true });
    this.pictures = element("div", { className: "pictures one" }, this.#picture(), this.map);
    const answer = element("div", { className: "answer" }, this.labels, this.warning, this.facts, this.feedback);
    this.node = element("article", { className: "card", "aria-label": name }, this.pictures, answer);
  }

  async load() {
    try {
      this.#answer = await api.predict(this.model, this.image);
    } catch (failure) {
      this.fail(failure.message);
      return;
    }
    this.bars.show(this.#answer.labels);
    write(this.warning, warning(this.#answer));
    write(this.facts, facts(this.model, this.#answer));
    this.#offer();
    if (this.heated()) await this.#explain(this.best);
  }

  /** Show the heat map, or hide it. */
  heat(on) {
    if (on && this.#answer) this.#explain(this.best);
    else this.#cover(false);
  }

  get best() {
    return ranked(this.#answer.labels)[0];
  }

  fail(message) {
    this.facts.className = "notice bad facts";
    write(this.facts, message);
  }

  remove() {
    this.node.remove();
    for (const url of this.#urls) URL.revokeObjectURL(url);
  }

  #url(blob) {
    this.#urls.push(URL.createObjectURL(blob));
    return this.#urls.at(-1);
  }

  #picture() {
    const picture = element("img", { src: this.#url(this.image), alt: this.name });
    const empty = element("div", { className: "empty" }, "This browser does not show this format");
    picture.addEventListener("error", () => picture.replaceWith(empty));
    return element("figure", {}, picture, element("figcaption", {}, this.name));
  }

  async #explain(label) {
    const number = ++this.#asked;
    this.bars.mark(label);
    this.#cover(true);
    if (!this.map.firstChild) this.#showHeat(element("div", { className: "empty" }, "Heat map …"), label);
    try {
      const blob = await api.explain(this.model, this.image, { version: this.#answer.version, label });
      if (number !== this.#asked) return;
      this.#showHeat(element("img", { src: this.#url(blob), alt: `Heat map of ${label}` }), label);
    } catch (failure) {
      if (number === this.#asked) this.#showHeat(element("div", { className: "empty" }, failure.message), label);
    }
  }

  #cover(on) {
    this.map.hidden = !on;
    this.pictures.classList.toggle("one", !on);
    if (!on) this.bars.mark(null);
  }

  #showHeat(picture, label) {
    this.map.replaceChildren(picture, element("figcaption", {}, "Where it sees ", element("strong", {}, label)));
  }

  #offer() {
    const right = element("button", { type: "button" }, "This is right");
    const wrong = element("button", { type: "button" }, "This is wrong");
    right.addEventListener("click", () => this.#save(this.best));
    wrong.addEventListener("click", () => this.#choose());
    this.feedback.replaceChildren(element("div", { className: "buttons" }, right, wrong));
    return wrong;
  }

  async #choose() {
    let classes;
    try {
      classes = await this.classes(this.model, this.#answer.version);
    } catch (failure) {
      this.#say(failure.message, "notice bad");
      return;
    }
    const options = (names) => names.map((name) => element("option", { value: name }, name));
    const likely = ranked(this.#answer.labels).slice(1);
    const others = classes.filter((name) => name !== this.best && !likely.includes(name));
    const select = element(
      "select",
      {},
      ...(likely.length ? [element("optgroup", { label: "Next in its answer" }, ...options(likely))] : []),
      ...(others.length ? [element("optgroup", { label: "Other classes" }, ...options(others))] : []),
    );
    const cancel = element("button", { type: "button" }, "Cancel");
    const save = element("button", { type: "submit", className: "first" }, "Save");
    const form = element("form", { className: "correction" }, element("label", {}, "Right class", select), save, cancel);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#save(select.value);
    });
    cancel.addEventListener("click", () => this.#offer().focus());
    this.feedback.replaceChildren(form);
    select.focus();
  }

  async #save(label) {
    const { request_id: id, sha256 } = this.#answer;
    try {
      const { logged, command } = await api.correct(this.model, { request_id: id ?? "", sha256, label });
      const wrong = this.#offer();
      const note = logged
        ? "Count it with "
        : "This answer is not in the log (handler.log), so the label is kept by its image. Count it, once the image is logged, with ";
      this.#say(`Saved as ${label}.`, "saved");
      this.feedback.append(element("p", { className: "dim" }, note, element("code", {}, command)));
      wrong.focus();
    } catch (failure) {
      this.#say(failure.message, "notice bad");
    }
  }

  #say(message, className) {
    this.feedback.querySelector("[role=status]")?.remove();
    const status = element("p", { className, role: "status" });
    this.feedback.append(status);
    status.textContent = message;
  }
}
