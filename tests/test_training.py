"""Trainings by one compiled graph, or side by side in threads, are as each alone."""

import gc
import threading
from functools import partial

import keras
import numpy as np
import pytest
from conftest import assert_same_arrays
from search import run_example
from tensorflow.python.eager.context import context

from scenes import training
from scenes.training import SettingUp, SharedGraph

pytestmark = pytest.mark.quick

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 8)).astype("float32")
Y = X[:, :3].argmax(axis=1)


def build(seed):
    """Return a model with dropout, whose optimizer keeps two variables a weight."""
    keras.utils.set_random_seed(seed)
    layers = [keras.Input((8,)), keras.layers.Dropout(0.3), keras.layers.Dense(3)]
    model = keras.Sequential(layers)
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
    )
    return model


def train(fit, n=90, weighted=False, validated=False, callbacks=()):
    """Train on so many examples, in batches of 16."""
    weights = np.array([1, 2, 3], "float32")[Y]
    options = {"epochs": 2, "batch_size": 16, "verbose": 0, "callbacks": [*callbacks]}
    if validated:
        options["validation_data"] = (X[60:], Y[60:], weights[60:])
    if weighted:
        options["sample_weight"] = weights[:n]
    return fit(X[:n], Y[:n], **options)


class Interrupt(keras.callbacks.Callback):
    """Interrupts a training in the middle of its second epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == 1 and batch == 2:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def graph():
    return SharedGraph(build)


CASES = [
    {},
    {"n": 50},
    {"weighted": True},
    {"validated": True},
    {"weighted": True, "validated": True, "n": 77},
    {"n": 16},
    {},
    {"weighted": True, "n": 33},
    {"validated": True, "n": 64},
]


@pytest.mark.parametrize("seed", range(len(CASES)))
def test_a_training_by_a_graph_used_before_has_the_bytes_of_a_plain_fit(graph, seed):
    """Also after a training that was interrupted in the middle of an epoch."""
    if seed in (2, 6):
        with pytest.raises(KeyboardInterrupt):
            train(
                partial(graph.fit, 9),
                callbacks=[Interrupt()],
            )
    model, history = train(partial(graph.fit, seed), **CASES[seed])
    plain = build(seed)
    expected = train(plain.fit, **CASES[seed])
    assert history.history == expected.history
    assert_same_arrays(model.get_weights(), plain.get_weights())


def test_a_model_keeps_its_weights_when_others_are_trained(graph):
    model, _ = train(partial(graph.fit, 1))
    kept = model.get_weights()
    train(partial(graph.fit, 2))
    assert_same_arrays(model.get_weights(), kept)


def test_memory_does_not_grow_with_the_number_of_trainings(graph):
    """Neither in graphs of TensorFlow nor in objects of Python."""

    def count(seeds):
        for seed in seeds:
            train(partial(graph.fit, seed))
        gc.collect()
        return len(context().list_function_names()), len(gc.get_objects())

    functions, objects = count(range(3))
    more_functions, more_objects = count(range(3, 9))
    assert more_functions <= functions
    assert more_objects - objects < 6 * 100


def test_fits_in_threads_have_each_the_order_of_its_own_seed():
    """Though Keras's seed is of all threads; and they train at the same time."""
    seeded, both = threading.Event(), threading.Barrier(2, timeout=20)
    together = keras.callbacks.LambdaCallback(on_epoch_begin=lambda *given: both.wait())

    def fit(seed, callbacks):
        keras.utils.set_random_seed(seed)
        if seed == 1:
            seeded.wait(1)  # for the other to set its seed, which it must not
        else:
            seeded.set()
        return train(models[seed].fit, callbacks=callbacks)

    def fit_in_thread(seed):
        with SettingUp() as setting_up:
            started.set()
            fit(seed, [setting_up, together])

    models = {seed: build(0) for seed in (1, 2)}
    threads = []
    for seed in models:
        started = threading.Event()
        threads.append(
            threading.Thread(target=fit_in_thread, args=(seed,), daemon=True)
        )
        threads[-1].start()
        if seed == 1:
            started.wait(60)
    for thread in threads:
        thread.join(120)
    found = {seed: model.get_weights() for seed, model in models.items()}
    for seed in models:
        models[seed] = build(0)
        fit(seed, [])
        assert_same_arrays(found[seed], models[seed].get_weights())


def test_an_error_before_the_training_lets_the_next_one_begin():
    with pytest.raises(ZeroDivisionError), SettingUp():
        raise ZeroDivisionError
    with SettingUp() as setting_up:
        setting_up.on_train_begin()
        with SettingUp():
            pass


def test_a_copy_of_training_runs_its_example_alone(tmp_path):
    """The example of its docstring, in a folder that holds nothing but the file."""
    printed = run_example(training, tmp_path)
    losses = [float(line.split()[1]) for line in printed.splitlines()]
    assert len(losses) == len(set(losses)) == 10
    assert max(losses) < 2
