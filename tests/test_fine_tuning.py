"""Fine-tuning trains the upper layers as a plain fit would, from activations kept on disk."""

import functools
import os
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import CLASSES, damage, read_table, small_network, zip_edges

import scenes
import scenes.base_model
import scenes.features
import scenes.files
import scenes.fine_tuning
import scenes.heads
import scenes.photos
import utils

build_head = functools.partial(scenes.heads.build_head, scenes.base_model.N_FEATURES)


SMALL = {
    "first_layer": "block_16_expand",
    "epochs": 2,
    "batch_size": 10,
    "learning_rate": 1e-3,
    "label_smoothing": 0.1,
}


@pytest.fixture(scope="module", autouse=True)
def step_by_step():
    """Let TensorFlow run without compiling, which would take most of a training's time."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module", autouse=True)
def few_steps():
    """Let a training be as short as the tests ask for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes.fine_tuning, "MIN_STEPS", 1)
        yield


@pytest.fixture
def compiled(step_by_step):
    """Let TensorFlow compile, as in a notebook."""
    tf.config.run_functions_eagerly(False)
    yield
    tf.config.run_functions_eagerly(True)


@pytest.fixture(scope="module")
def images(drawn_once):
    """Return the table of the drawn photos: 24 for training, 6 for validation, 24 for tests."""
    images = read_table(drawn_once)
    return utils.create_validation(images[images["label"].notna()], 0.2)


@pytest.fixture(scope="module")
def network():
    """Return a fast base model with the kinds and names of MobileNetV2's last layers."""
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
def tune(images, drawn_once, network, head, cache):
    """Return a function that trains with small settings, from the first epoch on."""

    def train(images=images, base=network, head=head, cache=cache, anew=True, **settings):
        for path in cache.glob("fine-tuning-*") if anew else ():
            path.unlink()
        return scenes.fine_tuning.fine_tune(
            images, drawn_once, base, head, cache=cache, **SMALL | settings
        )

    return train


@pytest.fixture(scope="module")
def tuned(images, drawn_once, network, head, cache):
    """Return base, head and history of one training."""
    return scenes.fine_tuning.fine_tune(images, drawn_once, network, head, cache=cache, **SMALL)


@pytest.fixture
def sent(monkeypatch):
    """Return a list of how many photos went through lower layers in each call."""
    numbers = []
    original = scenes.features.send_through

    def count(base, paths, *rest):
        numbers.append(len(paths))
        return original(base, paths, *rest)

    monkeypatch.setattr(scenes.features, "send_through", count)
    return numbers


def assert_same(first, second):
    """Assert that two trainings gave the same weights, to the last bit, and histories."""
    for one, other in zip(first[:2], second[:2], strict=True):
        for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    assert first[2].equals(second[2])


def read_photos(images, photos):
    """Return what goes into the base."""
    arrays = [scenes.photos.read_photo(photos / path) for path in images["path"]]
    return scenes.photos.resize_photos(arrays).numpy() / 127.5 - 1


# --- What is trained, and how ---------------------------------------------------------


def test_upper_layers_train_and_all_else_stays(tuned, network, head):
    base, tuned_head, _ = tuned
    names = [layer.name for layer in network.layers]
    first = names.index(SMALL["first_layer"])
    for number, (before, after) in enumerate(zip(network.layers, base.layers, strict=True)):
        same = all(map(np.array_equal, before.get_weights(), after.get_weights()))
        is_norm = isinstance(before, keras.layers.BatchNormalization)
        trains = number >= first and not is_norm and before.get_weights()
        assert same == (not trains), before.name
    assert not np.array_equal(head.get_weights()[0], tuned_head.get_weights()[0])


