"""Each number in the model card and in the README is computed from the result files."""

import re

import numpy as np
import pandas as pd
import papermill.iorw
from conftest import CLASSES, ROOT, draw, held_out
from PIL import Image

import utils
from scenes import calibration, classifier, evaluation, features, fine_tuning

CARD = (ROOT / "MODEL_CARD.md").read_text()
README = (ROOT / "README.md").read_text()
percent = calibration.percent


def read(name: str) -> pd.DataFrame:
    return pd.read_csv(ROOT / "results" / f"{name}.csv")


def figures() -> list[str]:
    """Return all sentences and cells of the card that hold figures."""
    bundled, _ = features.load_bundled_features()
    train, images = (bundled["split"] == "train").sum(), utils.drop_leaks(bundled)
    other = read("unknown_photos").set_index("set")
    signs, clothing = (
        percent(np.arange(row.photos) < row.answered)
        for row in other.loc[["sign-digits", "clothing"]].itertuples()
    )
    none = read("none_of_the_classes")
    missed = none["left_out_answered"] / none["left_out_photos"]
    pictures = read("sample_predictions").itertuples(index=False)
    said = (
        f"{row.label} ({max(row[3:]):.0%}{', unsure' * row.unsure})" for row in pictures
    )
    return [
        "3.15",
        f"The {train:,} training photos",
        f"without the {len(bundled) - len(images)} whose pixels",
        *figures_of_evaluation(),
        ", ".join(
            f"{name} {part:.0%}" for name, part in zip(CLASSES, missed, strict=True)
        ),
        f"in all {none['left_out_answered'].sum() / none['left_out_photos'].sum():.0%} "
        f"of "
        f"{none['left_out_photos'].sum():,}",
        f"{signs} of {other.photos['sign-digits']} hand signs",
        f"on {clothing} of {other.photos['clothing']} pieces of clothing",
        "a Chinese palace {} and a flower {}".format(*said),
        "150 x 150 pixels",
        *(
            f"| {row.model} | {row.bytes / 1e6:.1f} | {row.accuracy:.1%} | "
            + ("|" if row.model == "Keras" else f"{row.agreement:.1%} |")
            for row in read("exported").itertuples()
        ),
    ]


def fitted() -> dict[str, float]:
    """Return temperature and threshold, from what the selected model was fitted with."""
    return calibration.fit(*held_out())


def figures_of_evaluation() -> list[str]:
    validation, test = read("validation_predictions"), read("test_predictions")
    comparison = evaluation.compare_models(validation)["accuracy"]
    rates = [name for name in comparison.index if name != "head"]
    n_held_out = (validation["model"] == "head").sum()
    first, second = (round(comparison[name] * n_held_out) for name in rates)
    constants = fitted()
    y, before = pd.Categorical(test["label"], CLASSES).codes, test[CLASSES].to_numpy()
    after = calibration.apply_temperature(before, constants["temperature"])
    predicted, covered = (
        before.argmax(axis=1),
        after.max(axis=1) >= constants["threshold"],
    )
    correct, confused = predicted == y, pd.crosstab(y, predicted).to_numpy()
    glacier, mountain = (test["label"] == name for name in ("glacier", "mountain"))
    pairs = read("near_copies").query("split_1 != split_2 and same_picture == 'yes'")
    copied = test["path"].isin([*pairs["path_1"], *pairs["path_2"]])
    scores = evaluation.scores_by_class(
        pd.Series(pd.Categorical(test["label"])), np.array(CLASSES)[predicted]
    )
    tables = [calibration.reliability(p, y) for p in (before, after)]
    errors = [calibration.expected_calibration_error(table) for table in tables]
    sizes, pairs = (
        confused.sum(axis=1),
        [("glacier", "mountain"), ("buildings", "street")],
    )
    pairs = [(CLASSES.index(first), CLASSES.index(second)) for first, second in pairs]
    return [
        f"{comparison.iloc[0]:.1%} against {comparison['head']:.1%} "
        f"validation accuracy",
        f"since {rates[0].split()[-1]} classified {first:,} of the {n_held_out:,} "
        f"correctly and {rates[1].split()[-1]} classified {second:,}",
        f"Accuracy on the {len(test):,} test photos: {percent(correct)}",
        *(
            f"| {name} | {(y == n).sum()} | {percent(correct[predicted == n])} | "
            f"{percent(correct[y == n])} | {scores['F1'][name]:.3f} |"
            for n, name in enumerate(CLASSES)
        ),
        f"A temperature of {constants['temperature']:.3f} and a threshold of "
        f"{constants['threshold']:.3f} were fitted",
        "a selective accuracy of at least 98%",
        f"({len(tables[0])} bins of equal mass)",
        f"from {errors[0]:.3f} to {errors[1]:.3f}",
        f"by chance, that of a calibrated model exceeds "
        f"{calibration.error_by_chance(after):.3f} once in twenty times",
        f"the mean confidence is {after.max(axis=1).mean():.1%}",
        f"coverage is {percent(covered)} and selective accuracy "
        f"{percent(correct[covered])}; on "
        f"the photos abstained from, accuracy is {percent(correct[~covered])}",
        f"{correct[covered & glacier].mean():.1%} for glacier photos and "
        f"{correct[covered & mountain].mean():.1%} for mountain photos, at a coverage of "
        f"{covered[glacier].mean():.0%} and {covered[mountain].mean():.0%}",
        f"without the {copied.sum()} test photos",
        f"the accuracy is {percent(correct[~copied])}",
        *(
            f"{confused[a, b]} of {sizes[a]} {CLASSES[a]} photos "
            f"are classified as {CLASSES[b]}, "
            f"{confused[b, a]} of {sizes[b]} {CLASSES[b]} photos as {CLASSES[a]}"
            for a, b in pairs
        ),
    ]


