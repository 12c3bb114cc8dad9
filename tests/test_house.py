"""
The house stays as it was designed: small rooms on floors, each knowing only those
below.
"""

import ast
import collections
import io
import json
import re
import statistics
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = [
    {"__init__", "files", "progress", "base_model", "side_by_side", "training"}
    | {"calibration", "look"},
    {"store", "settings", "evaluation", "photos", "plots", "chrome", "drawings"},
    {"runs", "dataset", "folders", "features", "heads", "report"},
    {"classifier", "grid_search", "fine_tuning"},
    {"__main__"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
TO_COPY = {"side_by_side": {"keras", "numpy"}, "training": {"keras"}}  # alone
ROOMS = sorted(path.stem for path in (ROOT / "scenes").glob("*.py"))
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER}
NO_CODE |= {tokenize.INDENT, tokenize.DEDENT}
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


def read(room):
    path = ROOT / "utils.py" if room == "utils" else ROOT / "scenes" / f"{room}.py"
    return path.read_text(encoding="utf-8")


def lines_of_code(text):
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


def imported(room):
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


def bound(room):
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
    text = "f(**a, b=1)\nc |= {}\nd = e | {g: 1 for g in h}\ni = j | k\n"
    assert (splats(text), unions(text)) == (1, 2)


def tokens(text):
    """Return the number of tokens of code: no docstring, comment or layout."""
    code = lines_of_code(text)
    found = tokenize.generate_tokens(io.StringIO(text).readline)
    return sum(token.type not in NO_CODE and token.start[0] in code for token in found)


def statements(text):
    """Return the number of statements, docstrings apart."""
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt)]
    return sum(
        not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in nodes
    )


def splats(text):
    """Return the number of `**` in calls."""
    nodes = [
        node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.keyword)
    ]
    return sum(node.arg is None for node in nodes)


def unions(text):
    """Return how often `|` or `|=` stands beside a dict."""
    found = 0
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.BinOp(op=ast.BitOr(), left=left, right=right):
                sides = left, right
            case ast.AugAssign(op=ast.BitOr(), value=value):
                sides = (value,)
            case _:
                continue
        found += any(isinstance(side, ast.Dict | ast.DictComp) for side in sides)
    return found


@pytest.mark.parametrize("room", [*ROOMS, "utils"])
def test_rooms_and_functions_are_small(room):
    text = read(room)
    code = lines_of_code(text)
    most = 35 if room == "utils" else 60
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, FUNCTIONS):
            lines = code & set(range(node.lineno, node.end_lineno + 1))
            assert len(lines) <= most, node.name
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            names = {argument.arg for argument in given} - {"self", "cls"}
            assert len(names) <= 8, node.name
    assert len(code) <= 450


ENGINE = ("utils.py", "scenes/*.py")
BESIDE = ("studies/*.py", "tools/*.py")


def total(measure, *patterns):
    """Return the sum of a measure over the files of some patterns."""
    paths = [path for pattern in patterns for path in ROOT.glob(pattern)]
    return sum(measure(path.read_text(encoding="utf-8")) for path in paths)


@pytest.mark.parametrize(
    ("measure", "patterns", "most"),
    [
        (tokens, ENGINE, 35660),
        (tokens, ["tests/*.py"], 98600),
        (tokens, BESIDE, 11850),
        (splats, ENGINE, 16),
        (unions, ENGINE, 10),
    ],
)
def test_the_sum_does_not_grow(measure, patterns, most):
    assert total(measure, *patterns) <= most


def test_statements_of_the_engine_are_short():
    assert total(tokens, *ENGINE) / total(statements, *ENGINE) <= 10.5


def test_lines_are_short():
    """In the notebook, too, ruff holds them; it lets long text pass in tests alone."""
    paths = [path for pattern in ENGINE + BESIDE for path in ROOT.glob(pattern)]
    for path in paths:
        lines = path.read_text(encoding="utf-8").splitlines()
        long = [n for n, line in enumerate(lines, 1) if len(line) > 88]
        assert long == [], path.name


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


