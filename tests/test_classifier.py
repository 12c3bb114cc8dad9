"""
The classifier predicts what base model and head do, and is only loaded from good files.
"""

import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import zipfile
from functools import partial

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import (
    CLASSES,
    POLICIES,
    ROOT,
    Payload,
    assert_same_arrays,
    cell_sets,
    draw,
    flip,
    held_out,
    read_table,
    small_base_model,
    small_head,
    small_network,
)
from keras import layers
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from pandas.testing import assert_frame_equal
from PIL import Image
from test_photos import ODD_PHOTOS

from scenes import base_model, calibration, features, photos
from scenes.classifier import (
    activation_maps,
    build_classifier,
    classes_of,
    export,
    load_classifier,
    predict,
    predict_readable,
    save_classifier,
)
from studies import mobile_export


@pytest.fixture(scope="module")
def saved(classifier, tmp_path_factory):
    """Return the path of the saved classifier."""
    path = tmp_path_factory.mktemp("saved") / "classifier.keras"
    save_classifier(classifier, path)
    return path


@pytest.fixture
def album(tmp_path, monkeypatch):
    """Return a folder of photos of different sizes, in no order of sizes."""
    monkeypatch.setattr("scenes.classifier.BATCH_SIZE", 3)
    folder = tmp_path / "album"
    folder.mkdir()
    sizes = [
        (150, 150),
        (150, 150),
        (40, 30),
        (300, 100),
        (150, 150),
        (224, 224),
        (40, 30),
    ]
    for seed, (width, height) in enumerate(sizes):
        photo = Image.fromarray(draw(seed, width=width, height=height))
        photo.save(folder / f"{seed}.png")
    return folder


def small_classifier(classes=CLASSES, **options):
    head = small_head(len(classes))
    return build_classifier(small_base_model(0), head, classes, **options)


def one_by_one(classifier, paths):
    pixels = (photos.read_photo(path)[np.newaxis] for path in paths)
    return np.concatenate([classifier(photo)["probabilities"] for photo in pixels])


# --- What it predicts -----------------------------------------------------------------


def test_a_saved_classifier_gives_what_the_head_gives_for_the_features(drawn, tmp_path):
    """Up to the rounding of the features, which the classifier does not do."""
    larger = Image.fromarray(draw(0, width=400, height=300))
    larger.save(drawn / "seg_test" / "seg_test" / "sea" / "larger.png")
    images = read_table(drawn).query("split == 'test' and label == 'sea'")
    base, head = small_network(0), small_head(6)
    X = features.extract_features(images, base, cache=tmp_path)
    classifier = build_classifier(base, head, CLASSES)
    save_classifier(classifier, tmp_path / "whole.keras")
    loaded = load_classifier(tmp_path / "whole.keras")
    assert_same_arrays(loaded.get_weights(), classifier.get_weights())
    table = predict(loaded, list(images["file"]))
    expected = head.predict(X, verbose=0)
    assert_allclose(table[CLASSES], expected, atol=0.02)
    assert np.ptp(expected, axis=0).max() > 0.1


def test_a_classifier_does_not_change_when_its_parts_train_on(classifier):
    base, head = small_network(0), small_head(6)
    built = build_classifier(base, head, CLASSES)
    before = built.get_weights()
    for model in (base, head):
        model.set_weights([weight + 1 for weight in model.get_weights()])
    assert_same_arrays(built.get_weights(), before)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_classifier_computes_in_float32_whatever_a_cell_has_set(policy):
    """Its head may have been trained under that policy, too."""
    build = partial(build_classifier, classes=CLASSES, temperature=2)
    right = build(small_network(0), small_head(6))
    with cell_sets(policy):
        model = build(small_network(0), small_head(6))
    model.set_weights(right.get_weights())
    for name, values in answers(right).items():
        assert_array_equal(answers(model)[name], values)


def test_predict_gives_a_row_for_each_photo_in_the_order_of_the_names(
    classifier, album
):
    table = predict(classifier, album)
    paths = sorted(album.iterdir())
    assert list(table.columns) == ["path", "label", "unsure", "confidence", *CLASSES]
    assert list(table["path"]) == [path.as_posix() for path in paths]
    assert_allclose(table[CLASSES], one_by_one(classifier, paths), atol=1e-5)
    assert_allclose(table[CLASSES].sum(axis=1), 1, atol=1e-5)
    assert list(table["label"].cat.categories) == CLASSES
    assert list(table["label"]) == list(table[CLASSES].idxmax(axis=1))
    assert table["label"].nunique() > 1
    assert list(table["confidence"]) == list(table[CLASSES].max(axis=1))
    assert table["unsure"].dtype == bool


