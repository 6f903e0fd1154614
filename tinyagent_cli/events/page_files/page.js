"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const main = $("conversation");
  const items = () => [...main.querySelectorAll(".item")];

  // ---- dark and light ----
  const root = document.documentElement;
  const store = (value) => {
    try {
      if (value === undefined) return localStorage.getItem("tinyagent-theme");
      localStorage.setItem("tinyagent-theme", value);
    } catch { /* a file may have no storage */ }
    return null;
  };
  const isDark = () => root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  const toggleTheme = () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    store(root.dataset.theme);
  };
  if (["dark", "light"].includes(store())) root.dataset.theme = store();

  // ---- folding ----
  const fold = $("fold");
  const toggleAll = () => {
    const open = fold.getAttribute("aria-pressed") !== "true";
    for (const details of main.querySelectorAll("details")) details.open = open;
    fold.setAttribute("aria-pressed", String(open));
    fold.textContent = open ? "Close all" : "Open all";
  };

  // ---- moving from item to item ----
  let current = null;
  const focusItem = (item) => {
    current = item;
    (item.matches("details") ? item.querySelector("summary") : item).focus({ preventScroll: true });
    item.scrollIntoView({ block: "nearest" });
  };
  const move = (step) => {
    const all = items();
    if (!all.length) return;
    const within = document.activeElement && document.activeElement.closest(".item");
    const place = all.indexOf(within || (current && current.isConnected ? current : null));
    const next = place < 0 ? (step > 0 ? 0 : all.length - 1) : place + step;
    focusItem(all[Math.max(0, Math.min(next, all.length - 1))]);
  };
  const openItem = () => {
    const item = document.activeElement && document.activeElement.closest(".item");
    const details = item && (item.matches("details") ? item : item.querySelector("details"));
    if (details) details.open = !details.open;
  };
  // A link of the time line opens its tool call.
  const openTarget = () => {
    const item = location.hash.length > 1 ? $(location.hash.slice(1)) : null;
    if (item && item.matches("details")) item.open = true;
    if (item && main.contains(item)) {
      (item.matches("details") ? item.querySelector("summary") : item).focus({ preventScroll: true });
    }
  };
  addEventListener("hashchange", openTarget);

  // ---- search ----
  const query = $("query");
  const MOST = 5000;
  let matches = [];
  let place = -1;
  const highlights = globalThis.CSS && CSS.highlights && globalThis.Highlight ? CSS.highlights : null;
  const paint = () => {
    if (highlights) {
      highlights.set("match", new Highlight(...matches.filter((_, index) => index !== place)));
      highlights.set("current", new Highlight(...matches.slice(place, place + 1)));
    }
    const count = matches.length >= MOST ? `${MOST}+` : String(matches.length);
    $("found").textContent = query.value.trim() ? (place < 0 ? count : `${place + 1} of ${count}`) : "";
    $("next").disabled = $("previous").disabled = !matches.length;
  };
  // Code has many elements in a line, so the text of a block is searched as a whole.
  const BLOCKS = "pre, p, li, td, th, dt, dd, h1, h2, h3, h4, h5, h6, div, span.fact, span.line, summary, main";
  const search = (nodes, pattern) => {
    const ends = [];
    let text = "";
    for (const node of nodes) { text += node.data; ends.push(text.length); }
    let at = 0;
    for (const hit of text.matchAll(pattern)) {
      if (matches.length >= MOST) return;
      const end = hit.index + hit[0].length;
      const range = new Range();
      while (ends[at] <= hit.index) at += 1;
      range.setStart(nodes[at], hit.index - ends[at] + nodes[at].length);
      let last = at;
      while (ends[last] < end) last += 1;
      range.setEnd(nodes[last], end - ends[last] + nodes[last].length);
      matches.push(range);
    }
  };
  const find = () => {
    const text = query.value.trim();
    matches = [];
    place = -1;
    if (text) {
      const pattern = new RegExp(text.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&"), "giu");
      const walker = document.createTreeWalker(main, NodeFilter.SHOW_TEXT);
      let nodes = [];
      let owner = null;
      while (matches.length < MOST && walker.nextNode()) {
        const node = walker.currentNode;
        const block = node.parentElement.closest(BLOCKS);
        if (block !== owner) {
          search(nodes, pattern);
          nodes = [];
          owner = block;
        }
        nodes.push(node);
      }
      search(nodes, pattern);
    }
    paint();
  };
  const show = (step) => {
    if (!matches.length) return;
    place = place < 0 ? (step > 0 ? 0 : matches.length - 1) : (place + step + matches.length) % matches.length;
    const range = matches[place];
    let element = range.startContainer.parentElement;
    for (let outer = element; outer && outer !== main; outer = outer.parentElement) {
      if (outer.matches("details") && !range.startContainer.parentElement.closest("summary")) outer.open = true;
    }
    current = element.closest(".item") || current;
    element.scrollIntoView({ block: "center" });
    const box = range.getBoundingClientRect();
    if (box.height && (box.top < 120 || box.bottom > innerHeight)) scrollBy(0, box.top - innerHeight / 2);
    paint();
  };
  let timer = 0;
  query.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(find, 150); });
  query.addEventListener("keydown", (event) => {
    if (event.key === "Enter") {
      event.preventDefault();
      if (timer) { clearTimeout(timer); timer = 0; if (place < 0) find(); }
      show(event.shiftKey ? -1 : 1);
    } else if (event.key === "Escape") {
      query.value = "";
      find();
      if (current) focusItem(current); else query.blur();
    }
  });

  // ---- keys ----
  const keys = {
    "/": () => { query.focus(); query.select(); },
    "j": () => move(1),
    "k": () => move(-1),
    "o": openItem,
    "e": toggleAll,
    "t": toggleTheme,
    "?": () => $("keys").showModal(),
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing || $("keys").open) return;
    if (event.target instanceof Element && event.target.closest("input, textarea, select")) return;
    if (Object.hasOwn(keys, event.key)) {
      event.preventDefault();
      keys[event.key]();
    }
  });
  $("theme").addEventListener("click", toggleTheme);
  $("fold").addEventListener("click", toggleAll);
  $("help").addEventListener("click", keys["?"]);
  $("next").addEventListener("click", () => show(1));
  $("previous").addEventListener("click", () => show(-1));
  $("tools").hidden = false;
  if ($("timeline") && matchMedia("(max-width: 60rem)").matches) $("timeline").open = false;
  openTarget();

  // ---- a live run ----
  const address = document.body.dataset.events;
  if (!address) return;
  const state = (text, on) => {
    $("status").textContent = text;
    $("status").className = on ? "on" : "off";
  };
  const parse = (html) => {
    const template = document.createElement("template");
    template.innerHTML = html;
    return template.content.firstElementChild;
  };
  const put = ({ id, html }) => {
    const old = $(id);
    const made = html ? parse(html) : null;
    if (old && made) {
      // What the user has opened or closed stays so, and what is scrolled stays in place.
      const all = (element) => [...(element.matches("details") ? [element] : []), ...element.querySelectorAll("details")];
      const fresh = all(made);
      all(old).forEach((details, index) => {
        if (fresh[index] && (details.open || !details.matches(".running"))) fresh[index].open = details.open;
      });
      const focused = old.contains(document.activeElement) ? document.activeElement : null;
      const top = old.scrollTop;
      old.replaceWith(made);
      made.scrollTop = top;
      if (focused && made.matches("details")) made.querySelector("summary").focus({ preventScroll: true });
    } else if (old) {
      old.replaceWith(placeholder(id));
    } else {
      main.append(made || placeholder(id));
    }
  };
  const placeholder = (id) => {
    const empty = document.createElement("span");
    empty.id = id;
    empty.hidden = true;
    return empty;
  };
  const source = new EventSource(address);
  source.onopen = () => state("live", true);
  source.onerror = () => state("disconnected", false);
  source.addEventListener("parts", (event) => {
    const atEnd = innerHeight + scrollY >= document.documentElement.scrollHeight - 60;
    for (const part of JSON.parse(event.data)) put(part);
    if (atEnd) scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });
    if (query.value.trim()) { const at = place; find(); place = Math.min(at, matches.length - 1); paint(); }
  });
  source.addEventListener("reload", () => location.reload());
  source.addEventListener("end", () => { source.close(); state("ended", false); });
})();
