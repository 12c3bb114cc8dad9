"""
Runs (section 2): where a run's results go, and what they were computed with.

Each folder of results says in `settings.json` what it was made with. Reads no photos
and trains nothing.
"""

import contextlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

import scenes
from scenes import files, settings

# Where things lie. Of the corrections, the content is recorded instead of the path.
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

    def __init__(self, folder: Path, made: dict, namespace: dict):
        self.folder, self.classes = folder, made["classes"]
        self._made, self._namespace = made, namespace

    def file(self, name: str) -> Path:
        """
        Return the path of a file of the results, to be written.

        Raises
        ------
        ValueError
            A setting has changed since the folder was chosen, or another run has taken
            the folder: what would be written there is not what the folder says.
        """
        now = self._made | {"settings": _made_with(settings.pick(self._namespace))}
        _refuse_others(self.folder, self._made, now)
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

    def keep(self, tables: Sequence[pd.DataFrame], name: str) -> pd.DataFrame:
        """
        Write the tables that a run has computed, as one, to `results/`, and return it.

        Without any, return what an earlier run has written there or, with a message,
        the committed table.
        """
        if tables:
            table = pd.concat(tables, ignore_index=True)
            self.write(table, name)
            return table
        return files.read_csv(self._of_run_or_committed(Path("results", name)))

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
        "settings": _made_with(chosen),
        "classes": list(images["label"].cat.categories),
    }
    if chosen["CORRECTIONS"] is not None:
        made["corrections"] = files.file_digest(chosen["CORRECTIONS"])
    made |= {"photos": _photos(images), "versions": scenes.VERSIONS}
    folder = Path(chosen["OUTPUT"] or Path("runs", _name(made)))
    _recorded(
        folder
    )  # raises before anything is written beside files that are not ours
    path = folder / "settings.json"
    with files.locked(path):
        if there := _recorded(folder):
            _refuse_others(folder, there, made)
        else:
            with files.replacing(path) as beside:
                text = json.dumps(made, indent=1, ensure_ascii=False)
                # YAML, and so papermill's -f, takes 1e-05 for text and 1.0e-05 for a
                # number.
                text = re.sub(r'(?m)^ *("\w+": )?\d(?=e[-+]\d+,?$)', r"\g<0>.0", text)
                beside.write_text(text + "\n", encoding="utf-8")
    return Output(folder, made, namespace)


def _made_with(chosen):
    """Return the settings that decide about results, as JSON holds them."""
    return {
        name: os.fspath(value)
        if isinstance(value, os.PathLike)
        else np.asarray(value).tolist()
        for name, value in chosen.items()
        if name not in OF_NO_RESULT
    }


def _photos(images):
    """
    Return the fingerprint of the labelled photos: where they lie makes no difference.
    """
    labelled = images[images["label"].notna()]
    return files.fingerprint(labelled[["label", "split", "digest"]])


def _name(made):
    """
    Return the name of a folder: the numbers that differ from the committed ones, if
    few.
    """
    committed = _read(COMMITTED / "settings.json")
    words = [
        f"{name.lower()}-{value}"
        for name, value in made["settings"].items()
        if value != committed["settings"].get(name)
        and not isinstance(value, (list, str))
    ][:4]
    names = ("corrections", "photos", "versions")
    words += [name for name in names if made.get(name) != committed.get(name)]
    words += ["unchanged"] * (made == committed)
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


def _read(path):
    """Return the configuration that a settings.json records."""
    kinds = {"settings": dict, "classes": list, "photos": str}
    with contextlib.suppress(KeyError, TypeError, ValueError):
        made = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(made[name], kind) for name, kind in kinds.items()):
            return made
    raise ValueError(f"{path} records no configuration of a run; choose another OUTPUT")


def _refuse_others(folder, there, made):
    """
    Raise an error that names the first difference of two configurations, if there is
    one.
    """
    was, now = there["settings"] | there, made["settings"] | made
    for name in now | was:
        if was.get(name) != now.get(name):
            what = f"{name} = {was.get(name)!r}; it is {now.get(name)!r} now"
            if name in (
                "photos",
                "corrections",
            ):  # hashes, which say nothing to a person
                what = (
                    "other photos, labels or splits (PHOTOS, "
                    "CORRECTIONS or their content)"
                )
            advice = "Set it back, or choose another OUTPUT and run all cells again"
            raise ValueError(
                f"the results in {folder} were computed with {what}. {advice}"
            )
