"""
Settings (section 1 of the notebook): what each may be.

An impossible value is refused by name before any work.
"""

import ast
import dataclasses
import difflib
import numbers
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from scenes import base_model, files

Rule = tuple[str, Callable[[object], bool]]


def _is_number(value, low, high=float("inf")):
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return real and low <= value <= high and value < float("inf")


def _is_whole(value, low):
    return isinstance(value, numbers.Integral) and _is_number(value, low)


def _is_list(values, allowed):
    listed = isinstance(values, (list, tuple, np.ndarray)) and len(values) > 0
    if not listed or not all(map(allowed, values)):
        return False
    # With the digits of the CSV, and -0 is 0.
    return len({f"{float(v) + 0.0:.7g}" for v in values}) == len(values)


def _is_path(value):
    return value is None or (isinstance(value, (str, os.PathLike)) and str(value) != "")


def _is_cache(value):
    return value is not None and _is_path(value) and Path(value).resolve() != PROJECT


def _list_of(rule):
    return f"a list of different numbers, each {rule[0]}", lambda v: _is_list(
        v, rule[1]
    )


PROJECT = (
    Path(__file__).resolve().parents[1]
)  # its features.npz would be taken for the cache
_TINY = float(np.finfo("float32").tiny)
_SWITCH = "True or False", lambda v: isinstance(v, bool)
_FOLDER = "None or the path of a folder", _is_path
_POSITIVE = "a whole number from 1", lambda v: _is_whole(v, 1)
_NOT_NEGATIVE = "a number from 0", lambda v: _is_number(v, 0)
_LEARNING_RATE = "a number above 0, up to 1", lambda v: _is_number(v, _TINY, 1)
_DROPOUT = "a number from 0 to below 1", lambda v: _is_number(v, 0) and v < 1
_WEIGHTING = (
    "None or 'balanced'",
    lambda v: v is None or (isinstance(v, str) and v == "balanced"),
)
_SHARE = "a number above 0, up to 0.5", lambda v: _is_number(v, _TINY, 0.5)
_RATES = _list_of(_LEARNING_RATE)
# What each setting may be: in words for the error message, and as a test.
RULES: dict[str, Rule] = {
    "photos": _FOLDER,
    "download": _SWITCH,
    "corrections": ("None or a CSV file with the columns path and label", _is_path),
    "weights": (
        "'imagenet', None or a weights file of the base model without a head",
        _is_path,
    ),
    "output": _FOLDER,
    "cache": (
        "a folder that can be written to, other than the project's own",
        _is_cache,
    ),
    # Keras takes 32 bits, and the runs of the notebook count on from it.
    "seed": (
        "a whole number from 0 to 4000000000",
        lambda v: _is_whole(v, 0) and v <= 4 * 10**9,
    ),
    "shrink_factor": _POSITIVE,
    "test_ratio": _SHARE,
    "validation_ratio": _SHARE,
    "learning_rates": _RATES,
    "dropouts": _list_of(_DROPOUT),
    "weight_decays": _list_of(_NOT_NEGATIVE),
    "epochs": _POSITIVE,
    "folds": ("a whole number from 2", lambda v: _is_whole(v, 2)),
    "batch_size": _POSITIVE,
    "class_weight": _WEIGHTING,
    "first_layer": (
        "{!r} to {!r} or {!r}".format(
            *(base_model.FIRST_LAYERS[i] for i in (0, -2, -1))
        ),
        lambda v: v in base_model.FIRST_LAYERS,
    ),
    "label_smoothing": _DROPOUT,
    "fine_tune_rates": (
        f"[] or {_RATES[0]}",
        lambda v: (isinstance(v, list) and not v) or _RATES[1](v),
    ),
    "fine_tune_epochs": _POSITIVE,
}
# What arguments may be that are no settings.
ARGUMENTS = {
    "learning_rate": _LEARNING_RATE,
    "dropout": _DROPOUT,
    "weight_decay": _NOT_NEGATIVE,
}
PATHS = ("PHOTOS", "CORRECTIONS", "WEIGHTS", "OUTPUT", "CACHE")


def check(**values: object) -> None:
    """Raise a ValueError that names the first value that its rule does not allow."""
    for name, value in values.items():
        allowed, test = (RULES | ARGUMENTS)[name.lower()]
        if not test(value):
            raise ValueError(
                f"{name} is {value!r}; it must be {allowed}{_hint(name, value)}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Options:
    """Options that are checked when they are made; numbers become Python's own."""

    def __post_init__(self):
        given = vars(self).copy()
        check(**given)
        for name, value in given.items():
            object.__setattr__(self, name, _plain(value))


def _plain(value):
    """Return a number as Python's own, and a list of numbers as a sorted tuple."""
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, (list, tuple, np.ndarray)):
        return tuple(sorted(map(float, value)))
    return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadOptions(_Options):
    """
    How a head trains.

    Attributes
    ----------
    learning_rate, dropout, weight_decay : float
        Of Adam; the share of the features that is set to 0 in training; the factor of
        the sum of squared weights in the loss.
    epochs, batch_size : int
    class_weight : None or 'balanced'
        See `heads.class_weights`.
    seed : int
        Of the initial weights, the order of the images and the dropout masks.
    """

    learning_rate: float
    dropout: float
    weight_decay: float
    epochs: int
    batch_size: int = 128
    class_weight: str | None = None
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridOptions(_Options):
    """
    A grid of settings, and how it is cross-validated.

    Attributes
    ----------
    learning_rates, dropouts, weight_decays : tuple of float
        The grid is their product; sorted.
    epochs, folds, batch_size : int
    class_weight : None or 'balanced'
        See `heads.class_weights`.
    seed : int
        Fold k is seeded from (seed, k), so that it does not matter when it runs.
    """

    learning_rates: Sequence[float]
    dropouts: Sequence[float]
    weight_decays: Sequence[float]
    epochs: int
    folds: int
    batch_size: int = 128
    class_weight: str | None = None
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTuningOptions(_Options):
    """
    How fine-tuning trains.

    Attributes
    ----------
    learning_rate : float
        Its peak: it rises for a tenth of the steps and then falls to 0 along a cosine.
    first_layer : str
        The first layer that trains, one of `base_model.FIRST_LAYERS`.
    label_smoothing : float
        The share of each label that is spread over all classes (Szegedy et al., 2016).
    epochs : int
        At least; small training sets take more, see `fine_tuning.count_epochs`.
    weight_decay : float
        Of AdamW (Loshchilov & Hutter, 2019), on all weights but biases.
    batch_size : int
    class_weight : None or 'balanced'
        See `heads.class_weights`.
    seed : int
        Of the order of the images, the flips and the dropout masks.
    """

    learning_rate: float
    first_layer: str
    label_smoothing: float
    epochs: int
    weight_decay: float = 0.01
    batch_size: int = 32
    class_weight: str | None = None
    seed: int = 0


