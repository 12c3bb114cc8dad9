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
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import scenes
from scenes import base_model, files

Rule = tuple[str, Callable[[object], bool]]
PROJECT = Path(__file__).resolve().parents[1]
_LAYERS = base_model.FIRST_LAYERS
_TINY = float(np.finfo("float32").tiny)


def _is_number(value, low, high):
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return real and low <= value <= high


def _is_below_1(value):
    # As the network computes: there, 0.99999999 is 1.
    return _is_number(value, 0, 1) and np.float32(value) < 1


def _is_list(values, allowed):
    if isinstance(values, np.ndarray) and values.ndim == 1:
        values = list(values)
    if not isinstance(values, (list, tuple)) or not values:
        return False
    if not all(map(allowed, values)):
        return False
    different = {f"{number:.7g}" for number in _plain(values)}  # as in the CSV
    return len(different) == len(values)


def _is_one_of(value, texts):
    return isinstance(value, str) and value in texts


def _is_path(value):
    return value is None or (isinstance(value, (str, os.PathLike)) and str(value) != "")


def _is_cache(value):
    # The features.npz of the project would be taken for the cache.
    return value is not None and _is_path(value) and Path(value).resolve() != PROJECT


def _whole_from(low, high=10**9):
    words = f"a whole number from {low} to {high}"
    return words, lambda v: isinstance(v, numbers.Integral) and _is_number(v, low, high)


def _above_0_up_to(high):
    return f"a number above 0, up to {high}", lambda v: _is_number(v, _TINY, high)


def _list_of(rule):
    words, allowed = rule
    words = f"a list of different numbers, each {words}"
    return words, lambda values: _is_list(values, allowed)


_SWITCH = "True or False", lambda v: isinstance(v, bool)
_FOLDER = "None or the path of a folder", _is_path
_POSITIVE = _whole_from(1)
_SHARE = _above_0_up_to(0.5)
_LEARNING_RATE = _above_0_up_to(1)
_RATES = _list_of(_LEARNING_RATE)
_WEIGHT_DECAY = "a number from 0 to 1000", lambda v: _is_number(v, 0, 1000)
_DROPOUT = "a number from 0 to below 1", _is_below_1
_WEIGHTING = "None or 'balanced'", lambda v: v is None or _is_one_of(v, ["balanced"])
# What each setting may be: in words for the error message, and as a test.
RULES: dict[str, Rule] = {
    "photos": _FOLDER,
    "download": _SWITCH,
    "corrections": ("None or a CSV file with the columns path and label", _is_path),
    "weights": (
        "'imagenet', None or a weights file (.h5) of the base model without a head",
        _is_path,
    ),
    "output": _FOLDER,
    "cache": (
        "a folder that can be written to, other than the project's own",
        _is_cache,
    ),
    # Keras takes 32 bits, and the runs of the notebook count on from it.
    "seed": _whole_from(0, 4 * 10**9),
    "shrink_factor": _POSITIVE,
    "test_ratio": _SHARE,
    "validation_ratio": _SHARE,
    "learning_rates": _RATES,
    "dropouts": _list_of(_DROPOUT),
    "weight_decays": _list_of(_WEIGHT_DECAY),
    "epochs": _POSITIVE,
    "folds": _whole_from(2),
    "batch_size": _POSITIVE,
    "class_weight": _WEIGHTING,
    "first_layer": (
        f"{_LAYERS[0]!r} to {_LAYERS[-2]!r} or {_LAYERS[-1]!r}",
        lambda v: _is_one_of(v, _LAYERS),
    ),
    "label_smoothing": _DROPOUT,
    "fine_tune_rates": (
        f"[] or {_RATES[0]}",
        lambda v: (isinstance(v, list) and not v) or _RATES[1](v),
    ),
    "fine_tune_epochs": _POSITIVE,
}
# The same of all arguments, and of what else stands in the notebook.
ARGUMENTS = RULES | {
    "learning_rate": _LEARNING_RATE,
    "dropout": _DROPOUT,
    "weight_decay": _WEIGHT_DECAY,
    "recorded": (
        "None or what a settings.json holds under this name",
        lambda v: v is None or isinstance(v, dict),
    ),
}
_NUMBER = re.compile(r"[-+]?\.?\d[\d.]*(e[-+]?\d+)?", re.IGNORECASE)
PATHS = ("PHOTOS", "CORRECTIONS", "WEIGHTS", "OUTPUT", "CACHE")


def check(**values: object) -> None:
    """Raise a ValueError that names the first value that its rule does not allow."""
    for name, value in values.items():
        allowed, test = ARGUMENTS[name.lower()]
        if not test(value):
            what = f"{name} is {value!r}; it must be {allowed}"
            raise ValueError(what + _hint(name, value))


