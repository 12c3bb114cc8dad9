"""
Wrong labels are found where they are known to be, and each number of a study is
computed.
"""

import importlib
import itertools
import re
from unittest.mock import Mock

import few_photos
import numpy as np
import pandas as pd
import pytest
from conftest import CLASSES, ROOT, draw
from numpy.random import default_rng
from numpy.testing import assert_allclose
from PIL import Image
from search import fake_training
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline

import scenes
import scenes.classifier
from scenes import calibration, dataset, evaluation, grid_search
from scenes.settings import GridOptions
from studies import common, label_noise, large_search, unknown_classes

BENCHMARK = (ROOT / "tools" / "BENCHMARK.md").read_text("utf-8")
STUDIES = ["label_noise", "large_search", "mobile_export", "unknown_classes"]
# The class that each one is confused with most.
NEIGHBOURS = ["street", "mountain", "mountain", "glacier", "glacier", "buildings"]


@pytest.fixture(scope="module")
def loaded():
    return common.load_images()


# --- The pages ------------------------------------------------------------------------


@pytest.mark.parametrize("name", STUDIES)
def test_each_number_of_a_page_is_computed_by_its_script(name):
    page = (ROOT / "studies" / f"{name}.md").read_text("utf-8")
    no_results = r"```.*?```|\]\(.*?\)|`.*?`|25 November 2026|95% CI|Apache 2\.0|CC0"
    text = re.sub(no_results, "", page, flags=re.DOTALL)
    text = " ".join(text.split())
    for number in importlib.import_module(f"studies.{name}").numbers():
        assert number in text
        text = text.replace(number, "", 1)
    assert re.findall(r"\d[\d.,]*", text) == []  # there is no other number


def test_the_benchmark_says_of_few_photos_what_their_table_holds():
    table = common.read("few_photos")
    rows = few_photos.summarize(table) + few_photos.summarize_calibration(table)
    assert [row in BENCHMARK for row in rows] == [True] * len(rows) != []


def test_the_benchmark_says_what_training_on_all_photos_changed():
    table = common.read("few_photos").query("chosen != 'head'")
    rates = table["chosen"].astype(float).map("fine-tuned, {:g}".format)
    before = [row[name] for (_, row), name in zip(table.iterrows(), rates, strict=True)]
    gains = 100 * (table["saved"] - before).groupby(table["data set"]).mean()
    assert len(gains) == 4
    for name, gain in gains.items():
        assert f"{gain:+.1f} ({name})" in BENCHMARK
    ours = calibration.accuracy(np.arange(104) < 102)
    interval = f"{ours['ci_low']:.1%} to {ours['ci_high']:.1%} for 102 of 104"
    assert interval in BENCHMARK


def test_a_model_is_judged_on_test_photos_and_fitted_on_others():
    rng = default_rng(0)
    honest = rng.dirichlet(np.full(3, 0.1), 4000)
    y = (honest.cumsum(axis=1) < rng.random((len(honest), 1))).sum(axis=1).clip(0, 2)
    sharp = calibration.apply_temperature(honest, 0.5)
    found = few_photos.judge(sharp[::2], y[::2], sharp[1::2], y[1::2])
    assert list(found) == few_photos.JUDGED
    assert found["errors"] == (sharp[::2].argmax(axis=1) != y[::2]).sum() > 100
    assert 2 * found["ECE"] < found["ECE before"]
    assert 0.2 < found["coverage"] < 0.8
    assert found["ci_low"] < found["selective accuracy"] < found["ci_high"]
    assert found["selective accuracy"] == pytest.approx(0.98, abs=0.02)