def test_mobilenet_is_cut_before_the_first_layer_and_normalization_stays_frozen(random_base_model):
    head = build_head(6, dropout=0.0, weight_decay=0.0)
    base = scenes.fine_tuning._copy_model(random_base_model)
    lower, model = scenes.fine_tuning._cut(base, head, "block_10_expand")
    photos = np.random.default_rng(0).uniform(-1, 1, (2, 224, 224, 3)).astype("float32")
    whole = head(random_base_model(photos)).numpy()
    np.testing.assert_allclose(model(lower(photos)).numpy(), whole, atol=1e-4)
    names = [layer.name for layer in base.layers]
    kernels = [
        weight.path
        for layer in base.layers[names.index("block_10_expand") :]
        if not isinstance(layer, keras.layers.BatchNormalization)
        for weight in layer.weights
    ]
    assert [w.path for w in model.trainable_weights[:-2]] == kernels
    assert len(kernels) == 3 * 7 + 1, "three of each of seven blocks, and Conv_1"


def test_base_model_and_head_given_stay_as_they_are(tune, network, head):
    before = [w.copy() for model in (network, head) for w in model.get_weights()]
    tune(epochs=1)
    after = [w for model in (network, head) for w in model.get_weights()]
    assert all(map(np.array_equal, before, after))
    assert not network.trainable_weights, "it is still frozen"


def test_history_is_that_of_the_models_returned(tuned, images, drawn_once):
    base, head, history = tuned
    assert list(history.columns) == ["epoch", *scenes.METRICS]
    assert list(history["epoch"]) == [1, 2]
    held_out = images[images["split"] == "validation"]
    features = base.predict(read_photos(held_out, drawn_once), verbose=0)
    kernel, bias = head.get_weights()
    scores = tf.nn.log_softmax(features @ kernel + bias).numpy()
    labels = keras.utils.to_categorical(held_out["label"].cat.codes, 6)
    entropy = -((0.9 * labels + 0.1 / 6) * scores).sum(axis=1).mean()
    penalty = 1e-3 * np.square(head.get_weights()[0]).sum()
    assert history["val_loss"].iloc[-1] == pytest.approx(entropy + penalty, rel=0.02)
    accuracy = np.mean(scores.argmax(axis=1) == labels.argmax(axis=1))
    assert history["val_accuracy"].iloc[-1] == pytest.approx(accuracy, abs=1e-6)


def test_without_validation_photos_all_train(tune, images):
    everything = images.assign(split=images["split"].replace("validation", "train"))
    *_, history = tune(images=everything, epochs=1)
    assert list(history.columns) == ["epoch", "loss", "accuracy"]


