"""The look and the behaviour of the report: its style sheet and its scripts, which lie beside the code as files."""

import base64
import hashlib
from importlib.resources import files

from orl.figures.correspondence_figure import PAIR_COLOURS


def read_part(name: str) -> str:
    """A file of the folder `web`."""
    return (files("orl.report") / "web" / name).read_text(encoding="utf-8")


def source_hash(text: str) -> str:
    """How a security policy names a script or style sheet that may be used: by its content alone."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def colour_class(index: int) -> str:
    """The class that sets the colour of a pair, or of a box, by turns."""
    return f"pair-{index % len(PAIR_COLOURS)}"


_COLOURS = "".join(f".{colour_class(index)} {{ --pair: {colour}; }}\n" for index, colour in enumerate(PAIR_COLOURS))
STYLE_SHEET = read_part("report.css") + _COLOURS
SCRIPTS = tuple(read_part(name) for name in ("theme.js", "explorer.js", "enlarge.js"))
# The page may use pictures that lie inside it and these very styles and scripts: no other, and no request.
SECURITY_POLICY = (
    f"default-src 'none'; img-src data:; style-src {source_hash(STYLE_SHEET)}; "
    f"script-src {' '.join(map(source_hash, SCRIPTS))}; base-uri 'none'; form-action 'none'"
)
