"""
Runs (section 2): where a run's results go, and what they were computed with.

Each folder of results says in `settings.json` what it was made with. Reads no photos
and trains nothing.
"""

import contextlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

import scenes
from scenes import files, settings

# Where things lie. Of the corrections, the hash is recorded instead of the path.
OF_NO_RESULT = ("PHOTOS", "DOWNLOAD", "CORRECTIONS", "OUTPUT", "CACHE")
# All that a run writes beside settings.json. A folder without any of it may be used by
# any run.
RESULTS = (
    "grid_search.csv",
    ".grid_search*-*",
    "*classifier.keras",
    "plotly_plots",
    "results",
)
# What a hash says nothing about to a person.
_PHOTOS = "other photos, labels or splits (PHOTOS, CORRECTIONS or their content)"
_HASHES = {
    "photos": _PHOTOS,
    "corrections": _PHOTOS,
    "weights": "other weights (the content of the file WEIGHTS)",
}
COMMITTED = settings.PROJECT  # the folder of the committed results


class Output:
    """
    The folder of a run's results, which says in `settings.json` what they are made
    with.

    Attributes
    ----------
    folder : Path
    classes : list of str
    """

    def __init__(self, folder: Path, made: dict, namespace: dict, paths: pd.Series):
        self.folder, self.classes = folder, made["classes"]
        self._made, self._namespace, self._paths = made, namespace, paths

    def file(self, name: str) -> Path:
        """
        Return the path of a file of the results, to be written.

        Raises
        ------
        ValueError
            A setting has changed since the folder was chosen, or another run has taken
            the folder: what would be written there is not what the folder says.
        """
        now = self._made | {"settings": _deciding(settings.pick(self._namespace))}
        _refuse_others(self.folder, self._made, now)
        _refuse_others(self.folder, _read(self.folder / "settings.json"), self._made)
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def plots(self) -> Path:
        """The folder of the plots, to be written to, as `file` says."""
        return self.file("plotly_plots")

    def write(self, table: pd.DataFrame, name: str, *, edited: bool = False) -> None:
        """
        Return nothing; write a table to `results/`, and replace the file as a whole.

        If it is to be `edited` in a spreadsheet, text that would run there as a formula
        gets an apostrophe before it, see `files.inert`.
        """
        if edited:
            table = files.inert(table)
        files.write_csv(table, self.file(f"results/{name}"))

    def keep(self, tables: Sequence[pd.DataFrame], name: str) -> pd.DataFrame:
        """
        Return the tables that a run has computed as one, written to `results/`.

        Without any, return what an earlier run has written there or, with a message,
        the committed table.

        Raises
        ------
        ValueError
            The table of an earlier run is missing, or of photos under other paths.
        """
        if tables:
            table = pd.concat(tables, ignore_index=True)
            self.write(table, name)
            return table
        path = self._of_run_or_committed(Path("results", name))
        table = files.read_csv(path)
        # A run may be of a part of the committed photos, but not of none of them.
        if "path" in table and not table["path"].isin(self._paths).any():
            what = f"{path} is of photos in other folders, as {table['path'][0]!r}"
            raise ValueError(f"{what}; set PHOTOS to them, or choose another OUTPUT")
        return table

    def model(self) -> Path:
        """
        Return the path of this run's model or, with a message, of the committed one.
        """
        return self._of_run_or_committed(Path("classifier.keras"))

    def _of_run_or_committed(self, name):
        if (self.folder / name).exists():
            return self.folder / name
        if _read(COMMITTED / "settings.json")["classes"] != self.classes:
            raise ValueError(
                f"{name.name} is missing in {self.folder}: run all cells again"
            )
        print(
            f"{name.name} was not computed in this run; showing the committed results."
        )
        path, here = COMMITTED / name, Path.cwd()
        return path.relative_to(here) if path.is_relative_to(here) else path


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
        The table of the photos, with digests, as it trains: after `create_validation`.

    Raises
    ------
    ValueError
        The folder holds results that were computed with other settings or photos,
        results of unknown configuration, or a settings.json that no run has written.
    OSError
        The folder cannot be created.
    """
    chosen = settings.pick(namespace)
    made = {
        "settings": _deciding(chosen),
        "classes": list(images["label"].cat.categories),
        **settings.hash_files(chosen),
        "photos": _photos(images),
        "versions": scenes.VERSIONS,
    }
    settings.compare(namespace, made, ("classes", "photos"))
    folder = Path(chosen["OUTPUT"] or Path("runs", _name(made)))
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


def _deciding(chosen):
    """Return the settings that decide about results."""
    return {name: chosen[name] for name in chosen if name not in OF_NO_RESULT}


def _photos(images):
    """
    Return the fingerprint of the labelled photos: where they lie makes no difference.
    """
    labelled = images[images["label"].notna()]
    return files.fingerprint(labelled[["label", "split", "digest"]])


def _name(made):
    """Return the name of a folder: what differs from the committed results, if few."""
    committed = _read(COMMITTED / "settings.json")
    words = []
    for name, value in made["settings"].items():
        changed = value != committed["settings"].get(name)
        if changed and not isinstance(value, (list, str)):
            words.append(f"{name.lower()}-{value}")
    words = words[:4]
    for name in ("corrections", "photos", "versions"):
        if made.get(name) != committed.get(name):
            words.append(name)
    if made == committed:
        words = ["unchanged"]
    return "-".join([*words, files.fingerprint(made)[:8]])


def _recorded(folder):
    """
    Return the configuration of the results in a folder; None if it holds no results.
    """
    path = folder / "settings.json"
    made = _read(path) if path.exists() else None
    results = [path.name for name in RESULTS for path in folder.glob(name)]
    if results and not made:
        what = (
            f"{folder} holds {results[0]}, but no settings.json "
            f"that says how it was computed"
        )
        raise ValueError(f"{what}; choose another OUTPUT")
    return made if results else None


def _write(made, path):
    """Write a configuration so that papermill's -f repeats the run."""
    recorded = made.copy()
    flat = recorded.pop("settings") | {"recorded": recorded}
    text = json.dumps(flat, indent=1, ensure_ascii=False)
    # YAML, and so papermill, takes 1e-05 for text and 1.0e-05 for a number.
    text = re.sub(r'(?m)^ *("\w+": )?\d(?=e[-+]\d+,?$)', r"\g<0>.0", text)
    with files.replacing(path) as beside:
        beside.write_text(text + "\n", encoding="utf-8")


def _read(path):
    """Return the configuration that a settings.json records, of an earlier form too."""
    kinds = {"settings": dict, "classes": list, "photos": str}
    with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):
        made = json.loads(path.read_text(encoding="utf-8"))
        if "settings" not in made:
            recorded = made.pop("recorded")
            made = {"settings": made, **recorded}
        if all(isinstance(made[name], kind) for name, kind in kinds.items()):
            return made
    raise ValueError(f"{path} records no configuration of a run; choose another OUTPUT")


def _refuse_others(folder, there, made):
    """Raise an error that names the first difference of two configurations."""
    was, now = there["settings"] | there, made["settings"] | made
    for name in now | was:
        if was.get(name) == now.get(name):
            continue
        what = _HASHES.get(
            name, f"{name} = {was.get(name)!r}; it is {now.get(name)!r} now"
        )
        advice = "Set it back, or choose another OUTPUT and run all cells again"
        raise ValueError(f"the results in {folder} were computed with {what}. {advice}")
