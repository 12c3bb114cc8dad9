"""
Settings (section 1 of the notebook): what each may be.

An impossible value is refused by name before any work.
"""

import dataclasses
import difflib
import numbers
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import scenes
from scenes import base_model, files

PROJECT = Path(__file__).resolve().parents[1]
_TINY = float(np.finfo("float32").tiny)  # what is below it is 0 to the network


def _number(words, low, high, kind=numbers.Real):
    def is_allowed(value):
        if not isinstance(value, kind) or isinstance(value, bool):
            return False
        return low <= value <= high

    return words, is_allowed


def _whole_number(low, high=10**9):
    words = f"a whole number from {low} to {high}"
    return _number(words, low, high, numbers.Integral)


def _numbers(rule, at_least=1):
    words, is_allowed = rule

    def are_allowed(values):
        if not isinstance(values, list | tuple | np.ndarray):
            return False
        if not all(map(is_allowed, values)):
            return False
        different = np.unique(np.float32(values))  # as the network computes
        return at_least <= len(values) == len(different)

    return f"a list of different numbers, each {words}", are_allowed


def _one_of(*texts):
    def is_allowed(value):
        return isinstance(value, str | None) and value in texts

    return " or ".join(map(repr, texts)), is_allowed


def _is_path(value):
    return isinstance(value, str | os.PathLike | None) and value != ""


def is_csv(groups: str | Path | None) -> bool:
    """Return whether GROUPS is the path of a CSV file, and no regular expression."""
    return str(groups).lower().endswith(".csv")


def _are_groups(value):
    if value is None or is_csv(value):
        return _is_path(value)
    try:
        return isinstance(value, str) and re.compile(value).groups == 1
    except re.error:
        return False


_FOLDER = "None or the path of a folder", _is_path
_SWITCH = "True or False", lambda value: isinstance(value, bool)
_POSITIVE = _whole_number(1)
_SHARE = _number("a number above 0, up to 0.5", _TINY, 0.5)
_LEARNING_RATE = _number("a number above 0, up to 1", _TINY, 1)
_WEIGHT_DECAY = _number("a number from 0 to 1000", 0, 1000)
_DROPOUT = _number("a number from 0 to 0.999", 0, 0.999)
# What each setting may be: in words for the error message, and as a test.
RULES = {
    "photos": _FOLDER,
    "download": _SWITCH,
    "corrections": ("None or a CSV file with the columns path and label", _is_path),
    "groups": (
        r"None, a regular expression with one group in parentheses, as 'patient(\d+)', "
        "or a CSV file with the columns path and group",
        _are_groups,
    ),
    "weights": (
        "'imagenet', None or a weights file (.h5) of the base model without a head",
        _is_path,
    ),
    "output": _FOLDER,
    "cache": (
        "a folder that can be written to, other than the project's own",
        lambda value: _is_path(value) and value and Path(value).resolve() != PROJECT,
    ),
    # Keras takes 32 bits; the notebook also uses SEED + 1 and SEED + 2.
    "seed": _whole_number(0, 4 * 10**9),
    "shrink_factor": _POSITIVE,
    "test_ratio": _SHARE,
    "validation_ratio": _SHARE,
    "learning_rates": _numbers(_LEARNING_RATE),
    "dropouts": _numbers(_DROPOUT),
    "weight_decays": _numbers(_WEIGHT_DECAY),
    "epochs": _POSITIVE,
    "folds": _whole_number(2),
    "batch_size": _POSITIVE,
    "class_weight": _one_of(None, "balanced"),
    "first_layer": _one_of(*base_model.FIRST_LAYERS),
    "label_smoothing": _DROPOUT,
    "fine_tune_rates": _numbers(_LEARNING_RATE, at_least=0),
    "fine_tune_epochs": _POSITIVE,
    "cross_fit": _SWITCH,
}
# The same of all arguments.
ARGUMENTS = RULES | {
    "learning_rate": _LEARNING_RATE,
    "dropout": _DROPOUT,
    "weight_decay": _WEIGHT_DECAY,
}


