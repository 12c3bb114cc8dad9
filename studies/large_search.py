"""
Large search: the numbers of `large_search.md`, and how to repeat what they come from.

`python -m studies.large_search` prints each number of the page. With `plots`, it draws
the plots; with `run`, it searches, and writes `results/grid_search_large.csv` (35
minutes on two cores; an interrupted search resumes).
"""

from collections.abc import Iterator, Sequence

import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
from scipy import stats

import scenes
from scenes import evaluation, files, grid_search, look, plots, settings
from studies import common

GRID = settings.GridOptions(
    learning_rates=[0.00001, 0.00003, 0.0001, 0.0003, 0.0005, 0.001, 0.003, 0.01],
    dropouts=[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7],
    weight_decays=[0.0, 0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01],
    epochs=100,
)
FOLDS = 5
LISTS = (GRID.learning_rates, GRID.dropouts, GRID.weight_decays)
EPOCHS = [10, 25, 50, 100]  # that are kept of each setting


def run() -> None:
    """
    Search as the notebook does, with longer lists; keep some epochs of each setting.
    """
    images, X, y = common.load_images()
    training = (images["split"] != "test").to_numpy()
    y_train = y[training]
    groups = images["digest"][training]
    splits = grid_search.make_folds(y_train, groups, folds=FOLDS, seed=0)
    folder = common.ROOT / "runs" / "large_search"
    folder.mkdir(parents=True, exist_ok=True)
    results = grid_search.grid_search(
        X[training],
        y_train,
        GRID,
        splits,
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
    some = some.assign(kept=some["epoch"].astype(str))
    order = [*scenes.HYPERPARAMETERS, "epoch", "kept"]
    kept = pd.concat([some, best]).sort_values(order, ignore_index=True)
    kept.insert(len(scenes.HYPERPARAMETERS), "kept", kept.pop("kept"))
    return kept


def best_of(table: pd.DataFrame, x: str, y: str) -> go.Figure:
    """Return a heat map of the highest validation accuracy for each pair of values."""
    cells = 100 * table.groupby([y, x])["val_accuracy"].max().unstack()
    low = cells.stack().quantile(0.25)  # else the worst leave one colour for all others
    names = {"x": x.replace("_", " "), "y": y.replace("_", " ")}
    names["color"] = "accuracy (%)"
    of_y, of_x = cells.stack().idxmax()
    finding = (
        f"Highest: {cells.loc[of_y, of_x]:.2f}%, with {names['y']} {of_y:g} and "
        f"{names['x']} {of_x:g}"
    )
    name = f"Highest validation accuracy (%); the colours begin at {low:.2f}%"
    figure = px.imshow(
        cells.rename(columns="{:g}".format, index="{:g}".format),
        labels=names,
        zmin=low,
        color_continuous_scale="Viridis",
        origin="lower",
        aspect="auto",
        text_auto=".2f",
    )
    figure.update_coloraxes(showscale=False)
    figure.update_xaxes(type="category").update_yaxes(type="category")
    figure.layout.margin = None  # that of the template
    return look.style(figure, name, finding)


def figures() -> dict[str, go.Figure]:
    """Return the plots of the page by the names of their files."""
    table = common.read("grid_search_large")
    is_best = table["kept"] == "best"
    by_epoch = best_of(table[~is_best], "epoch", "learning_rate")
    by_regularization = best_of(table[is_best], "weight_decay", "dropout")
    return {
        "grid_search_large_epochs": by_epoch,
        "grid_search_large_regularization": by_regularization,
    }


def numbers() -> Iterator[str]:
    """Yield each row and phrase of the page that holds a number."""
    table = common.read("grid_search_large")
    best = table[table["kept"] == "best"]
    best = best.sort_values(["val_accuracy", "val_loss"], ascending=[False, True])
    sizes = " x ".join(str(len(values)) for values in LISTS)
    yield f"{len(best)} settings ({sizes}), each trained for {GRID.epochs} epochs"
    some = table[table["kept"] != "best"]
    of_rate = some.groupby(["epoch", "learning_rate"])["val_accuracy"].max().unstack()
    rates = of_rate.idxmax(axis=1)
    yield ", ".join(f"{rates[epoch]:g} after {epoch} epochs" for epoch in EPOCHS)
    after_25 = 100 * of_rate.loc[25]
    small, large = 0.0003, 0.0005
    yield (
        f"{after_25[small]:.2f}% with {small:g} and {after_25[large]:.2f}% with "
        f"{large:g}"
    )
    top, others = best.iloc[0], best.iloc[1:]
    yield common.row("best accuracy", f"{top['val_accuracy']:.2%}")
    gap, error = 100 * others["gap"].median(), 100 * others["gap_sem"].median()
    yield common.row("median gap to it", f"{gap:.2f} points")
    yield common.row("median standard error of the gap", f"{error:.2f} points")
    freedom = FOLDS - 1
    margin = stats.t.ppf(0.975, freedom)  # of 95%, in standard errors
    is_near = others["gap"] <= margin * others["gap_sem"]
    yield common.row(f"not measurably worse, of {len(others)} others", is_near.sum())
    yield (
        f"less than {margin:.2f} standard errors: those of {FOLDS} folds have "
        f"{freedom} degrees of freedom, for which this is a 95% interval"
    )
    yield f"two are one of {2 * stats.t.cdf(2, freedom) - 1:.0%}"
    yield (
        f"{top['learning_rate']:g}, {top['dropout']:g} and {top['weight_decay']:g} "
        "at epoch"
    )
    yield f"{top['epoch']}. It is the highest of {len(best) * GRID.epochs:,} figures"
    results = files.read_csv(common.ROOT / "grid_search.csv")
    accuracy = evaluation.summarize(results)["val_accuracy"].max()
    n_figures = len(results) // results["fold"].nunique()
    yield f"{accuracy:.2%} is that of {n_figures}"
    by_others = evaluation.accuracy_by_other_folds(results)
    yield f"there it shrinks to {by_others:.2%}"


def draw() -> None:
    """Draw the plots of the page."""
    for name, figure in figures().items():
        plots.show(figure, name, common.ROOT / "plotly_plots")


if __name__ == "__main__":
    common.main(numbers, plots=draw, run=run)
