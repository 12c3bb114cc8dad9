"""
Settings (section 1 of the notebook): what each may be, and where results go.

An impossible value is refused by name before any work, and each folder of results says
what it was made with. Reads no photos and trains nothing.
"""

import ast
import difflib
import json
import numbers
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

import scenes
from scenes import files


def _is_number(value: object, low: float, high: float = float("inf")) -> bool:
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return real and low <= value <= high and value < float("inf")


def _is_whole(value: object, low: int) -> bool:
    return isinstance(value, numbers.Integral) and _is_number(value, low)


def _is_list(values: object, allowed: Callable[[object], bool]) -> bool:
    listed = isinstance(values, (list, tuple, np.ndarray)) and len(values) > 0
    if not listed or not all(map(allowed, values)):
        return False
    # With the digits of the CSV, and -0 is 0.
    return len({f"{float(v) + 0.0:.7g}" for v in values}) == len(values)


def _is_path(value: object) -> bool:
    return value is None or (isinstance(value, (str, os.PathLike)) and str(value) != "")


_TINY = float(np.finfo("float32").tiny)
_SWITCH = "True or False", lambda v: isinstance(v, bool)
_FOLDER = "None or the path of a folder", _is_path
_POSITIVE = "a whole number from 1", lambda v: _is_whole(v, 1)
_NOT_NEGATIVE = "a number from 0", lambda v: _is_number(v, 0)
_LEARNING_RATE = "a number above 0, up to 1", lambda v: _is_number(v, _TINY, 1)
_DROPOUT = "a number from 0 to below 1", lambda v: _is_number(v, 0) and v < 1
_SHARE = "a number above 0, up to 0.5", lambda v: _is_number(v, _TINY, 0.5)
Rule = tuple[str, Callable[[object], bool]]
# What each setting may be: in words for the error message, and as a test.
RULES: dict[str, Rule] = {
    "photos": _FOLDER,
    "download": _SWITCH,
    "weights": ("'imagenet', the path of a weights file, or None", _is_path),
    "output": _FOLDER,
    "cache": (
        "the path of a folder",
        lambda v: v is not None and _is_path(v) and not os.path.isfile(v),
    ),
    # Keras takes 32 bits, and the runs of the notebook count on from it.
    "seed": ("a whole number from 0 to 4000000000", lambda v: _is_whole(v, 0) and v <= 4 * 10**9),
    "shrink_factor": _POSITIVE,
    "test_ratio": _SHARE,
    "validation_ratio": _SHARE,
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
    "epochs": _POSITIVE,
    "folds": ("a whole number from 2", lambda v: _is_whole(v, 2)),
    "batch_size": _POSITIVE,
    "head_epochs": _POSITIVE,
    "runs": _POSITIVE,
    "run_epochs": _POSITIVE,
    "fine_tune_runs": ("a whole number from 0", lambda v: _is_whole(v, 0)),
    "fine_tune_search": _SWITCH,
    "first_layer": (
        "'block_1_expand' to 'block_16_expand' or 'Conv_1'",
        lambda v: v in scenes.FIRST_LAYERS,
    ),
    "label_smoothing": _DROPOUT,
    "fine_tune_rate": _LEARNING_RATE,
    "fine_tune_epochs": _POSITIVE,
    "large_search": _SWITCH,
}
RULES |= {
    f"large_{name}": RULES[name]
    for name in ("learning_rates", "dropouts", "weight_decays", "epochs")
}
# What arguments may be that are no settings.
ARGUMENTS: dict[str, Rule] = {
    "learning_rate": _LEARNING_RATE,
    "dropout": _DROPOUT,
    "weight_decay": _NOT_NEGATIVE,
}
PATHS = ("PHOTOS", "WEIGHTS", "OUTPUT", "CACHE")
# Where things lie, and how much is run: results with others of these are of the same make.
OF_NO_RESULT = ("PHOTOS", "DOWNLOAD", "OUTPUT", "CACHE")
OF_NO_RESULT += ("FINE_TUNE_RUNS", "FINE_TUNE_SEARCH", "LARGE_SEARCH")
# What makes a folder one of results: before, another run may take it.
RESULTS = ("grid_search.csv", ".grid_search-*", "results")
COMMITTED = Path(__file__).parents[1]  # the folder of the committed results


