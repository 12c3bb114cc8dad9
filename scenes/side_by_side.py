"""
Many heads as one model (section 5): each trains as it would alone.

Knows nothing of photos or files.
"""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from keras import ops

import scenes
from scenes import heads


class MeanPerHead(keras.metrics.Metric):
    """The mean over the photos of an epoch of one number for each head."""

    def __init__(self, shape: tuple[int, int], name: str):
        super().__init__(name=name)
        self.total = self.add_weight(shape=shape, initializer="zeros", name="total")
        self.count = self.add_weight(shape=(), initializer="zeros", name="count")

    def update_state(self, total, count):
        self.total.assign_add(total)
        self.count.assign_add(count)

    def result(self):
        return self.total / self.count


class SideBySideHeads(keras.Model):
    """
    All heads of a grid search as one model, trained by `start` and one ordinary `fit`.

    A head is a matrix of 1280 x C weights, and a photo's scores for C classes are its 1280
    features times that matrix. The matrices of many heads, laid side by side, make one wide
    matrix; one product then gives the scores of all heads, and a processor computes one
    large product far faster than many small ones.

    Nothing passes from one head to another, so that each trains as it would alone:

    - The loss is the *sum* of the heads' losses. The gradient of a sum with respect to one
      head's weights is the gradient of that head's own loss. (A mean would divide it by
      the number of heads, and Adam's epsilon would notice.)
    - Adam works on each weight by itself. Its learning rate may be a number for each
      column, so that a single optimizer serves all learning rates.
    - The L2 penalty is a factor for each head.
    - Heads with different dropout rates need different inputs: the weights are a stack
      with one wide matrix for each rate. All rates compare the *same* uniform random
      numbers with their rate. Each head sees just what Keras's Dropout makes, and as the
      draw does not depend on the rates in the list, neither does a head's training.
    - All heads start from the same initial weights and see the same batches. Statisticians
      call this common random numbers: a difference between two settings is then due to
      the settings, not to luck.

    Axes: D dropout rates, B photos of a batch, H = learning rates x weight decays, C classes.
    The history's `head_loss` and `head_accuracy` have the shape (D, H) in each epoch.

    Parameters
    ----------
    learning_rates, dropouts, weight_decays : sequences of float
        A head for each combination.
    n_classes : int
    """

    def __init__(
        self,
        *,
        learning_rates: Sequence[float],
        dropouts: Sequence[float],
        weight_decays: Sequence[float],
        n_classes: int,
    ):
        super().__init__()
        wide = len(learning_rates) * len(weight_decays)
        self.heads, self.n_classes = (len(dropouts), wide), n_classes
        self.rates = np.reshape(dropouts, (-1, 1, 1)).astype("float32")
        self.penalties = np.tile(weight_decays, len(learning_rates)).astype("float32")
        columns = np.repeat(learning_rates, len(weight_decays) * n_classes).astype("float32")
        self.kernel = self.add_weight(
            shape=(len(dropouts), scenes.N_FEATURES, wide * n_classes),
            initializer="zeros",
            name="kernel",
        )
        self.bias = self.add_weight(
            shape=(len(dropouts), 1, wide * n_classes), initializer="zeros", name="bias"
        )
        self.draws = keras.random.SeedGenerator(0)
        self.head_loss = MeanPerHead(self.heads, "head_loss")
        self.head_accuracy = MeanPerHead(self.heads, "head_accuracy")
        self.built = True
        self.compile(
            optimizer=keras.optimizers.Adam(lambda: tf.constant(columns)), jit_compile=False
        )
        self.optimizer.build(self.trainable_variables)
        self.fresh = [variable.numpy() for variable in self.optimizer.variables]

    def start(self, seed: int) -> None:
        """Begin a new training: draw the initial weights, of which all heads get the same."""
        initial = keras.initializers.GlorotUniform(seed)((scenes.N_FEATURES, self.n_classes))
        self.kernel.assign(ops.tile(initial, (self.heads[0], 1, self.heads[1])))
        self.bias.assign(ops.zeros_like(self.bias))
        self.draws.state.assign(keras.random.SeedGenerator(seed).state)
        heads.assign(self.optimizer.variables, self.fresh)

    def call(self, x, training=False):
        """Return scores (D, B, H, C) for features (B, 1280), which may be rounded."""
        x = ops.expand_dims(heads.restored(x), 0)
        if training:
            keep = keras.random.uniform(ops.shape(x), seed=self.draws) >= self.rates
            x = ops.where(keep, x / (1 - self.rates), 0.0)
        else:
            x = ops.repeat(x, self.heads[0], axis=0)
        scores = ops.matmul(x, self.kernel) + self.bias
        return ops.reshape(scores, (self.heads[0], -1, self.heads[1], self.n_classes))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Return the sum of the heads' losses, each a mean over the batch plus L2."""
        photos = ops.cast(ops.shape(y)[0], "float32")
        y = ops.broadcast_to(ops.reshape(y, (1, -1, 1)), ops.shape(y_pred)[:-1])
        entropy = keras.losses.sparse_categorical_crossentropy(y, y_pred, from_logits=True)
        squares = ops.reshape(ops.sum(ops.square(self.kernel), axis=1), (*self.heads, -1))
        losses = ops.mean(entropy, axis=1) + ops.sum(squares, axis=-1) * self.penalties
        right = ops.equal(ops.argmax(y_pred, axis=-1), ops.cast(y, "int32"))
        self.head_loss.update_state(losses * photos, photos)
        self.head_accuracy.update_state(ops.sum(ops.cast(right, "float32"), axis=1), photos)
        return ops.sum(losses)
