// Speaking to the server this page came from, with the token of this browser tab.
"use strict";

const ENDPOINTS = "/api/2.0/serving-endpoints";
const TOKEN = "llmops.token";

// The token lives as long as the tab, and goes nowhere but into the header of a request to this server.
const session = {
  get token() { return sessionStorage.getItem(TOKEN); },
  set token(value) { value ? sessionStorage.setItem(TOKEN, value) : sessionStorage.removeItem(TOKEN); },
};

// An answer that is no success. `status` is 0 where the server did not answer at all.
class Refused extends Error {
  constructor(status, message, answer = null) {
    super(message);
    this.status = status;
    this.answer = answer;
  }
}

// Send a request; a body is sent as JSON. Returns the answer once it has begun; throws Refused, or what `signal` says.
async function send(path, { method = "GET", body, signal, token = session.token } = {}) {
  const headers = {};
  if (body) headers["content-type"] = "application/json";
  if (token) headers.authorization = `Bearer ${token}`;
  const options = { method, headers, signal, body: body && JSON.stringify(body), cache: "no-store", redirect: "error" };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refused(0, "The server does not answer. Is it running?");
  }
  if (!answer.ok) throw new Refused(answer.status, await reason(answer), answer);
  return answer;
}

// The same, for answers that are JSON.
async function call(path, options) {
  return (await send(path, options)).json();
}

async function reason(answer) {
  try {
    const body = await answer.json();
    return body.message || body.error.message;
  } catch {
    return `The server answered ${answer.status} and gave no reason.`;
  }
}

// Read server-sent events from an answer; yields each event's JSON until [DONE].
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new Refused(0, "The answer ended before it was complete.");
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const one of lines) {
        if (!one.startsWith("data:")) continue;
        const said = one.slice(5).trim();
        if (said === "[DONE]") return;
        yield JSON.parse(said);
      }
    }
  } finally {
    // Whoever stops reading hangs up; the server then stops the model.
    reader.cancel().catch(() => {});
  }
}

function endpointPath(name) {
  return `${ENDPOINTS}/${encodeURIComponent(name)}`;
}
