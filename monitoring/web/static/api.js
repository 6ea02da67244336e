// Requests to the page's own server, which holds the key.

export class Failure extends Error {}

const AWAY = "The page's own server does not answer. Start it again with make page.";

/** Return a response that is a success. */
async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Failure(AWAY);
  }
  if (response.ok) return response;
  let message = `The page's own server answered ${response.status}.`;
  try {
    message = (await response.json()).message;
  } catch {
    // Not a reply of the page's server: the status has to do.
  }
  throw new Failure(message);
}

function address(kind, model, query = {}) {
  const pairs = Object.entries(query).filter(([, value]) => value !== undefined && value !== null);
  const text = new URLSearchParams(pairs).toString();
  return `${kind}/${encodeURIComponent(model)}${text && `?${text}`}`;
}

export const models = async () => (await ask("models")).json();

export const describe = async (model, version) => (await ask(address("models", model, { version }))).json();

/** Return labels, version, seconds, familiarity and ids; an answer that is `uncounted` leaves no trace. */
export const predict = async (model, image, { uncounted } = {}) =>
  (await ask(address("predictions", model, { uncounted }), { method: "POST", body: image })).json();

/** Return a PNG: the image as the network gets it, and the heat map of a label over it. */
export const explain = async (model, image, { version, label }) =>
  (await ask(address("explanations", model, { version, label }), { method: "POST", body: image })).blob();

export const correct = async (model, label) =>
  (await ask(address("feedback", model), { method: "POST", body: JSON.stringify(label) })).json();

export const figures = async () => (await ask("metrics")).json();
