"""The floors of the package: imports go downwards only, and never sideways between units of one floor."""

import ast
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
    "processes": 4,
    "embed": 5,
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
