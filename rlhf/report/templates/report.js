// Tables that sort and open, and the filter of a run's responses. Works on every page, with or without figures.
"use strict";

function sortValue(row, column) {
  const cell = row.cells[column];
  const text = cell.dataset.value;
  if (text === undefined) return null;
  const number = Number(text);
  return text === "" || Number.isNaN(number) ? text : number;
}

// Rows without a value stay last, whichever way the others go.
function compare(one, other, sign) {
  if (one === null || other === null) return (one === null) - (other === null);
  if (typeof one === "string" || typeof other === "string") return sign * String(one).localeCompare(String(other), "en", { numeric: true });
  return sign * (one - other);
}

function sortBody(body, column, sign) {
  const blocks = [];
  for (const row of body.rows) {
    if (row.classList.contains("caption")) continue;
    if (row.classList.contains("run")) blocks[blocks.length - 1].push(row);
    else blocks.push([row]);
  }
  blocks.sort((one, other) => compare(sortValue(one[0], column), sortValue(other[0], column), sign));
  for (const block of blocks) body.append(...block);
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const first = head.classList.contains("number") ? "descending" : "ascending";
      const second = first === "descending" ? "ascending" : "descending";
      const order = head.getAttribute("aria-sort") === first ? second : first;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      for (const body of table.tBodies) sortBody(body, column, order === "descending" ? -1 : 1);
    });
  });
}

for (const opener of document.querySelectorAll(".opener")) {
  opener.addEventListener("click", () => {
    const open = opener.getAttribute("aria-expanded") !== "true";
    opener.setAttribute("aria-expanded", String(open));
    const rows = document.querySelectorAll(`[data-of="${opener.getAttribute("aria-controls")}"]`);
    for (const row of rows) row.classList.toggle("open", open);
  });
}

const filter = document.querySelector("#filter select");
if (filter) {
  filter.addEventListener("change", () => {
    let shown = 0;
    for (const pair of document.querySelectorAll(".pair")) {
      const wanted = filter.value === "wrong" ? Number(pair.dataset.wrong) > 0 : !filter.value || pair.dataset.outcome === filter.value;
      pair.hidden = !wanted;
      shown += wanted;
    }
    document.querySelector("#filter [aria-live]").textContent = filter.value ? `${shown} shown` : "";
  });
}
