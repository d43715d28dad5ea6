// The form for a new endpoint of an external model; beside it the file that would say the same.
"use strict";

const NAME = "[A-Za-z0-9][A-Za-z0-9_\\-]{0,62}";

async function createPage(page) {
  page.title("New endpoint");
  const form = new CreateForm(page);
  const file = h("section", { class: "aside sticky", "aria-label": "Endpoint file" },
    h("div", { class: "head" }, h("h2", {}, "As a file"), copyButton(() => form.yaml(), "the endpoint file")),
    form.preview,
    h("p", { class: "hint" }, "Instead of creating it here, you may put this into the folder that the server reads."));
  page.show(h("div", { class: "columns" }, form.element, file));
}

class CreateForm {
  constructor(page) {
    this.page = page;
    this.preview = h("pre", { class: "yaml", tabindex: "0", "aria-label": "YAML of the endpoint" });
    this.name = h("input", { required: true, pattern: NAME, autocomplete: "off", spellcheck: "false", autocapitalize: "none",
      title: "1 to 63 letters, digits, dashes and underscores" });
    this.provider = h("select", { oninput: () => this.choose() },
      PROVIDERS.map((row, number) => h("option", { value: number }, row.label)));
    this.model = h("input", { required: true, autocomplete: "off", spellcheck: "false", autocapitalize: "none" });
    this.task = h("select", {}, Object.entries(TASKS).map(([task, label]) => h("option", { value: task }, label)));
    this.description = h("input", { autocomplete: "off" });
    this.asked = h("div", {});
    this.problem = h("div", {});
    this.button = h("button", { type: "submit" }, "Create endpoint");
    this.element = h("form", { onsubmit: (event) => this.submit(event), oninput: () => this.write() },
      field("Name", this.name, "What callers ask for. It cannot be changed later."),
      field("Provider", this.provider),
      h("div", { class: "pair" }, field("Model", this.model), field("Task", this.task)),
      this.asked,
      field("Description (optional)", this.description),
      this.problem,
      h("p", { class: "actions" }, this.button, h("a", { class: "button quiet", href: "#/" }, "Cancel")));
    this.choose();
  }

  get row() { return PROVIDERS[Number(this.provider.value)]; }

  choose() {
    this.model.placeholder = this.row.model;
    this.inputs = new Map(this.row.fields.map((asked) => [asked.name, control(asked)]));
    this.asked.replaceChildren(...this.row.fields.map((asked) =>
      field(asked.optional ? `${asked.label} (optional)` : asked.label, this.inputs.get(asked.name), hint(asked))));
    this.write();
  }

  // The document as it stands. What should be a reference and is none is never repeated.
  document() {
    const values = {};
    for (const asked of this.row.fields) {
      const given = this.inputs.get(asked.name).value.trim();
      values[asked.name] = asked.kind === "secret" && given && !REFERENCE.test(given) ? "{{secrets/<scope>/<key>}}" : given;
    }
    const { name, description, model, task } = this;
    return endpointDocument(this.row, { name: name.value.trim(), description: description.value.trim(),
      model: model.value.trim(), task: task.value, values });
  }

  yaml() { return yaml(this.document()); }

  write() {
    for (const asked of this.row.fields) check(asked, this.inputs.get(asked.name));
    this.preview.textContent = this.yaml();
  }

  async submit(event) {
    event.preventDefault();
    this.problem.replaceChildren();
    this.button.disabled = true;
    try {
      const made = await call(ENDPOINTS, { method: "POST", body: this.document(), signal: this.page.signal });
      location.hash = href(made.name);
    } catch (error) {
      if (!this.page.failed(error)) this.problem.replaceChildren(trouble(error));
    } finally {
      this.button.disabled = false;
    }
  }
}

function control({ kind, value, example, optional }) {
  const input = h("input", { type: kind === "url" ? "url" : "text", required: !optional, placeholder: example,
    autocomplete: "off", spellcheck: "false", autocapitalize: "none", class: kind === "secret" ? "mono" : null });
  if (value) input.value = value;
  return input;
}

function check({ kind }, input) {
  const given = input.value.trim();
  const wrong = kind === "secret" && given && !REFERENCE.test(given);
  input.setCustomValidity(wrong ? "Not the key itself: a reference like {{secrets/openai/key}}" : "");
}

function hint({ kind }) {
  return kind === "secret" && ["A reference, never the key. Put the key on the server: ",
    h("code", {}, "llmops secrets put <scope> <key>")];
}
