"""
Settings (section 1 of the notebook): what each may be.

An impossible value is refused by name before any work. Reads no photos and trains nothing.
"""

import difflib
import numbers
import os
from collections.abc import Callable

import numpy as np

import scenes


def _is_number(value: object, low: float, high: float = float("inf")) -> bool:
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return real and low <= value <= high and value < float("inf")


def _is_whole(value: object, low: int) -> bool:
    return isinstance(value, numbers.Integral) and _is_number(value, low)


def _is_list(values: object, allowed: Callable[[object], bool]) -> bool:
    listed = isinstance(values, (list, tuple, np.ndarray)) and len(values) > 0
    if not listed or not all(map(allowed, values)):
        return False
    return len({f"{float(v):.7g}" for v in values}) == len(values)  # the digits of the CSV


def _is_path(value: object) -> bool:
    return value is None or (isinstance(value, (str, os.PathLike)) and str(value) != "")


_TINY = float(np.finfo("float32").tiny)
_SWITCH = "True or False", lambda v: isinstance(v, bool)
_FOLDER = "None or the path of a folder", _is_path
_POSITIVE = "a whole number from 1", lambda v: _is_whole(v, 1)
_NOT_NEGATIVE = "a number from 0", lambda v: _is_number(v, 0)
_LEARNING_RATE = "a number above 0, up to 1", lambda v: _is_number(v, _TINY, 1)
_DROPOUT = "a number from 0 to below 1", lambda v: _is_number(v, 0) and v < 1
# What each setting and argument may be: in words for the error message, and as a test.
RULES: dict[str, tuple[str, Callable[[object], bool]]] = {
    "photos": _FOLDER,
    "download": _SWITCH,
    "weights": ("'imagenet', the path of a weights file, or None", _is_path),
    "output": _FOLDER,
    "seed": ("a whole number from 0", lambda v: _is_whole(v, 0) and v < 2**32),
    "shrink_factor": _POSITIVE,
    "test_ratio": ("a number above 0, up to 0.5", lambda v: _is_number(v, _TINY, 0.5)),
    "validation_ratio": ("a number above 0, up to 0.5", lambda v: _is_number(v, _TINY, 0.5)),
    "learning_rates": (
        f"a list of different numbers, each {_LEARNING_RATE[0]}",
        lambda v: _is_list(v, _LEARNING_RATE[1]),
    ),
    "dropouts": (
        f"a list of different numbers, each {_DROPOUT[0]}",
        lambda v: _is_list(v, _DROPOUT[1]),
    ),
    "weight_decays": (
        f"a list of different numbers, each {_NOT_NEGATIVE[0]}",
        lambda v: _is_list(v, _NOT_NEGATIVE[1]),
    ),
    "learning_rate": _LEARNING_RATE,
    "dropout": _DROPOUT,
    "weight_decay": _NOT_NEGATIVE,
    "first_layer": (
        "'block_1_expand' to 'block_16_expand' or 'Conv_1'",
        lambda v: v in scenes.FIRST_LAYERS,
    ),
    "label_smoothing": _DROPOUT,
    "epochs": _POSITIVE,
    "folds": ("a whole number from 2", lambda v: _is_whole(v, 2)),
    "batch_size": _POSITIVE,
    "head_epochs": _POSITIVE,
    "runs": _POSITIVE,
    "run_epochs": _POSITIVE,
    "fine_tune_runs": ("a whole number from 0", lambda v: _is_whole(v, 0)),
    "fine_tune_search": _SWITCH,
    "fine_tune_rate": _LEARNING_RATE,
    "fine_tune_epochs": _POSITIVE,
    "large_search": _SWITCH,
}
RULES |= {
    f"large_{name}": RULES[name]
    for name in ("learning_rates", "dropouts", "weight_decays", "epochs")
}
# The settings of the committed results: the notebook's cell of settings, as it is committed.
SETTINGS = {
    "PHOTOS": None,
    "DOWNLOAD": False,
    "WEIGHTS": "imagenet",
    "OUTPUT": None,
    "SEED": 0,
    "SHRINK_FACTOR": 1,
    "VALIDATION_RATIO": 0.2,
    "LEARNING_RATES": [0.0005, 0.001, 0.005],
    "DROPOUTS": [0.1, 0.3, 0.5],
    "WEIGHT_DECAYS": [1e-5, 1e-4, 1e-3, 1e-2],
    "EPOCHS": 25,
    "FOLDS": 5,
    "BATCH_SIZE": 128,
    "HEAD_EPOCHS": 40,
    "RUNS": 5,
    "RUN_EPOCHS": 30,
    "LARGE_SEARCH": False,
    "LARGE_LEARNING_RATES": [1e-5, 3e-5, 1e-4, 3e-4, 5e-4, 1e-3, 3e-3, 1e-2],
    "LARGE_DROPOUTS": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7],
    "LARGE_WEIGHT_DECAYS": [0.0, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2],
    "LARGE_EPOCHS": 100,
    "FINE_TUNE_RUNS": 1,
    "FINE_TUNE_SEARCH": False,
    "FIRST_LAYER": "block_10_expand",
    "FINE_TUNE_RATE": 0.0003,
    "FINE_TUNE_EPOCHS": 5,
}


def check(**values: object) -> None:
    """Raise a ValueError that names the first value that its rule does not allow."""
    for name, value in values.items():
        allowed, test = RULES[name.lower()]
        if not test(value):
            hint = ""
            if any(isinstance(v, str) for v in (value if isinstance(value, list) else [value])):
                hint = " (YAML reads 1e-4 as text: write 0.0001 or 1.0e-4)"
            raise ValueError(f"{name} is {value!r}; it must be {allowed}{hint}")


def check_settings(namespace: dict) -> dict:
    """
    Pick the notebook's settings out of its variables, and check them all.

    Parameters
    ----------
    namespace : dict
        The notebook's `globals()`.

    Returns
    -------
    dict
        Name and value of each setting, in the order of `SETTINGS`.

    Raises
    ------
    ValueError
        A value is impossible, or a variable is named almost as a setting is (papermill
        sets such a variable and goes on, and the run would ignore it).
    """
    for name, value in namespace.items():
        if name in SETTINGS or name.startswith("_"):
            continue
        plain = isinstance(value, (bool, int, float, str, list)) and name not in ("In", "Out")
        # The notebook's own variable `run` is just below this likeness to RUNS (6 / 7).
        similar = difflib.get_close_matches(name.upper(), SETTINGS, n=1, cutoff=0.86)
        if plain and (name.isupper() or similar):
            meant = f"; do you mean {similar[0]}?" if similar else "."
            raise ValueError(f"there is no setting {name}{meant} There are: {', '.join(SETTINGS)}")
    settings = {name: namespace[name] for name in SETTINGS}
    check(**settings)
    return settings
