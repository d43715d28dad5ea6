// The page of one endpoint: query it, call it from code, see what it is made of, delete it.
"use strict";

async function overviewPage(page, name) {
  page.title(name);
  const endpoint = await page.load(() => call(endpointPath(name), { signal: page.signal }));
  const state = h("div", {}), parts = h("div", {});
  const write = (now) => {
    state.replaceChildren(stateMark(now));
    parts.replaceChildren(...[entities(now), gateway(now), metadata(now)].filter(Boolean));
  };
  write(endpoint);
  page.title(name, state);
  const problem = endpoint.llmops?.problem;
  page.show(endpoint.description && h("p", { class: "lead" }, endpoint.description),
    problem && trouble({ message: problem }),
    h("div", { class: "columns" },
      h("div", {}, asking(page, endpoint)),
      h("div", { class: "aside" }, parts, removal(page, endpoint))));
  follow(page, name, endpoint, write);
}

// While it is being made ready, look again; what was typed or answered stays.
function follow(page, name, endpoint, write) {
  if (!updating(endpoint)) return;
  page.later(async () => {
    const now = await call(endpointPath(name), { signal: page.signal });
    write(now);
    follow(page, name, now, write);
  });
}

function asking(page, endpoint) {
  if (!TASKS[endpoint.task]) return line("What it does is not known, because its file has an error.");
  const address = `${location.origin}/serving-endpoints/${endpoint.name}/invocations`;
  return [new QueryPanel(page, endpoint).element,
    h("section", { "aria-label": "Call it" }, h("h2", {}, "Call it"),
      code(address, "URL"), snippetTabs(endpoint.name, endpoint.task))];
}

function entities(endpoint) {
  const config = shownConfig(endpoint);
  const share = new Map((config.traffic_config?.routes ?? [])
    .map((route) => [route.served_entity_name, route.traffic_percentage]));
  return h("section", { "aria-label": "Served entities" }, h("h2", {}, "Served entities"),
    h("ul", { class: "cards" },
      (config.served_entities ?? []).map((one) => entityCard(one, share.get(one.name)))));
}

function entityCard(entity, percentage = 0) {
  const bar = h("div", { class: "share", "aria-hidden": "true" }, h("div", {}));
  bar.firstChild.style.width = `${percentage}%`;
  const { deployment, deployment_state_message: reason } = entity.state;
  const [kind, label] = { DEPLOYMENT_READY: ["ready", "Ready"], DEPLOYMENT_CREATING: ["waits", "Starting"] }[deployment]
    ?? ["failed", "Not ready"];
  const vendorName = entity.external_model ? entity.external_model.provider : entity.llmops?.engine;
  return h("li", {}, h("div", { class: "head" }, h("h3", {}, entity.name), h("span", { class: `state ${kind}` }, label)),
    h("p", { class: "hint" }, [modelName(entity), vendorName].filter(Boolean).join(" · ")),
    reason && h("p", { class: "reason" }, reason),
    bar, h("p", { class: "hint" }, `${percentage} % of the traffic`));
}

function gateway(endpoint) {
  if (!endpoint.ai_gateway || !Object.keys(endpoint.ai_gateway).length) return null;
  return h("section", { "aria-label": "AI gateway" }, h("h2", {}, "AI gateway"),
    h("pre", { class: "yaml", tabindex: "0" }, yaml(endpoint.ai_gateway)));
}

function metadata(endpoint) {
  const tags = (endpoint.tags ?? []).map((tag) => tag.value ? `${tag.key}: ${tag.value}` : tag.key).join(", ");
  return h("section", { "aria-label": "Details" }, h("h2", {}, "Details"), facts([
    ["Task", TASKS[endpoint.task]],
    ["Config version", shownConfig(endpoint).config_version],
    ["File", endpoint.llmops?.source],
    ["Creator", endpoint.creator],
    ["Created", moment(endpoint.creation_timestamp)],
    ["Updated", moment(endpoint.last_updated_timestamp)],
    ["Tags", tags],
    ["Id", h("code", {}, endpoint.id)],
  ]));
}

function moment(ms) {
  return ms && h("time", { datetime: new Date(ms).toISOString() },
    new Date(ms).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" }));
}

function removal(page, endpoint) {
  const source = endpoint.llmops?.source;
  if (source) {
    return h("section", { "aria-label": "Delete" }, h("h2", {}, "Delete"),
      h("p", { class: "hint" }, "The file ", h("code", {}, fileName(source)),
        " owns this endpoint. Change it there, or remove the file to delete the endpoint."));
  }
  if ((endpoint.permission_level ?? "CAN_MANAGE") !== "CAN_MANAGE") return null;
  const dialog = confirmation(page, endpoint.name);
  return h("section", { "aria-label": "Delete" }, h("h2", {}, "Delete"), dialog,
    h("button", { type: "button", class: "danger", onclick: () => dialog.showModal() }, "Delete endpoint…"));
}

function confirmation(page, name) {
  const problem = h("div", {});
  const remove = async () => {
    try {
      await call(endpointPath(name), { method: "DELETE", signal: page.signal });
      dialog.close();
      location.hash = "#/";
    } catch (error) {
      if (!page.failed(error)) problem.replaceChildren(trouble(error));
    }
  };
  const dialog = h("dialog", { "aria-labelledby": "delete-title" },
    h("h2", { id: "delete-title" }, `Delete ${name}?`),
    h("p", {}, "Whoever calls it gets 404 from now on. What was logged stays."), problem,
    h("p", { class: "actions" }, h("button", { type: "button", class: "danger", onclick: remove }, "Delete"),
      h("button", { type: "button", class: "quiet", autofocus: true, onclick: () => dialog.close() }, "Cancel")));
  return dialog;
}
