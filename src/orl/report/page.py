"""The page: templates, style sheet and scripts in one document without external resources."""

import base64
import hashlib
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from orl.figures.correspondence_figure import PAIR_COLOURS
from orl.report.overlays import colour_class

SCRIPTS = ("theme.js", "explorer.js", "enlarge.js")


@cache
def templates() -> Environment:
    """Return the templates; every value they show is escaped."""
    environment = Environment(
        loader=PackageLoader("orl.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    colours = "".join(f".{colour_class(index)} {{ --pair: {colour}; }}\n" for index, colour in enumerate(PAIR_COLOURS))
    style, scripts = _read_part("report.css") + colours, [_read_part(name) for name in SCRIPTS]
    # Only embedded pictures and exactly these styles and scripts are allowed, and no requests.
    policy = (
        f"default-src 'none'; img-src data:; style-src {_source_hash(style)}; "
        f"script-src {' '.join(map(_source_hash, scripts))}; base-uri 'none'; form-action 'none'"
    )
    environment.globals |= {"style": Markup(style), "scripts": [Markup(each) for each in scripts], "policy": policy}
    return environment


def render_page(template: str = "page.html", **content: object) -> str:
    """Render a page: `templates/page.html`, which lists the variables, or a template that extends it."""
    return templates().get_template(template).render(content)


def _read_part(name: str) -> str:
    return (files("orl.report") / "web" / name).read_text(encoding="utf-8")


def _source_hash(text: str) -> str:
    """Return the name of a script or style sheet in a security policy, which allows it by its content alone."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
