// The page: asks for users, a history and a ranking, and shows them. The token lives in this tab and travels in a header only.
import { historyItem, largestChange, make, rankedItem } from "./render.js";

const element = (id) => document.getElementById(id);
const TOKEN = "sidkit-token";
const SHORT_HISTORY = matchMedia("(max-width: 760px)").matches ? 3 : 8;
const STEP = 20;
const BEST = 100;
const DAY = 86400000;

const page = {
  about: null,
  token: null,
  user: "",
  shown: null,
  pictures: new URLSearchParams(location.search).get("pictures") === "on",
  asked: 0,
};

class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** One request; an answer that is an error becomes an exception with its detail. */
async function call(path, body) {
  const headers = body === undefined ? {} : { "content-type": "application/json" };
  if (page.token) headers.authorization = `Bearer ${page.token}`;
  const method = body === undefined ? "GET" : "POST";
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), cache: "no-store" });
  } catch {
    throw new Refused(0, "The service does not answer.");
  }
  const value = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, value.detail || `status ${answer.status}`);
  return value;
}

function problem(error) {
  if (error.status === 401) {
    askForToken(page.token ? "The service refused this token." : "");
    return;
  }
  element("problem").textContent = error.message;
}

// The token

function askForToken(why) {
  page.token = null;
  sessionStorage.removeItem(TOKEN);
  element("main").hidden = true;
  element("signin").hidden = false;
  element("signin-problem").textContent = why;
  element("token").focus();
}

element("signin").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = element("token").value.trim();
  if (!/^[\x21-\x7e]+$/.test(given)) {
    askForToken("A token has ASCII characters and no spaces.");
    return;
  }
  page.token = given;
  element("token").value = "";
  start();
});

async function start() {
  try {
    page.about = await call("v1/about");
  } catch (error) {
    if (error.status === 401) askForToken(page.token ? "The service refused this token." : "");
    else {
      element("signin").hidden = true;
      element("main").hidden = false;
      element("problem").textContent = error.message;
    }
    return;
  }
  if (page.token) sessionStorage.setItem(TOKEN, page.token);
  const about = page.about;
  element("signin").hidden = true;
  element("main").hidden = false;
  element("problem").textContent = "";
  element("serving").textContent = `${about.ranker.name} on ${about.codebook.name}, ${about.items.toLocaleString("en")} items`;
  const until = new Date(about.features_until);
  const [, last] = element("moment").options;
  last.textContent = `${until.toISOString().slice(0, 16).replace("T", " ")} UTC (newest features)`;
  if (Date.now() - until > DAY) element("moment").value = "features";
  element("allow").hidden = about.pictures === null;
  element("pictures").checked = page.pictures;
  if (about.context.length) {
    element("context-field").hidden = false;
    element("context").value = JSON.stringify(Object.fromEntries(about.context.map((name) => [name, null])));
  }
  element("user").focus();
}

// Users: a combobox with a list of suggestions

const box = element("user");
const list = element("suggestions");
let waiting = 0;
let asking = 0;

function close() {
  clearTimeout(waiting);
  asking += 1; // an answer that is on its way opens nothing
  list.hidden = true;
  box.setAttribute("aria-expanded", "false");
  box.removeAttribute("aria-activedescendant");
}

function choose(id) {
  box.value = id;
  rank();
}

function activate(option) {
  for (const each of list.children) each.setAttribute("aria-selected", String(each === option));
  if (!option) {
    box.removeAttribute("aria-activedescendant");
    return;
  }
  box.setAttribute("aria-activedescendant", option.id);
  option.scrollIntoView({ block: "nearest" });
}

async function suggest() {
  const mine = (asking += 1);
  let users;
  try {
    ({ users } = await call(`v1/users?limit=12&prefix=${encodeURIComponent(box.value)}`));
  } catch (error) {
    problem(error);
    return;
  }
  if (mine !== asking || document.activeElement !== box) return;
  list.replaceChildren(...users.map((user, number) => {
    const clicks = make("span", { class: "quiet" }, `${user.clicks.toLocaleString("en")} positives`);
    const option = make("li", { role: "option", id: `user-${number}`, "aria-selected": "false", "data-user": user.user_id }, make("span", {}, user.user_id), clicks);
    option.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      choose(user.user_id);
    });
    return option;
  }));
  list.hidden = users.length === 0;
  box.setAttribute("aria-expanded", String(users.length > 0));
  box.removeAttribute("aria-activedescendant");
}

box.addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(suggest, 120);
});
box.addEventListener("focus", () => {
  if (!page.shown) suggest();
});
box.addEventListener("click", suggest);
box.addEventListener("blur", close);
box.addEventListener("keydown", (event) => {
  const options = [...list.children];
  const active = options.findIndex((each) => each.getAttribute("aria-selected") === "true");
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    if (list.hidden) {
      suggest();
      return;
    }
    const step = event.key === "ArrowDown" ? 1 : -1;
    const next = active < 0 ? (step > 0 ? 0 : options.length - 1) : (active + step + options.length) % options.length;
    activate(options[next]);
  } else if (event.key === "Escape") {
    close();
  } else if (event.key === "Enter" && !list.hidden && active >= 0) {
    event.preventDefault();
    choose(options[active].dataset.user);
  }
});

