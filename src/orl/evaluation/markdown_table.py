"""Tables in Markdown."""

from collections.abc import Sequence


def markdown_rows(rows: Sequence[Sequence[str]], num_left: int = 1, num_right: int = 0) -> list[str]:
    """Return the lines of a table.

    Args:
        rows: the titles, then the cells of each row; a vertical bar becomes a slash.
        num_left: first columns that are aligned left.
        num_right: last columns that are aligned left; all others are numbers, aligned right.
    """
    num_numbers = len(rows[0]) - num_left - num_right
    rule = [*["---"] * num_left, *["---:"] * num_numbers, *["---"] * num_right]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in [rows[0], rule, *rows[1:]]]
