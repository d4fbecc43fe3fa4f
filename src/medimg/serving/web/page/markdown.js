// The part of Markdown that a model card uses, as elements. HTML in it stays text, and so does what is not known here.

import { element } from "./elements.js";

const FRONT_MATTER = /^---\n[\s\S]*?\n---\n/;
const INLINE = /`([^`]+)`|\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*|\[([^\]]+)\]\((https?:\/\/[^\s)]+)\)/g;

/** Returns the elements of a text in Markdown. */
export function markdown(text) {
  const lines = text.replaceAll("\r\n", "\n").replace(FRONT_MATTER, "").split("\n");
  const found = document.createDocumentFragment();
  let at = 0;
  const take = (test) => {
    const taken = [];
    while (at < lines.length && test(lines[at])) taken.push(lines[at++]);
    return taken;
  };
  while (at < lines.length) {
    const line = lines[at];
    const heading = /^(#{1,5}) +(.*)$/.exec(line);
    if (!line.trim()) at += 1;
    else if (heading) {
      at += 1;
      // The page has its h1, and the dialog its h2.
      found.append(element(`h${Math.min(heading[1].length + 2, 6)}`, {}, ...inline(heading[2])));
    } else if (line.startsWith("```")) {
      at += 1;
      const code = take((next) => !next.startsWith("```"));
      at += 1;
      found.append(element("pre", { tabIndex: 0 }, element("code", {}, code.join("\n"))));
    } else if (line.startsWith("|")) found.append(table(take((next) => next.startsWith("|"))));
    else if (/^[-*] /.test(line)) found.append(list("ul", take((next) => /^([-*] | {2,}\S)/.test(next))));
    else if (/^\d+\. /.test(line)) found.append(list("ol", take((next) => /^(\d+\. | {2,}\S)/.test(next))));
    else {
      at += 1;
      const more = take((next) => next.trim() && !/^(#|```|\||[-*] |\d+\. )/.test(next));
      found.append(element("p", {}, ...inline([line, ...more].join(" "))));
    }
  }
  return found;
}

function inline(text) {
  const found = [];
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    found.push(text.slice(end, match.index));
    const [whole, code, bold, slanted, words, address] = match;
    if (code) found.push(element("code", {}, code));
    else if (bold) found.push(element("strong", {}, ...inline(bold)));
    else if (slanted) found.push(element("em", {}, slanted));
    else found.push(element("a", { href: address, rel: "noreferrer noopener", target: "_blank" }, words));
    end = match.index + whole.length;
  }
  found.push(text.slice(end));
  return found.filter((part) => part !== "");
}

function list(tag, lines) {
  const items = [];
  for (const line of lines) {
    if (/^([-*]|\d+\.) /.test(line)) items.push(line.replace(/^([-*]|\d+\.) /, ""));
    else items[items.length - 1] += ` ${line.trim()}`;
  }
  return element(tag, {}, ...items.map((item) => element("li", {}, ...inline(item))));
}

function table(lines) {
  const rows = lines.map((line) => line.replace(/^\||\|\s*$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim()));
  const ruled = rows.length > 1 && rows[1].every((cell) => /^:?-+:?$/.test(cell));
  const cells = (row, tag) => element("tr", {}, ...row.map((cell) => element(tag, {}, ...inline(cell))));
  const head = ruled ? [element("thead", {}, cells(rows[0], "th"))] : [];
  const body = element("tbody", {}, ...rows.slice(ruled ? 2 : 0).map((row) => cells(row, "td")));
  return element("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": "Table" },
    element("table", {}, ...head, body));
}
