// Which page is shown, and signing in.
"use strict";

// A page by the pattern of its address behind the #; what the pattern caught is handed to it. Last: its link above.
const PAGES = [
  [/^(?:#\/?)?$/, endpointsPage, "endpoints"],
  [/^#\/new$/, createPage, "endpoints"],
  [/^#\/endpoints\/([^/]+)$/, overviewPage, "endpoints"],
  [/^/, lostPage, null],
];
const AGAIN_AFTER_MS = 1500;

const main = document.getElementById("main");
const signOut = document.getElementById("sign-out");

// What one page may do with the place it is shown in, until another takes it.
class Page {
  constructor(make) {
    this.make = make;
    this.leaving = new AbortController();
    this.signal = this.leaving.signal;
    this.heading = h("h1", { tabindex: "-1" });
    this.top = h("div", { class: "top" }, this.heading);
    this.rest = h("div", {});
    main.replaceChildren(this.top, this.rest);
  }

  // The heading of the page, and what stands beside it.
  title(text, ...beside) {
    document.title = `${text} · llmops`;
    this.heading.textContent = text;
    while (this.heading.nextSibling) this.heading.nextSibling.remove();
    this.top.append(...beside);
  }

  show(...parts) {
    this.rest.replaceChildren(...parts.flat(Infinity).filter(Boolean));
  }

  // Say that something is on its way, until it is here.
  async load(get) {
    if (!this.rest.hasChildNodes()) this.show(line("Loading…"));
    return get();
  }

  async run() {
    try {
      await this.make(this);
    } catch (error) {
      if (this.failed(error)) return;
      this.show(trouble(error, error.status !== 404
        && h("button", { type: "button", class: "quiet", onclick: () => this.run() }, "Try again")));
    }
  }

  // Do something a little later, if the page is still there.
  later(act) {
    const timer = setTimeout(() => act().catch((error) => this.failed(error)), AGAIN_AFTER_MS);
    this.signal.addEventListener("abort", () => clearTimeout(timer));
  }

  // Whether an error needs no word here: the page was left, or the token is asked for.
  failed(error) {
    if (this.signal.aborted) return true;
    if (error.status !== 401) return false;
    signIn(session.token ? error.message : "");
    return true;
  }
}

let current = null;

function turn(make) {
  current?.leaving.abort();
  current = new Page(make);
  return current;
}

function route() {
  const [pattern, make, group] = PAGES.find(([known]) => known.test(location.hash));
  for (const link of document.querySelectorAll("nav a")) {
    link.setAttribute("aria-current", link.dataset.page === group ? "page" : "false");
  }
  signOut.hidden = !session.token;
  const parts = pattern.exec(location.hash).slice(1).map(unescaped);
  turn((page) => make(page, ...parts)).run();
}

function unescaped(part) {
  try { return decodeURIComponent(part); } catch { return part; }
}

async function lostPage(page) {
  page.title("Nothing here");
  page.show(line("There is no such page. ", h("a", { href: "#/" }, "See the endpoints"), "."));
}

// Ask for a token, try it, and keep it for this tab.
function signIn(problem) {
  session.token = null;
  signOut.hidden = true;
  turn(async (page) => {
    page.title("Sign in");
    const told = h("div", {}, problem && trouble({ message: problem }));
    const token = h("input", { type: "password", required: true, autocomplete: "off", spellcheck: "false",
      pattern: "[!-~]+", title: "Letters, digits and signs without spaces" });
    const enter = async (event) => {
      event.preventDefault();
      told.replaceChildren();
      try {
        await call(ENDPOINTS, { token: token.value.trim(), signal: page.signal });
        session.token = token.value.trim();
        route();
      } catch (error) {
        if (!page.signal.aborted) told.replaceChildren(trouble(error));
      }
    };
    page.show(h("form", { class: "narrow", onsubmit: enter },
      field("Token", token, ["Make one on the server: ", h("code", {}, "llmops tokens create"),
        ". This tab forgets it when it is closed."]),
      told, h("p", { class: "actions" }, h("button", { type: "submit" }, "Sign in"))));
    token.focus();
  }).run();
}

addEventListener("hashchange", () => {
  route();
  // A screen reader is told of the new page by its heading.
  main.querySelector("h1")?.focus();
});
signOut.addEventListener("click", () => signIn(""));

// The server says so in the page where it was asked for without a token.
if (document.documentElement.dataset.signIn !== undefined && !session.token) signIn("");
else route();
