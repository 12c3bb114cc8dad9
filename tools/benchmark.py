"""
Measure side by side, in one run, the tables of BENCHMARK.md, and print them.

Run it by hand on an idle machine: `python tools/benchmark.py`. It takes half an hour on
two cores and draws `plotly_plots/search_growth`. Install `keras-tuner` and
`tensorboard` (which it imports) first; nothing else needs them. Have the photos where
`scenes.folders.find_photos` finds them. What is missing is said and left out. Sides
that are compared take turns, and the best round of each counts, so that a busy moment
of the machine does not fall on one side alone.
"""

import contextlib
import functools
import importlib.util
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import scenes  # isort: skip  (first: it sets up TensorFlow for Keras)

import keras
import nbformat
import numpy as np
import pandas as pd
import tensorflow as tf
from plotly.subplots import make_subplots
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from tqdm import tqdm

import scenes.base_model
import scenes.classifier
import scenes.features
import scenes.fine_tuning
import scenes.folders
import scenes.grid_search
import scenes.heads
import scenes.photos
import scenes.plots
import scenes.settings
import scenes.side_by_side
import utils
from scenes import look
from scenes.base_model import IMAGE_SIZE

ROOT = Path(__file__).parents[1]
NOTEBOOK = "intel_classification.ipynb"
PEAK = (
    "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
)
ROUNDS = 3
EPOCHS = 25
BATCH_SIZE = 64
N_CLASSES = 6
FIRST_LAYER = "block_10_expand"
GRID = {
    "learning_rates": [0.0005, 0.001, 0.005],
    "dropouts": [0.1, 0.3, 0.5],
    "weight_decays": [1e-5, 1e-4, 1e-3, 1e-2],
}
SETTINGS = [
    (rate, dropout, decay)
    for rate in GRID["learning_rates"]
    for dropout in GRID["dropouts"]
    for decay in GRID["weight_decays"]
]
SOME = SETTINGS[1::12]  # of which a way is measured that would take too long for all
SHAPES = {1: (1, 1, 1), 12: (3, 1, 4), 36: (3, 3, 4), 144: (6, 4, 6), 512: (8, 8, 8)}
FOLDS = (2, 5, 10)
EXTRACTION = "side by side, with the extraction of the features"
BARE = "the base model as Keras gives it, on random arrays"
PLAIN = "plain `fit`, one by one"
TUNER = "KerasTuner's `GridSearch`"
SKLEARN = "scikit-learn's `GridSearchCV`, `LogisticRegression`"
OLD_WAY = "photos through the frozen base model in each epoch (2020)"
STEPS = 36  # of plain Keras, batches a call: the fastest of 1, 8 and 36

Photos = tuple[np.ndarray, np.ndarray]  # features and labels


# --- Measuring ------------------------------------------------------------------------


def seconds(task: Callable[[], float | None]) -> tuple[float, float | None]:
    """Return how long a task takes, and what it returns."""
    start = time.perf_counter()
    result = task()
    return time.perf_counter() - start, result


