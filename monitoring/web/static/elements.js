// Elements of the page. Text becomes text nodes, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** Return an element with properties; those with a hyphen, `role` and those of SVG are attributes. */
export function element(name, properties = {}, ...children) {
  return filled(document.createElement(name), properties, children, (key) => key.includes("-") || key === "role");
}

export function drawn(name, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, name), properties, children, () => true);
}

function filled(node, properties, children, isAttribute) {
  for (const [key, value] of Object.entries(properties)) {
    if (isAttribute(key)) node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children);
  return node;
}

/** Set text only if it changes: a status is read aloud again each time. */
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
  node.hidden = text === "";
}

export function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

export function milliseconds(seconds) {
  return seconds < 10 ? `${Math.max(1, Math.round(1000 * seconds))} ms` : `${seconds.toFixed(1)} s`;
}