def test_the_second_table_of_few_photos_counts_the_seeds_that_meet_the_target():
    rows = [[4, 0.1, 0.06, 0.5, 0.96, 0.9, 0.99], [6, 0.1, 0.04, 0.7, 0.9, 0.8, 0.97]]
    table = pd.DataFrame(rows, columns=few_photos.JUDGED)
    crossed = table.iloc[:1].add_prefix("cross-fit ")
    table = table.join(crossed).assign(**{"data set": "shells"})
    assert few_photos.summarize_calibration(table) == [
        "| shells | False | 2 | 5 | 0.100 | 0.050 | -0.050 ± 0.010 | 60.0 | 93.0 "
        "| 1 of 2 |",
        "| shells | True | 1 | 4 | 0.100 | 0.060 | -0.040 | 50.0 | 96.0 | 1 of 1 |",
    ]


def test_the_notebook_says_of_unknown_classes_what_the_study_says():
    held = common.read("none_of_the_classes")[
        ["left_out_answered", "left_out_photos"]
    ].sum()
    said = (
        "a head that has never seen a class still answers, always wrongly, for "
        f"{held.iloc[0] / held.iloc[1]:.0%} of that class's test photos"
    )
    assert said in (ROOT / "intel_classification.ipynb").read_text("utf-8")


# --- The large search -----------------------------------------------------------------


def test_a_search_is_condensed_and_a_plot_shows_its_best(loaded, monkeypatch, tmp_path):
    grid = GridOptions(
        learning_rates=[0.0005, 0.001],
        dropouts=[0.0],
        weight_decays=[0.0, 0.001],
        epochs=2,
    )
    monkeypatch.setattr(large_search, "GRID", grid)
    monkeypatch.setattr(large_search, "EPOCHS", [1, 2])
    monkeypatch.setattr(
        common, "load_images", lambda: tuple(part[::40] for part in loaded)
    )
    monkeypatch.setattr(grid_search, "train_fold", fake_training)
    monkeypatch.setattr(common, "ROOT", tmp_path)
    (tmp_path / "results").mkdir()
    large_search.run()
    results = pd.read_csv(tmp_path / "runs" / "large_search" / "search.csv")
    means = results.groupby(["learning_rate", "epoch", "weight_decay"])[
        "val_accuracy"
    ].mean()
    shown = large_search.figures()["grid_search_large_epochs"].data[0]
    assert_allclose(shown.z, 100 * means.unstack().max(axis=1).unstack(), atol=1e-4)
    assert (list(shown.x), list(shown.y)) == (["1", "2"], ["0.0005", "0.001"])
    kept = common.read("grid_search_large")
    assert list(kept["kept"].value_counts()) == [4, 4, 4]
    best = kept[kept["kept"] == "best"]
    tops = means.groupby(["learning_rate", "weight_decay"]).max()
    assert_allclose(best["val_accuracy"], tops, atol=1e-5)
    assert_allclose(best["gap"], tops.max() - tops, atol=1e-5)


def test_the_large_search_is_that_of_its_lists():
    kept = common.read("grid_search_large")
    grid = itertools.product(*large_search.LISTS)
    best = kept[kept["kept"] == "best"]
    assert sorted(
        best[scenes.HYPERPARAMETERS].itertuples(index=False, name=None)
    ) == sorted(grid)
    epochs = kept["epoch"][kept["kept"] != "best"].value_counts().to_dict()
    assert epochs == dict.fromkeys(large_search.EPOCHS, len(best))


# --- Unknown classes ------------------------------------------------------------------


def test_a_held_out_class_is_answered_as_the_table_says(loaded):
    images, X, _ = loaded
    row = unknown_classes.without("forest", images, X)
    committed = common.read("none_of_the_classes").set_index("left_out").loc["forest"]
    for name in committed.index:  # another processor may move a photo or two
        assert row[name] == pytest.approx(committed[name], rel=0.02, abs=3)


def test_photos_of_other_subjects_are_counted_by_folder(
    classifier, monkeypatch, tmp_path
):
    """The small model answers all of them, one by one."""
    for name, count in {"a": 3, "b": 2}.items():
        (tmp_path / name).mkdir()
        for seed in range(count):
            Image.fromarray(draw(seed)).save(tmp_path / name / f"{seed}.png")
    monkeypatch.setattr(common, "ROOT", tmp_path)
    (tmp_path / "results").mkdir()
    scenes.classifier.save_classifier(classifier, tmp_path / "classifier.keras")
    unknown_classes.photos(str(tmp_path / "a"), str(tmp_path / "b"))
    table = common.read("unknown_photos")
    columns = ["set", "photos", "answered", "share"]
    assert table[columns].to_numpy().tolist() == [["a", 3, 3, 1], ["b", 2, 2, 1]]


