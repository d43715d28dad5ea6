// Making elements. Text only ever becomes a text node: whatever a model, a name or a config says, it is never markup.
"use strict";

// An element; a property that begins with "on" is a listener, true an attribute without value, false and null nothing.
function h(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child != null && child !== false).map(asNode));
  return node;
}

function asNode(child) {
  return child instanceof Node ? child : document.createTextNode(String(child));
}

// One clear line for a state of a page: loading, empty.
function line(text, ...more) {
  return h("p", { class: "line", role: "status" }, text, ...more);
}

// What went wrong, as the server says it.
function trouble(error, ...more) {
  return h("div", { class: "trouble", role: "alert" }, h("p", {}, error.message), ...more);
}

// A list of facts, [term, value] each; a value that is null or empty is left out.
function facts(rows) {
  const known = rows.filter(([, value]) => value != null && value !== "");
  return h("dl", { class: "facts" }, known.map(([term, value]) => [h("dt", {}, term), h("dd", {}, value)]));
}

let fields = 0;

// A labelled field. `control` gets an id, and the hint as its description.
function field(label, control, hint) {
  const id = `field-${++fields}`;
  control.id = id;
  if (hint) control.setAttribute("aria-describedby", `${id}-hint`);
  return h("div", { class: "field" },
    h("label", { for: id }, label), control, hint && h("p", { class: "hint", id: `${id}-hint` }, hint));
}

// A button that copies a text, and says so.
function copyButton(text, what) {
  const button = h("button", { type: "button", class: "quiet copy", "aria-label": `Copy ${what}` }, "Copy");
  button.addEventListener("click", async () => {
    button.textContent = (await copy(text())) ? "Copied" : "Press Ctrl+C";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  return button;
}

// Browsers have a clipboard only for https and this machine; elsewhere a selected text is copied the old way.
async function copy(text) {
  if (navigator.clipboard) {
    try { await navigator.clipboard.writeText(text); return true; } catch { /* It may be forbidden: the old way. */ }
  }
  const area = h("textarea", { class: "offscreen", readonly: true, "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  return copied;
}

// A block of code with its copy button.
function code(text, what) {
  return h("div", { class: "code" }, h("pre", { tabindex: "0", "aria-label": what }, h("code", {}, text)),
    copyButton(() => text, what));
}