// What to rank

function showFields() {
  const by = element("by").value;
  for (const each of document.querySelectorAll("[data-by]")) each.hidden = each.dataset.by !== by;
}

function candidates() {
  const by = element("by").value;
  if (by === "popular") return { retrieve: { by, window: element("window").value, limit: 300 } };
  if (by === "similar") {
    const item = element("like").value.trim();
    if (!item) throw new Refused(422, "Enter the id of an item.");
    return { retrieve: { by, item_id: item, limit: 300 } };
  }
  if (by === "prefix") {
    const codes = element("codes").value.split(/[\s,]+/).filter(Boolean).map(Number);
    if (!codes.length || !codes.every((code) => Number.isInteger(code) && code >= 0)) throw new Refused(422, "Enter codes as whole numbers, such as 17, 3.");
    return { retrieve: { by, codes, limit: 300 } };
  }
  const ids = element("items").value.split(",").map((id) => id.trim()).filter(Boolean);
  if (!ids.length) throw new Refused(422, "Enter the ids of items, with commas between them.");
  return { item_ids: ids };
}

function context() {
  if (!page.about.context.length) return null;
  try {
    return JSON.parse(element("context").value);
  } catch {
    throw new Refused(422, 'Enter the values of the request as JSON, such as {"device": "phone"}.');
  }
}

async function rank() {
  const mine = (page.asked += 1);
  const user = box.value.trim();
  element("problem").textContent = "";
  if (!user) {
    element("problem").textContent = "Enter the id of a user.";
    box.focus();
    return;
  }
  close();
  document.body.classList.add("busy");
  try {
    const at = element("moment").value === "features" ? page.about.features_until : null;
    const body = { user_id: user, ...candidates(), k: BEST, explain: true, at, context: context() };
    const [history, answer] = await Promise.all([
      call(`v1/users/${encodeURIComponent(user)}/history?limit=200`),
      call("v1/rank", body),
    ]);
    const { items } = await call("v1/describe", { item_ids: answer.items.map((item) => item.item_id) });
    if (mine !== page.asked) return;
    answer.items = answer.items.map((item, number) => ({ ...items[number], ...item, codes: item.codes || items[number].codes }));
    page.shown = { history, answer, allHistory: false, count: STEP };
    show();
  } catch (error) {
    if (mine === page.asked) problem(error);
  } finally {
    if (mine === page.asked) document.body.classList.remove("busy");
  }
}

// What is shown

const look = () => ({
  sizes: page.about.sizes,
  pictures: page.pictures,
  calibrated: page.shown.answer.calibrated,
  scoreMeaning: `probability that the item is ${page.shown.answer.target}`,
  prefix: (codes) => again("prefix", "codes", codes.join(", ")),
  similar: (item) => again("similar", "like", item),
  kin: (code, on) => {
    for (const each of document.querySelectorAll(".event")) each.classList.toggle("kin", on && code !== null && each.dataset.code === String(code));
  },
});

function again(by, field, value) {
  element("by").value = by;
  element(field).value = value;
  showFields();
  rank().then(() => element("ranking").focus());
}

function show() {
  const { history, answer, allHistory, count } = page.shown;
  const options = look();
  const at = new Date(answer.at);
  const past = allHistory ? history.items : history.items.slice(0, SHORT_HISTORY);
  element("history").replaceChildren(...past.map((entry) => historyItem(entry, at, options)));
  element("history-count").textContent = history.length ? `${history.length} positives, newest first` : history.user_known ? "no positives yet" : "unknown user";
  element("more-history").hidden = past.length === history.items.length;
  const most = largestChange(answer.items);
  const best = answer.items.slice(0, count);
  element("list").replaceChildren(...best.map((item, number) => rankedItem(item, number + 1, most, options)));
  element("ranking-count").textContent = `best of ${answer.candidates.toLocaleString("en")} candidates, by the probability of “${answer.target}”`;
  element("hint").textContent = answer.calibrated ? "" : "Negatives were sampled, so scores rank items but are not rates.";
  element("hint").hidden = answer.calibrated;
  element("more").hidden = best.length === answer.items.length;
  element("legend").hidden = false;
}

element("more-history").addEventListener("click", () => {
  page.shown.allHistory = true;
  show();
});
element("more").addEventListener("click", () => {
  const first = page.shown.count;
  page.shown.count += STEP;
  show();
  element("list").children[first]?.querySelector("button")?.focus();
});
element("by").addEventListener("change", showFields);
element("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  rank();
});
element("pictures").addEventListener("change", (event) => {
  // The policy of the document forbids pictures of other hosts until it is loaded with this permission.
  location.search = event.target.checked ? "?pictures=on" : "";
});

page.token = sessionStorage.getItem(TOKEN);
showFields();
start();
