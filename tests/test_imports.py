"""Arrows between the rooms point one way and make no circle, lazy imports included."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "data": {"data"},
    "preprocess": {"data", "preprocess"},
    "train": {"data", "train"},
    "evaluate": {"data", "preprocess.estimators", "preprocess.refine", "train", "evaluate"},
}
ROOMS = (*MAY_IMPORT, "experiments", "notebooks", "benchmarks")
FILES = [file.relative_to(ROOT) for room in ROOMS for file in (ROOT / room).rglob("*.py")]
MODULES = {".".join(f.with_suffix("").parts).removesuffix(".__init__"): f for f in FILES}


def imported(file: Path) -> set[str]:
    """The project's modules that a file imports anywhere in it, or names in a string as a whole."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            below = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            names |= below or {node.module}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names |= {node.value} if "." in node.value else set()  # registries
    return names & MODULES.keys()


GRAPH = {module: imported(file) for module, file in MODULES.items()}


def test_no_room_imports_one_that_it_may_not():
    for module, others in GRAPH.items():
        prefixes = tuple(f"{room}." for room in MAY_IMPORT.get(module.split(".")[0], ROOMS))
        wrong = [other for other in others if not f"{other}.".startswith(prefixes)]
        assert not wrong, f"{module} imports {wrong}"


def test_no_circle():
    left = {module: others - {module} for module, others in GRAPH.items()}
    while leaves := {module for module, others in left.items() if not others & left.keys()}:
        left = {module: others for module, others in left.items() if module not in leaves}
    assert len(GRAPH) > 100 and not left, f"import circle among {sorted(left)}"
