// An answer while it comes: its text, and what can be told of it.
"use strict";

const HEADERS = [["Served by", "served-model-name"], ["Request", "x-request-id"], ["Run", "x-mlflow-run-id"],
  ["Trace", "x-mlflow-trace-id"]];
// So many numbers of a vector.
const SHOWN = 8;

class Answer {
  constructor() {
    this.begun = performance.now();
    this.first = null;
    this.usage = null;
    this.named = [];
    this.text = h("div", { class: "text", "data-testid": "answer" });
    this.thought = h("div", { class: "text" });
    this.thinking = h("details", { hidden: true }, h("summary", {}, "Reasoning"), this.thought);
    this.status = h("p", { class: "line", role: "status" }, "Waiting for the first token…");
    this.told = h("div", {});
    this.element = h("div", { class: "answer" }, this.thinking, this.text, this.status, this.told);
  }

  // Take what the headers say.
  head(answer) {
    this.named = HEADERS.map(([term, header]) => [term, answer.headers.get(header)]);
  }

  // Take one chunk of a streamed answer.
  chunk(chunk) {
    if (chunk.error) throw new Refused(0, chunk.error.message);
    this.usage = chunk.usage ?? this.usage;
    const choice = chunk.choices?.[0];
    if (!choice) return;
    this.add(this.thought, choice.delta?.reasoning_content);
    this.add(this.text, choice.text ?? choice.delta?.content);
    this.thinking.hidden = !this.thought.hasChildNodes();
  }

  // Take an answer of embeddings, which comes whole.
  whole({ data, usage }) {
    this.usage = usage;
    const [first] = data;
    const numbers = first.embedding.slice(0, SHOWN).map((number) => Number(number).toFixed(4));
    const more = first.embedding.length > SHOWN ? ", …" : "";
    this.add(this.text, `${first.embedding.length} numbers: ${numbers.join(", ")}${more}`);
  }

  add(where, said) {
    const words = Array.isArray(said) ? said.map((part) => part.text ?? "").join("") : said;
    if (!words) return;
    if (this.first === null) {
      this.first = performance.now();
      this.status.textContent = "Answering…";
    }
    where.append(words);
  }

  end(how) {
    this.ended = performance.now();
    this.status.textContent = how;
    const { prompt_tokens: asked, completion_tokens: answered } = this.usage ?? {};
    const tokens = [asked != null && `${asked} in`, answered != null && `${answered} out`].filter(Boolean).join(", ");
    this.told.replaceChildren(facts([
      ["First token", this.first && duration(this.first - this.begun)],
      ["Total", duration(this.ended - this.begun)],
      ["Tokens", tokens],
      ...this.named.map(([term, value]) => [term, value && h("code", {}, value)]),
    ]));
  }
}

function duration(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`;
}
