"""The promises in PROMISES.md are held by tests that exist."""

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent


def test_each_promise_is_held_by_tests_that_exist():
    rows = [
        r
        for r in (HERE / "PROMISES.md").read_text("utf-8").splitlines()
        if r.startswith("|")
    ]
    assert len(rows) > 15
    there = {
        node.name
        for path in HERE.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    for row in rows[2:]:
        named = re.findall(r"`(test_\w+)`", row)
        assert named, row
        assert set(named) <= there, row