def test_each_number_of_the_card_is_that_of_the_result_files():
    text = " ".join(CARD.split())
    for figure in figures():
        assert figure in text
        text = text.replace(figure, "", 1)
    of_no_result = r"^---.*? ---|```.*?```|https?://\S+|`[^`]*`|MobileNetV2|Apache 2\.0"
    text = re.sub(rf"{of_no_result}|95% c?C?\w+| F1 ", "", text)
    assert re.findall(r"\d[\d.,]*", text) == []  # there is no other number


def test_the_card_says_the_size_and_the_classes_of_the_file():
    model = ROOT / "classifier.keras"
    exported = pd.read_csv(ROOT / "results" / "exported.csv").set_index("model")
    assert model.stat().st_size == exported.loc["Keras", "bytes"]
    assert f"({', '.join(CLASSES)})" in CARD
    assert (
        list(pd.read_csv(ROOT / "results" / "none_of_the_classes.csv")["left_out"])
        == CLASSES
    )


def test_the_metadata_of_the_card_give_its_accuracy(tmp_path):
    file = tmp_path / "metadata.yaml"
    file.write_text(CARD.split("---")[1])
    [model] = papermill.iorw.read_yaml_file(str(file))["model-index"]
    [result] = model["results"]
    [metric] = result["metrics"]
    test = read("test_predictions")
    correct = test[CLASSES].idxmax(axis=1) == test["label"]
    assert (model["name"], metric["type"]) == ("classifier.keras", "accuracy")
    assert metric["value"] == round(correct.mean(), 3)


def test_the_readme_shows_what_classify_says_of_its_photos():
    constants, test = fitted(), read("test_predictions").sort_values("path")
    after = calibration.apply_temperature(
        test[CLASSES].to_numpy(), constants["temperature"]
    )
    test[CLASSES] = after
    test["label"] = test[CLASSES].idxmax(axis=1)
    test["unsure"] = after.max(axis=1) < constants["threshold"]
    test["path"] = test["path"].str.rsplit("/").str[-1]
    unsure = test.query("unsure").head(1)
    rows = pd.concat([test.head(1), unsure, read("sample_predictions")])
    confidences = rows[CLASSES].max(axis=1).map("{:.1%}".format)
    unsure = np.where(rows["unsure"], "  unsure", "")
    shown = re.findall(r"^my_photos/(\S+) +(\w+)  (\S+%)(.*)$", README, re.M)
    assert shown == list(
        zip(rows["path"], rows["label"], confidences, unsure, strict=True)
    )
    china = rows.iloc[-2]
    confidence = f"{china[CLASSES].max():.6f}".rstrip("0")  # as pandas prints it
    assert re.search(rf"# 0  {china.label} +{china.unsure} +{confidence}\n", README)


def test_the_committed_model_is_selected_by_balanced_accuracy_too():
    """A run without photos shows it under the name that its own choice has."""
    validation = read("validation_predictions")
    [selected] = read("test_predictions")["model"].unique()
    for weight in (None, "balanced"):
        comparison = evaluation.compare_models(validation, class_weight=weight)
        assert comparison.index[0] == selected


def test_the_readme_says_what_stays_in_the_cache():
    assert f"the {fine_tuning.KEPT_CHECKPOINTS} latest checkpoints" in README
    numbers = 1280 * len(features.load_bundled_features()[0])
    assert f"features ({numbers / 1e6:.0f} MB)" in README


def test_the_snippet_of_the_card_says_of_a_turned_photo_what_classify_says(
    tmp_path, monkeypatch, printed
):
    turned = Image.Exif()
    turned[274] = 6  # the orientation: a quarter turn
    Image.fromarray(draw(0)).save(tmp_path / "photo.jpg", exif=turned)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "classifier.keras").symlink_to(ROOT / "classifier.keras")
    found = {}
    exec(re.search(r"```python\n(.*?)```", CARD, re.DOTALL)[1], found)
    model = classifier.load_classifier("classifier.keras")
    table = classifier.predict(model, "photo.jpg")
    assert printed().splitlines()[0] == table["label"][0]
    np.testing.assert_allclose(
        found["answer"]["probabilities"], table[CLASSES], atol=1e-5
    )
