"""
Large search: the numbers of `large_search.md`, and how to repeat what they come from.

`python -m studies.large_search` prints each number of the page. With `plots`, it draws
the plots; with `run`, it searches, and writes `results/grid_search_large.csv` (35
minutes on two cores; an interrupted search resumes).
"""

from collections.abc import Sequence

import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
from scipy import stats

import scenes
from scenes import evaluation, files, grid_search, plots, settings
from studies import common

GRID = {
    "learning_rates": [0.00001, 0.00003, 0.0001, 0.0003, 0.0005, 0.001, 0.003, 0.01],
    "dropouts": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7],
    "weight_decays": [0.0, 0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01],
}
FOLDS = 5
EPOCHS = [10, 25, 50, 100]  # that are kept of each setting; it trains for the last


def run() -> None:
    """
    Search as the notebook does, with longer lists; keep some epochs of each setting.
    """
    images, X, y = common.load_images()
    training = (images["split"] != "test").to_numpy()
    folder = common.ROOT / "runs" / "large_search"
    folder.mkdir(parents=True, exist_ok=True)
    options = settings.GridOptions(
        learning_rates=GRID["learning_rates"],
        dropouts=GRID["dropouts"],
        weight_decays=GRID["weight_decays"],
        epochs=EPOCHS[-1],
        folds=FOLDS,
    )
    results = grid_search.grid_search(
        X[training],
        y[training],
        options,
        groups=images["digest"][training],
        cache=folder,
        csv=folder / "search.csv",
    )
    common.write(keep_epochs(results, EPOCHS), "grid_search_large")


def keep_epochs(results: pd.DataFrame, epochs: Sequence[int]) -> pd.DataFrame:
    """
    Return some epochs of each setting of a grid search, and its best one.

    The columns are those of `evaluation.rank_epochs` and `kept`, which is 'best' or the
    epoch.
    """
    table = evaluation.rank_epochs(results)
    best = table.drop_duplicates(scenes.HYPERPARAMETERS).assign(kept="best")
    some = table[table["epoch"].isin(epochs)]
    kept = pd.concat([some.assign(kept=some["epoch"].astype(str)), best])
    first = [*scenes.HYPERPARAMETERS, "kept"]
    kept = kept.sort_values(
        [*scenes.HYPERPARAMETERS, "epoch", "kept"], ignore_index=True
    )
    return kept[[*first, *kept.columns.drop(first)]]


def best_of(table: pd.DataFrame, x: str, y: str) -> go.Figure:
    """Return a heat map of the highest validation accuracy for each pair of values."""
    cells = 100 * table.pivot_table(
        index=y, columns=x, values="val_accuracy", aggfunc="max"
    )
    low = cells.stack().quantile(0.25)  # else the worst leave one colour for all others
    names = {
        "x": x.replace("_", " "),
        "y": y.replace("_", " "),
        "color": "accuracy (%)",
    }
    title = (
        f"Highest validation accuracy (%)<br><sup>the colours begin at {low:.2f}%</sup>"
    )
    cells = cells.rename(columns="{:g}".format, index="{:g}".format)
    look = {
        "zmin": low,
        "color_continuous_scale": "Viridis",
        "origin": "lower",
        "aspect": "auto",
    }
    look |= {
        "template": "plotly_white",
        "text_auto": ".2f",
        "width": 850,
        "height": 500,
    }
    figure = px.imshow(cells, labels=names, title=title, **look)
    return figure.update_coloraxes(showscale=False)


def figures() -> dict[str, go.Figure]:
    """Return the plots of the page by the names of their files."""
    table = common.read("grid_search_large")
    best = table["kept"] == "best"
    return {
        "grid_search_large_epochs": best_of(table[~best], "epoch", "learning_rate"),
        "grid_search_large_regularization": best_of(
            table[best], "weight_decay", "dropout"
        ),
    }


def numbers() -> list[str]:
    """Return each row and phrase of the page that holds a number."""
    table, small = (
        common.read("grid_search_large"),
        files.read_csv(common.ROOT / "grid_search.csv"),
    )
    some, best = table[table["kept"] != "best"], table[table["kept"] == "best"]
    rates = some.loc[some.groupby("epoch")["val_accuracy"].idxmax()].set_index("epoch")
    top = best.loc[
        best.sort_values(["val_accuracy", "val_loss"], ascending=[False, True]).index[0]
    ]
    others = best.drop(top.name)
    median = 100 * others[["gap", "gap_sem"]].median()
    margin = stats.t.ppf(0.975, FOLDS - 1)  # of 95%, in standard errors
    after_25 = (
        100 * some[some["epoch"] == 25].groupby("learning_rate")["val_accuracy"].max()
    )
    sizes = " x ".join(str(len(values)) for values in GRID.values())
    n_small = len(small) // small["fold"].nunique()
    return [
        f"{len(best)} settings ({sizes}), each trained for {EPOCHS[-1]} epochs",
        ", ".join(f"{rates['learning_rate'][n]:g} after {n} epochs" for n in EPOCHS),
        " and ".join(
            f"{after_25[rate]:.2f}% with {rate:g}" for rate in (0.0003, 0.0005)
        ),
        common.row("best accuracy", f"{top['val_accuracy']:.2%}"),
        common.row("median gap to it", f"{median['gap']:.2f} points"),
        common.row(
            "median standard error of the gap", f"{median['gap_sem']:.2f} points"
        ),
        common.row(
            f"not measurably worse, of {len(others)} others",
            (others["gap"] <= margin * others["gap_sem"]).sum(),
        ),
        f"less than {margin:.2f} standard errors: those of {FOLDS} folds have "
        f"{FOLDS - 1} degrees of freedom, for which this is a 95% interval",
        f"two are one of {2 * stats.t.cdf(2, FOLDS - 1) - 1:.0%}",
        f"{top['learning_rate']:g}, {top['dropout']:g} and "
        f"{top['weight_decay']:g} at epoch",
        f"{top['epoch']}. It is the highest of {len(best) * EPOCHS[-1]:,} figures",
        f"{evaluation.best_hyperparameters(small)['val_accuracy']:.2%} "
        f"is that of {n_small}",
        f"there it shrinks to {evaluation.accuracy_by_other_folds(small):.2%}",
    ]


def draw() -> None:
    """Draw the plots of the page."""
    for name, figure in figures().items():
        plots.show(figure, name, common.ROOT / "plotly_plots")


if __name__ == "__main__":
    common.main(numbers, plots=draw, run=run)