def test_it_trains_as_the_whole_network_would(images, drawn_once, network, tune, compiled):
    """One epoch, step by step through all layers, with the order and mirroring it uses."""
    keras.utils.set_random_seed(1)
    start = build_head(6, dropout=0.0, weight_decay=1e-3)
    start.layers[-1].bias.assign(np.linspace(-1, 1, 6))
    rate, decay = 1e-3, 20.0
    base, head, history = tune(head=start, epochs=1, weight_decay=decay, seed=3)

    training = images[images["split"].isin(["train", "validation"])]
    rows = np.flatnonzero(training["split"] == "train")
    labels = keras.utils.to_categorical(training["label"].cat.codes, 6)
    pixels = read_photos(training, drawn_once)
    rng = np.random.default_rng([3, 0])
    order, mirrored = rng.permutation(rows), rng.integers(2, size=len(rows))

    plain, plain_head = (keras.models.clone_model(model) for model in (network, start))
    plain.set_weights(network.get_weights())
    plain_head.set_weights(start.get_weights())
    names = [layer.name for layer in plain.layers]
    kernels = [
        weight
        for layer in plain.layers[names.index(SMALL["first_layer"]) :]
        if not isinstance(layer, keras.layers.BatchNormalization)
        for weight in layer.weights
    ]
    weights = [*kernels, *plain_head.weights]
    moments = [(np.zeros(w.shape), np.zeros(w.shape)) for w in weights]
    losses, steps = [], -(-len(rows) // 10)
    for step in range(steps):
        part = slice(10 * step, 10 * step + 10)
        batch = pixels[order[part]]
        batch = np.where(mirrored[part, None, None, None], batch[:, :, ::-1], batch)
        target = 0.9 * labels[order[part]] + 0.1 / 6
        with tf.GradientTape() as tape:
            tape.watch([w.value for w in weights])
            kernel, bias = (weight.value for weight in plain_head.weights)
            scores = tf.nn.log_softmax(plain(batch, training=False) @ kernel + bias)
            entropy = -tf.reduce_sum(target * scores, axis=1)
            loss = tf.reduce_mean(entropy) + 1e-3 * tf.reduce_sum(kernel**2)
        gradients = tape.gradient(loss, [w.value for w in weights])
        losses.append(float(loss) * len(batch))
        # AdamW, as its paper has it: a rise for a tenth of the steps, then a cosine.
        warm_up = -(-steps // 10)
        if step < warm_up:
            now = rate * step / warm_up
        else:
            now = rate * (1 + np.cos(np.pi * (step - warm_up) / (steps - warm_up))) / 2
        for weight, gradient, (mean, square) in zip(weights, gradients, moments, strict=True):
            gradient = np.asarray(gradient, dtype=float)
            mean[:] = 0.9 * mean + 0.1 * gradient
            square[:] = 0.999 * square + 0.001 * gradient**2
            value = np.asarray(weight, dtype=float)
            if "bias" not in weight.path:
                value = value * (1 - now * decay)
            update = mean / (1 - 0.9 ** (step + 1))
            update = update / (np.sqrt(square / (1 - 0.999 ** (step + 1))) + 1e-7)
            weight.assign(value - now * update)

    assert history["loss"].item() == pytest.approx(sum(losses) / len(rows), rel=0.01)
    for mine, theirs, first in (
        (base, plain, network),
        (head, plain_head, start),
    ):
        moved = [b - a for a, b in zip(first.get_weights(), theirs.get_weights(), strict=True)]
        apart = [b - a for a, b in zip(mine.get_weights(), theirs.get_weights(), strict=True)]
        size = np.sqrt(sum(np.square(d).sum() for d in moved))
        assert np.sqrt(sum(np.square(d).sum() for d in apart)) < 0.1 * size


def test_the_learning_rate_rises_and_then_falls_to_0():
    schedule = scenes.fine_tuning._adamw(1e-3, 0.01, steps=40)._learning_rate
    rates = [float(schedule(step)) for step in (0, 2, 4, 22, 40)]
    np.testing.assert_allclose(rates, [0, 5e-4, 1e-3, 5e-4, 0], atol=1e-9)


def test_the_learning_rate_rises_for_a_tenth_of_all_steps(tune, monkeypatch):
    """Of two epochs of 12 batches, three; at the end it is 0."""
    rates, adamw = [], scenes.fine_tuning._adamw

    def record(*arguments, **options):
        optimizer = adamw(*arguments, **options)
        rates.extend(float(optimizer._learning_rate(step)) for step in (0, 1, 2, 3, 24))
        raise KeyboardInterrupt

    monkeypatch.setattr(scenes.fine_tuning, "_adamw", record)
    with pytest.raises(KeyboardInterrupt):
        tune(batch_size=2)
    np.testing.assert_allclose(rates, np.array([0, 1, 2, 3, 0]) * 1e-3 / 3, atol=1e-9)


@pytest.mark.parametrize(
    ("steps", "epochs", "right"),
    [
        (351, 5, 5),
        (80, 5, 5),
        (79, 5, 6),
        (8, 5, 50),
        (7, 5, 58),
        (6, 5, 60),
        (1, 5, 60),
        (1, 90, 90),
    ],
)
def test_few_images_train_for_more_epochs(steps, epochs, right, monkeypatch):
    monkeypatch.setattr(scenes.fine_tuning, "MIN_STEPS", 400)
    assert scenes.fine_tuning.count_epochs(steps, epochs) == right


def test_how_long_it_takes_is_announced_once(tune, monkeypatch, capsys):
    monkeypatch.setattr(scenes.fine_tuning, "MIN_STEPS", 7)
    *_, history = tune(epochs=1)
    said = "Fine-tuning: 3 epochs of 3 batches, about 1 min on two CPU cores.\n"
    assert said in capsys.readouterr().out
    assert list(history["epoch"]) == [1, 2, 3]
    tune(epochs=1, anew=False)
    assert capsys.readouterr().out == ""


def test_balanced_class_weights_are_those_of_the_training_set(tune, images, drawn_once):
    """By hand: loss and accuracy of the last epoch, on photos of which one class is rare."""
    rare = images.drop(images.index[(images["label"] == "sea") & (images["split"] == "train")][1:])
    base, head, history = tune(images=rare, epochs=1, class_weight="balanced", label_smoothing=0.0)
    train, held_out = (rare[rare["split"] == split] for split in ("train", "validation"))
    counts = train["label"].value_counts()
    weights = (len(train) / (6 * held_out["label"].map(counts).astype(float))).to_numpy()
    assert weights.max() > 3 * weights.min()
    probabilities = head(base.predict(read_photos(held_out, drawn_once), verbose=0)).numpy()
    y = held_out["label"].cat.codes.to_numpy()
    correct = probabilities.argmax(axis=1) == y
    right = np.average(correct, weights=weights)
    assert history["val_accuracy"].item() == pytest.approx(right, abs=1e-6)
    entropy = -np.log(probabilities[np.arange(len(y)), y])
    loss = (weights * entropy).mean() + 1e-3 * np.square(head.get_weights()[0]).sum()
    assert history["val_loss"].item() == pytest.approx(loss, rel=0.02)
    *_, unweighted = tune(images=rare, epochs=1, label_smoothing=0.0)
    assert unweighted["val_loss"].item() != pytest.approx(loss, rel=0.02)


def test_labels_are_smoothed(tune, tuned):
    assert not np.array_equal(
        tune(label_smoothing=0.9)[1].get_weights()[0], tuned[1].get_weights()[0]
    )


def test_each_epoch_has_its_own_order_and_flips():
    rows, labels = np.arange(3, 23), np.eye(30, dtype="float32")
    activations = np.arange(60).reshape(30, 2, 1)
    weights = np.arange(30, dtype="float32")
    batches = scenes.fine_tuning._batches(activations, labels, weights, rows, 8, 0, range(9))
    parts = list(batches.as_numpy_iterator())
    seen = np.concatenate([x[:, 0] for x, _, _ in parts]).reshape(3, 20)
    for x, y, weight in parts:
        np.testing.assert_array_equal(x[:, 0] // 2, y.argmax(axis=1))
        np.testing.assert_array_equal(x[:, 0] // 2, weight)
    for epoch in seen:
        np.testing.assert_array_equal(np.sort(epoch // 2), rows)
    for one, other in ((0, 1), (1, 2)):
        assert (seen[one] // 2 != seen[other] // 2).any()
        by_photo = [dict(zip(epoch // 2, epoch % 2, strict=True)) for epoch in seen[[one, other]]]
        assert by_photo[0] != by_photo[1]


def test_the_seed_decides(tune, tuned):
    assert_same(tune(), tuned)
    assert not np.array_equal(tune(seed=1)[1].get_weights()[0], tuned[1].get_weights()[0])


# --- Interruptions --------------------------------------------------------------------


@pytest.mark.parametrize("batch", [3, 4])
def test_an_interrupted_training_goes_on_and_ends_with_the_same_weights(
    tune, tuned, monkeypatch, batch
):
    """Three batches an epoch: before the first epoch is kept, and in the second."""
    batches = []

    def interrupt(self, number, logs=None):
        batches.append(number)
        if len(batches) == batch:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scenes.fine_tuning._Checkpoint, "on_train_batch_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            tune()
    trained = []
    monkeypatch.setattr(
        scenes.fine_tuning._Checkpoint,
        "on_train_batch_end",
        lambda self, number, logs: trained.append(number),
    )
    assert_same(tune(anew=False), tuned)
    assert len(trained) == (3 if batch == 4 else 6)


def test_a_compiled_training_that_is_interrupted_ends_with_the_same_weights(
    tune, compiled, monkeypatch
):
    whole, keep = tune(), scenes.fine_tuning._Checkpoint.on_epoch_end

    def keep_and_stop(self, epoch, logs=None):
        keep(self, epoch, logs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scenes.fine_tuning._Checkpoint, "on_epoch_end", keep_and_stop)
        with pytest.raises(KeyboardInterrupt):
            tune()
    assert_same(tune(anew=False), whole)


def test_a_kill_while_an_epoch_is_kept_repeats_that_epoch(tune, tuned, monkeypatch):
    replace, kept, trained = os.replace, [], []

    def kill(source, target):
        if "fine-tuning" in str(target):
            kept.append(target)
            if len(kept) == 2:
                raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", kill)
        with pytest.raises(KeyboardInterrupt):
            tune()
    monkeypatch.setattr(
        scenes.fine_tuning._Checkpoint,
        "on_train_batch_end",
        lambda self, number, logs: trained.append(number),
    )
    assert_same(tune(anew=False), tuned)
    assert len(trained) == 3


def test_a_training_without_dropout_goes_on_too(tune, head, monkeypatch):
    plain = build_head(6, dropout=0.0, weight_decay=1e-3)
    plain.set_weights(head.get_weights())
    whole = tune(head=plain)
    assert_same(tune(head=plain, anew=False), whole)


def test_another_training_has_another_checkpoint(tune, images, head, monkeypatch):
    """Its name is told before any work, and holds all that the result depends on."""
    paths = []

    def stop(self, model):
        paths.append(self.path)
        raise KeyboardInterrupt

    def other_head(dropout, penalty, bias):
        other = build_head(6, dropout=dropout, weight_decay=penalty)
        other.set_weights(head.get_weights())
        other.layers[-1].bias.assign(np.full(6, bias))
        return other

    swapped = images["label"].cat.rename_categories({"sea": "street", "street": "sea"})
    monkeypatch.setattr(scenes.fine_tuning._Checkpoint, "restore", stop)
    for settings in (
        {},
        {"head": other_head(0.5, 1e-3, 0.0)},
        {"head": other_head(0.2, 1e-3, 0.0)},
        {"head": other_head(0.5, 1e-2, 0.0)},
        {"head": other_head(0.5, 1e-3, 1.0)},
        {"seed": 1},
        {"images": images.assign(label=swapped.cat.reorder_categories(CLASSES))},
        {"images": images.iloc[1:]},
        {"images": images.assign(split=images["split"].replace("validation", "train"))},
        {"label_smoothing": 0.2},
        {"first_layer": "Conv_1"},
        {"class_weight": "balanced"},
        {"epochs": 3},
    ):
        with pytest.raises(KeyboardInterrupt):
            tune(**settings)
    assert paths[0] == paths[1], "equal heads are the same start"
    assert len(set(paths)) == len(paths) - 1


def test_a_second_training_at_the_same_time_is_refused(tune, cache):
    tune()
    (path,) = cache.glob("fine-tuning-*.npz")
    with (
        scenes.files.locked(path),
        pytest.raises(RuntimeError, match=r"another run is writing .*fine-tuning-"),
    ):
        tune(anew=False)


def test_a_finished_training_is_not_done_again(tune, tuned, sent, monkeypatch):
    tune()
    monkeypatch.delattr(scenes.fine_tuning._Checkpoint, "on_epoch_end")
    assert_same(tune(anew=False), tuned)
    assert sent == []


def test_a_damaged_checkpoint_is_told_and_not_used(tune, tuned, cache, capsys):
    tune()
    (path,) = cache.glob("fine-tuning-*.npz")
    good = path.read_bytes()
    for bad in (good[: len(good) // 2], damage(good, np.random.default_rng(1), zip_edges(good))):
        path.write_bytes(bad)
        assert_same(tune(anew=False), tuned)
        assert "begins again" in capsys.readouterr().out


# --- Activations on disk --------------------------------------------------------------


def test_activations_are_those_of_the_photo_and_its_mirror_image(
    images, drawn_once, network, tmp_path
):
    lower = keras.Model(network.input, network.get_layer("block_16_expand").input)
    some = images.iloc[:5]
    activations = scenes.fine_tuning._activations(some, drawn_once, lower, tmp_path)
    pixels = read_photos(some, drawn_once)
    for view, given in enumerate((pixels, pixels[:, :, ::-1])):
        expected = lower.predict(given, verbose=0)
        apart = np.abs(activations[:, view] - expected)
        assert np.median(apart / np.abs(expected).max()) < 1e-3
    assert activations.dtype == np.float16


def test_activations_are_made_once_and_again_for_other_photos(tune, images, sent, tmp_path):
    tune(cache=tmp_path, epochs=1)
    (first,) = tmp_path.glob("activations-*")
    tune(cache=tmp_path, epochs=1, seed=1)
    assert sent == [30]
    tune(images=images.iloc[1:], cache=tmp_path, epochs=1)
    assert sent == [30, 29]
    (other,) = tmp_path.glob("activations-*")
    assert first != other, "the old ones leave: they are large"


def test_activations_that_no_run_has_written_stay_and_stop_no_run(tune, tuned, sent, tmp_path):
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
    bad = bytearray(path.read_bytes())
    bad[len(bad) // 2] ^= 1
    path.write_bytes(bad)
    assert_same(tune(cache=tmp_path), before)
    path.write_bytes(bad[:-1])
    assert_same(tune(cache=tmp_path), before)
    assert sent == [30, 30, 30]


def test_unfinished_activations_are_not_used(tune, tuned, sent, monkeypatch, tmp_path):
    original = scenes.features.send_through

    def interrupt(*given):
        rows, block = next(original(*given))
        yield rows[:7], block[:7]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scenes.features, "send_through", interrupt)
        with pytest.raises(KeyboardInterrupt):
            tune(cache=tmp_path)
    assert_same(tune(cache=tmp_path), tuned)
    assert len(list(tmp_path.glob("*activations-*"))) == 1


def test_photos_at_fault_are_named_before_anything_trains(drawn, network, head, tmp_path):
    images = read_table(drawn)
    images = images[images["label"].notna()]
    changed = drawn / images["path"].iloc[3]
    changed.write_bytes((drawn / images["path"].iloc[4]).read_bytes())
    with pytest.raises(ValueError, match=r"3\.jpg has changed"):
        scenes.fine_tuning.fine_tune(images, drawn, network, head, cache=tmp_path, **SMALL)
    changed.write_bytes(b"no photo")
    images = images.assign(**scenes.photos.digest_photos(images, drawn))
    with pytest.raises(ValueError, match=r"(?s)1 photo\(s\) cannot be read.*3\.jpg"):
        scenes.fine_tuning.fine_tune(images, drawn, network, head, cache=tmp_path, **SMALL)
    assert not list(tmp_path.glob("*activations*.npy"))


def test_a_head_of_other_classes_is_refused_before_any_work(tune, sent):
    other = build_head(5, dropout=0.5, weight_decay=1e-3)
    with pytest.raises(ValueError, match="images have 6 classes, and the head has 5 outputs"):
        tune(head=other)
    assert sent == []


def test_two_classes_are_fine_tuned_as_six(tune, images, tmp_path):
    two = images[images["label"].isin(["forest", "sea"])].reset_index(drop=True)
    two["label"] = two["label"].cat.remove_unused_categories()
    head = build_head(2, dropout=0.5, weight_decay=1e-3)
    _, tuned_head, history = tune(images=two, head=head, cache=tmp_path, epochs=1)
    assert tuned_head.output_shape == (None, 2)
    assert np.isfinite(history.to_numpy()).all()


def test_without_labelled_training_photos_the_error_says_so(tune, images):
    unlabelled = images.copy()
    unlabelled.loc[0, "label"] = np.nan
    for impossible in (images[images["split"] == "test"], unlabelled):
        with pytest.raises(ValueError, match="photos of the split 'train', all with a label"):
            tune(images=impossible)


def test_a_disk_without_room_is_told_before_the_work(tune, sent, monkeypatch, tmp_path):
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(OSError, match=f"no room for the activations, 1 MB, in {tmp_path}: make"):
        tune(cache=tmp_path)
    assert sent == []


def test_a_disk_that_fills_while_activations_are_written_is_told_and_left_clean(
    tune, sent, monkeypatch, small_disk
):
    """Others fill it after the room was measured."""
    folder, _ = small_disk
    roomy = shutil.disk_usage(folder)._replace(free=10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: roomy)
    with pytest.raises(OSError, match=f"no room for the activations, 1 MB, in {folder}: make room"):
        tune(cache=folder)
    assert sent == [30]
    assert not list(folder.glob("*activations*.npy"))
