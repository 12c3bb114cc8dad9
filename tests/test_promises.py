"""The promises in PROMISES.md are held by tests that exist, and these are tried."""

import ast
import re
from pathlib import Path

import mutate

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


def test_changes_that_tests_must_notice_are_made_where_they_stand():
    source = (
        'if a < 1 or b:\n    x = f("é", (2), key=True)\n    os.replace(x, f"{3}")\n'
    )
    changes = mutate.find_changes(ast.parse(source))
    changed = [mutate.replace(source, *change) for change in changes]
    line, call, skip = source.splitlines()
    expected = [
        (line.replace(old, new), call, skip)
        for old, new in [
            ("a < 1 or b", "(not (a < 1 or b))"),
            ("a < 1", "(not a < 1)"),
            ("a < 1", "(a <= 1)"),
            ("1", "(2)"),
        ]
    ]
    expected += [
        (line, call.replace(old, new), skip)
        for old, new in [
            ('f("é", (2), key=True)', "(f('é', 2))"),
            ('f("é", (2), key=True)', "(f('é', key=True))"),
            ("2", "(3)"),
            ("True", "(False)"),
        ]
    ]
    expected += [(line, call, "    (None)"), (line, call, "    (os.replace(x))")]
    assert sorted(changed) == sorted("\n".join(lines) + "\n" for lines in expected)