def test_predict_takes_a_folder_a_list_or_one_photo(classifier, album):
    paths = sorted(album.iterdir(), reverse=True)
    by_folder = predict(classifier, str(album))
    by_list = predict(classifier, paths)
    assert list(by_list["path"]) == list(by_folder["path"])[::-1]
    assert_allclose(by_list[CLASSES][::-1], by_folder[CLASSES], atol=1e-5)
    one = predict(classifier, paths[-1])
    assert_allclose(one[CLASSES], by_folder[CLASSES][:1], atol=1e-5)


def test_odd_photos_are_predicted_by_their_pixels(classifier, tmp_path):
    paths = [tmp_path / f"{kind}.jpg" for kind in ODD_PHOTOS]
    for path, (write, _, _) in zip(paths, ODD_PHOTOS.values(), strict=True):
        write(path)
    table = predict(classifier, paths)
    for row, (kind, (_, right, tolerance)) in zip(
        table[CLASSES].to_numpy(), ODD_PHOTOS.items(), strict=True
    ):
        expected = classifier(right[np.newaxis].astype("float32"))["probabilities"][0]
        assert_allclose(row, expected, atol=1e-3 + 0.02 * tolerance, err_msg=kind)


def test_unreadable_photos_are_named_and_the_rest_is_predicted(
    classifier, album, tmp_path
):
    """By `predict_readable`; `predict` raises one error of them all."""
    good = sorted(album.glob("?.png"))
    bad = [album / "missing.png", album / "a letter.png", tmp_path / "none", ""]
    bad[1].write_text("a letter")
    (tmp_path / "none").mkdir()
    named = [bad[2], *good[:2], *bad[:2], *good[2:], bad[3]]
    table, problems = predict_readable(classifier, named)
    right = predict(classifier, good)
    assert_frame_equal(table, right, check_exact=False, atol=1e-5)
    assert problems == [
        f"'{bad[2]}' cannot be read: there is no photo in it",
        "'' cannot be read: the name is empty",
        f"{bad[0]} cannot be read as a photo: No such file or directory",
        f"{bad[1]} cannot be read as a photo: no known format",
    ]
    with pytest.raises(ValueError, match=r"^4 photo\(s\) failed") as caught:
        predict(classifier, named)
    assert str(caught.value).splitlines()[1:] == [f"    {line}" for line in problems]
    none, problems = predict_readable(classifier, bad[:2])
    assert len(problems) == 2
    assert_frame_equal(none, right.iloc[:0])


def test_no_photo_to_predict_is_an_error(classifier):
    with pytest.raises(FileNotFoundError, match="there is no photo in"):
        predict(classifier, [])


# --- Saved and loaded -----------------------------------------------------------------


IN_A_NEW_PROCESS = """
import json, sys
import keras, numpy as np
assert "utils" not in sys.modules
model = keras.saving.load_model(sys.argv[1])
photo = np.load(sys.argv[2])
answers = model.predict(photo[np.newaxis], verbose=0), model(photo[np.newaxis])
for answer in answers:
    print(json.dumps({name: np.array(values).tolist()[0] for name, values in answer.items()},
                     default=bytes.decode))
"""


def test_a_saved_classifier_works_in_a_new_process_with_keras_alone(album, tmp_path):
    """
    Raw pixels in, words and probabilities out, with nothing of this project on the
    path.
    """
    model = small_classifier(temperature=2, threshold=0.9)
    save_classifier(model, tmp_path / "model.keras")
    np.save(tmp_path / "photo.npy", photos.read_photo(album / "3.png"))
    command = [sys.executable, "-I", "-c", IN_A_NEW_PROCESS, "model.keras", "photo.npy"]
    said = subprocess.check_output(command, cwd=tmp_path, text=True, timeout=300)
    expected = predict(model, album / "3.png").iloc[0]
    for answer in map(json.loads, said.splitlines()[-2:]):
        assert_allclose(answer["probabilities"], expected[CLASSES].tolist(), atol=1e-5)
        assert answer["label"] == expected["label"]
        assert answer["unsure"]
        assert expected["unsure"]


def noise():
    return default_rng(0).integers(0, 256, (4, 50, 60, 3)).astype("float32")


def answers(model):
    """Return what a model says of four photos of noise."""
    return model.predict(noise(), verbose=0)


