"use strict";
for (const section of document.querySelectorAll("section.sortable")) {
  const body = section.querySelector("tbody");
  const rows = [...body.rows];
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const heads = [...section.querySelectorAll("thead th")];
  const value = (row, column, numeric) => {
    const told = row.cells[column].dataset.value;
    return numeric ? (told === "" ? NaN : Number(told)) : told;
  };
  const collator = new Intl.Collator("en", { numeric: true });
  heads.forEach((head, column) => {
    const numeric = head.classList.contains("number");
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const sign = down ? -1 : 1;
      const keyed = rows.map((row) => [value(row, column, numeric), row]);
      keyed.sort(([a], [b]) => {
        if (!numeric) return sign * collator.compare(a, b);
        if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b); // what has none comes last
        return sign * (a - b);
      });
      body.append(...keyed.map(([, row]) => row));
    });
  });
  const search = section.querySelector("input[type=search]");
  const odd = section.querySelector("input[type=checkbox]");
  const count = section.querySelector("output");
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      row.hidden = !words.every((word) => texts.get(row).includes(word)) || (odd && odd.checked && !row.dataset.odd);
      shown += !row.hidden;
    }
    count.value = `${shown} of ${rows.length}`;
  };
  search.addEventListener("input", filter);
  if (odd) odd.addEventListener("change", filter);
  filter();
}
