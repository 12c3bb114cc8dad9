"""
Many classification heads trained by one `fit`, each as it would train alone.

36 heads take less than twice as long as one. This file needs Keras and NumPy only, so
that it can be copied into another project:

    import numpy as np
    from side_by_side import SideBySideHeads

    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 20)).astype("float32")
    y = X[:, :3].argmax(axis=1)
    heads = SideBySideHeads(
        learning_rates=[0.01, 0.1],
        dropouts=[0.0, 0.5],
        weight_decays=[0.0, 0.01],
        n_features=20,
        n_classes=3,
    )
    history = heads.fit(X, y, epochs=20, validation_split=0.25, verbose=0).history
    # A row per dropout rate, a column per other setting:
    print(history["val_head_accuracy"][-1])
"""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops


class MeanPerHead(keras.metrics.Metric):
    """The (weighted) mean over an epoch's examples of one number per head."""

    def __init__(self, shape: tuple[int, int], name: str):
        super().__init__(name=name)
        self.total = self.add_weight(shape, "zeros")
        self.count = self.add_weight((), "zeros")

    def update_state(self, total, count):
        self.total.assign_add(total)
        self.count.assign_add(count)

    def result(self):
        return self.total / self.count


class SideBySideHeads(keras.Model):
    """
    All heads of a grid as one compiled model, trained by one ordinary `fit`.

    A head is a matrix of F x C weights: the scores of an example for C classes are its
    F features times that matrix. The matrices of many heads, side by side, make one
    wide matrix. One product then gives the scores of all heads, and a processor
    computes one large product far faster than many small ones.

    Nothing passes from one head to another, so each trains as it would alone:

    - The loss is the *sum* of the heads' losses. The gradient of a sum with respect to
      one head's weights is the gradient of that head's own loss. (A mean would divide
      it by the number of heads, and Adam's epsilon would notice.)
    - Adam works on each weight by itself. Its learning rate can be a number per column,
      so one optimizer serves all learning rates.
    - The L2 penalty is a factor per head.
    - Heads with different dropout rates need different inputs: the weights are a stack
      with one wide matrix per rate. All rates compare the *same* uniform random numbers
      with their rate. Each head sees exactly the masks of Keras's Dropout layer, and
      since the numbers do not depend on the other rates in the list, neither does a
      head's training.
    - All heads start from the same initial weights and see the same batches (common
      random numbers): a difference between two settings is due to the settings, not to
      the seed.

    Axes: D dropout rates, B examples of a batch, H = learning rates x weight decays, C
    classes. In each epoch of the history, `head_loss` and `head_accuracy` have the
    shape (D, H).

    Parameters
    ----------
    learning_rates, dropouts, weight_decays : sequences of float
        A head for each combination.
    n_features, n_classes : int
    seed : int
        Seeds the initial weights and the dropout masks. The order of the examples
        follows Keras's global seed, as in any `fit`.
    """

    def __init__(
        self,
        *,
        learning_rates: Sequence[float],
        dropouts: Sequence[float],
        weight_decays: Sequence[float],
        n_features: int,
        n_classes: int,
        seed: int = 0,
    ):
        super().__init__()
        self.settings = [
            {"learning_rate": rate, "dropout": dropout, "weight_decay": decay}
            for dropout in dropouts
            for rate in learning_rates
            for decay in weight_decays
        ]
        n_dropouts = len(dropouts)
        n_others = len(learning_rates) * len(weight_decays)
        self.heads = (n_dropouts, n_others)
        self.n_classes = n_classes
        # Numbers per head or column, in the order of the axes.
        self.rates = np.reshape(dropouts, (n_dropouts, 1, 1)).astype("float32")
        decays = np.tile(weight_decays, len(learning_rates))
        self.penalties = decays.astype("float32")
        columns_a_rate = len(weight_decays) * n_classes
        column_rates = np.repeat(learning_rates, columns_a_rate).astype("float32")

        initializer = keras.initializers.GlorotUniform(seed)
        initial = initializer((n_features, n_classes))
        kernel = ops.tile(initial, (n_dropouts, 1, n_others))
        self.kernel = self.add_weight(kernel.shape, "zeros", name="kernel")
        self.kernel.assign(kernel)
        shape = (n_dropouts, 1, n_others * n_classes)
        self.bias = self.add_weight(shape, "zeros", name="bias")
        self.mask_generator = keras.random.SeedGenerator(seed)
        self.head_loss = MeanPerHead(self.heads, "head_loss")
        self.head_accuracy = MeanPerHead(self.heads, "head_accuracy")
        self.built = True
        adam = keras.optimizers.Adam(lambda: ops.convert_to_tensor(column_rates))
        self.compile(adam, jit_compile=False)

    def call(self, x, training=False):
        """Return scores (D, B, H, C) for features (B, F)."""
        n_dropouts, n_others = self.heads
        x = ops.expand_dims(x, 0)  # the same for all dropout rates
        if training:
            numbers = keras.random.uniform(ops.shape(x), seed=self.mask_generator)
            keep = numbers >= self.rates
            scaled = x / (1 - self.rates)
            x = ops.where(keep, scaled, 0.0)
        scores = ops.matmul(x, self.kernel)
        scores = scores + self.bias
        return ops.reshape(scores, (n_dropouts, -1, n_others, self.n_classes))

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """
        Return the sum of the heads' losses, each a mean over the batch plus L2.

        Weights count as in Keras: the sum of weighted losses is divided by the batch
        size, the sum of weighted accuracies by the sum of the weights.
        """
        n_examples = ops.shape(y)[0]
        batch_size = ops.cast(n_examples, "float32")
        count = batch_size
        y = ops.reshape(y, (1, -1, 1))
        shape = ops.shape(y_pred)[:-1]
        y = ops.broadcast_to(y, shape)
        entropy = keras.losses.sparse_categorical_crossentropy(
            y, y_pred, from_logits=True
        )
        predicted = ops.argmax(y_pred, axis=-1)
        correct = ops.equal(predicted, ops.cast(y, "int32"))
        correct = ops.cast(correct, "float32")
        if sample_weight is not None:
            weights = ops.reshape(sample_weight, (-1, 1))
            count = ops.sum(weights)
            entropy = entropy * weights
            correct = correct * weights
        squares = ops.square(self.kernel)
        squares = ops.sum(squares, axis=1)
        squares = ops.reshape(squares, (*self.heads, self.n_classes))
        penalties = ops.sum(squares, axis=-1) * self.penalties
        losses = ops.mean(entropy, axis=1) + penalties
        self.head_loss.update_state(losses * batch_size, batch_size)
        n_correct = ops.sum(correct, axis=1)
        self.head_accuracy.update_state(n_correct, count)
        return ops.sum(losses)
