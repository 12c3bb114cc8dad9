"""
Try whether the tests notice changes of the code: `python tools/mutate.py [N [SEED]]`.

Draws N changes (40) by a seed (0) over the rooms that compute numbers or write files: a
comparison turned round or moved by its boundary, a constant moved, an argument left
out, a call for its effect skipped (as a file operation), a condition negated. Each is
made in a copy of the project, in which the room's own tests run. The changes that no
test notices are printed: a test is missing, or the change makes no difference. Takes up
to a minute a change.
"""

import ast
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
NO_NUMBERS = {"chrome", "drawings", "plots", "progress"}  # nor files
BOUNDARIES = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
SECONDS = 300  # for the tests of a room; a change that makes them hang is noticed


def find_changes(tree: ast.Module) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Yield each node that can be changed, and what takes its place."""
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    in_texts = {inner for text in texts for inner in ast.walk(text)}
    for node in ast.walk(tree):
        if node in in_texts:  # Python 3.11 does not know where they stand
            continue
        match node:
            case ast.Compare(left=left, ops=[operator], comparators=values):
                yield node, ast.UnaryOp(ast.Not(), node)
                if type(operator) in BOUNDARIES:
                    other = BOUNDARIES[type(operator)]()
                    yield node, ast.Compare(left, [other], values)
            case ast.Constant(value=bool(value)):
                yield node, ast.Constant(not value)
            case ast.Constant(value=int(value) | float(value)):
                yield node, ast.Constant(value + 1)
            case ast.If(test=test) | ast.IfExp(test=test):
                if not isinstance(test, ast.Compare):
                    yield test, ast.UnaryOp(ast.Not(), test)
            case ast.Expr(value=ast.Call()):
                yield node, ast.Constant(None)
            case ast.Call(func=function, args=arguments, keywords=options):
                for option in options:
                    others = [other for other in options if other is not option]
                    yield node, ast.Call(function, arguments, others)
                if len(arguments) > 1:
                    yield node, ast.Call(function, arguments[:-1], options)


def replace(source: str, node: ast.AST, other: ast.AST) -> str:
    """Return a source in which another node stands in the place of one."""
    lines = source.encode().splitlines(keepends=True)
    first, last = node.lineno - 1, node.end_lineno - 1
    before = b"".join(lines[:first]) + lines[first][: node.col_offset]
    after = lines[last][node.end_col_offset :] + b"".join(lines[last + 1 :])
    return (before + f"({ast.unparse(other)})".encode() + after).decode()


def passes(room: str, project: Path) -> bool:
    """Return whether the tests of a room pass in a copy of the project."""
    command = [sys.executable, "-m", "pytest", "-x", "-n0", f"tests/test_{room}.py"]
    try:
        done = subprocess.run(
            command, cwd=project, capture_output=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def main(number: int = 40, seed: int = 0) -> None:
    """Print the changes that no test notices."""
    changes = []
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        room = path.stem.removeprefix("test_")
        file = ROOT / "scenes" / f"{room}.py"
        if file.exists() and room not in NO_NUMBERS:
            tree = ast.parse(file.read_text("utf-8"))
            changes += [(room, *change) for change in find_changes(tree)]
    drawn = random.Random(seed).sample(changes, number)
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder, "project")
        shutil.copytree(ROOT, project, ignore=shutil.ignore_patterns(".*", "runs"))
        for room in {room for room, *_ in drawn}:
            if not passes(room, project):
                sys.exit(f"the tests of {room} fail without any change")
        lives = 0
        for room, node, other in drawn:
            file = project / "scenes" / f"{room}.py"
            source = file.read_text("utf-8")
            file.write_text(replace(source, node, other), "utf-8")
            if passes(room, project):
                lives += 1
                change = f"{ast.unparse(node)}  ->  {ast.unparse(other)}"
                print(f"scenes/{room}.py:{node.lineno}: {change}", flush=True)
            file.write_text(source, "utf-8")
    print(f"{lives} of {number} changes are noticed by no test.")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