def _hint(name, value):
    """Return what helps where a value came as text, as from papermill or YAML."""
    texts = [
        v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str)
    ]
    if name.upper() in PATHS and isinstance(value, numbers.Number):
        return (
            f" (write it in quotes; papermill takes it by -r {name} {value}, not by -p)"
        )
    if str(value) in ("true", "false"):
        return f" (write {value.title()})"
    if isinstance(value, str) and value.lstrip().startswith("["):
        return f' (papermill takes a list by -y "{name}: {value}", not by -p)'
    if any(
        re.fullmatch(r"[-+]?\.?\d[\d.]*(e[-+]?\d+)?", text, re.IGNORECASE)
        for text in texts
    ):
        return (
            " (write it without quotes; YAML reads 1e-4 as text, "
            "too: write 0.0001 or 1.0e-4)"
        )
    return ""


def check_settings(namespace: dict) -> dict:
    """
    Pick the notebook's settings out of its variables, and check them all.

    Parameters
    ----------
    namespace : dict
        The notebook's `globals()`. A `~` in the path of a setting is replaced there,
        too, so that all cells take the same folder; and the settings of a
        settings.json, given to papermill by `-f`, are set there.

    Returns
    -------
    dict
        Name and value of each setting, in the order of `RULES`.

    Raises
    ------
    ValueError
        A value is impossible, a file or folder cannot be used, a setting is missing, or
        papermill was given a name that is almost one (it sets such a variable and goes
        on, and the run would ignore it). A reader's own variables may have any name.
    """
    names = [name.upper() for name in RULES]
    given = _from_papermill(namespace)
    if isinstance(
        recorded := given.get("settings"), dict
    ):  # from a settings.json, by -f
        beside = ("settings", "classes", "photos", "corrections", "versions")
        given = recorded | {
            name: value for name, value in given.items() if name not in beside
        }
        namespace |= given
    for name in [name for name in given if name not in names]:
        if near := difflib.get_close_matches(name.upper(), names, n=1, cutoff=0.75):
            raise ValueError(f"there is no setting {name}; do you mean {near[0]}?")
        if not name.startswith("PAPERMILL_"):
            print(
                f"{name} is no setting of this notebook: its own cells do not use it."
            )
    settings = pick(namespace)
    _check_files(settings)
    return settings


def _check_files(settings):
    """Raise an error if the cache cannot be written to, or a file cannot be read."""
    try:
        name = "CACHE"
        Path(settings[name]).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=settings[name]).close()
        name = "CORRECTIONS"
        if settings[name] is not None:
            Path(settings[name]).open().close()
        name = "WEIGHTS"
        with warnings.catch_warnings(
            action="ignore"
        ):  # one for each layer without weights
            if settings[name] not in ("imagenet", None):
                base_model.build_base_model(settings[name])
    except Exception as error:  # Keras, h5py and zipfile raise a dozen kinds
        rule = f"{name} is {settings[name]!r}; it must be {RULES[name.lower()][0]}"
        raise ValueError(f"{rule} ({str(error).splitlines()[0]})") from error


def pick(namespace: dict) -> dict:
    """Return the settings out of a namespace, each checked."""
    names = [name.upper() for name in RULES]
    if missing := [name for name in names if name not in namespace]:
        raise ValueError(
            f"the setting {missing[0]} is missing: put it back into the settings"
        )
    settings = {name: namespace[name] for name in names}
    for name in PATHS:
        if str(settings[name]).startswith("~"):
            settings[name] = str(files.expand_home(settings[name]))
            namespace[name] = settings[name]
    check(**settings)
    return settings


def _from_papermill(namespace):
    """
    Return what papermill has set: in a cell of its own, which IPython keeps as the last
    but one.

    A reader's cell may begin in the same way; papermill's holds `NAME = literal`
    throughout.
    """
    cell = namespace.get("In", [""])[-2:][0]
    try:
        body = ast.parse(cell).body if cell.startswith("# Parameters\n") else []
        return {node.targets[0].id: ast.literal_eval(node.value) for node in body}
    except (AttributeError, SyntaxError, TypeError, ValueError):
        return {}