def check(**values: object) -> None:
    """Raise a ValueError that names the first value that its rule does not allow."""
    for name, value in values.items():
        words, is_allowed = ARGUMENTS[name.lower()]
        if not is_allowed(value):
            raise ValueError(f"{name} is {value!r}; it must be {words}{_hint(value)}")


def _hint(value):
    """Return what to do about numbers that YAML or papermill has taken for text."""
    texts = value if isinstance(value, list) else [value]
    for text in texts:
        if isinstance(text, str) and re.fullmatch(r"[\[\]\d.,e +-]+", text):
            return "; this is text: write 3 or 1.0e-4 (a list after papermill's -y)"
    return ""


def _plain(value):
    """Return a value as Python's own, in which a `~` that begins a path is replaced."""
    match value:
        case None | bool():
            return value
        case str() | os.PathLike():
            text = os.fspath(value)
            if text.startswith("~"):
                return str(files.expand_home(text))
            return text
        case numbers.Integral():
            return int(value)
        case numbers.Real():
            return float(value)
        case _:
            return [float(number) for number in value]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Options:
    """Options that are checked when they are made; numbers become Python's own."""

    epochs: int
    batch_size: int = 128
    class_weight: str | None = None
    seed: int = 0

    def __post_init__(self):
        check(**vars(self))
        for name, value in vars(self).items():
            plain = _plain(value)
            if isinstance(plain, list):
                plain = tuple(sorted(plain))
            object.__setattr__(self, name, plain)


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
        With 'balanced', all classes have the same total weight (as in scikit-learn).
    seed : int
        Of the initial weights, the order of the images and the dropout masks.
    """

    learning_rate: float
    dropout: float
    weight_decay: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class GridOptions(_Options):
    """
    A grid of settings, and how its heads train.

    Attributes
    ----------
    learning_rates, dropouts, weight_decays : tuple of float
        The grid is their product; sorted.
    epochs, batch_size : int
    class_weight : None or 'balanced'
        With 'balanced', all classes have the same total weight (as in scikit-learn).
    seed : int
        Fold k is seeded from (seed, k), so that it does not matter when it runs.
    """

    learning_rates: Sequence[float]
    dropouts: Sequence[float]
    weight_decays: Sequence[float]


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
        At least; few images take more, see `fine_tuning.plan_epochs`.
    weight_decay : float
        Of AdamW (Loshchilov & Hutter, 2019), on all weights but biases.
    batch_size : int
        Half of it for few images, see `fine_tuning.plan_epochs`.
    class_weight : None or 'balanced'
        With 'balanced', all classes have the same total weight (as in scikit-learn).
    seed : int
        Of the order of the images, the flips and the dropout masks.
    """

    learning_rate: float
    first_layer: str
    label_smoothing: float
    weight_decay: float = 0.01
    batch_size: int = 32


def check_settings(namespace: dict) -> dict:
    """
    Return the notebook's settings out of its variables, each checked.

    A run that repeats another one, by `papermill -f settings.json`, says in a line for
    each what is not as in that run: corrections, weights, versions.

    Parameters
    ----------
    namespace : dict
        The notebook's `globals()`. What is found there becomes plain: a `~` in a path
        is replaced and a number is Python's own, so that all cells take the same.

    Returns
    -------
    dict
        Name and value of each setting, in the order of `RULES`.

    Raises
    ------
    ValueError
        A value is impossible, a file or folder cannot be used, a setting is missing, or
        an upper-case name is almost that of a setting, so that the run would ignore it.
        Or Keras, TensorFlow or scikit-learn are set otherwise, see
        `check_configuration`.
    """
    check_configuration()
    _check_names(namespace)
    settings = pick(namespace)
    _check_files(settings)
    made = hash_files(settings)
    made["versions"] = scenes.VERSIONS
    compare(namespace, made, ("corrections", "groups", "weights", "versions"))
    return settings


