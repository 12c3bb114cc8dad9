"""
The house stays as it was designed: small rooms on floors, each knowing only those
below.
"""

import ast
import io
import re
import tokenize
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = [
    {
        "__init__",
        "files",
        "progress",
        "base_model",
        "side_by_side",
        "training",
        "calibration",
    },
    {"settings", "store", "photos", "chrome", "drawings", "plots", "evaluation"},
    {"runs", "folders", "dataset", "features", "heads"},
    {"classifier", "grid_search", "fine_tuning"},
    {"__main__"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
ROOMS = sorted(path.stem for path in (ROOT / "scenes").glob("*.py"))
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER}
NO_CODE |= {tokenize.INDENT, tokenize.DEDENT}
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


def read(room: str) -> str:
    path = ROOT / "utils.py" if room == "utils" else ROOT / "scenes" / f"{room}.py"
    return path.read_text(encoding="utf-8")


def lines_of_code(text: str) -> set[int]:
    """
    Return the numbers of the lines that hold code: no docstring, comment or blank line.
    """
    numbers = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            numbers |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        documented = isinstance(node, ast.Module | ast.ClassDef | FUNCTIONS)
        if documented and ast.get_docstring(node) is not None:
            numbers -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return numbers


def imported(room: str) -> set[str]:
    """Return the rooms, and `utils`, that a room imports, wherever in its code."""
    found = set()
    for node in ast.walk(ast.parse(read(room))):
        match node:
            case ast.Import(names=names):
                found |= {alias.name.removeprefix("scenes.") for alias in names}
            case ast.ImportFrom(module="scenes", names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=module):
                found.add(module)
    return found & {*ROOMS, "utils"}


def bound(room: str) -> set[str]:
    """
    Return the names that a room binds, wherever: variables, arguments, functions,
    classes.
    """
    found = set()
    for node in ast.walk(ast.parse(read(room))):
        match node:
            case (
                ast.Name(id=name, ctx=ast.Store())
                | ast.arg(arg=name)
                | ast.ClassDef(name=name)
            ):
                found.add(name)
            case (
                ast.FunctionDef(name=name)
                | ast.alias(asname=name)
                | ast.ExceptHandler(name=name)
            ):
                found.add(name)
    return found


def test_code_is_counted_without_what_is_said_about_them():
    text = '"""One."""\n\n# two\nx = """a\nb"""\n\n\n'
    text += 'def f():\n    """Three."""\n    return (\n        1  # four\n    )\n'
    assert lines_of_code(text) == {4, 5, 8, 10, 11, 12}
    assert tokens(text) == 3 + 5 + 4
    assert statements(text) == 3


def tokens(text: str) -> int:
    """Return the number of tokens of code: no docstring, comment or layout."""
    code = lines_of_code(text)
    found = tokenize.generate_tokens(io.StringIO(text).readline)
    return sum(token.type not in NO_CODE and token.start[0] in code for token in found)


def statements(text: str) -> int:
    """Return the number of statements, docstrings apart."""
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt)]
    return sum(
        not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in nodes
    )


@pytest.mark.parametrize("room", [*ROOMS, "utils"])
def test_rooms_and_functions_are_small(room):
    text = read(room)
    code = lines_of_code(text)
    most = 35 if room == "utils" else 60
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, FUNCTIONS):
            lines = code & set(range(node.lineno, node.end_lineno + 1))
            assert len(lines) <= most, node.name
    assert len(code) <= 450


def total(measure: Callable[[str], int], *patterns: str) -> int:
    """Return the sum of a measure over the files of some patterns."""
    paths = [path for pattern in patterns for path in ROOT.glob(pattern)]
    return sum(measure(path.read_text(encoding="utf-8")) for path in paths)


@pytest.mark.parametrize(
    ("patterns", "most"),
    [
        (["utils.py", "scenes/*.py"], 28000),
        (["tests/*.py"], 90000),
        (["studies/*.py", "tools/*.py"], 11500),
    ],
)
def test_the_sum_of_tokens_does_not_grow(patterns, most):
    assert total(tokens, *patterns) <= most


def test_statements_of_the_engine_are_short():
    engine = ("utils.py", "scenes/*.py")
    assert total(tokens, *engine) / total(statements, *engine) <= 12.9


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_knows_only_rooms_of_lower_floors(room):
    """So there is no circle, and the folder can be sent to a cluster whole."""
    allowed = {other for other, floor in FLOOR.items() if floor < FLOOR[room]}
    if room == "plots":
        allowed = FLOORS[0] | {"chrome"}
    assert imported(room) - allowed == set()


@pytest.mark.parametrize("room", sorted({*ROOMS, "utils"} - {"base_model", "drawings"}))
def test_only_the_room_of_the_base_model_knows_the_network(room):
    """But the drawing, which shows it."""
    facts = r"(?i)mobilenet|relu6|\b224\b|\b1280\b|127\.5|\bblock_\d|\bConv_1\b"
    assert re.findall(facts, read(room)) == []


@pytest.mark.parametrize("room", [*ROOMS, "utils"])
def test_a_room_imports_rooms_and_hides_none(room):
    """A reader sees where a helper lives, and one stand-in serves all."""
    froms = [
        node
        for node in ast.walk(ast.parse(read(room)))
        if isinstance(node, ast.ImportFrom)
    ]
    assert not [n.module for n in froms if n.level or n.module.startswith("scenes.")]
    assert bound(room) & imported(room) == set()
