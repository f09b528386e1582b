"""Tables of the pages in docs/."""


def table(titles: list[str], rows: list[list[str]]) -> str:
    """A table whose first column is text and the others are figures."""
    lines = ["| " + " | ".join(titles) + " |", "|---" + "|---:" * (len(titles) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