def take_turns(
    tasks: dict[str, Callable[[], float | None]], bar: tqdm, rounds: int = ROUNDS
) -> pd.DataFrame:
    """Return each task's best time, and what it returned last."""
    rows = {name: {"seconds": np.inf, "result": None} for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            bar.set_description(name[:30])
            with quiet():
                took, result = seconds(task)
            rows[name] = {"seconds": min(took, rows[name]["seconds"]), "result": result}
            bar.update(1 / rounds / len(tasks))
    return pd.DataFrame(rows).T


def markdown(table: pd.DataFrame) -> str:
    """Return a Markdown table, the index as its first column."""
    rows = [
        ["", *table.columns],
        ["---"] * (1 + len(table.columns)),
        *table.reset_index().values,
    ]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the progress bars and outputs of what is measured out of ours."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        yield


# --- The grid search, and what else one would use -------------------------------------


def quarter() -> tuple[pd.DataFrame, np.ndarray]:
    """
    Return every 4th training photo, a fifth of them for validation, and all features.
    """
    images, X = scenes.features.load_bundled_features()
    images = utils.create_validation(utils.shrink(utils.drop_leaks(images), 4))
    return images[images["split"] != "test"], X


def whole_grid(train: Photos, validation: Photos) -> float:
    """Train all 36 settings side by side, and return the best validation accuracy."""
    features, labels = map(np.concatenate, zip(train, validation, strict=True))
    rows = np.split(np.arange(len(labels)), [len(train[1])])
    options = scenes.settings.GridOptions(**GRID, epochs=EPOCHS, batch_size=BATCH_SIZE)
    table, _ = scenes.grid_search.train_fold(features, labels, rows, options, fold=1)
    return table["val_accuracy"].max()


build_head = functools.partial(scenes.heads.build_head, scenes.base_model.N_FEATURES)


def compiled_head(setting: tuple[float, float, float]) -> keras.Model:
    """Return a head that is ready for an ordinary Keras `fit`."""
    learning_rate, dropout, weight_decay = setting
    head = build_head(N_CLASSES, dropout=dropout, weight_decay=weight_decay)
    head.compile(
        keras.optimizers.Adam(learning_rate),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        steps_per_execution=STEPS,
    )
    return head


def plain_fit(train: Photos, validation: Photos, *settings: tuple) -> float:
    """
    Train settings one by one, as any Keras user would, and return the best accuracy.
    """
    best = 0
    for setting in settings:
        head = compiled_head(setting)
        fit = head.fit(
            *train,
            batch_size=BATCH_SIZE,
            epochs=EPOCHS,
            validation_data=validation,
            verbose=0,
        )
        best = max(best, *fit.history["val_accuracy"])
    return best


def keras_tuner_search(train: Photos, validation: Photos) -> float:
    """
    Let KerasTuner try the first settings of its grid, and return the best accuracy.
    """
    import keras_tuner

    def build(choices: keras_tuner.HyperParameters) -> keras.Model:
        names = zip(scenes.HYPERPARAMETERS, GRID.values(), strict=True)
        return compiled_head([choices.Choice(name, values) for name, values in names])

    with tempfile.TemporaryDirectory() as folder:
        tuner = keras_tuner.GridSearch(
            build, objective="val_accuracy", max_trials=len(SOME), directory=folder
        )
        tuner.search(
            *train,
            batch_size=BATCH_SIZE,
            epochs=EPOCHS,
            validation_data=validation,
            verbose=0,
        )
        return tuner.oracle.get_best_trials()[0].score


def scikit_learn_search(train: Photos, validation: Photos) -> float:
    """
    Let scikit-learn try 36 penalties of a logistic regression; return the best
    accuracy.
    """
    features, labels = (
        np.concatenate(pair) for pair in zip(train, validation, strict=True)
    )
    split = PredefinedSplit(np.repeat([-1, 0], [len(train[1]), len(validation[1])]))
    penalties = {"C": np.geomspace(1e-4, 10, len(SETTINGS))}
    search = GridSearchCV(
        LogisticRegression(max_iter=1000), penalties, cv=split, refit=False
    )
    return search.fit(features, labels).best_score_


def through_base_model(images: pd.DataFrame, base: keras.Model) -> Callable[[], float]:
    """
    Return a task that trains one epoch on photos through the frozen base, as in 2020.
    """

    def read(path: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        photo = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        photo = tf.image.resize(photo, (IMAGE_SIZE, IMAGE_SIZE))
        return keras.applications.mobilenet_v2.preprocess_input(photo), label

    train, validation = (
        tf.data.Dataset.from_tensor_slices(
            (list(rows["file"]), rows["label"].cat.codes.to_numpy())
        )
        .map(read, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(BATCH_SIZE)
        .prefetch(2)
        for rows in (
            images[images["split"] == split].sample(frac=1, random_state=0)
            for split in ("train", "validation")
        )
    )
    model = keras.Sequential(
        [base, build_head(N_CLASSES, dropout=0.3, weight_decay=1e-4)]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    # The first batches are slower, since they build the graphs.
    options = {"shuffle": False, "verbose": 0}
    model.fit(train.take(1), validation_data=validation.take(1), **options)
    variables = [*model.trainable_variables, *model.optimizer.variables]
    start = [variable.numpy() for variable in variables]

    def task() -> float:
        for variable, value in zip(variables, start, strict=True):
            variable.assign(value)
        return model.fit(train, validation_data=validation, **options).history[
            "val_accuracy"
        ][0]

    return task


def compare_searches(
    images: pd.DataFrame, features: np.ndarray, bar: tqdm
) -> Iterator[str]:
    """Yield what the search costs, against what else one would use."""
    train, validation = (
        (features[rows.index], rows["label"].cat.codes.to_numpy())
        for rows in (
            images[images["split"] == split] for split in ("train", "validation")
        )
    )
    data = train, validation
    tasks = {
        "36 settings side by side": functools.partial(whole_grid, *data),
        "one plain fit": functools.partial(plain_fit, *data, SETTINGS[17]),
    }
    table = take_turns(tasks, bar)
    ours, accuracy = table.iloc[0]
    plain, _ = table.iloc[1]

    # Of each: a task, by what its time is multiplied, and that in words.
    factor = len(SETTINGS) // len(SOME)
    some = factor, f"{len(SOME)} settings, x {factor}"
    ways = {
        PLAIN: (functools.partial(plain_fit, *data, *SOME), *some),
        TUNER: (functools.partial(keras_tuner_search, *data), *some),
        SKLEARN: (functools.partial(scikit_learn_search, *data), 1, "all 36 penalties"),
    }
    with_photos = images["file"].notna().all()
    if with_photos:
        base, epochs = scenes.base_model.build_base_model(), len(SETTINGS) * EPOCHS
        ways[EXTRACTION] = extraction(images, base), 1, "all"
        ways[OLD_WAY] = (
            through_base_model(images, base),
            epochs,
            f"1 epoch, x {epochs}",
        )
    if not importlib.util.find_spec("keras_tuner"):
        del ways[TUNER]
        yield "KerasTuner is not installed."
    others = take_turns({name: task for name, (task, *_) in ways.items()}, bar)
    rows = {"side by side (ours)": [ours, "all", accuracy]}
    for name, (_, factor, what) in ways.items():
        rows[name] = [
            others.loc[name, "seconds"] * factor,
            what,
            others.loc[name, "result"],
        ]
    if with_photos:
        rows[EXTRACTION] = [ours + rows[EXTRACTION][0], "all", accuracy]
    columns = ["seconds", "measured", "best validation accuracy"]
    searches = pd.DataFrame(rows, index=columns).T
    searches["times ours"] = (searches["seconds"] / ours).map("{:,.1f}".format)
    searches["seconds"] = searches["seconds"].map("{:,.1f}".format)
    searches[columns[2]] = searches[columns[2]].map("{:.3f}".format)
    yield (
        f"{len(SETTINGS)} settings x {EPOCHS} epochs, "
        f"{len(train[0]):,} photos for training and "
        f"{len(validation[0])} for validation:\n\n{markdown(searches)}"
    )
    yield f"36 settings cost {ours / plain:.2f} x one plain fit ({plain:.1f} s)."
    if with_photos:
        ratio = rows[OLD_WAY][0] / rows[EXTRACTION][0]
        yield f"The way of 2020 takes {ratio:,.0f} x as long as ours with extraction."


# --- How the search grows -------------------------------------------------------------


def search(features: np.ndarray, labels: np.ndarray, shape: tuple, folds: int) -> None:
    """
    Run a grid search of (learning rates, dropouts, weight decays) with all it does.
    """
    rates, dropouts, decays = shape
    splits = scenes.grid_search.make_folds(labels, None, folds=folds, seed=0)
    with tempfile.TemporaryDirectory() as folder, quiet():
        scenes.grid_search.grid_search(
            features,
            labels,
            scenes.settings.GridOptions(
                learning_rates=np.geomspace(1e-4, 1e-2, rates),
                dropouts=np.linspace(0, 0.7, dropouts),
                weight_decays=np.geomspace(1e-5, 1e-2, decays),
                epochs=EPOCHS,
                batch_size=BATCH_SIZE,
            ),
            splits,
            cache=folder,
            csv=Path(folder, "grid_search.csv"),
        )


def measure_growth(
    images: pd.DataFrame, features: np.ndarray, bar: tqdm
) -> Iterator[str]:
    """Yield how the time grows with settings and folds, and draw it."""
    photos = features[images.index], images["label"].cat.codes.to_numpy()
    sizes = [(settings, FOLDS[0]) for settings in SHAPES]
    sizes += [(36, folds) for folds in FOLDS[1:]]
    rows = []
    for settings, folds in sizes:
        bar.set_description(f"{settings} settings, {folds} folds")
        took, _ = seconds(functools.partial(search, *photos, SHAPES[settings], folds))
        rows.append((settings, folds, took))
        bar.update()
    table = pd.DataFrame(rows, columns=["settings", "folds", "seconds"])
    draw_growth(table)
    shown = table.round({"seconds": 1}).astype(str).set_index("settings")
    yield f"{len(photos[0]):,} photos, {EPOCHS} epochs, one round:\n\n{markdown(shown)}"


def draw_growth(table: pd.DataFrame) -> None:
    """Draw the time of a search against the number of settings, and of folds."""
    few_folds = table[table["folds"] == FOLDS[0]].set_index("settings")["seconds"]
    many_folds = table[table["settings"] == 36].set_index("folds")["seconds"]
    panels = {
        f"number of settings ({FOLDS[0]} folds)": few_folds,
        "number of folds (36 settings)": many_folds,
    }
    figure = make_subplots(1, 2, shared_yaxes="all", horizontal_spacing=0.05)
    for column, (title, took) in enumerate(panels.items(), start=1):
        trace = look.curve(took.index, took, look.BLUE)
        trace.update(mode="lines+markers", marker={"size": 10})
        figure.add_trace(trace, row=1, col=column)
        figure.update_xaxes(
            title=title, type="log", tickvals=took.index, tickangle=0, col=column
        )
    figure.update_yaxes(type="log", tickvals=[1, 2, 5, 10, 20, 50, 100, 200])
    figure.update_yaxes(title="seconds of the search", col=1)
    finding = (
        f"36 settings take {few_folds[36] / few_folds[1]:.1f} x the time of one, "
        f"512 take {few_folds[512] / few_folds[36]:.1f} x that of 36"
    )
    name = f"Time of a grid search of {EPOCHS} epochs on every 4th photo"
    look.style(figure, name, finding).update_layout(showlegend=False)
    with quiet():
        scenes.plots.show(figure, "search_growth", ROOT / "plotly_plots")


# --- Photos through the base model ----------------------------------------------------


def extraction(images: pd.DataFrame, base: keras.Model) -> Callable[[], None]:
    """Return a task that computes the features of all these photos."""

    def task() -> None:
        with tempfile.TemporaryDirectory() as cache:
            scenes.features.extract_features(images, base, cache=cache)

    return task


def as_keras(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """Return a model as Keras and TensorFlow compute it."""
    run = tf.function(model)
    return lambda batch: run(batch, training=False).numpy()


def on_random_arrays(
    run: Callable[[np.ndarray], np.ndarray], base: keras.Model, photos: int
) -> Callable[[], float]:
    """
    Return a task that sends random arrays through `run`, and says how far it is off.
    """
    batch = np.random.default_rng(0).uniform(-1, 1, (32, IMAGE_SIZE, IMAGE_SIZE, 3))
    batch = batch.astype("float32")
    expected = base(batch, training=False).numpy()

    def task() -> float:
        for _ in range(photos // 32):
            features = run(batch)
        return np.abs(features - expected).max()

    return task


def measure_extraction(images: pd.DataFrame, bar: tqdm) -> Iterator[str]:
    """Yield how many photos a second go through the base."""
    images = images.drop_duplicates("digest").iloc[:1408]  # 44 batches
    base = scenes.base_model.build_base_model()
    folded = scenes.base_model.fold_batch_norm(base)
    models = {BARE: as_keras(base), "the folded base model": as_keras(folded)}
    ours = "`extract_features`"
    tasks = {ours: extraction(images, base)}
    tasks |= {
        name: on_random_arrays(run, base, len(images)) for name, run in models.items()
    }
    table = take_turns(tasks, bar)
    speed = len(images) / table["seconds"].astype(float)
    yield markdown(speed.round(1).to_frame("photos per second"))
    yield (
        f"Extraction runs at {speed[ours] / speed[BARE]:.2f} x the unfolded base model."
    )
    for name in models:
        off = table.loc[name, "result"]
        yield f"With {name}, the features (0 to 6) differ by at most {off:.0e}."


def measure_prediction(images: pd.DataFrame, bar: tqdm) -> Iterator[str]:
    """
    Yield how many photos a second the committed model classifies, pixels decoded or
    not.
    """
    model = scenes.classifier.load_classifier(ROOT / "classifier.keras")
    paths = list(images["file"].iloc[:640])

    def classify() -> None:
        scenes.classifier.predict(model, paths)

    base = scenes.base_model.build_base_model()
    bare = on_random_arrays(as_keras(base), base, len(paths))
    table = take_turns({"`predict`": classify, BARE: bare}, bar)
    speed = len(paths) / table["seconds"].astype(float)
    yield markdown(speed.round(1).to_frame("photos per second"))
    yield (
        f"Prediction runs at {speed.iloc[0] / speed.iloc[1]:.2f} "
        f"x the unfolded base model."
    )


# --- Fine-tuning, and the whole notebook ----------------------------------------------


def fine_tuning(base: keras.Model, photos: int) -> dict[str, Callable[[], None]]:
    """
    Return an epoch of fine-tuning from activations, and one through the whole network.
    """
    base.trainable = True
    for layer in base.layers:
        layer.trainable = False  # until the cut lets the upper ones train
    head = build_head(N_CLASSES, dropout=0.3, weight_decay=1e-3)
    lower, upper = scenes.fine_tuning.cut(base, head, FIRST_LAYER)
    pixels = np.random.default_rng(0).uniform(-1, 1, (photos, *base.input_shape[1:]))
    labels = np.arange(photos) % N_CLASSES
    epochs = {}
    for name, (model, inputs) in {
        "fine-tuning from activations": (upper, lower.predict(pixels, verbose=0)),
        "the same layers through the whole network": (
            keras.Sequential([base, head]),
            pixels,
        ),
    }.items():
        model.compile("adamw", "sparse_categorical_crossentropy", jit_compile=False)
        epochs[name] = functools.partial(
            model.fit, inputs, labels, batch_size=32, verbose=0
        )
        epochs[name](epochs=1)  # the first is slower, since it builds the graph
    return {name: lambda fit=fit: fit().history.clear() for name, fit in epochs.items()}


def measure_fine_tuning(bar: tqdm) -> Iterator[str]:
    """Yield how many photos a second train the layers before the head."""
    speed = 256 / take_turns(
        fine_tuning(scenes.base_model.build_base_model(), 256), bar
    )["seconds"].astype(float)
    yield markdown(speed.round(1).to_frame("photos per second"))
    yield f"Activations make it {speed.iloc[0] / speed.iloc[1]:.2f} x as fast."


def measure_notebook(photos: Path | None, bar: tqdm) -> Iterator[str]:
    """
    Yield how long the notebook takes in a clone, and the peak memory of its process.
    """
    ways = {"on the bundled features": {}}
    if photos:
        ways["on photos, without fine-tuning"] = {"FINE_TUNE_RATES": "[]"}
    rows = {}
    with tempfile.TemporaryDirectory() as place:
        for number, (name, settings) in enumerate(ways.items()):
            bar.set_description(name[:30])
            folder = Path(place, str(number))
            subprocess.run(["git", "clone", "-q", ROOT, folder], check=True)
            measured = nbformat.read(folder / NOTEBOOK, as_version=4)
            measured.cells.append(nbformat.v4.new_code_cell(PEAK))
            nbformat.write(measured, folder / NOTEBOOK)
            command = [sys.executable, "-m", "papermill", NOTEBOOK, "run.ipynb"]
            for setting, value in {"CACHE": Path(place, "cache"), **settings}.items():
                command += ["-y", f"{setting}: {value}"]
            variables = {k: v for k, v in os.environ.items() if k != "INTEL_PHOTOS"}
            variables["JUPYTER_PREFER_ENV_PATH"] = (
                "1"  # so that python3 is this interpreter
            )
            if settings:
                variables["INTEL_PHOTOS"] = str(photos.resolve())
            options = {
                "cwd": folder,
                "env": variables,
                "capture_output": True,
                "check": True,
            }
            took, _ = seconds(lambda: subprocess.run(command, **options))  # noqa: B023
            ran = nbformat.read(folder / "run.ipynb", as_version=4)
            rows[name] = [f"{took:.0f}", ran.cells[-1].outputs[0]["text"].strip()]
            bar.update()
    table = pd.DataFrame(rows, index=["seconds", "peak memory of the process, MB"]).T
    yield f"The whole notebook, in a fresh clone:\n\n{markdown(table)}"


def main() -> None:
    """Print the tables."""
    keras.utils.set_random_seed(0)
    photos = scenes.folders.find_photos()
    images, features = quarter()
    if photos:
        images["file"] = [str(photos / path) for path in images["path"]]
    work = 4 + len(SHAPES) + len(FOLDS) + (4 if photos else 0)
    lines = [
        f"{os.cpu_count()} cores, TensorFlow {tf.__version__}, "
        f"Keras {keras.__version__}."
    ]
    with tqdm(
        total=work, leave=False, bar_format="{l_bar}{bar}| {elapsed}<{remaining}"
    ) as bar:
        lines += compare_searches(images, features, bar)
        lines += measure_growth(images, features, bar)
        if photos:
            lines += measure_extraction(images, bar)
            lines += measure_prediction(images, bar)
        else:
            lines.append(
                "Without the photos, extraction and prediction are not measured."
            )
        lines += measure_fine_tuning(bar)
        lines += measure_notebook(photos, bar)
    print("\n\n".join(lines))


if __name__ == "__main__":
    main()
