"""
What the studies share: the committed tables, the bundled features, numbers as the pages
say.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

import utils
from scenes import evaluation, features, files, heads, settings

ROOT = Path(__file__).parents[1]


def main(numbers: Callable[[], Iterable[str]], **commands: Callable) -> None:
    """Print the numbers of a page or, if the command line names a command, run that."""
    if len(sys.argv) == 1:
        print(*numbers(), sep="\n")
        return
    name, *arguments = sys.argv[1:]
    if name not in commands:
        sys.exit(
            f"{name} is no command of this study; it must be "
            f"one of {', '.join(commands)}"
        )
    commands[name](*arguments)


def read(name: str) -> pd.DataFrame:
    """Return a committed table of `results/`."""
    return files.read_csv(ROOT / "results" / f"{name}.csv")


def write(table: pd.DataFrame, name: str) -> None:
    """Replace a committed table of `results/` as a whole."""
    files.write_csv(table, ROOT / "results" / f"{name}.csv")


def load_images() -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """
    Return the bundled images, split as in the notebook, their features and class
    numbers.
    """
    images, X = features.load_bundled_features()
    images = utils.create_validation(utils.drop_leaks(images))
    return images, X[images.index], images["label"].cat.codes.to_numpy()


def best_setting(
    seed: int = 0, results: pd.DataFrame | None = None
) -> settings.HeadOptions:
    """Return the options of a head, chosen by a grid search: by the committed one."""
    if results is None:
        results = files.read_csv(ROOT / "grid_search.csv")
    best = evaluation.best_hyperparameters(results)
    return settings.HeadOptions(**best, seed=seed)


def predict_folds(
    X: np.ndarray,
    y: np.ndarray,
    splits: Sequence[tuple[np.ndarray, np.ndarray]],
    options: settings.HeadOptions,
) -> np.ndarray:
    """
    Return out-of-fold probabilities, shape (n, n_classes): of heads that did not train
    on the photo.

    Parameters
    ----------
    X, y : ndarray, shapes (n, n_features) and (n,)
    splits : sequence of (training rows, validation rows)
        Those of `make_folds` or `utils.draw_folds`; of a photo in no fold, the
        probabilities are 0.
    options : HeadOptions
    """
    probabilities = np.zeros((len(y), y.max() + 1))
    for training_rows, fold in splits:
        head = heads.train_head(X[training_rows], y[training_rows], options)
        probabilities[fold] = head(X[fold])
    return probabilities


def row(*cells: object) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"
