// The first page: every endpoint with its state, foundation models first.
"use strict";

const TASKS = { "llm/v1/chat": "Chat", "llm/v1/completions": "Completions", "llm/v1/embeddings": "Embeddings" };
const GROUPS = [["Foundation models", (one) => !isExternal(one)], ["External models", isExternal]];
// So many endpoints can be looked over; more get a field to search them.
const FEW = 8;

const updating = (endpoint) => endpoint.state.config_update === "IN_PROGRESS";
const href = (name) => `#/endpoints/${encodeURIComponent(name)}`;
const fileName = (path) => path.split(/[\\/]/).pop();

async function endpointsPage(page) {
  page.title("Endpoints", h("a", { class: "button", href: "#/new" }, "New endpoint"));
  const get = async () => (await call(ENDPOINTS, { signal: page.signal })).endpoints;
  let endpoints = await page.load(get);
  if (!endpoints.length) {
    page.show(line("There are no endpoints yet. ", h("a", { href: "#/new" }, "Create one"),
      ", or put a file into the folder that the server reads."));
    return;
  }
  const tables = h("div", {});
  const input = h("input", { type: "search", autocomplete: "off", oninput: () => list() });
  const list = () => {
    const words = input.value.toLowerCase().trim().split(/\s+/);
    const found = endpoints.filter((one) => words.every((word) => searched(one).includes(word)));
    tables.replaceChildren(...(found.length ? GROUPS.flatMap(([title, fits]) => group(title, found.filter(fits)))
      : [line("No endpoint has that in its name, its models or its tags.")]));
  };
  // While one is being made ready, look again.
  const follow = () => endpoints.some(updating) && page.later(async () => {
    endpoints = await get();
    list();
    follow();
  });
  list();
  page.show(endpoints.length > FEW && h("div", { class: "finder" }, field("Find", input)), tables);
  follow();
}

function isExternal(endpoint) {
  return endpoint.endpoint_type === "EXTERNAL_MODEL";
}

function searched(endpoint) {
  const tags = (endpoint.tags ?? []).map((tag) => `${tag.key} ${tag.value ?? ""}`);
  return [endpoint.name, ...models(endpoint), ...tags].join(" ").toLowerCase();
}

function group(title, endpoints) {
  if (!endpoints.length) return [];
  const sorted = endpoints.sort((one, other) => one.name.localeCompare(other.name));
  const heads = ["Name", "State", "Models", "Task", "From"].map((head) => h("th", { scope: "col" }, head));
  return [h("h2", {}, title),
    h("table", { class: "endpoints", "aria-label": title }, h("thead", {}, h("tr", {}, heads)),
      h("tbody", {}, sorted.map(row)))];
}

function row(endpoint) {
  return h("tr", {},
    h("th", { scope: "row" }, h("a", { href: href(endpoint.name) }, endpoint.name),
      endpoint.description && h("p", { class: "hint" }, endpoint.description)),
    h("td", {}, stateMark(endpoint)),
    h("td", { class: "models" }, models(endpoint).join(", ")),
    h("td", {}, TASKS[endpoint.task] ?? endpoint.task ?? ""),
    h("td", { class: "from" }, from(endpoint)));
}

function models(endpoint) {
  return (shownConfig(endpoint).served_entities ?? []).map(modelName);
}

// What serves; until the first one is ready, the one that waits.
function shownConfig(endpoint) {
  return endpoint.config ?? endpoint.pending_config ?? {};
}

function modelName(entity) {
  return entity.external_model ? entity.external_model.name : entity.entity_name ?? entity.name;
}

function from(endpoint) {
  const source = endpoint.llmops?.source;
  return source ? h("span", { title: source }, fileName(source)) : endpoint.creator || "REST";
}

function stateMark(endpoint) {
  const [kind, label] = updating(endpoint) ? ["waits", "Updating"]
    : endpoint.state.ready === "READY" ? ["ready", "Ready"] : ["failed", "Not ready"];
  return h("span", { class: `state ${kind}` }, label);
}
