for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") === "descending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = (row) => {
        const cell = row.cells[column];
        return "number" in cell.dataset ? Number(cell.dataset.number) : cell.textContent;
      };
      const compare = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (typeof x === typeof y)
          return typeof x === "number" ? x - y : x.localeCompare(y, undefined, {numeric: true});
        return typeof x === "number" ? 1 : -1;
      };
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort((a, b) => (up ? 1 : -1) * compare(a, b)));
    });
  });
}
const curves = [...document.querySelectorAll(".chart [data-style]")];
for (const item of document.querySelectorAll(".legend [data-style]")) {
  const show = (style) => {
    for (const curve of curves)
      curve.classList.toggle("faded", style !== null && curve.dataset.style !== style);
  };
  item.addEventListener("mouseenter", () => show(item.dataset.style));
  item.addEventListener("mouseleave", () => show(null));
}
addEventListener("beforeprint", () => {
  for (const each of document.querySelectorAll("details"))
    each.open ||= each.querySelectorAll("tr").length <= 200; // settings, not a thousand classes
});
