// Ready-made calls of an endpoint: curl, the openai package, and MLflow's Deployments client.
"use strict";

const BODIES = {
  "llm/v1/chat": { messages: [{ role: "user", content: "Hello!" }] },
  "llm/v1/completions": { prompt: "Once upon a time" },
  "llm/v1/embeddings": { input: ["a text"] },
};
const OPENAI = {
  "llm/v1/chat": ["chat.completions", 'messages=[{"role": "user", "content": "Hello!"}]', "choices[0].message.content"],
  "llm/v1/completions": ["completions", 'prompt="Once upon a time"', "choices[0].text"],
  "llm/v1/embeddings": ["embeddings", 'input=["a text"]', "data[0].embedding[:5]"],
};

// The snippets of an endpoint, [title, text] each. They name a variable where a token is needed, never the token.
function snippets(name, task) {
  const [api, asked, answer] = OPENAI[task];
  const token = session.token ? 'os.environ["LLMOPS_TOKEN"]' : '"no-token-needed"';
  const body = JSON.stringify(BODIES[task]);
  const curl = [`curl ${location.origin}/serving-endpoints/${name}/invocations`,
    ...(session.token ? ['-H "authorization: Bearer $LLMOPS_TOKEN"'] : []),
    "-H 'content-type: application/json'", `-d '${body}'`];
  const dictionary = answer.replace(/\.(\w+)/g, '["$1"]').replace(/^(\w+)/, '["$1"]');
  return [
    ["curl", curl.join(" \\\n  ") + "\n"],
    ["Python, openai", `${session.token ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url="${location.origin}/v1", api_key=${token})
answer = client.${api}.create(
    model="${name}",
    ${asked},
)
print(answer.${answer})
`],
    ["Python, MLflow", `import os

from mlflow.deployments import get_deploy_client

os.environ["DATABRICKS_HOST"] = "${location.origin}"
os.environ["DATABRICKS_TOKEN"] = ${token}

client = get_deploy_client("databricks")
answer = client.predict(endpoint="${name}", inputs=${body})
print(answer${dictionary})
`],
  ];
}

// Tabs, one for each snippet; arrow keys go from one to the next.
function snippetTabs(name, task) {
  const all = snippets(name, task);
  const panel = h("div", { role: "tabpanel", id: "snippet" });
  const tabs = all.map(([title], number) => h("button", { type: "button", role: "tab", id: `tab-${number}`,
    "aria-controls": "snippet", onclick: () => choose(number) }, title));
  const choose = (chosen) => {
    tabs.forEach((tab, number) => {
      tab.setAttribute("aria-selected", String(number === chosen));
      tab.tabIndex = number === chosen ? 0 : -1;
    });
    panel.setAttribute("aria-labelledby", `tab-${chosen}`);
    panel.replaceChildren(code(all[chosen][1], all[chosen][0]));
  };
  const move = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = (tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length;
    choose(next);
    tabs[next].focus();
  };
  choose(0);
  return [h("div", { role: "tablist", class: "tabs", "aria-label": "Language", onkeydown: move }, tabs), panel];
}