# --- Label noise: flag_labels -------------------------------------------------------


@pytest.mark.parametrize(("share", "precision"), [(0.05, 0.35), (0.1, 0.5)])
def test_labels_that_were_made_wrong_are_found(bundled, share, precision):
    """
    Measured: 85 to 87% of them, and 40% (share 5%) and 57% (10%) of the flagged are
    such.

    The classifier is a crude one (88% right); taking each of its disagreements for a
    wrong label would give a precision of 29% and 45%.
    """
    images, features = (part[::4] for part in bundled)
    labels = images["label"].cat.codes.to_numpy().astype(int)
    rows = default_rng(0).choice(len(labels), round(share * len(labels)), replace=False)
    wrong = labels.copy()
    wrong[rows] = np.array([CLASSES.index(name) for name in NEIGHBOURS])[labels[rows]]
    crude = make_pipeline(PCA(20, random_state=0), LinearDiscriminantAnalysis())
    probabilities = cross_val_predict(
        crude, features, wrong, cv=3, method="predict_proba"
    )
    suggested = evaluation.flag_labels(probabilities, wrong)
    found = (suggested >= 0) & (wrong != labels)
    assert found.sum() / len(rows) > 0.8
    assert found.sum() / (suggested >= 0).sum() > precision
    assert (suggested == labels)[found].mean() > 0.9


# --- Label noise: readings and near-duplicates ----------------------------------------


def test_readings_are_counted_by_what_they_agree_with():
    rows = [
        ["sea", "forest", "flagged", "forest"],
        ["sea", "forest", "flagged", "sea"],
        ["sea", "forest", "flagged", "unclear"],
        ["sea", None, "random", "street"],
        ["street", None, "random", "street"],
    ]
    readings = pd.DataFrame(rows, columns=["label", "suggested", "chosen", "reading"])
    counts = label_noise.count_annotations(readings)
    assert list(counts.columns) == ["suggestion", "label", "other", "unclear"]
    assert counts.loc[["flagged", "random"]].to_numpy().tolist() == [
        [1, 1, 0, 1],
        [0, 1, 1, 0],
    ]


def test_labels_are_cleaned_in_four_ways_and_judged_by_the_same_photos(monkeypatch):
    """
    The heads of this test see the true class of each photo, and 21 labels are wrong.

    The last column of X numbers the photos.
    """
    true = np.arange(70) % 3
    wrong, split = [*range(20), 69], np.repeat(["train", "validation"], [60, 10])
    y = true.copy()
    y[wrong] = (true[wrong] + 1) % 3
    probabilities = np.full((70, 3), 0.1)
    probabilities[np.arange(70), true] = 0.8
    images = pd.DataFrame({"split": split, "digest": np.arange(70)})
    X = np.column_stack([probabilities, np.arange(70)])
    trained, predicted, written = [], [], {}

    def train(X, y, options):
        trained.append((X[:, 3].astype(int), y, options.seed))
        return head

    def predict(X, **options):
        predicted.append(X[:, 3].astype(int))
        return X[:, :3]

    head = Mock(side_effect=predict, predict=predict)
    monkeypatch.setattr(common, "load_images", lambda: (images, X, y))
    monkeypatch.setattr(label_noise.heads, "train_head", train)
    monkeypatch.setattr(
        common, "write", lambda table, name: written.update({name: table})
    )
    label_noise.clean()

    for (rows, labels, _), others in zip(trained[:5], predicted[:5], strict=True):
        assert set(rows) == set(range(60)) - set(others)
        assert list(labels) == list(y[rows])
    assert sorted(np.concatenate(predicted[:5])) == list(range(60))
    ways = {
        "all photos": (range(60), y),
        "flagged removed": (range(20, 60), y),
        "flagged changed": (range(60), true),
        "as many others removed": (trained[14][0], y),
    }
    others = set(trained[14][0])
    assert len(others) == 40
    assert others & set(range(20)), "they are drawn among all"
    table = written["label_cleaning"]
    cases = itertools.product(ways, range(3))
    for case, training, row in zip(
        cases, trained[5:], table.itertuples(index=False), strict=True
    ):
        photos, labels = ways[case[0]]
        rows, of_rows, seed = training
        assert (list(rows), list(of_rows)) == (list(photos), list(labels[rows])), case
        assert ((row.labels, row.seed), row.photos) == (case, len(photos))
        assert seed == row.seed
    assert all(list(rows) == list(range(60, 70)) for rows in predicted[5:])
    assert_allclose(table["val_accuracy"], 0.9)
    loss = -(9 * np.log(0.8) + np.log(0.1)) / 10
    assert_allclose(table["val_loss"], loss)