def _plain(value):
    """Return a number or text as Python's own, and several numbers as a list."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (str, os.PathLike)):
        return str(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) + 0.0  # of -0.0, it makes 0.0
    return [float(number) + 0.0 for number in value]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Options:
    """Options that are checked when they are made; numbers become Python's own."""

    def __post_init__(self):
        for name, value in vars(self).copy().items():
            check(**{name: value})
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
    if name.upper() in PATHS and isinstance(value, numbers.Number):
        use = f"papermill takes it by -r {name} {value}, not by -p"
        return f" (write it in quotes; {use})"
    if str(value) in ("true", "false"):
        return f" (write {value.title()})"
    if isinstance(value, str) and value.lstrip().startswith("["):
        return f' (papermill takes a list by -y "{name}: {value}", not by -p)'
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str) and _NUMBER.fullmatch(text):
            return (
                " (write it without quotes; YAML reads 1e-4 as text, "
                "too: write 0.0001 or 1.0e-4)"
            )
    return ""


def check_settings(namespace: dict) -> dict:
    """
    Return the notebook's settings out of its variables, each checked.

    A run that repeats another one, by `papermill -f settings.json`, says in a line for
    each what is not as in that run: corrections, weights, versions.

    Parameters
    ----------
    namespace : dict
        The notebook's `globals()`. What is found there becomes plain: a `~` in a path
        is replaced and a number is Python's own, so that all cells take the same; the
        settings of a settings.json of an earlier form are set.

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
    _take_earlier_form(namespace)
    settings = pick(namespace)
    _check_files(settings)
    made = {"versions": scenes.VERSIONS, **hash_files(settings)}
    compare(namespace, made, ("corrections", "weights", "versions"))
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

    tensor_float_32 = tf.config.experimental.tensor_float_32_execution_enabled
    found = [
        (f"keras.config.{name}()", getattr(keras.config, name)(), value)
        for name, value in scenes.KERAS.items()
    ]
    found += [
        ("tf.config.optimizer.get_jit()", tf.config.optimizer.get_jit(), ""),
        ("TensorFloat-32", tensor_float_32(), False),
        ("TF_XLA_FLAGS", os.environ.get("TF_XLA_FLAGS", ""), ""),
        ("transform_output", sklearn.get_config()["transform_output"], "default"),
    ]
    for name, value, allowed in found:
        if value != allowed:
            what = f"{name} is {value!r}; it must be {allowed!r}"
            raise ValueError(f"{what}: restart without the line that changes it")


def _check_names(namespace):
    """Raise an error if a constant is called almost as a setting."""
    known = [name.upper() for name in RULES]
    for name in namespace:
        if name in known or not name.isupper() or name.startswith("_"):
            continue
        if near := difflib.get_close_matches(name, known, n=1, cutoff=0.8):
            raise ValueError(f"Unknown setting {name}; did you mean {near[0]}?")


def _take_earlier_form(namespace):
    """Set what papermill has found below `settings` in an earlier settings.json."""
    earlier = namespace.get("settings")
    if isinstance(earlier, dict) and "VALIDATION_RATIO" in earlier:
        print("All settings are those of the settings.json, which is of an older form.")
        names = ("classes", "corrections", "photos", "versions")
        recorded = {name: namespace.get(name) for name in names}
        namespace.update(earlier, recorded=recorded)


def _write_in(folder):
    Path(folder).mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()


def _check_files(settings):
    """Raise an error if the cache cannot be written to, or a file cannot be read."""
    uses = {"CACHE": _write_in, "CORRECTIONS": files.file_digest}
    uses["WEIGHTS"] = base_model.check_weights
    for name, use in uses.items():
        value = settings[name]
        if value in ("imagenet", None):
            continue
        try:
            use(value)
        except Exception as error:  # h5py raises a dozen kinds
            reason = str(error).partition("\n")[0]
            what = f"{name} is {value!r}; it must be {RULES[name.lower()][0]}"
            raise ValueError(f"{what} ({reason})") from error


def pick(namespace: dict) -> dict:
    """Return the settings out of a namespace, each checked, and made plain there."""
    settings = {}
    for name in map(str.upper, RULES):
        if name not in namespace:
            what = f"the setting {name} is missing"
            raise ValueError(f"{what}: put it back into the settings")
        check(**{name: namespace[name]})
        settings[name] = _plain(namespace[name])
        if name in PATHS and settings[name]:
            settings[name] = str(files.expand_home(settings[name]))
    namespace.update(settings)
    return settings


def hash_files(settings: dict) -> dict[str, str]:
    """Return the hash of the corrections and of the weights, if they are files."""
    paths = {name: settings[name.upper()] for name in ("corrections", "weights")}
    return {
        name: files.file_digest(path)
        for name, path in paths.items()
        if path not in ("imagenet", None)
    }


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
    recorded = namespace.get("recorded")
    check(recorded=recorded)
    for name in names:
        was, now = (recorded or made).get(name), made.get(name)
        if was != now:
            print(
                f"This run does not repeat the recorded one: {name} {now}, not {was}."
            )
