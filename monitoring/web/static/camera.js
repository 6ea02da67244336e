// The camera: one frame at a time, at a bounded rate.

import * as api from "./api.js";
import { Bars, facts, warning } from "./answer.js";
import { write } from "./elements.js";

const INTERVAL = 250; // milliseconds between two frames, at least
const PAUSE = 2000; // after a failure
const SIDE = 640; // pixels of a frame's longer side, at most
const REASONS = {
  NotAllowedError: "The browser may not use the camera: allow it in the address bar.",
  NotFoundError: "This machine has no camera.",
  NotReadableError: "Another program uses the camera.",
};

const byId = (id) => document.getElementById(id);
const wait = (time) => new Promise((resolve) => setTimeout(resolve, time));

export class Camera {
  #stream = null;
  #frame = null;
  #kept = 0;

  constructor(page, images) {
    this.page = page;
    this.images = images;
    this.video = byId("video");
    this.bars = new Bars(byId("camera-labels"));
    byId("camera-start").addEventListener("click", () => this.start());
    byId("camera-stop").addEventListener("click", () => this.stop());
    byId("camera-keep").addEventListener("click", () => this.#keep());
  }

  async start() {
    try {
      if (!navigator.mediaDevices) throw new Error("Browsers give a camera only to https, 127.0.0.1 and localhost.");
      this.#stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch (error) {
      this.page.warn(REASONS[error.name] ?? error.message);
      return;
    }
    this.page.warn("");
    this.video.srcObject = this.#stream;
    this.#show(true);
    byId("camera-keep").focus();
    await this.video.play();
    await this.#loop(this.#stream);
  }

  stop() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#stream = this.#frame = this.video.srcObject = null;
    this.#show(false);
    byId("camera-start").focus();
  }

  #show(on) {
    byId("camera").hidden = !on;
    byId("camera-start").hidden = on;
  }

  async #loop(stream) {
    while (this.#stream === stream) {
      const start = performance.now();
      if (document.hidden || byId("images").hidden || !this.page.model) await wait(INTERVAL);
      else await this.#ask();
      await wait(Math.max(0, INTERVAL - (performance.now() - start)));
    }
  }

  async #ask() {
    try {
      this.#frame = await this.#grab();
      const model = this.page.model;
      const answer = await api.predict(model, this.#frame, { uncounted: 1 });
      this.bars.show(answer.labels);
      write(byId("camera-warning"), warning(answer));
      write(byId("camera-facts"), facts(model, answer));
    } catch (failure) {
      write(byId("camera-warning"), failure.message);
      await wait(PAUSE);
    }
  }

  async #grab() {
    const { videoWidth: width, videoHeight: height } = this.video;
    const scale = Math.min(1, SIDE / Math.max(width, height));
    const canvas = new OffscreenCanvas(Math.round(scale * width), Math.round(scale * height));
    canvas.getContext("2d").drawImage(this.video, 0, 0, canvas.width, canvas.height);
    return canvas.convertToBlob({ type: "image/jpeg", quality: 0.9 });
  }

  #keep() {
    if (!this.#frame) return;
    this.#kept += 1;
    this.images.add([new File([this.#frame], `frame ${this.#kept}.jpg`, { type: "image/jpeg" })]);
  }
}
