"""The page of the method names modules that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def paths_on_a_row(row: str) -> list[Path]:
    """Return the modules on a row of the table; a name without a folder is in the folder of the module before it."""
    paths: list[Path] = []
    for name in re.findall(r"`([\w/]+(?:\.py|/))`", row):
        folder = paths[-1].parent if paths and "/" not in name else Path()
        paths.append(folder / name)
    return paths


def test_modules_of_the_method_page_exist() -> None:
    rows = (ROOT / "docs" / "method.md").read_text().splitlines()
    paths = [path for row in rows for path in paths_on_a_row(row)]
    assert len(paths) > 30
    assert [
        path for path in paths if not any((top / path).exists() for top in (ROOT / "src/orl", ROOT / "src", ROOT))
    ] == []