def check(**values: object) -> None:
    """Raise a ValueError that names the first value that its rule does not allow."""
    for name, value in values.items():
        allowed, test = (RULES | ARGUMENTS)[name.lower()]
        if not test(value):
            raise ValueError(
                f"{name} is {value!r}; it must be {allowed}{_hint(name, value, allowed)}"
            )


def _hint(name: str, value: object, allowed: str) -> str:
    """Return what helps where a value came as text, as from papermill or YAML."""
    texts = [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str)]
    if value in ("true", "false"):
        return f" (write {value.title()})"
    if isinstance(value, str) and value.lstrip().startswith("["):
        return f' (papermill takes a list by -y "{name}: {value}", not by -p)'
    if any(_is_text_of_number(text) for text in texts):
        return " (write it without quotes; YAML reads 1e-4 as text, too: write 0.0001 or 1.0e-4)"
    return ""


def _is_text_of_number(text: str) -> bool:
    try:
        return np.isfinite(float(text))
    except ValueError:
        return False


def check_settings(namespace: dict) -> dict:
    """
    Pick the notebook's settings out of its variables, and check them all.

    Parameters
    ----------
    namespace : dict
        The notebook's `globals()`. A `~` in the path of a setting is replaced there, too,
        so that all cells take the same folder.

    Returns
    -------
    dict
        Name and value of each setting, in the order of `RULES`.

    Raises
    ------
    ValueError
        A value is impossible, a setting is missing, or papermill was given a name that is
        almost one (it sets such a variable and goes on, and the run would ignore it).
        A reader's own variables may have any name.
    """
    names = [name.upper() for name in RULES]
    for name in _from_papermill(namespace):
        near = difflib.get_close_matches(name.upper(), names, n=1, cutoff=0.75)
        if name not in names and near:
            raise ValueError(f"there is no setting {name}; do you mean {near[0]}?")
        if name not in names and not name.startswith("PAPERMILL_"):
            print(f"{name} is no setting of this notebook: its own cells do not use it.")
    return _pick(namespace)


def _pick(namespace: dict) -> dict:
    """Return the settings out of a namespace, each checked."""
    names = [name.upper() for name in RULES]
    if missing := [name for name in names if name not in namespace]:
        raise ValueError(f"the setting {missing[0]} is missing: put it back into the settings")
    settings = {name: namespace[name] for name in names}
    check(**settings)
    for name in PATHS:
        value = settings[name]
        if value is not None and os.fspath(value).startswith("~"):
            namespace[name] = settings[name] = os.path.expanduser(value)
    return settings


def _from_papermill(namespace: dict) -> list[str]:
    """Return the names that papermill has set: in a cell of its own, which IPython keeps."""
    names = []
    for cell in namespace.get("In", []):
        if cell.startswith("# Parameters\n"):
            assigned = [node for node in ast.parse(cell).body if isinstance(node, ast.Assign)]
            names += [node.targets[0].id for node in assigned]
    return names


class Output:
    """
    The folder of a run's results, which says in `settings.json` what they are made with.

    Attributes
    ----------
    folder : Path
    classes : list of str
    """

    def __init__(self, folder: Path, made: dict, namespace: dict):
        self.folder, self.classes = folder, made["classes"]
        self._made, self._namespace = made, namespace

    def file(self, name: str) -> Path:
        """
        Return the path of a file of the results, to be written.

        Raises
        ------
        ValueError
            A setting has changed since the folder was chosen, or another run has taken the
            folder: what would be written there is not what the folder says.
        """
        for key, now in _made_with(_pick(self._namespace)).items():
            if now != (was := self._made["settings"][key]):
                raise ValueError(
                    f"{key} was {was!r} when the folder {self.folder} was chosen, and is now "
                    f"{now!r}: run all cells again, from section 1 on, or set it back"
                )
        _refuse_others(self.folder, _read(self.folder / "settings.json"), self._made)
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def plots(self) -> Path:
        """The folder of the plots, to be written to, as `file` says."""
        return self.file("plotly_plots")

    def write(self, table: pd.DataFrame, name: str) -> None:
        """Write a table to `results/`; the file is replaced as a whole."""
        files.write_csv(table, self.file(f"results/{name}"))

    def write_runs(self, table: pd.DataFrame, name: str) -> None:
        """Write a table of numbered runs to `results/`, beside the other runs there."""
        files.write_runs(table, self.file(f"results/{name}"))

    def table(self, name: str) -> pd.DataFrame | None:
        """
        Return a table of this run's results or, with a word, the committed one.

        None, with a word, where the committed results are of other classes.
        """
        path = self._of_run_or_committed(Path("results", name))
        return path and files.read_csv(path)

    def model(self) -> Path | None:
        """Return the path of this run's fine-tuned model or, with a word, the committed one."""
        return self._of_run_or_committed(Path("intel_classifier.keras"))

    def _of_run_or_committed(self, name: Path) -> Path | None:
        if (self.folder / name).exists():
            return self.folder / name
        if _read(COMMITTED / "settings.json")["classes"] != self.classes:
            print(f"This run has not made {name.name}, and the committed one is of other photos.")
            return None
        print(f"This run has not made {name.name}: shown is the committed one.")
        return COMMITTED / name