@pytest.mark.parametrize("name", ["flagged_labels", "label_reading", "label_mistakes"])
def test_the_committed_tables_are_of_the_bundled_photos(bundled, name):
    images, rows = bundled[0].set_index("path"), common.read(name)
    assert not rows.duplicated(["path", *rows.columns.intersection(["chosen"])]).any()
    assert (images["label"].astype(str)[rows["path"]].to_numpy() == rows["label"]).all()
    assert (rows["suggested"] != rows["label"]).all()
    assert set(rows["suggested"].dropna()) <= set(CLASSES)
    if "reading" in rows:
        assert set(rows["reading"]) <= {*CLASSES, "unclear"}
        assert (
            rows["suggested"][rows["chosen"].isin(["flagged", "mistake"])].notna().all()
        )
        assert (
            images["split"][rows["path"][rows["chosen"] != "flagged"]] == "test"
        ).all()
    else:
        margin = rows["suggested_probability"] - rows["label_probability"]
        assert (margin.diff().dropna() < 0.0002).all(), "the most doubtful first"


def test_the_flagged_labels_are_a_file_of_corrections(bundled, tmp_path):
    path = common.ROOT / "results" / "flagged_labels.csv"
    edited = tmp_path / "labels.csv"
    images, _ = bundled
    assert not dataset.apply_corrections(images, path, images)["corrected"].any()
    table = common.read("flagged_labels")
    table.assign(label=table["suggested"]).to_csv(edited, index=False)
    images = dataset.apply_corrections(images, edited, images)
    assert set(images["path"][images["corrected"]]) == set(table["path"])


def test_the_near_duplicates_are_those_that_were_judged(loaded):
    """
    Among these photos and every 4th other; `audit_images` finds those of the same
    pixels.
    """
    (images, X, _), judged = loaded, common.read("near_copies")
    rows = images["path"].isin([*judged["path_1"], *judged["path_2"]])
    rows |= np.arange(len(images)) % 4 == 0
    found = label_noise.near_duplicates(X[rows], images["digest"][rows])
    images = images[rows].replace({"split": {"validation": "train"}})
    keys = [
        f"{column}_{number}"
        for number in (1, 2)
        for column in ("path", "split", "label")
    ]
    for key in keys:  # path_1 is that of the row that `first` numbers
        rows = found["first" if key.endswith("1") else "second"]
        found[key] = images[key[:-2]].iloc[rows].astype(str).to_numpy()
    both = judged.merge(found, on=keys, suffixes=("", "_found"))
    assert len(both) == len(judged)
    assert_allclose(both["cosine_found"], both["cosine"], atol=0.0001)
    assert set(judged["same_picture"]) <= {"yes", "no", "unsure"}


def test_photos_of_the_same_pixels_are_no_near_duplicates():
    found = label_noise.near_duplicates(
        np.array([[1, 0], [1, 0.01], [1, 0]]), list("aba")
    )
    assert found[["first", "second"]].to_numpy().tolist() == [[0, 1], [1, 2]]
