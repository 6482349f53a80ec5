// Sort a table by the column whose heading is pressed; pressed again, the other way round. Empty cells stay last.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.parentElement;
    const body = heading.closest("table").tBodies[0];
    const place = [...heading.parentElement.children].indexOf(heading);
    const first = heading.dataset.first;
    const order = heading.ariaSort === first ? (first === "ascending" ? "descending" : "ascending") : first;
    for (const other of heading.parentElement.children) other.removeAttribute("aria-sort");
    heading.ariaSort = order;
    const sign = order === "ascending" ? 1 : -1;
    const value = (row) => row.children[place].dataset.value;
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
      const difference = heading.dataset.kind === "number" ? x - y : x.localeCompare(y, "en", { numeric: true });
      return sign * difference;
    };
    body.append(...[...body.rows].sort(compare));
  });
}
