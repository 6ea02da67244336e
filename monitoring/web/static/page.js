// The page: which model and which view are chosen.

import * as api from "./api.js";
import { Camera } from "./camera.js";
import { element, write } from "./elements.js";
import { Images, showLimit } from "./images.js";
import { Live } from "./live.js";

const RETRY = 3000; // milliseconds, while there is no server

const byId = (id) => document.getElementById(id);
const descriptions = new Map(); // promises, by model and version

const page = {
  model: "",
  largest: Infinity,
  warn: (text) => write(byId("notice"), text),
  /** Return the classes of a version. */
  classes: async (model, version) => (await description(model, version)).classes,
};

function description(model, version) {
  const key = `${model} ${version ?? ""}`;
  if (!descriptions.has(key)) {
    const promise = api.describe(model, version);
    promise.catch(() => descriptions.delete(key));
    descriptions.set(key, promise);
  }
  return descriptions.get(key);
}

async function choose(model) {
  page.model = model;
  write(byId("about"), "");
  descriptions.delete(`${model} `); // a deployment changes the default version
  try {
    const { classes, version, precision } = await description(model);
    if (page.model === model) write(byId("about"), `version ${version} · ${classes.length} classes · ${precision}`);
  } catch (failure) {
    page.warn(failure.message);
  }
}

async function connect() {
  try {
    const { models, selected, max_bytes: largest } = await api.models();
    page.largest = largest;
    showLimit(largest);
    const select = byId("model");
    select.replaceChildren(...models.map((model) => element("option", { value: model }, model)));
    page.warn(missing(models, selected));
    if (!models.length) throw new api.Failure("The server has no model: deploy one with make deploy NAME=<model>.");
    select.value = models.includes(selected) ? selected : models[0];
    await choose(select.value);
  } catch (failure) {
    page.warn(failure.message);
    setTimeout(connect, RETRY);
  }
}

function missing(models, selected) {
  if (!selected || models.includes(selected)) return "";
  return `${selected} is not served here: deploy it with make deploy NAME=${selected}.`;
}

function selectTab(tab) {
  for (const other of document.querySelectorAll("[role=tab]")) {
    const on = other === tab;
    other.setAttribute("aria-selected", String(on));
    other.tabIndex = on ? 0 : -1;
    byId(other.getAttribute("aria-controls")).hidden = !on;
  }
  live.show(tab.id === "tab-live");
}

function moveTab(event) {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const tab = tabs.at((tabs.indexOf(event.target) + step) % tabs.length);
  tab.focus();
  selectTab(tab);
}

const live = new Live(page);
new Camera(page, new Images(page));
byId("model").addEventListener("change", (event) => {
  choose(event.target.value);
  if (!byId("live").hidden) live.refresh();
});
for (const tab of document.querySelectorAll("[role=tab]")) {
  tab.addEventListener("click", () => selectTab(tab));
  tab.addEventListener("keydown", moveTab);
}
connect();