@pytest.mark.parametrize("room", TO_COPY)
def test_a_file_to_copy_needs_no_other(room):
    modules = set()
    for node in ast.walk(ast.parse(read(room))):
        match node:
            case ast.Import(names=names):
                modules |= {alias.name.partition(".")[0] for alias in names}
            case ast.ImportFrom(module=module):
                modules.add(module.partition(".")[0])
    assert modules - sys.stdlib_module_names <= TO_COPY[room]


# --- The notebook and the README ------------------------------------------------------

CELLS = json.loads((ROOT / "intel_classification.ipynb").read_text("utf-8"))["cells"]
CODE = {c["id"]: "".join(c["source"]) for c in CELLS if c["cell_type"] == "code"}
TREES = {name: ast.parse(source) for name, source in CODE.items()}


def test_the_notebook_is_short():
    line = re.compile(r"(?m)^\s*[^#\s]")  # of code, or of a docstring
    sizes = {name: len(line.findall(source)) for name, source in CODE.items()}
    assert len(CELLS) <= 86
    assert len(CODE) <= 54
    assert sum(sizes.values()) <= 542
    assert statistics.median(sizes.values()) <= 9
    settings = re.findall(r"(?m)^[A-Z_]+ = ", CODE["parameters"])
    assert len(settings) <= 25
    del sizes["parameters"]
    assert {name: size for name, size in sizes.items() if size > 20} == {}
    prose = [c["source"] for c in CELLS if c["cell_type"] == "markdown"]
    assert sum(len("".join(lines).split()) for lines in prose) <= 2315


def test_few_cells_of_the_notebook_branch():
    branches = ast.If | ast.IfExp | ast.Try
    found = [
        name
        for name, tree in TREES.items()
        if any(isinstance(node, branches) for node in ast.walk(tree))
    ]
    assert len(found) <= 12


def test_the_notebook_shows_what_it_teaches():
    called = [
        node.func.attr
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    assert called.count("compile") >= 3
    assert called.count("fit") >= 3
    assert "label_smoothing=" in "".join(CODE.values())


def stored(*nodes):
    """Return the names of the variables that are assigned inside of some nodes."""
    inside = [child for node in nodes for child in ast.walk(node)]
    names = [node for node in inside if isinstance(node, ast.Name)]
    return {node.id for node in names if isinstance(node.ctx, ast.Store)}


def test_no_name_of_the_notebook_stands_for_two_things():
    """Of loops and functions, each has its own."""
    cells_of = collections.Counter()
    for tree in TREES.values():
        nodes = list(ast.walk(tree))
        loops = [n.target for n in nodes if isinstance(n, ast.For | ast.comprehension)]
        functions = [n for n in nodes if isinstance(n, FUNCTIONS | ast.Lambda)]
        cells_of.update(stored(tree) - stored(*loops, *functions) - {"_"})
    assert [name for name, cells in cells_of.items() if cells > 1] == []


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text("utf-8")
    prose = re.sub(r"(?ms)^```.*?^```", "", text)
    lines = [line for line in prose.splitlines() if not line.startswith("|")]
    assert sum(len(line.split()) for line in lines) <= 550


def test_words_are_those_of_the_field():
    """Words of the project's own that standard terms have replaced are not back."""
    texts = {room: read(room) for room in [*ROOMS, "utils"]}
    for name in ("README.md", "MODEL_CARD.md"):
        texts[name] = (ROOT / name).read_text("utf-8")
    for cell in CELLS:
        texts[cell["id"]] = "".join(cell["source"])
    words = r"trunk|deeper|told|calm|strangers?|chose nothing|with a word|passed over"
    replaced = re.compile(rf"(?i)\b({words}|gave up)\b")
    found = {name: replaced.findall(text) for name, text in texts.items()}
    assert {name: words for name, words in found.items() if words} == {}
