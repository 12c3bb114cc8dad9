"""
Runs (section 2): where a run's results go, and what they were computed with.

Each folder of results says in `settings.json` what it was computed with. Reads no
photos and trains nothing.
"""

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

import scenes
from scenes import files, settings

# Paths change no result; of the corrections, the hash of the file is recorded.
NOT_COMPARED = ("PHOTOS", "DOWNLOAD", "CORRECTIONS", "OUTPUT", "CACHE")
# All that a run writes beside settings.json. A folder without any of it may be used by
# any run.
RESULTS = (
    "grid_search.csv",
    "*classifier.keras",
    "plotly_plots",
    "results",
)
# What is known by a hash, which says nothing to a person.
_HASHED = {
    "photos": "other photos, labels, splits or groups",
    "corrections": "other CORRECTIONS (the content of the file)",
    "groups": "other GROUPS (the content of the file)",
    "weights": "other WEIGHTS (the content of the file)",
}
COMMITTED = settings.PROJECT  # the folder of the committed results


@dataclasses.dataclass
class Output:
    """
    The folder of a run's results, which says in `settings.json` what they are made
    with.

    Attributes
    ----------
    folder : Path
    made : dict
        Settings, classes, hashes and versions.
    namespace : dict
        The notebook's `globals()`.
    paths : Series of str
        The photos' names in the data set.
    """

    folder: Path
    made: dict
    namespace: dict
    paths: pd.Series

    def file(self, name: str) -> Path:
        """
        Return the path of a file of the results, to be written.

        Raises
        ------
        ValueError
            A setting has changed since the folder was chosen, or another run has taken
            the folder: what would be written there is not what the folder says.
        """
        now = self.made | _compared(self.namespace)
        _refuse_others(self.folder, self.made, now)
        _refuse_others(self.folder, _read(self.folder / "settings.json"), self.made)
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def plots(self) -> Path:
        """The folder of the plots, to be written to, as `file` says."""
        return self.file("plotly_plots")

    @property
    def has_committed_classes(self) -> bool:
        """Whether the classes are those of the committed results."""
        return _read(COMMITTED / "settings.json")["classes"] == self.made["classes"]

    def write(self, table: pd.DataFrame, name: str, *, edited: bool = False) -> Path:
        """
        Write a table to `results/`, replaced as a whole, and return its path.

        If it is to be `edited` in a spreadsheet, see `files.write_edited`.
        """
        path = self.file(f"results/{name}")
        if edited:
            files.write_edited(table, path)
        else:
            files.write_csv(table, path)
        return path

    def keep(self, tables: Sequence[pd.DataFrame], name: str) -> pd.DataFrame:
        """
        Return the tables that a run has computed as one, written to `results/`.

        Without any, return what an earlier run has left there, if it has finished, or
        with a message the committed table.

        Raises
        ------
        ValueError
            The table of an earlier run is missing, or of photos under other paths.
        """
        if tables:
            table = pd.concat(tables, ignore_index=True)
            self.write(table, name)
            return table
        path = self._of_run_or_committed(f"results/{name}")
        table = files.read_csv(path)
        if "path" not in table:
            return table
        # A run may be of a part of the committed photos, but not of none of them.
        if not table["path"].isin(self.paths).any():
            what = f"{path} is of photos in other folders, as {table['path'][0]!r}"
            raise ValueError(f"{what}; set PHOTOS to them, or choose another OUTPUT")
        return table

    @property
    def _is_finished(self):
        """Whether an earlier run has come to its end here: it writes the model last."""
        return (self.folder / "classifier.keras").exists()

    @property
    def shown_run(self) -> str:
        """Which run's models are shown if this one computes none."""
        return "an earlier run" if self._is_finished else "the committed run"

    def model(self) -> Path:
        """
        Return the path of this run's model or, with a message, of the committed one.
        """
        return self._of_run_or_committed("classifier.keras")

    def _of_run_or_committed(self, name):
        path = self.folder / name
        if self._is_finished and path.exists():
            return path
        if self._is_finished or not self.has_committed_classes:
            what = f"{name} is missing in {self.folder}"
            raise ValueError(f"{what}: run all cells again")
        print(f"{name} was not computed in this run; showing the committed results.")
        return Path(os.path.relpath(COMMITTED / name))