@pytest.mark.parametrize("temperature", [0.5, 3])
def test_a_temperature_divides_the_scores_and_leaves_the_label(classifier, temperature):
    plain = answers(classifier)
    given = answers(small_classifier(temperature=temperature))
    right = plain["probabilities"] ** (1 / temperature)
    right /= right.sum(axis=1, keepdims=True)
    assert_allclose(given["probabilities"], right, atol=1e-5)
    assert given["label"].tolist() == plain["label"].tolist()


@pytest.mark.parametrize(
    ("threshold", "unsure"), [(0.0, 0), ("second", 1), (np.inf, 4)]
)
def test_photos_below_the_threshold_are_unsure(classifier, threshold, unsure):
    if threshold == "second":
        highest = answers(classifier)["probabilities"].max(axis=1)
        threshold = float(np.sort(highest)[1])  # it is not below it itself
    model = small_classifier(threshold=threshold)
    assert answers(model)["unsure"].sum() == unsure


def test_a_plain_call_draws_no_dropout(classifier):
    """Keras's Resizing would put all layers behind it into training."""
    called, predicted = classifier(noise()), answers(classifier)
    assert_allclose(called["probabilities"], predicted["probabilities"], atol=1e-6)


ODD_CLASSES = ["with space", "Größe", "a,b", "1st", "<b>", "[UNK]", "🏔"]


@pytest.mark.parametrize(
    "classes", [["yes", "no"], ODD_CLASSES, [f"c{i}" for i in range(100)]]
)
def test_a_file_knows_its_classes(classes, album, tmp_path):
    model = small_classifier(classes)
    save_classifier(model, tmp_path / "model.keras")
    loaded = load_classifier(tmp_path / "model.keras")
    assert classes_of(loaded) == classes
    table = predict(loaded, album)
    numbers = one_by_one(model, sorted(album.iterdir())).argmax(axis=1)
    assert list(table["label"]) == [classes[number] for number in numbers]


@pytest.mark.filterwarnings("ignore")
def test_an_older_keras_is_told_to_be_replaced(saved, tmp_path):
    path = tmp_path / "newer.keras"
    newer = b'{"keras_version": "99.1.0", "date_saved": "2099-01-01@00:00:00"}'
    config = (
        b'{"class_name": "Later", "module": "keras", "config": '
        b'{}, "registered_name": null}'
    )
    change_parts(saved, path, metadata__json=newer, config__json=config)
    told = (
        rf"{path} is no .* for Keras {keras.__version__}; "
        rf"install Keras 99\.1\.0, which saved"
    )
    with pytest.raises(ValueError, match=told):
        load_classifier(path)
    change_parts(saved, path, metadata__json=newer)  # what can be read is not refused
    assert classes_of(load_classifier(path)) == CLASSES


# --- What it looks at -----------------------------------------------------------------


def softmax(scores):
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def test_the_maps_split_the_scores_exactly(album):
    """Maps of another photo, or with two classes exchanged, do not."""
    model = build_classifier(small_network(0), small_head(6), CLASSES, temperature=2)
    paths = sorted(album.iterdir())[:3]
    maps = activation_maps(model, paths)
    assert maps.shape == (3, 7, 7, 6)
    one_pass, scaling = (model.get_layer(name) for name in ("one_pass", "scaling"))
    bias = np.array(one_pass.layers[-1].layers[-1].bias)
    pixels = [photos.resize_photos([photos.read_photo(path)]) for path in paths]
    right = np.concatenate([one_pass(scaling(photo)) for photo in pixels])
    means = maps.mean(axis=(1, 2)) + bias
    assert_allclose(softmax(means), right, atol=1e-4)
    for wrong in (means[::-1], means[..., [0, 1, 2, 4, 3, 5]]):
        assert np.abs(softmax(wrong) - right).max() > 1e-3
    given = model.predict(np.concatenate(pixels), verbose=0)["probabilities"]
    cooled = np.sqrt(softmax(means))  # a temperature of 2
    assert_allclose(given, cooled / cooled.sum(axis=1, keepdims=True), atol=1e-4)


# --- On a phone -----------------------------------------------------------------------


@pytest.mark.parametrize("int8", [False, True])
def test_an_exported_model_gives_the_same_probabilities(album, tmp_path, int8, recwarn):
    model = small_classifier(temperature=2, threshold=0.5)
    larger = Image.fromarray(draw(99, width=500, height=300))
    larger.save(album / "larger.png")
    export(model, tmp_path / "model.tflite", int8=int8)
    assert ((tmp_path / "model.tflite").stat().st_size < 60_000) == int8
    assert (tmp_path / "model.txt").read_text().split() == CLASSES
    paths = sorted(album.iterdir())
    given = mobile_export.run_exported(tmp_path / "model.tflite", paths)
    right = predict(model, paths)[CLASSES]
    assert_allclose(given, right, atol=0.05 if int8 else 1e-4)
    assert not [
        w
        for w in recwarn
        if "deprecated" in str(w.message) and "lite" in str(w.message)
    ]


