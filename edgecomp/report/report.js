// Sorts the table of layers by the column whose title is pressed. Without it everything is there, in the net's order.
for (const button of document.querySelectorAll(".layers th button")) {
  button.addEventListener("click", () => {
    const title = button.parentElement, column = [...title.parentElement.children].indexOf(title);
    const down = title.getAttribute("aria-sort") === "descending";
    for (const other of title.parentElement.children) other.removeAttribute("aria-sort");
    title.setAttribute("aria-sort", down ? "ascending" : "descending");
    const body = title.closest("table").tBodies[0];
    const key = (row) => row.children[column].dataset.sort ?? row.children[column].textContent;
    const compare = (a, b) => (isNaN(a) || isNaN(b) || a === "" || b === "" ? String(a).localeCompare(b) : a - b);
    const rows = [...body.rows].sort((a, b) => compare(key(a), key(b)));
    if (!down) rows.reverse();
    body.append(...rows);
  });
}
