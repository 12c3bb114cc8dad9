"""
Mobile export: the numbers of `mobile_export.md`, and how to repeat what they come from.

`python -m studies.mobile_export` prints each number of the page. With `measure PHOTOS`,
it exports the shipped model, predicts the test photos with each file, and writes
`results/exported.csv` (five minutes on two cores; PHOTOS is the folder of the Kaggle
data set).
"""

import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf

import scenes
from scenes import calibration, classifier, features, photos
from studies import common


@scenes.silent()  # LiteRT says which delegate it has made
def run_exported(file: str | Path, paths: Sequence[str | Path]) -> np.ndarray:
    """
    Return the probabilities (n, classes) that an exported model gives, as an app gets
    them.
    """
    with warnings.catch_warnings(action="ignore"):  # its successor is another package
        interpreter = tf.lite.Interpreter(str(file), num_threads=os.cpu_count())
    interpreter.allocate_tensors()
    photo = interpreter.get_input_details()[0]["index"]
    probabilities = interpreter.get_output_details()[0]["index"]
    answers = []
    for path in paths:
        interpreter.set_tensor(photo, photos.resize_photos([photos.read_photo(path)]))
        interpreter.invoke()
        answers.append(interpreter.get_tensor(probabilities)[0])
    return np.stack(answers)


def measure(folder: str) -> None:
    """Write size, accuracy and agreement with the Keras model of each exported file."""
    images, _ = features.load_bundled_features()
    images = images[images["split"] == "test"]
    paths = [Path(folder, path) for path in images["path"]]
    y = images["label"].cat.codes
    file = common.ROOT / "classifier.keras"
    model = classifier.load_classifier(file)
    by_keras = classifier.predict(model, paths)["label"].cat.codes.to_numpy()
    rows = [["Keras", file.stat().st_size, np.mean(by_keras == y), 1.0]]
    with tempfile.TemporaryDirectory() as temporary:
        for name, int8 in {"LiteRT": False, "LiteRT, 8-bit weights": True}.items():
            file = Path(temporary, "model.tflite")
            classifier.export(model, file, int8=int8)
            predicted = run_exported(file, paths).argmax(axis=1)
            agreement = np.mean(predicted == by_keras)
            rows.append([name, file.stat().st_size, np.mean(predicted == y), agreement])
    columns = ["model", "bytes", "accuracy", "agreement"]
    common.write(pd.DataFrame(rows, columns=columns), "exported")


def numbers() -> Iterator[str]:
    """Yield each row and phrase of the page that holds a number."""
    n = len(common.read("test_predictions"))
    for row in common.read("exported").itertuples():
        accuracy = calibration.percent(np.arange(n) < round(row.accuracy * n))
        size = f"{row.bytes / 1e6:.1f}"
        yield common.row(row.model, size, accuracy, f"{row.agreement:.1%}")
    yield f"on the {n:,} test photos"


if __name__ == "__main__":
    common.main(numbers, measure=measure)
