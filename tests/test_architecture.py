"""The floors of the package: imports go downwards only, and never sideways between units of one floor."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import orl

FLOORS = {
    "boxes": 0,
    "schedules": 0,
    "files": 0,
    "progress": 0,
    "memory": 0,
    "compiled": 0,
    "provenance": 1,
    "tables": 2,
    "datasets": 3,
    "networks": 3,
    "discovery": 3,
    "rundir": 3,
    "views": 4,
    "synthetic": 4,
    "methods": 4,
    "published_files": 4,
    "own_boxes": 5,
    "processes": 4,
    "embed": 5,
    "embed_maps": 6,
    "map_boxes": 6,
    "config": 5,
    "training": 5,
    "weights": 5,
    "recipes": 6,
    "export": 6,
    "evaluation": 7,
    "figures": 8,
    "report": 9,
    "pipeline": 10,
    "api": 11,
    "doctor": 11,
    "ablations": 11,
    "cli": 12,
    "__main__": 13,
    "__init__": 13,
}
PACKAGE = Path(orl.__file__).parent
LIGHT = ("cli", "config", "recipes", "rundir", "files", "provenance", "tables", "boxes", "schedules", "progress")


def imports_of(path: Path) -> set[str]:
    """Names below `orl` that a module imports, as 'unit.module'."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "orl":
            below = node.module.split(".")[1:]
            found |= {".".join(below)} if below else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("orl.") for alias in node.names if alias.name.startswith("orl.")}
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{path} imports relatively")
    return found


def modules() -> list[tuple[Path, str]]:
    return [(path, path.relative_to(PACKAGE).with_suffix("").parts[0]) for path in sorted(PACKAGE.rglob("*.py"))]


def test_every_unit_has_a_floor() -> None:
    assert {unit for _, unit in modules()} == set(FLOORS)


def test_imports_go_downwards_only() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)} (floor {FLOORS[unit]}) imports orl.{name}"
        for path, unit in modules()
        for name in imports_of(path)
        if name.split(".")[0] != unit and FLOORS[name.split(".")[0]] >= FLOORS[unit]
    ]
    assert wrong == []


def test_siblings_import_without_cycles() -> None:
    graph = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): imports_of(path)
        for path, unit in modules()
        if unit != "__init__"
    }

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above, name])
        for below in graph.get(name, ()):
            visit(below, (*above, name))

    for name in graph:
        visit(name, ())


def test_the_command_line_starts_without_torch() -> None:
    heavy = {"torch", "torchvision", "lightning_fabric", "sklearn", "matplotlib", "cv2"}
    for path in (path for path, unit in modules() if unit in LIGHT):
        tree = ast.parse(path.read_text())
        at_the_top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {
            name.split(".")[0]
            for node in at_the_top
            for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
        }
        assert not names & heavy, path


BANNED_WORDS = {
    "photo": "image",
    "judge": "evaluation, evaluate",
    "judged": "evaluated",
    "placer": "view sampler",
    "placed": "view box",
    "trainee": "training step",
    "learner": "SSL step",
    "journal": "progress log",
    "told": "text, message",
    "tell": "report",
    "held": "cached",
    "anew": "from scratch",
    "materials": "baselines",
    "yardstick": "baseline",
    "arm": "variant",
    "prior": "feature extractor",
    "spread": "std",
    "share": "fraction (as a noun)",
    "whole": "complete, full",
    "departures": "protocol deviations",
    "everything": "suite",
    "squeezed": "resized",
    "looks": "feature extractor",
    "identity": "fingerprint, digest",
    "settings": "config",
    "subject": "evaluated backbone",
    "processor": "CPU",
    "utils": "a module named after its idea",
    "helpers": "a module named after its idea",
}
"""A word of the project's former private language, and the field's word for it (see docs/decisions.md)."""
ALLOWED_NAMES = {"shares_batch_statistics", "shares_cores"}
"""Names in which such a word has its ordinary meaning."""
BANNED_OPENINGS = ("Of", "What", "How", "As", "That", "Those", "Likewise", "So")
TESTS = Path(__file__).parent


def words_of(name: str) -> list[str]:
    """Split an identifier in snake case or camel case into lower-case words, plurals reduced."""
    words = [word.lower() for part in name.split("_") for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", part)]
    return [word for each in words for word in {each, each.removesuffix("s")}]


def defined_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield every name that a module defines: functions, classes, parameters, variables and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno


def sources() -> list[Path]:
    return sorted([*PACKAGE.rglob("*.py"), *TESTS.rglob("*.py")])


def test_identifiers_use_the_words_of_the_field() -> None:
    wrong = [
        f"{path}:{line} {name!r}: write {BANNED_WORDS[word]!r}, not {word!r}"
        for path in sources()
        for name, line in [*defined_names(ast.parse(path.read_text())), (path.stem, 0)]
        for word in words_of(name)
        if word in BANNED_WORDS and name not in ALLOWED_NAMES
    ]
    assert wrong == []


def test_docstrings_open_with_a_verb_or_a_noun() -> None:
    wrong = [
        f"{path}:{getattr(node, 'lineno', 1)} opens with {opening!r}"
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        for opening in [(ast.get_docstring(node) or "").partition(" ")[0].rstrip(",:")]
        if opening in BANNED_OPENINGS
    ]
    assert wrong == []


PROTOCOL_FUNCTIONS = {"check", "run", "tables", "suite_entries"}
"""Functions that every evaluation has (see evaluation/protocol.py)."""


def test_a_public_name_is_defined_in_one_module_only() -> None:
    found: dict[str, list[str]] = {}
    for path, unit in modules():
        # The API has the names of the command line's verbs.
        for node in ast.parse(path.read_text()).body if unit != "api" else []:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(str(path.relative_to(PACKAGE)))
    several = {name: paths for name, paths in found.items() if len(paths) > 1 and name not in PROTOCOL_FUNCTIONS}
    assert several == {}
