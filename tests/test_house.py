"""The house stays as it was designed: small rooms on floors, each knowing only those below."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = [
    {"__init__", "files", "progress", "base_model", "side_by_side", "calibration"},
    {"settings", "photos", "chrome", "drawings", "plots"},
    {"runs", "folders", "features", "heads"},
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
    """Return the numbers of the lines that hold code: no docstring, comment or blank line."""
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
    """Return the names that a room binds, wherever: variables, arguments, functions, classes."""
    found = set()
    for node in ast.walk(ast.parse(read(room))):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.FunctionDef(name=name) | ast.alias(asname=name) | ast.ExceptHandler(name=name):
                found.add(name)
    return found


def test_lines_of_code_are_counted_without_what_is_said_about_them():
    text = '"""One."""\n\n# two\nx = """a\nb"""\n\n\n'
    text += 'def f():\n    """Three."""\n    return (\n        1  # four\n    )\n'
    assert lines_of_code(text) == {4, 5, 8, 10, 11, 12}


@pytest.mark.parametrize("room", [*ROOMS, "utils"])
def test_rooms_and_functions_are_small(room):
    longest, most = 300, 20 if room == "utils" else 40
    text = read(room)
    code = lines_of_code(text)
    lengths = {
        node.name: len(code & set(range(node.lineno, node.end_lineno + 1)))
        for node in ast.walk(ast.parse(text))
        if isinstance(node, FUNCTIONS)
    }
    assert {name: n for name, n in lengths.items() if n > most} == {}
    assert len(code) <= longest


@pytest.mark.parametrize(
    ("files", "most"),
    [(["utils.py", "scenes/*.py"], 2450), (["tests/*.py"], 6000), (["st*/*.py", "to*/*.py"], 900)],
)
def test_the_sum_does_not_grow(files, most):
    paths = [path for pattern in files for path in ROOT.glob(pattern)]
    assert sum(len(lines_of_code(path.read_text(encoding="utf-8"))) for path in paths) <= most


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
    froms = [node for node in ast.walk(ast.parse(read(room))) if isinstance(node, ast.ImportFrom)]
    assert not [n.module for n in froms if n.level or n.module.startswith("scenes.")]
    assert bound(room) & imported(room) == set()