def output_folder(namespace: dict, images: pd.DataFrame) -> Output:
    """
    Choose the folder for the results, and make it.

    It is `OUTPUT` where that is set; else one below `runs/` named after what differs
    from the committed results, so that no run overwrites those of another. The
    committed ones are written by `OUTPUT = "."` alone.

    Parameters
    ----------
    namespace : dict
        The notebook's `globals()`, which hold its settings.
    images : DataFrame
        The table of the photos, with digests and groups, as it trains: after
        `create_validation`.

    Raises
    ------
    ValueError
        The folder holds results that were computed with other settings or photos,
        results of unknown configuration, or a settings.json that no run has written.
    OSError
        The folder cannot be created.
    """
    made = _compared(namespace)
    made["classes"] = list(images["label"].cat.categories)
    made.update(settings.hash_files(namespace))
    labelled = images.dropna(subset="label")
    # Where they lie makes no difference.
    identity = labelled[["label", "split", "digest", "group"]]
    made["photos"] = files.fingerprint(identity)
    made["versions"] = scenes.VERSIONS
    settings.compare(namespace, made, ("classes", "photos"))
    folder = Path(namespace["OUTPUT"] or f"runs/{_name(made)}")
    _recorded(folder)  # raises before anything is written beside others' files
    path = folder / "settings.json"
    with files.locked(path):
        if there := _recorded(folder):
            _refuse_others(folder, there, made)
        else:
            _write(made, path)
        for place in (folder / "results", folder / "plotly_plots"):
            files.clear_unfinished(place)
    return Output(folder, made, namespace, images["path"])


def _compared(namespace):
    """Return the settings that decide about results; in `namespace`, all are plain."""
    chosen = settings.pick(namespace)
    return {name: chosen[name] for name in chosen if name not in NOT_COMPARED}


def _name(made):
    """Return the name of a folder: what differs from the committed results, if few."""
    committed = _read(COMMITTED / "settings.json")
    words = []
    for name, value in made.items():
        if value == committed.get(name):
            continue
        words.append(name.lower())
        if isinstance(value, int | float | None):
            words[-1] += f"-{value}"
    changes = "-".join(words[:4]) or "unchanged"
    return f"{changes}-{files.fingerprint(made)[:8]}"


def _recorded(folder):
    """
    Return the configuration of the results in a folder; None if it holds no results.
    """
    path = folder / "settings.json"
    results = [found.name for pattern in RESULTS for found in folder.glob(pattern)]
    if path.exists():
        made = _read(path)
        return made if results else None
    if results:
        what = f"{folder} holds {results[0]}, but no settings.json that says how it was"
        raise ValueError(f"{what} computed; choose another OUTPUT")
    return None


def _write(made, path):
    """Write a configuration so that papermill's -f repeats the run."""
    flat = {name: made[name] for name in made if name.isupper()}
    flat["recorded"] = {name: made[name] for name in made if name not in flat}
    text = json.dumps(flat, indent=1, ensure_ascii=False)
    # YAML, and so papermill, takes 1e-05 for text and 1.0e-05 for a number.
    text = re.sub(r'(?m)^ *("\w+": )?\d(?=e[-+]\d+,?$)', r"\g<0>.0", text)
    with files.replacing(path) as beside:
        beside.write_text(text + "\n", encoding="utf-8")


def _read(path):
    """Return what a settings.json records: settings and facts in one dict."""
    with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):
        made = json.loads(path.read_text(encoding="utf-8"))
        # The facts are below `recorded`; in an earlier form, the settings were below.
        nested = made.pop("recorded", None) or made.pop("settings")
        made.update(nested)
        if made.keys() >= {"EPOCHS", "classes", "photos"}:
            return made
    raise ValueError(f"{path} records no configuration of a run; choose another OUTPUT")


def _refuse_others(folder, there, made):
    """Raise an error that names the first difference of two configurations."""
    for name in made | there:
        was, now = there.get(name), made.get(name)
        if was == now:
            continue
        what = _HASHED.get(name, f"{name} = {was!r}; it is {now!r} now")
        if name.isupper() and (name not in made or name not in there):
            what = f"a version of this project that has other settings ({name})"
        raise ValueError(
            f"the results in {folder} were computed with {what}. "
            "Go back to that, or choose another OUTPUT (and run all cells again)"
        )
