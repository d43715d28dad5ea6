// The query panel: one prompt, its answer as it streams, and a way to stop it.
"use strict";

class QueryPanel {
  constructor(page, endpoint) {
    this.page = page;
    this.endpoint = endpoint;
    this.task = endpoint.task;
    this.prompt = h("textarea", { rows: "3", required: true, onkeydown: (event) => this.key(event) });
    this.system = h("textarea", { rows: "2" });
    this.limit = h("input", { type: "number", min: "1", step: "1", inputmode: "numeric" });
    this.temperature = h("input", { type: "number", min: "0", max: "2", step: "any", inputmode: "decimal" });
    this.sender = h("button", { type: "submit" }, "Send");
    this.stop = h("button", { type: "button", class: "quiet", hidden: true, onclick: () => this.stopping.abort() }, "Stop");
    this.out = h("div", {});
    const chat = this.task === "llm/v1/chat", streams = this.task !== "llm/v1/embeddings";
    this.element = h("section", { "aria-label": "Query" }, h("h2", {}, "Query"),
      h("form", { onsubmit: (event) => { event.preventDefault(); this.ask(); } },
        field(chat ? "Message" : streams ? "Prompt" : "Text", this.prompt),
        streams && h("details", {}, h("summary", {}, "Options"),
          chat && field("System message", this.system),
          h("div", { class: "pair" }, field("Most tokens", this.limit), field("Temperature", this.temperature))),
        h("p", { class: "actions" }, this.sender, this.stop, h("span", { class: "hint" }, "Ctrl+Enter sends"))),
      this.out);
  }

  key(event) {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    event.target.form.requestSubmit();
  }

  body() {
    if (this.task === "llm/v1/embeddings") return { input: [this.prompt.value] };
    const options = { stream: true, stream_options: { include_usage: true } };
    if (this.limit.value) options.max_tokens = this.limit.valueAsNumber;
    if (this.temperature.value) options.temperature = this.temperature.valueAsNumber;
    if (this.task === "llm/v1/completions") return { prompt: this.prompt.value, ...options };
    const system = this.system.value.trim() ? [{ role: "system", content: this.system.value }] : [];
    return { messages: [...system, { role: "user", content: this.prompt.value }], ...options };
  }

  async ask() {
    // A second Ctrl+Enter while the first answer comes is one too many.
    if (this.sender.disabled) return;
    const answer = new Answer();
    this.stopping = new AbortController();
    this.busy(true);
    this.out.replaceChildren(answer.element);
    try {
      await this.receive(answer, AbortSignal.any([this.stopping.signal, this.page.signal]));
      answer.end("Done.");
    } catch (error) {
      this.failed(answer, error);
    } finally {
      this.busy(false);
    }
  }

  async receive(answer, signal) {
    const path = `/serving-endpoints/${encodeURIComponent(this.endpoint.name)}/invocations`;
    const reply = await send(path, { method: "POST", body: this.body(), signal });
    answer.head(reply);
    if (this.task === "llm/v1/embeddings") return answer.whole(await reply.json());
    for await (const chunk of events(reply)) answer.chunk(chunk);
  }

  failed(answer, error) {
    if (this.stopping.signal.aborted) return answer.end("Stopped. What had come stays.");
    if (this.page.failed(error)) return;
    if (error.answer) answer.head(error.answer);
    answer.end(answer.first === null ? "No answer." : "The answer broke off.");
    answer.status.after(trouble(error instanceof Refused ? error : new Refused(0, "The connection broke off.")));
  }

  busy(now) {
    this.sender.disabled = now;
    this.stop.hidden = !now;
    this.element.setAttribute("aria-busy", String(now));
  }
}
