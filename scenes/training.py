"""
One compiled model that trains again and again, each time as a new one would.

To compile the graph of a small model takes longer than to train it, and each compiled
graph stays in memory. Models that differ only in their weights and seeds can share one.
This file needs Keras only, so that it can be copied into another project:

    import keras
    import numpy as np
    from training import SharedGraph

    def build(seed):
        keras.utils.set_random_seed(seed)
        model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(3)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss)
        return model

    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 20)).astype("float32")
    y = X[:, :3].argmax(axis=1)
    graph = SharedGraph(build)
    for seed in range(10):  # the first training compiles, the others do not
        model, history = graph.fit(seed, X, y, epochs=5, verbose=0)
        print(seed, history.history["loss"][-1])
"""

import threading
from collections.abc import Callable

import keras
from keras import ops


class SettingUp(keras.callbacks.Callback):
    """
    A context and callback that lets one `fit` at a time set itself up.

    Keras reads its global seed, which all threads share, while `fit` sets up the order
    of the examples: before `on_train_begin`. The trainings themselves may overlap.

        with SettingUp() as setting_up:
            keras.utils.set_random_seed(seed)
            model.fit(X, y, callbacks=[setting_up])
    """

    _lock = threading.Lock()

    def __enter__(self):
        self._lock.acquire()
        self._is_mine = True
        return self

    def on_train_begin(self, logs=None):
        self._release()

    def __exit__(self, *error):
        self._release()

    def _release(self):
        if self._is_mine:
            self._is_mine = False
            self._lock.release()


class SharedGraph:
    """
    Trains new models by the compiled graph of one model.

    Before each training, all that a training changes is set back to what a new model
    has: the weights, the states of seed generators (as of dropout) and the variables of
    the optimizer. The numbers are those of the new model's own `fit`.

    Parameters
    ----------
    build : callable
        Takes a seed and returns a new, compiled model. All of its models have the same
        layers, optimizer and loss; what is random in them follows from the seed.
    """

    def __init__(self, build: Callable[[int], keras.Model]):
        self._build = build
        self._model = build(0)
        optimizer = self._model.optimizer
        optimizer.build(self._model.trainable_variables)
        self._optimizer_start = [ops.copy(value) for value in optimizer.variables]

    def fit(
        self, seed: int, *data: object, **options: object
    ) -> tuple[keras.Model, keras.callbacks.History]:
        """
        Return a new model, trained, and its history.

        Parameters
        ----------
        seed : int
            For `build`. If that sets Keras's global seed, the order of the examples
            follows from it, too.
        *data, **options
            Those of `keras.Model.fit`.
        """
        model = self._build(seed)
        _assign(_state(self._model), _state(model))
        _assign(self._model.optimizer.variables, self._optimizer_start)
        history = self._model.fit(*data, **options)
        _assign(_state(model), _state(self._model))
        return model, history


def _state(model):
    """Return the weights of a model and the states of its seed generators."""
    metrics = {id(variable) for variable in model.metrics_variables}
    return [variable for variable in model.variables if id(variable) not in metrics]


def _assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
