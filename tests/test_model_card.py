"""Each number in the model card is computed from the result files."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
from conftest import CLASSES
from scipy.stats import binomtest

import scenes.classifier
import scenes.features
import utils
from scenes import calibration

ROOT = Path(__file__).parents[1]
CARD = (ROOT / "MODEL_CARD.md").read_text()


def interval(right: np.ndarray) -> str:
    low, high = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    return f"{100 * low:.1f} to {100 * high:.1f}"


def share(right: np.ndarray) -> str:
    return f"{right.mean():.1%} ({interval(right)})"


def figures() -> list[str]:
    """Return all sentences and cells of the card that hold figures."""
    held_out = pd.read_csv(ROOT / "results" / "fine_tuning_validation.csv")
    labels = pd.Categorical(held_out["label"], CLASSES).codes
    temperature = calibration.fit_temperature(held_out[CLASSES].to_numpy(), labels)
    threshold = calibration.fit_threshold(
        calibration.apply_temperature(held_out[CLASSES], temperature), labels
    )

    test = pd.read_csv(ROOT / "results" / "fine_tuning_predictions.csv").query("run == 1")
    labels = pd.Categorical(test["label"], CLASSES).codes
    before, after = (
        test[CLASSES].to_numpy(),
        calibration.apply_temperature(test[CLASSES], temperature),
    )
    predicted, answered = after.argmax(axis=1), after.max(axis=1) >= threshold
    right = predicted == labels
    errors = [
        calibration.expected_calibration_error(calibration.reliability(chances, labels))
        for chances in (before, after)
    ]
    rng, draws = np.random.default_rng(0), []
    for _ in range(100):  # labels for which the model is perfectly calibrated
        drawn = (after.cumsum(axis=1) > rng.random((len(after), 1))).argmax(axis=1)
        draws.append(calibration.expected_calibration_error(calibration.reliability(after, drawn)))
    bundled, _ = scenes.features.load_bundled_features()
    images = utils.drop_leaks(bundled)
    train = (bundled["split"] == "train").sum()
    confused = pd.crosstab(labels, predicted).to_numpy()
    sizes = confused.sum(axis=1)
    glacier, mountain, buildings, street = map(
        CLASSES.index, ("glacier", "mountain", "buildings", "street")
    )
    none = pd.read_csv(ROOT / "results" / "none_of_the_classes.csv")
    missed = none["left_out_answered"] / none["left_out_photos"]
    other = pd.read_csv(ROOT / "results" / "unknown_photos.csv").set_index("set")
    signs, clothing = (
        share(np.arange(row.photos) < row.answered)
        for row in other.loc[["sign-digits", "clothing"]].itertuples()
    )
    samples = pd.read_csv(ROOT / "results" / "sample_predictions.csv")
    palace, flower = samples[CLASSES].max(axis=1)
    unsure = right[~answered]
    exported = pd.read_csv(ROOT / "results" / "exported.csv")
    return [
        "(3.15)",
        f"the {train:,} training photos",
        f"without the {len(bundled) - len(images)} whose pixels",
        f"a temperature of {temperature:.3f}, and the threshold of {threshold:.3f} below",
        f"On the {len(test):,} test photos",
        f"{right.mean():.1%} are right (95% interval {interval(right)})",
        *(
            f"| {name} | {(labels == n).sum()} | {share(right[labels == n])} | "
            f"{share(right[predicted == n])} |"
            for n, name in enumerate(CLASSES)
        ),
        "10 bins of equal width",
        f"from {errors[0]:.3f} to {errors[1]:.3f}; a perfectly calibrated model has, on "
        f"as many photos, about {np.mean(draws):.3f}.",
        f"98% of the answered validation photos are right; of the test photos, {share(answered)} "
        f"are answered, and {share(right[answered])} of these are right",
        f"{unsure.mean():.1%} are ({interval(unsure)})",
        f"{confused[glacier, mountain]} of the {sizes[glacier]} glaciers are called mountain, "
        f"{confused[mountain, glacier]} of the {sizes[mountain]} mountains glacier",
        f"{confused[buildings, street]} of {sizes[buildings]} and {confused[street, buildings]} "
        f"of {sizes[street]} are called the other",
        ", ".join(f"{name} {part:.0%}" for name, part in zip(CLASSES, missed, strict=True)),
        f"in all {none['left_out_answered'].sum() / none['left_out_photos'].sum():.0%} of "
        f"{none['left_out_photos'].sum():,}",
        f"of {other.photos['sign-digits']} hand signs {signs}",
        f"of {other.photos['clothing']} pieces of clothing {clothing}",
        f"buildings ({palace:.0%}) and a flower sea ({flower:.0%}, unsure)",
        "150 x 150 pixels",
        *(
            f"| {row.model} | {row.bytes / 1e6:.1f} | {row.accuracy:.1%} | "
            + ("|" if row.model == "Keras" else f"{row.agreement:.1%} |")
            for row in exported.itertuples()
        ),
    ]


def test_each_number_of_the_card_is_that_of_the_result_files():
    text = " ".join(CARD.split())
    for figure in figures():
        assert figure in text
        text = text.replace(figure, "", 1)
    text = re.sub(r"```.*?```|https?://\S+|`[^`]*`|MobileNetV2|Apache 2\.0", "", text)
    assert re.findall(r"\d[\d.,]*", text) == []  # there is no other number


def test_the_card_says_the_size_and_the_classes_of_the_file():
    model = ROOT / "intel_classifier.keras"
    exported = pd.read_csv(ROOT / "results" / "exported.csv").set_index("model")
    assert model.stat().st_size == exported.loc["Keras", "bytes"]
    assert f"({', '.join(CLASSES)})" in CARD
    assert list(pd.read_csv(ROOT / "results" / "none_of_the_classes.csv")["left_out"]) == CLASSES


def test_the_predictions_are_of_the_labelled_photos_in_their_order():
    images, _ = scenes.features.load_bundled_features()
    validation = utils.create_validation(utils.drop_leaks(images), 0.2, seed=0)
    for name, split in {"validation": "validation", "predictions": "test"}.items():
        table = pd.read_csv(ROOT / "results" / f"fine_tuning_{name}.csv")
        table = table[table["run"] == 1] if "run" in table else table
        right = validation[validation["split"] == split]
        for column in ("path", "digest", "label"):
            assert list(table[column]) == list(right[column].astype(str))