def output_folder(namespace: dict, images: pd.DataFrame) -> Output:
    """
    Choose the folder for the results, and make it.

    It is `OUTPUT` where that is set; else one below `runs/` named after what differs from
    the committed results, so that no run overwrites those of another. The committed ones
    are written by `OUTPUT = "."` alone.

    Parameters
    ----------
    namespace : dict
        The notebook's `globals()`, which hold its settings.
    images : DataFrame
        The table of the photos, with digests, as it trains: after `create_validation`.

    Raises
    ------
    ValueError
        The folder holds results that were made with other settings or photos.
    OSError
        The folder cannot be made.
    """
    chosen = _pick(namespace)
    classes = list(images["label"].cat.categories)
    made = {"settings": _made_with(chosen), "classes": classes, "photos": _photos(images)}
    folder = Path(chosen["OUTPUT"] or Path("runs", _name(made)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        error.filename = f"{folder}: choose another OUTPUT"
        raise
    path = folder / "settings.json"
    with files.locked(path):
        held = any(any(folder.glob(name)) for name in RESULTS)
        if held and path.exists():
            _refuse_others(folder, _read(path), made)
        elif held:
            raise ValueError(
                f"{folder} holds results and no settings.json that says of what: delete them "
                "or choose another OUTPUT"
            )
        else:  # of a run, perhaps, that came to no result
            with files.replacing(path) as beside:
                text = json.dumps(made, indent=1, ensure_ascii=False)
                beside.write_text(text + "\n", encoding="utf-8")
    return Output(folder, made, namespace)


def _made_with(settings: dict) -> dict:
    """Return the settings that decide about results, as JSON holds them."""
    return {
        name: os.fspath(value) if isinstance(value, os.PathLike) else np.asarray(value).tolist()
        for name, value in settings.items()
        if name not in OF_NO_RESULT
    }


def _photos(images: pd.DataFrame) -> str:
    """Return the fingerprint of the labelled photos: where they lie makes no difference."""
    labelled = images[images["label"].notna()]
    return files.fingerprint(labelled[["label", "split", "digest"]])


def _name(made: dict) -> str:
    """Return the name of a folder: the numbers that differ from the committed ones, if few."""
    committed = _read(COMMITTED / "settings.json")
    words = [
        f"{name.lower()}-{value}"
        for name, value in made["settings"].items()
        if value != committed["settings"].get(name) and not isinstance(value, (list, str))
    ][:4]
    words += ["photos"] * (made["photos"] != committed["photos"])
    words += ["unchanged"] * (made == committed)
    return "-".join([*words, files.fingerprint(made)[:8]])


def _read(path: Path) -> dict:
    """Return what a settings.json says."""
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
        kinds = {"settings": dict, "classes": list, "photos": str}
        if not all(isinstance(made[name], kind) for name, kind in kinds.items()):
            raise ValueError("it holds something else")
        return made
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read: {error}. Delete its folder or choose another OUTPUT"
        ) from error


def _refuse_others(folder: Path, there: dict, made: dict) -> None:
    """Raise an error that says what the results in a folder were made with, if not with this."""
    way_out = f"Choose another OUTPUT, or delete the results in {folder}"
    for name, value in made["settings"].items():
        old = there["settings"].get(name)
        if old != value:
            raise ValueError(
                f"the results in {folder} were made with {name} = {old!r}; it is {value!r} now. "
                f"{way_out}, or set it back"
            )
    if there["photos"] != made["photos"]:
        raise ValueError(
            f"the results in {folder} were made of other photos ({there['photos']}, now "
            f"{made['photos']}). {way_out}"
        )
