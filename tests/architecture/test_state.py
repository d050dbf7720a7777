# SPDX-License-Identifier: GPL-3.0-or-later
"""No module keeps state: everything that changes belongs to an object that its creator can close.

A constant table is annotated with a read-only type (``Final[Mapping[str, int]]``), so that the type checker refuses
what would change it.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "cas3fs"
MODULES = sorted(PACKAGE.rglob("*.py"))
MUTABLE_DISPLAYS = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
READ_ONLY_TYPES = {"Mapping", "Sequence", "AbstractSet", "Collection"}
MUTABLE_TYPES = {
    "list", "dict", "set", "bytearray", "defaultdict", "deque", "Counter", "OrderedDict", "WeakValueDictionary",
    "WeakKeyDictionary", "WeakSet", "Lock", "RLock", "Condition", "Event", "Queue", "count", "iter",
}  # fmt: skip


def mutable_globals(tree: ast.Module) -> Iterator[str]:
    """Yield mutable values that are assigned at module level, and names that functions declare `global`."""
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None and _is_mutable(node.value):
            name = ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)
            if name != "__all__" and not (isinstance(node, ast.AnnAssign) and _is_read_only(node.annotation)):
                yield f"line {node.lineno}: {name} (annotate a constant table as Mapping or Sequence)"
    for inner in ast.walk(tree):
        if isinstance(inner, ast.Global):
            yield f"line {inner.lineno}: global {', '.join(inner.names)}"


def _is_mutable(value: ast.expr) -> bool:
    if isinstance(value, ast.Call):
        return ast.unparse(value.func).rsplit(".", 1)[-1] in MUTABLE_TYPES
    return isinstance(value, MUTABLE_DISPLAYS)


def _is_read_only(annotation: ast.expr) -> bool:
    return any(isinstance(node, ast.Name) and node.id in READ_ONLY_TYPES for node in ast.walk(annotation))


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_holds_no_mutable_state(module: Path) -> None:
    assert list(mutable_globals(ast.parse(module.read_text()))) == []


def test_mutable_state_is_detected() -> None:
    tree = ast.parse(
        "T: Final[Mapping[str, int]] = {}\nB: dict[str, int] = {}\nC = threading.Lock()\ndef f():\n    global A\n"
    )
    assert len(list(mutable_globals(tree))) == 3