def check_configuration() -> None:
    """
    Return nothing if Keras, TensorFlow and scikit-learn are set as the numbers need it.

    A cell of a reader may have changed what `scenes` sets. The dtype policy is not
    checked: what must be float32 is computed in float32 under any policy.

    Raises
    ------
    ValueError
        One of them is set otherwise; the message names it.
    """
    import sklearn  # takes a second, which the other callers of this room do without

    for name, value in scenes.KERAS.items():
        _require(f"keras.config.{name}()", getattr(keras.config, name)(), value)
    uses_tensor_float_32 = tf.config.experimental.tensor_float_32_execution_enabled()
    _require("TensorFloat-32", uses_tensor_float_32, False)
    _require("tf.config.optimizer.get_jit()", tf.config.optimizer.get_jit(), "")
    _require("TF_XLA_FLAGS", os.environ.get("TF_XLA_FLAGS", ""), "")
    container = sklearn.get_config()["transform_output"]
    _require("transform_output", container, "default")


def _require(name, value, allowed):
    if value != allowed:
        what = f"{name} is {value!r}; it must be {allowed!r}"
        raise ValueError(f"{what}: restart without the line that changes it")


def _check_names(namespace):
    """Raise an error if a constant is called almost as a setting."""
    known = list(map(str.upper, RULES))
    for name in namespace:
        if name in known or not name.isupper():
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        if near:
            raise ValueError(f"Unknown setting {name}; did you mean {near[0]}?")


def _write_in(folder):
    Path(folder).mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()


def _check_files(settings):
    """Raise an error if the cache cannot be written to, or a file cannot be read."""
    if settings["WEIGHTS"] == "imagenet":
        base_model.check_imagenet_weights()
    uses = {
        "CACHE": _write_in,
        "CORRECTIONS": files.file_digest,
        "GROUPS": files.file_digest,
        "WEIGHTS": base_model.check_weights,
    }
    for name, use in uses.items():
        value = settings[name]
        if not _is_file(name, value):
            continue
        try:
            use(value)
        except Exception as error:  # h5py raises a dozen kinds
            words, _ = RULES[name.lower()]
            reason, *_ = str(error).splitlines() or [type(error).__name__]
            what = f"{name} is {value!r}; it must be {words} ({reason})"
            raise ValueError(what) from error


def pick(namespace: dict) -> dict:
    """Return the settings out of a namespace, each checked, and made plain there."""
    settings = {}
    for name in map(str.upper, RULES):
        if name not in namespace:
            raise ValueError(f"the setting {name} is missing: put it back")
        value = namespace[name]
        check(**{name: value})
        settings[name] = _plain(value)
    namespace.update(settings)
    return settings


def _is_file(name, value):
    """Return whether a setting that may be the path of a file is one."""
    if name == "GROUPS":
        return is_csv(value)
    return value is not None and (name, value) != ("WEIGHTS", "imagenet")


def hash_files(settings: dict) -> dict[str, str]:
    """Return the hash of the corrections, groups and weights, if they are files."""
    hashes = {}
    for name in ("CORRECTIONS", "GROUPS", "WEIGHTS"):
        if _is_file(name, settings[name]):
            hashes[name.lower()] = files.file_digest(settings[name])
    return hashes


def compare(namespace: dict, made: dict, names: Sequence[str]) -> None:
    """
    Return nothing; say what differs between this run and the one that it repeats.

    Parameters
    ----------
    namespace : dict
        Its `recorded` is None, or what a settings.json holds under this name.
    made : dict
        The same of this run.
    names : sequence of str
        What is compared.
    """
    recorded = namespace.get("recorded") or made
    for name in names:
        was, now = recorded.get(name), made.get(name)
        if was != now:
            print(
                f"This run does not repeat the recorded one: {name} {now}, not {was}."
            )
