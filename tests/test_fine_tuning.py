"""
Fine-tuning trains the upper layers as a plain fit would, from activations kept on disk.
"""

import dataclasses
import functools
import os
import shutil
from pathlib import Path
from unittest.mock import Mock

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from conftest import (
    CLASSES,
    POLICIES,
    assert_same_arrays,
    cell_sets,
    flip,
    read_table,
    small_network,
)
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.utils.class_weight import compute_sample_weight
from test_features import rewrite

import scenes
import utils
from scenes import (
    base_model,
    classifier,
    evaluation,
    features,
    files,
    fine_tuning,
    heads,
    photos,
    settings,
    store,
)

FineTuningOptions = settings.FineTuningOptions
Entry = store.Entry
build_head = functools.partial(heads.build_head, base_model.N_FEATURES)
Checkpoint = fine_tuning._Checkpoint

SMALL = {
    "first_layer": "block_16_expand",
    "epochs": 2,
    "batch_size": 10,
    "learning_rate": 1e-3,
    "label_smoothing": 0.1,
}


@pytest.fixture(scope="module", autouse=True)
def step_by_step():
    """
    Let TensorFlow run without compiling, which would take most of a training's time.
    """
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module", autouse=True)
def few_steps():
    """Let a training be as short as the tests ask for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fine_tuning, "MIN_STEPS", 1)
        yield


@pytest.fixture
def compiled(step_by_step):
    """Let TensorFlow compile, as in a notebook."""
    tf.config.run_functions_eagerly(False)
    yield
    tf.config.run_functions_eagerly(True)


@pytest.fixture(scope="module")
def images(drawn_once):
    """
    Return the table of the drawn photos: 24 for training, 6 for validation, 24 for
    tests.
    """
    images = read_table(drawn_once)
    return utils.create_validation(images[images["label"].notna()], 0.2)


@pytest.fixture(scope="module")
def network():
    """
    Return a fast base model with the kinds and names of MobileNetV2's last layers.
    """
    return small_network(0)


@pytest.fixture(scope="module")
def head():
    keras.utils.set_random_seed(1)
    return build_head(6, dropout=0.5, weight_decay=1e-3)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Return a folder in which the tests share the activations."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def tune(images, network, head, cache):
    """Return a function that trains with small settings, from the first epoch on."""

    def train(
        images=images, base=network, head=head, cache=cache, anew=True, **options
    ):
        for path in cache.glob("fine-tuning-*") if anew else ():
            path.unlink()
        options = FineTuningOptions(**SMALL | options)
        return fine_tuning.fine_tune(images, base, head, options, cache=cache)

    return train


@pytest.fixture(scope="module")
def tuned(images, network, head, cache):
    """Return base, head and history of one training."""
    options = FineTuningOptions(**SMALL)
    return fine_tuning.fine_tune(images, network, head, options, cache=cache)


@pytest.fixture
def sent(monkeypatch):
    """Return a list of how many photos went through lower layers in each call."""
    numbers = []
    original = features.send_through

    def count(model, images, *rest):
        numbers.append(len(images))
        return original(model, images, *rest)

    monkeypatch.setattr(features, "send_through", count)
    return numbers


def keep_and_stop(self, epoch, logs=None, keep=Checkpoint.on_epoch_end):
    """Interrupt a training when its first epoch has been kept."""
    keep(self, epoch, logs)
    raise KeyboardInterrupt


def all_train(images):
    return images.assign(split=images["split"].replace("validation", "train"))


def assert_same(first, second):
    """
    Assert that two trainings gave the same weights, to the last bit, and histories.
    """
    for one, other in zip(first[:2], second[:2], strict=True):
        assert_same_arrays(one.get_weights(), other.get_weights())
    assert first[2].equals(second[2])


def read_photos(images, folder):
    """Return what goes into the base."""
    arrays = [photos.read_photo(folder / path) for path in images["path"]]
    return photos.resize_photos(arrays).numpy() / 127.5 - 1


# --- What is trained, and how ---------------------------------------------------------


def test_upper_layers_train_and_all_else_stays(tuned, network, head):
    base, tuned_head, _ = tuned
    names = [layer.name for layer in network.layers]
    first = names.index(SMALL["first_layer"])
    for number, (before, after) in enumerate(
        zip(network.layers, base.layers, strict=True)
    ):
        same = all(map(np.array_equal, before.get_weights(), after.get_weights()))
        is_norm = isinstance(before, keras.layers.BatchNormalization)
        trains = number >= first and not is_norm and before.get_weights()
        assert same == (not trains), before.name
    assert not np.array_equal(head.get_weights()[0], tuned_head.get_weights()[0])
    assert not network.trainable_weights, "it is still frozen"


def test_mobilenet_is_cut_before_the_first_layer_and_normalization_stays_frozen(
    random_base_model,
):
    head = build_head(6, dropout=0.0, weight_decay=0.0)
    base = base_model.copy_model(random_base_model)
    lower, model = fine_tuning.cut(base, head, "block_10_expand")
    batch = default_rng(0).uniform(-1, 1, (2, 224, 224, 3)).astype("float32")
    whole = head(random_base_model(batch)).numpy()
    assert_allclose(model(lower(batch)).numpy(), whole, atol=1e-4)
    names = [layer.name for layer in base.layers]
    kernels = [
        weight.path
        for layer in base.layers[names.index("block_10_expand") :]
        if not isinstance(layer, keras.layers.BatchNormalization)
        for weight in layer.weights
    ]
    assert [w.path for w in model.trainable_weights[:-2]] == kernels
    assert len(kernels) == 3 * 7 + 1, "three of each of seven blocks, and Conv_1"


def test_without_validation_photos_all_train(tune, images):
    *_, history = tune(images=all_train(images), epochs=1)
    assert list(history.columns) == ["epoch", "loss", "accuracy"]


def test_it_trains_as_the_whole_network_would(
    images, drawn_once, network, tune, compiled
):
    """
    One epoch of three batches through all layers, with the order and the flips it uses.
    """
    keras.utils.set_random_seed(1)
    start = build_head(6, dropout=0.0, weight_decay=1e-3)
    start.layers[-1].bias.assign(np.linspace(-1, 1, 6))
    base, head, history = tune(head=start, epochs=1, weight_decay=20.0, seed=3)

    training = images[images["split"].isin(["train", "validation"])]
    rng = default_rng([3, 0])
    rows = np.flatnonzero(training["split"] == "train")
    order, flipped = rng.permutation(rows), rng.integers(2, size=len(rows))
    pixels = read_photos(training.iloc[order], drawn_once)
    pixels = np.where(flipped[:, None, None, None], pixels[:, :, ::-1], pixels)
    labels = keras.utils.to_categorical(training["label"].cat.codes.iloc[order], 6)

    plain, plain_head = (keras.models.clone_model(model) for model in (network, start))
    plain.set_weights(network.get_weights())
    plain_head.set_weights(start.get_weights())
    plain.trainable = True
    first = network.layers.index(network.get_layer(SMALL["first_layer"]))
    for number, layer in enumerate(plain.layers):
        is_norm = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = number >= first and not is_norm
    optimizer = keras.optimizers.AdamW(weight_decay=20.0)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=0.1)
    whole = keras.Sequential([plain, plain_head])
    whole.compile(optimizer, loss)
    losses = []
    for step, rate in enumerate([0.0, 1e-3, 5e-4]):
        optimizer.learning_rate = rate
        part = slice(10 * step, 10 * step + 10)
        losses.append(whole.train_on_batch(pixels[part], labels[part]))

    loss = np.average(losses, weights=[10, 10, 4])
    assert history["loss"].item() == pytest.approx(loss, rel=0.01)
    for mine, theirs, before in ((base, plain, network), (head, plain_head, start)):
        weights = [model.get_weights() for model in (mine, theirs, before)]
        apart = sum(np.square(a - b).sum() for a, b, _ in zip(*weights, strict=True))
        moved = sum(np.square(b - c).sum() for _, b, c in zip(*weights, strict=True))
        assert np.sqrt(apart) < 0.1 * np.sqrt(moved)


def compile_small(head, **options):
    """Return a head compiled as fine-tuning compiles, for 24 steps."""
    model = base_model.copy_model(head)
    fine_tuning.compile_model(model, FineTuningOptions(**SMALL | options), steps=24)
    return model


def test_the_learning_rate_rises_for_a_tenth_of_all_steps(head, interrupt):
    """Of 24, three; then it falls along a cosine, and is 0 at the end of all epochs."""
    optimizer = compile_small(head).optimizer
    rates = [float(optimizer._learning_rate(n)) for n in (0, 1, 2, 3, 10, 17, 24)]
    right = np.array([0, 1 / 3, 2 / 3, 1, 0.75, 0.25, 0])
    assert_allclose(rates, right * 1e-3, atol=1e-9)
    compiling = Mock(side_effect=KeyboardInterrupt)
    interrupt(fine_tuning, "compile_model", compiling, batch_size=2)
    assert compiling.call_args.kwargs == {"steps": 24}


def test_each_label_is_smoothed_over_all_classes(head):
    """As Szegedy et al. do, by hand."""
    y = np.array([[1, 0, 0], [0, 1, 0]], "float32")
    p = np.array([[0.7, 0.2, 0.1]] * 2, "float32")
    for smoothing in (0.0, 0.3):
        labels = y * (1 - smoothing) + smoothing / 3
        right = -(labels * np.log(p)).sum(axis=1).mean()
        loss = compile_small(head, label_smoothing=smoothing).loss(y, p)
        assert float(loss) == pytest.approx(right, rel=1e-5)


def test_weights_but_no_biases_decay(head):
    """
    By the rate times `weight_decay` in each step: here the fourth, without a gradient.
    """
    model = compile_small(head, weight_decay=0.25)
    model.optimizer.build(model.trainable_variables)
    model.layers[-1].bias.assign(np.ones(6))
    before = model.get_weights()
    model.optimizer.iterations.assign(3)
    model.optimizer.apply([np.zeros_like(weight) for weight in before])
    kernel, bias = model.get_weights()
    assert_allclose(kernel, before[0] * (1 - 1e-3 * 0.25), rtol=1e-6)
    assert_array_equal(bias, before[1])


@pytest.mark.parametrize(
    ("n_images", "epochs", "right"),
    [
        (2529, 5, (5, 32)),
        (2528, 5, (5, 16)),
        (225, 5, (27, 16)),
        (224, 5, (29, 16)),
        (10, 5, (60, 16)),
        (10, 90, (90, 16)),
        (10, 400, (400, 32)),
    ],
)
def test_few_images_train_for_more_epochs_in_smaller_batches(
    n_images, epochs, right, monkeypatch
):
    monkeypatch.setattr(fine_tuning, "MIN_STEPS", 400)
    assert fine_tuning.plan_epochs(n_images, epochs, 32) == right


def test_how_long_it_takes_is_announced_for_all_trainings_and_by_none(
    tune, monkeypatch, printed
):
    """By hand: 29 epochs of 224 images, 31 of 200, 5 of 3,200: 28,696; 7,500 a min."""
    *_, history = tune(epochs=3)
    assert list(history["epoch"]) == [1, 2, 3]
    assert "CPU" not in printed()
    monkeypatch.setattr(fine_tuning, "MIN_STEPS", 400)
    said = fine_tuning.describe_time([224, 200, 3200], epochs=5)
    assert said.startswith("Fine-tuning: up to 3 trainings, about 4 min on two CPU")


def test_balanced_class_weights_are_those_of_each_split(tune, images, drawn_once):
    """
    By hand: loss and accuracy of the last epoch, on photos of which one class is rare,
    another one among the training photos than for validation.
    """
    trains = images["split"] == "train"
    sea, forest = (
        images.index[trains & (images["label"] == name)] for name in ("sea", "forest")
    )
    rare = images.drop(sea[1:])
    rare.loc[forest[1:], "split"] = "validation"
    base, head, history = tune(
        images=rare, epochs=1, class_weight="balanced", label_smoothing=0.0
    )
    held_out = rare[rare["split"] == "validation"]
    weights = compute_sample_weight("balanced", held_out["label"])
    assert weights.max() > 3 * weights.min()
    probabilities = head(
        base.predict(read_photos(held_out, drawn_once), verbose=0)
    ).numpy()
    y = held_out["label"].cat.codes.to_numpy()
    correct = probabilities.argmax(axis=1) == y
    right = np.average(correct, weights=weights)
    assert list(history.columns) == ["epoch", *scenes.METRICS]
    assert history["val_accuracy"].item() == pytest.approx(right, abs=1e-6)
    entropy = -np.log(probabilities[np.arange(len(y)), y])
    loss = (weights * entropy).mean() + 1e-3 * np.square(head.get_weights()[0]).sum()
    assert history["val_loss"].item() == pytest.approx(loss, rel=0.02)
    data = fine_tuning._read_targets(rare, head, "balanced")
    weighted = data.labels[data.training_rows] * data.weights[data.training_rows, None]
    assert weighted.sum(axis=0) == pytest.approx([len(weighted) / 6] * 6)
    *_, unweighted = tune(images=rare, epochs=1, label_smoothing=0.0)
    assert unweighted["val_loss"].item() != pytest.approx(loss, rel=0.02)


def test_each_epoch_has_its_own_order_and_flips():
    rows, labels = np.arange(3, 23), np.eye(30, dtype="float32")
    activations = np.arange(60).reshape(30, 2, 1)
    weights = np.arange(30, dtype="float32")
    data = fine_tuning._Targets(labels, weights, rows, rows[:0])
    options = FineTuningOptions(**SMALL | {"batch_size": 8})
    parts = list(fine_tuning._draw_batches(activations, data, options, range(3)))
    assert [len(x) for x, _, _ in parts] == [8, 8, 4] * 3
    for x, y, weight in parts:
        assert_array_equal(x[:, 0] // 2, y.argmax(axis=1))
        assert_array_equal(x[:, 0] // 2, weight)
    seen = np.concatenate([x[:, 0] for x, _, _ in parts]).reshape(3, 20)
    order, by_photo = seen // 2, np.sort(seen)  # which tells how each is flipped
    assert_array_equal(by_photo // 2, [rows] * 3)
    for one, other in ((0, 1), (1, 2)):
        assert (order[one] != order[other]).any()
        assert (by_photo[one] != by_photo[other]).any()
    later = list(fine_tuning._draw_batches(activations, data, options, range(2, 3)))
    for one, other in zip(parts[6:], later, strict=True):
        assert_array_equal(one[0], other[0])


def test_the_seed_decides(tune, tuned):
    assert_same(tune(), tuned)
    assert not np.array_equal(
        tune(seed=1)[1].get_weights()[0], tuned[1].get_weights()[0]
    )


# --- Interruptions --------------------------------------------------------------------


@pytest.fixture
def interrupt(tune, monkeypatch):
    """
    Return a function that trains while something is replaced by what interrupts it.
    """

    def train(owner, name, interrupting, **options):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, interrupting)
            with pytest.raises(KeyboardInterrupt):
                tune(**options)

    return train


@pytest.fixture
def kept(tune, cache):
    """Let the cache hold the checkpoint of one finished training."""
    if not list(cache.glob("fine-tuning-*.npz")):
        tune()


@pytest.fixture
def trained(monkeypatch):
    """Return a list that gets the number of each batch that is trained."""
    batches = []
    monkeypatch.setattr(
        Checkpoint,
        "on_train_batch_end",
        lambda self, number, logs: batches.append(number),
    )
    return batches


@pytest.mark.parametrize(("batch", "left"), [(3, 9), (4, 6), (9, 3)])
def test_an_interrupted_training_goes_on_and_ends_with_the_same_weights(
    tune, interrupt, trained, batch, left
):
    """Three epochs of three batches: before each is kept."""
    whole = tune(epochs=3)
    trained.clear()

    def stop(self, number, logs=None):
        trained.append(number)
        if len(trained) == batch:
            raise KeyboardInterrupt

    interrupt(Checkpoint, "on_train_batch_end", stop, epochs=3)
    trained.clear()
    assert_same(tune(anew=False, epochs=3), whole)
    assert len(trained) == left


def test_a_compiled_training_that_is_interrupted_ends_with_the_same_weights(
    tune, compiled, interrupt
):
    whole = tune()
    interrupt(Checkpoint, "on_epoch_end", keep_and_stop)
    assert_same(tune(anew=False), whole)


def test_a_kill_while_an_epoch_is_kept_repeats_that_epoch(
    tune, tuned, interrupt, trained
):
    replace, kept = os.replace, []

    def kill(source, target):
        kept.append("fine-tuning" in str(target))
        if sum(kept) == 2:
            raise KeyboardInterrupt
        replace(source, target)

    interrupt(os, "replace", kill)
    trained.clear()
    assert_same(tune(anew=False), tuned)
    assert len(trained) == 3


def other_head(head, bias=0.0, **rates):
    """Return a head with the weights of another, but for its bias and its rates."""
    other = build_head(6, **{"dropout": 0.5, "weight_decay": 1e-3} | rates)
    other.set_weights([head.get_weights()[0], np.full(6, bias)])
    return other


def other_base(network, number):
    """Return a base model with another array of weights."""
    other, weights = base_model.copy_model(network), network.get_weights()
    weights[number] = weights[number] * 1.01
    other.set_weights(weights)
    return other


def swap(images):
    names = {"sea": "street", "street": "sea"}
    labels = images["label"].cat.rename_categories(names)
    return images.assign(label=labels.cat.reorder_categories(CLASSES))


def exchange(images):
    """Let a training and a validation photo of one class change places."""
    sea = images[images["label"] == "sea"]
    rows = [sea.index[sea["split"] == name][0] for name in ("train", "validation")]
    images = images.copy()
    images.loc[rows, "split"] = ["validation", "train"]
    return images


def replace_one(images):
    """Let one photo have other pixels."""
    digests = images["digest"].to_numpy(copy=True)
    digests[0] = "0" * 32
    return images.assign(digest=digests)


OPTIONS = {
    "learning_rate": 2e-3,
    "first_layer": "Conv_1",
    "label_smoothing": 0.2,
    "epochs": 3,
    "weight_decay": 0.02,
    "batch_size": 15,
    "class_weight": "balanced",
    "seed": 1,
}
# What a result depends on, by what `fine_tune` is given; of base, head and images.
OTHERS = {
    **{name: lambda *_, o={name: value}: o for name, value in OPTIONS.items()},
    "first weights": lambda base, *_: {"base": other_base(base, 0)},
    "last weights": lambda base, *_: {"base": other_base(base, -1)},
    "dropout": lambda _, head, __: {"head": other_head(head, dropout=0.2)},
    "penalty": lambda _, head, __: {"head": other_head(head, weight_decay=1e-2)},
    "head": lambda _, head, __: {"head": other_head(head, bias=1.0)},
    "labels": lambda *given: {"images": swap(given[2])},
    "another photo": lambda *given: {"images": replace_one(given[2])},
    "another validation set": lambda *given: {"images": exchange(given[2])},
    "fewer photos": lambda *given: {"images": given[2].iloc[1:]},
    "their order": lambda *given: {"images": given[2].iloc[::-1]},
    "no validation": lambda *given: {"images": all_train(given[2])},
}


@pytest.fixture
def resume(tune, monkeypatch):
    """Return a function that tells how many epochs a training would not repeat."""
    restore, done = Checkpoint.restore, []

    def restore_and_stop(self):
        done.append(restore(self))
        raise KeyboardInterrupt

    def epochs(**given) -> int:
        with monkeypatch.context() as patch:
            patch.setattr(Checkpoint, "restore", restore_and_stop)
            with pytest.raises(KeyboardInterrupt):
                tune(anew=False, **given)
        return done[-1]

    return epochs


def test_each_option_is_tried():
    assert set(OPTIONS) == {f.name for f in dataclasses.fields(FineTuningOptions)}


@pytest.mark.parametrize("what", OTHERS)
def test_the_checkpoint_of_another_training_is_not_taken(
    kept, resume, network, head, images, what, printed
):
    """It is not even looked at."""
    assert resume(**OTHERS[what](network, head, images)) == 0
    assert printed() == ""


@pytest.mark.parametrize("version", scenes.VERSIONS)
def test_the_checkpoint_of_another_version_is_not_taken(
    kept, resume, monkeypatch, version
):
    monkeypatch.setattr(scenes, "VERSIONS", scenes.VERSIONS | {version: "99"})
    assert resume() == 0


def test_the_checkpoint_of_the_same_training_is_taken(
    kept, resume, network, head, images
):
    """Of equal models, and photos that lie elsewhere."""
    same = base_model.copy_model(network)
    moved = images.assign(path="elsewhere/" + images["path"], file="nowhere")
    assert resume() == 2
    assert resume(base=same, head=other_head(head), images=moved) == 2


def test_a_second_training_at_the_same_time_is_refused(tune, cache, monkeypatch):
    monkeypatch.setattr(files, "WAIT", 0)
    tune()
    (path,) = cache.glob("fine-tuning-*.npz")
    with (
        files.locked(path),
        pytest.raises(RuntimeError, match=r"another run is writing .*fine-tuning-"),
    ):
        tune(anew=False)


def test_a_finished_training_is_not_done_again(tune, tuned, sent, monkeypatch):
    tune()
    monkeypatch.delattr(Checkpoint, "on_epoch_end")
    assert_same(tune(anew=False), tuned)
    assert sent == []


def test_a_damaged_checkpoint_is_told_and_not_used(tune, tuned, cache, printed):
    """Cut off, with a changed byte, and with an array of another shape."""
    tune()
    (path,) = cache.glob("fine-tuning-*.npz")
    harms = [
        lambda: path.write_bytes(path.read_bytes()[:-1000]),
        lambda: flip(path),
        lambda: rewrite(path, history=np.zeros((2, 3))),
    ]
    for harm in harms:
        harm()
        assert_same(tune(anew=False), tuned)
        assert "computed again" in printed()


def test_the_oldest_checkpoints_are_forgotten_but_for_those_in_use(
    tmp_path, monkeypatch
):
    kept = [f"{number:016x}" for number in range(15)]
    for age, fingerprint in enumerate(kept):
        Entry(tmp_path, fine_tuning.KIND, fingerprint).put({})
        Entry(tmp_path, "features", fingerprint).put({})
        os.utime(tmp_path / f"{fine_tuning.KIND}-{fingerprint}.npz", (age, age))
    Entry(tmp_path, fine_tuning.KIND, "f" * 16).put({})  # now, by a run that goes on
    with Entry(tmp_path, fine_tuning.KIND, kept[1]).lock():
        fine_tuning.forget_checkpoints(tmp_path)
    left = sorted(path.stem[-16:] for path in tmp_path.glob(f"{fine_tuning.KIND}-*"))
    assert left == [kept[1], *kept[4:], "f" * 16]
    assert len(list(tmp_path.glob("features-*.npz"))) == 15


def test_no_checkpoint_of_the_last_day_is_forgotten(tmp_path):
    """So a cross-fit over many folds can resume, whatever other runs have finished."""
    for number in range(20):
        Entry(tmp_path, fine_tuning.KIND, f"{number:016x}").put({})
    fine_tuning.forget_checkpoints(tmp_path)
    assert len(list(tmp_path.glob(f"{fine_tuning.KIND}-*.npz"))) == 20


# --- Cross-fitting --------------------------------------------------------------------


@pytest.fixture
def cross_fit(images, network, tmp_path):
    """Return a function that cross-fits training photos in two folds, and its data."""
    training = images[images["split"] != "test"]
    X = default_rng(0).random((len(training), 1280), "float32")
    head_options = settings.HeadOptions(
        learning_rate=0.01, dropout=0.0, weight_decay=0.0, epochs=1
    )
    options = FineTuningOptions(**SMALL)

    def fit(table):
        table = table.assign(in_folds=table["split"] == "train")
        table["group"] = table["path"]
        splits = utils.draw_folds(table, 2)
        return utils.cross_fit(
            table, X, splits, network, head_options, options, cache=tmp_path
        )

    return fit, training, X, head_options, options


@pytest.mark.parametrize("given", [False, True])
def test_a_cross_fit_predicts_each_photo_by_a_model_that_did_not_train_on_it(
    cross_fit, network, head, monkeypatch, given
):
    """A given validation set trains no model, and one that trained on all folds."""
    fit, training, *_ = cross_fit
    if not given:
        training = training.assign(split="train")
    trained, predicted = [], []

    def fine_tune(table, base, head, options, *, cache):
        assert list(table["path"]) == list(training["path"])
        assert set(table["split"]) == {"train", "validation"}
        trained.append(set(table["file"][table["split"] == "train"]))
        return network, head, None

    def predict(model, paths):
        predicted.append(paths)
        table = training.set_index("file").loc[paths]
        return pd.get_dummies(table["label"]).astype(float)

    monkeypatch.setattr(fine_tuning, "fine_tune", fine_tune)
    monkeypatch.setattr(classifier, "predict", predict)
    probabilities = fit(training)
    for seen, new in zip(trained, predicted, strict=True):
        assert not seen & set(new)
    found = [path for paths in predicted for path in paths]
    assert sorted(found) == sorted(training["file"])
    assert_array_equal(probabilities.argmax(axis=1), training["label"].cat.codes)
    in_folds = set(training["file"][training["split"] == "train"])
    assert set().union(*trained) == in_folds
    assert (trained[-1] == in_folds) == given
    assert len(trained) == 2 + given


def test_a_cross_fit_resumes_and_computes_activations_once(
    cross_fit, network, sent, monkeypatch, tmp_path
):
    """What was trained before without the given validation set is not trained again."""
    fit, training, X, head_options, options = cross_fit
    y, rows = training["label"].cat.codes.to_numpy(), training["split"] == "train"
    head = heads.train_head(X[rows], y[rows], head_options)
    base, top, _ = fine_tuning.fine_tune(
        training, network, head, options, cache=tmp_path
    )
    probabilities = fit(training)
    assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert sent == [30]
    assert len(list(tmp_path.glob("fine-tuning-*.npz"))) == 3
    model = classifier.build_classifier(base, top, CLASSES)
    given = classifier.predict(model, list(training["file"][~rows]))
    assert_allclose(probabilities[~rows], given[CLASSES], atol=1e-5)
    monkeypatch.delattr(Checkpoint, "on_epoch_end")
    assert_array_equal(fit(training), probabilities)


# --- Activations on disk --------------------------------------------------------------


def test_activations_are_made_once_and_again_for_other_photos(
    tune, images, sent, tmp_path
):
    tune(cache=tmp_path, epochs=1)
    (first,) = tmp_path.glob("activations-*")
    tune(cache=tmp_path, epochs=1, seed=1)
    assert sent == [30]
    tune(images=images.iloc[1:], cache=tmp_path, epochs=1)
    assert sent == [30, 29]
    (other,) = tmp_path.glob("activations-*")
    assert first != other, "the old ones leave: they are large"


@pytest.fixture
def activate(images, network, tmp_path):
    """Return a function that computes the activations of the photos in float32."""
    few = images[images["split"] == "validation"]

    def compute(base=network, first_layer="block_16_expand", cache=tmp_path):
        lower = keras.Model(base.input, base.get_layer(first_layer).input)
        return fine_tuning.compute_activations(few, lower, cache)

    return compute


@pytest.mark.parametrize("number", [0, 1, -1])
def test_activations_of_other_lower_weights_are_not_taken(
    activate, network, sent, tmp_path, number
):
    """One array of them is another: the first, the second or the last."""
    before = np.array(activate())
    layers = [network.get_layer(f"block_15_project{end}") for end in ("", "_BN")]
    names = [weight.path for layer in layers for weight in layer.weights]
    place = [weight.path for weight in network.weights].index(names[number])
    other = activate(other_base(network, place))
    assert not np.array_equal(other, before)
    assert sent == [6, 6]


def test_activations_of_other_upper_weights_are_the_same(
    activate, network, sent, tmp_path
):
    before = np.array(activate())
    last = len(network.weights) - 1
    again = activate(other_base(network, last))
    assert_array_equal(again, before)
    assert sent == [6]
    assert activate(first_layer="Conv_1").shape[2:] == (7, 7, 32)
    assert sent == [6, 6]


@pytest.mark.parametrize("version", scenes.VERSIONS)
def test_activations_of_another_version_are_not_taken(
    activate, sent, monkeypatch, tmp_path, version
):
    activate()
    monkeypatch.setattr(scenes, "VERSIONS", scenes.VERSIONS | {version: "99"})
    activate()
    assert sent == [6, 6]


def test_activations_are_those_of_the_lower_layers_for_both_views(
    activate, images, network, drawn_once
):
    batch = read_photos(images[images["split"] == "validation"], drawn_once)
    lower = keras.Model(network.input, network.get_layer("block_16_expand").input)
    views = [lower(batch).numpy(), lower(batch[:, :, ::-1]).numpy()]
    found = activate()
    assert (found.dtype, found.shape) == (np.float16, (6, 2, 7, 7, 160))
    assert_allclose(found, np.stack(views, axis=1), atol=0.01)
    assert np.abs(views[0] - views[1]).max() > 0.1


def test_activations_are_made_by_one_run_at_a_time(
    activate, sent, monkeypatch, tmp_path
):
    activate()
    (path,) = tmp_path.glob("activations-*.npy")
    path.unlink()
    monkeypatch.setattr(files, "WAIT", 0)
    _, fingerprint, _ = path.name.split("-")
    with (
        Entry(tmp_path, fine_tuning.ACTIVATIONS, fingerprint).lock(),
        pytest.raises(RuntimeError, match=r"another run is writing .*activations"),
    ):
        activate()
    assert sent == [6]


def test_activations_that_no_run_has_written_stay_and_stop_no_run(
    tune, tuned, sent, tmp_path
):
    hashes = "0123456789abcdef-0123456789abcdef"
    names = ["activations-of-mine.npy", "activations-2024", f"activations-{hashes}.npy"]
    for name in names:
        (tmp_path / name).write_text("a letter")
    (tmp_path / f"activations-{hashes[::-1]}.npy").mkdir()
    np.save(tmp_path / "activations-0.npy", np.zeros((2, 2), "float16"))
    before = set(tmp_path.iterdir())
    assert_same(tune(cache=tmp_path), tuned)
    assert before < set(tmp_path.iterdir())
    assert sent == [30]


def test_damaged_activations_are_made_again(tune, sent, tmp_path):
    before = tune(cache=tmp_path)
    (path,) = tmp_path.glob("activations-*")
    flip(path)
    assert_same(tune(cache=tmp_path), before)
    path.write_bytes(path.read_bytes()[:-1])
    assert_same(tune(cache=tmp_path), before)
    assert sent == [30, 30, 30]


def test_unfinished_activations_are_not_used(tune, tuned, interrupt, tmp_path):
    original = features.send_through

    def stop(*given):
        yield next(original(*given))[:7]
        raise KeyboardInterrupt

    interrupt(features, "send_through", stop, cache=tmp_path)
    assert_same(tune(cache=tmp_path), tuned)
    assert len(list(tmp_path.glob("*activations-*.np?"))) == 1


def test_a_photo_that_has_changed_is_named_before_anything_trains(
    drawn, network, head, tmp_path
):
    images = read_table(drawn)
    images = images[images["label"].notna()]
    changed = drawn / images["path"].iloc[3]
    changed.write_bytes((drawn / images["path"].iloc[4]).read_bytes())
    options = FineTuningOptions(**SMALL)
    with pytest.raises(ValueError, match=r"3\.jpg has changed"):
        fine_tuning.fine_tune(images, network, head, options, cache=tmp_path)
    assert not list(tmp_path.glob("*activations*.npy"))


def test_an_impossible_table_or_head_is_refused_before_any_work(tune, images, sent):
    unlabelled = images.copy()
    unlabelled.loc[0, "label"] = np.nan
    head = build_head(5, dropout=0.5, weight_decay=1e-3)
    for told, given in (
        ("photos of the split 'train'", {"images": images[images["split"] == "test"]}),
        ("all labelled", {"images": unlabelled}),
        ("cannot be read", {"images": images.assign(digest="")}),
        ("6 classes need a head of 6 outputs, not 5", {"head": head}),
    ):
        with pytest.raises(ValueError, match=told):
            tune(**given)
    assert sent == []


def test_two_classes_are_fine_tuned_as_six(tune, images, tmp_path):
    two = images[images["label"].isin(["forest", "sea"])].reset_index(drop=True)
    two["label"] = two["label"].cat.remove_unused_categories()
    head = build_head(2, dropout=0.5, weight_decay=1e-3)
    _, tuned_head, history = tune(images=two, head=head, cache=tmp_path, epochs=1)
    assert tuned_head.output_shape == (None, 2)
    assert np.isfinite(history.to_numpy()).all()


def test_a_disk_without_room_is_told_before_the_work(tune, sent, monkeypatch, tmp_path):
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(
        OSError, match=f"{tmp_path} has no room for activations of 1 MB: make room"
    ):
        tune(cache=tmp_path)
    assert sent == []


def test_a_disk_that_fills_while_activations_are_written_is_told_and_left_clean(
    tune, sent, monkeypatch, small_disk
):
    """Others fill it after the room was measured."""
    folder, _ = small_disk
    roomy = shutil.disk_usage(folder)._replace(free=10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: roomy)
    with pytest.raises(
        OSError, match=f"cannot write {folder}/activations-.* .No space .*; make room"
    ):
        tune(cache=folder)
    assert sent == [30]
    assert {path.suffix for path in folder.iterdir()} == {".lock"}


@pytest.mark.parametrize("policy", POLICIES)
def test_fine_tuning_computes_in_float32_whatever_a_cell_has_set(
    tune, tuned, activate, network, head, tmp_path, policy
):
    """Before or after base model and head are built."""
    before = np.array(activate())
    with cell_sets(policy):
        base = small_network(0)
        base.set_weights(network.get_weights())
        trained = tune(base=base, head=other_head(head), cache=tmp_path)
        assert_array_equal(activate(base, cache=tmp_path / "new"), before)
    assert_same(trained, tuned)


# --- On real photos -------------------------------------------------------------------

CLOTHING = Path(__file__).parents[2] / "shared" / "other-photos" / "clothing"


@pytest.mark.slow
@pytest.mark.skipif(
    not CLOTHING.is_dir(), reason="the photos of clothing are not there"
)
def test_the_model_selected_on_few_real_photos_is_no_worse_than_the_head(
    imagenet_base_model, compiled, monkeypatch, tmp_path
):
    """On the test photos, by at most one standard error of the difference."""
    monkeypatch.setattr(fine_tuning, "MIN_STEPS", 400)
    images = utils.drop_leaks(read_table(CLOTHING))
    y, split = images["label"].cat.codes.to_numpy(), images["split"].to_numpy(dtype=str)
    X = features.extract_features(images, imagenet_base_model, cache=tmp_path)
    options = settings.HeadOptions(
        learning_rate=0.001, dropout=0.1, weight_decay=1e-4, epochs=25
    )
    train = split == "train"
    head = heads.train_head(X[train], y[train], options)
    options = SMALL | {"learning_rate": 3e-4, "epochs": 5, "batch_size": 32}
    options = FineTuningOptions(**options)
    base, tuned_head, _ = fine_tuning.fine_tune(
        images, imagenet_base_model, head, options, cache=tmp_path
    )
    held_out = images[split != "train"]
    y, validation = y[split != "train"], held_out["split"] == "validation"
    tuned_X = base.predict(read_photos(held_out, CLOTHING), verbose=0)
    probabilities = {
        "head": head.predict(X[split != "train"], verbose=0),
        "fine-tuned": tuned_head.predict(tuned_X, verbose=0),
    }
    tables = [
        evaluation.predictions_table(held_out[validation], p[validation], name)
        for name, p in probabilities.items()
    ]
    selected = evaluation.compare_models(pd.concat(tables)).index[0]
    correct = {
        name: (p.argmax(axis=1) == y)[~validation] for name, p in probabilities.items()
    }
    gap = pd.Series(correct[selected].astype(int) - correct["head"])
    assert correct["head"].mean() > 0.5
    assert gap.mean() >= -gap.sem()


def test_the_bars_end_with_all_photos_and_all_batches(tune, interrupt, tmp_path, bars):
    """Of 30 photos and two epochs of three batches, interrupted between the two."""
    interrupt(Checkpoint, "on_epoch_end", keep_and_stop, cache=tmp_path)
    tune(anew=False, cache=tmp_path)
    assert [bar.n for bar in bars] == [30, 3, 6]