# --- The committed model --------------------------------------------------------------

MODEL = ROOT / "classifier.keras"
RESULTS = ROOT / "results"
SHA256 = "d0153829bac05b7f0529a07878b37745d30790f17f7836e5835a97ecf9a55a1e"


@pytest.fixture(scope="module")
def committed():
    return load_classifier(MODEL)


def test_the_committed_model_is_the_tested_one():
    assert MODEL.stat().st_size < 10e6
    assert hashlib.sha256(MODEL.read_bytes()).hexdigest() == SHA256


def test_the_committed_model_has_the_constants_that_the_validation_photos_give(
    committed,
):
    assert classes_of(committed) == CLASSES
    right = calibration.fit(*held_out())
    scale, offset = (
        committed.get_layer("temperature").scale,
        committed.get_layer("margin").offset,
    )
    assert scale == pytest.approx(1 / right["temperature"], rel=1e-4)
    assert offset == pytest.approx(-right["threshold"], abs=1e-5)


@pytest.mark.photos
def test_the_committed_model_gives_the_committed_predictions(committed, real_photos):
    """The committed ones are from before the temperature."""
    table = pd.read_csv(RESULTS / "test_predictions.csv")
    table = table.sample(300, random_state=0)
    right = calibration.apply_temperature(
        table[CLASSES], 1 / committed.get_layer("temperature").scale
    )
    given = predict(committed, [real_photos / path for path in table["path"]])
    assert_allclose(given[CLASSES], right, atol=1e-3)
    assert (
        given["label"].astype(str).to_numpy() == table["label"].to_numpy()
    ).mean() > 0.9


@pytest.mark.photos
def test_of_two_photos_side_by_side_each_class_is_seen_on_its_half(
    committed, real_photos, tmp_path
):
    """
    In at least 47 of 50 pairs of test photos, for both classes; of 100, measured were
    98.
    """
    images, _ = features.load_bundled_features()
    images = images[images["split"] == "test"].assign(label=images["label"].astype(str))
    rng, paths, pairs = default_rng(0), [], []
    for number in range(50):
        pairs.append(rng.choice(6, 2, replace=False))
        names = [
            rng.choice(images["path"][images["label"] == CLASSES[n]]) for n in pairs[-1]
        ]
        halves = [photos.read_photo(real_photos / name) for name in names]
        halves = [Image.fromarray(half).resize((150, 150)) for half in halves]
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(np.concatenate(halves, axis=1)).save(paths[-1])
    maps = activation_maps(committed, paths)
    weight = np.maximum(maps, 0).sum(axis=1)  # (pairs, 7 columns, classes)
    further_left = weight[:, :3].sum(axis=1) > weight[:, 4:].sum(axis=1)
    rows, (left, right) = np.arange(50), np.transpose(pairs)
    assert (further_left[rows, left] & ~further_left[rows, right]).sum() >= 47


# --- Damaged and hostile files --------------------------------------------------------


def refused(path):
    with pytest.raises(
        ValueError, match=f"^{re.escape(str(path))} is no saved classifier: "
    ):
        load_classifier(path)


def change_parts(saved, path, **parts):
    """
    Write the classifier's file again with some parts changed, or left out if None.
    """
    with zipfile.ZipFile(saved) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    contents |= {name.replace("__", "."): part for name, part in parts.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in contents.items():
            if part is not None:
                archive.writestr(name, part)


def read_part(saved, name):
    with zipfile.ZipFile(saved) as archive:
        return archive.read(name)


def take_weights(saved, path, other):
    """Write the classifier's file again with the weights of another model."""
    other.save(path)
    change_parts(saved, path, model__weights__h5=read_part(path, "model.weights.h5"))


def nan(saved, path):
    model = small_classifier()
    model.set_weights([array * np.nan for array in model.get_weights()])
    model.save(path)


def other_classes(saved, path, classes):
    """Write the classifier's file again with another list of classes."""
    config = json.loads(read_part(saved, "config.json"))
    lookup = next(x for x in config["config"]["layers"] if x["name"] == "label")
    lookup["config"] |= {"vocabulary": classes, "vocabulary_size": len(classes)}
    change_parts(saved, path, config__json=json.dumps(config).encode())


def other_outputs(saved, path):
    keras.Sequential([keras.Input((4,)), layers.Dense(10)]).save(path)


def fewer_outputs(saved, path):
    model = small_classifier()
    outputs = {name: model.output[name] for name in ("probabilities", "label")}
    keras.Model(model.input, outputs).save(path)


DAMAGES = {
    "cut off": lambda saved, path: path.write_bytes(saved.read_bytes()[:-100]),
    "a changed byte": lambda saved, path: flip(shutil.copy(saved, path)),
    "NaN": nan,
    "another shape": lambda saved, path: take_weights(
        saved, path, small_classifier(CLASSES[:5])
    ),
    "more classes than outputs": lambda saved, path: other_classes(
        saved, path, [*CLASSES, "tundra"]
    ),
    "fewer classes than outputs": lambda saved, path: other_classes(
        saved, path, CLASSES[:5]
    ),
    "a class twice": lambda saved, path: other_classes(
        saved, path, [*CLASSES[:5], CLASSES[0]]
    ),
    "other outputs": other_outputs,
    "fewer outputs": fewer_outputs,
    "other config": lambda saved, path: change_parts(
        saved, path, config__json=b"a letter"
    ),
    "a text": lambda saved, path: path.write_text("a letter"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("harm", DAMAGES)
def test_a_damaged_file_is_refused_or_loaded_right(saved, tmp_path, harm):
    DAMAGES[harm](saved, tmp_path / "damaged.keras")
    refused(tmp_path / "damaged.keras")


def test_the_classes_of_a_file_may_be_renamed(saved, tmp_path):
    """So it is their number alone by which a file is refused above."""
    path, names = tmp_path / "renamed.keras", [name.upper() for name in CLASSES]
    other_classes(saved, path, names)
    loaded = load_classifier(path)
    assert classes_of(loaded) == names


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_classifier(tmp_path / "none.keras")


@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_pickled_weights_are_not_run(saved, tmp_path):
    path, proof = tmp_path / "hostile.keras", tmp_path / "proof"
    weights, content = np.empty(1, dtype=object), io.BytesIO()
    weights[0] = Payload(proof)
    np.savez(content, weights)
    parts = {"model__weights__h5": None, "model__weights__npz": content.getvalue()}
    change_parts(saved, path, **parts)
    refused(path)
    assert not proof.exists()


def test_a_lambda_in_a_file_is_not_run(tmp_path, monkeypatch):
    """
    Only safe mode refuses this file: without, it is a classifier, and runs its code.
    """
    path, proof = tmp_path / "hostile.keras", tmp_path / "proof"
    monkeypatch.setenv("PROOF", str(proof))
    monkeypatch.setattr(
        base_model, "fold_batch_norm", lambda base: base
    )  # it is safe, too
    photo = keras.Input((224, 224, 3))
    x = layers.Lambda(
        lambda x: (open(__import__("os").environ["PROOF"], "w").close(), x)[1],
        output_shape=photo.shape[1:],
    )(photo)
    base = keras.Model(photo, layers.GlobalAveragePooling2D()(x))
    head = keras.Sequential([keras.Input((3,)), layers.Dense(6, activation="softmax")])
    build_classifier(base, head, CLASSES).save(path)
    proof.unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"(?s)no saved classifier: .*safe_mode"):
        load_classifier(path)
    assert not proof.exists()
    unsafe = keras.saving.load_model(path, safe_mode=False)
    assert classes_of(unsafe) == CLASSES
    unsafe(np.zeros((1, 4, 4, 3), "float32"))
    assert proof.exists()


def test_a_vocabulary_is_not_read_from_another_file(saved, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("\n".join(f"secret {i}" for i in range(6)))
    path = tmp_path / "hostile.keras"
    other_classes(saved, path, str(secret))
    refused(path)


def test_a_function_of_another_module_is_not_taken_from_a_file(saved, tmp_path):
    function = {"module": "os", "class_name": "function", "config": "system"}
    function |= {"registered_name": "system"}
    config = read_part(saved, "config.json").decode()
    other = config.replace(
        '"activation": "softmax"', f'"activation": {json.dumps(function)}'
    )
    assert other != config
    path = tmp_path / "hostile.keras"
    change_parts(saved, path, config__json=other.encode())
    with pytest.raises(ValueError, match="Could not locate function 'system'"):
        load_classifier(path)


def test_the_bar_ends_with_all_photos(classifier, album, bars):
    predict(classifier, album)
    assert [bar.n for bar in bars] == [7]
