"""Functions that build small Keras models, as a user's file has them."""

import keras
from keras import layers


def images(input_shape, classes, seed):
    """A convolutional net with all that is random or has a state of its own."""
    body = [
        layers.RandomTranslation(0.1, 0.1),
        layers.Conv2D(4, 3, activation="relu", name="conv_first"),
        layers.BatchNormalization(name="norm_first"),
        layers.Conv2D(4, 3, strides=2, name="conv_second"),
        layers.Flatten(),
        layers.Dropout(0.4),
        layers.Dense(classes, "softmax"),
    ]
    return compiled(keras.Sequential([keras.Input(input_shape), *body]), "adam", "sparse_categorical_crossentropy")


def words(input_shape, classes, seed):
    """A recurrent net of word numbers, with logits, a schedule and clipped gradients."""
    body = [layers.Embedding(5, 3), layers.GRU(4, recurrent_dropout=0.2), layers.Dense(classes)]
    rate = keras.optimizers.schedules.CosineDecay(0.1, 100)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(rate, momentum=0.9, clipnorm=1.0)
    return compiled(keras.Sequential([keras.Input(input_shape), *body]), optimizer, loss)


class Own(keras.Model):
    """A subclassed model, which has no inputs before it is called."""

    def __init__(self, classes):
        super().__init__()
        self.hidden = layers.Dense(4, "relu")
        self.drop = layers.Dropout(0.5)
        self.head = layers.Dense(classes, "softmax")

    def call(self, rows, training=False):
        """Return the outputs for rows."""
        return self.head(self.drop(self.hidden(rows), training=training))


def own(input_shape, classes, seed):
    """A subclassed model whose loss takes one-hot targets."""
    return compiled(Own(classes), "adamw", "categorical_crossentropy")


def yes_or_no(input_shape, classes, seed):
    """Two classes, and the probability of the second."""
    head = layers.Dense(1, "sigmoid")
    return compiled(keras.Sequential([keras.Input(input_shape), head]), "sgd", "binary_crossentropy")


def values(input_shape, classes, seed):
    """A regressor of two values."""
    assert classes is None
    return compiled(keras.Sequential([keras.Input(input_shape), layers.Dense(2)]), "rmsprop", "mse")


def two_inputs(input_shape, classes, seed):
    """A model that no rows fit."""
    both = [keras.Input(input_shape), keras.Input(input_shape)]
    return compiled(keras.Model(both, layers.Dense(classes)(layers.Concatenate()(both))), "sgd", "mse")


def not_compiled(input_shape, classes, seed):
    """A model without an optimizer."""
    return keras.Sequential([keras.Input(input_shape), layers.Dense(classes)])


def other_rows(input_shape, classes, seed):
    """A model of other rows."""
    return compiled(keras.Sequential([keras.Input((7,)), layers.Dense(classes)]), "sgd", "mse")


def not_probabilities(input_shape, classes, seed):
    """A classifier that returns any numbers."""
    model = keras.Sequential(
        [keras.Input(input_shape), layers.Flatten(), layers.Dense(classes, bias_initializer="ones")]
    )
    return compiled(model, "sgd", "mse")


def broken(input_shape, classes, seed):
    """A function with a fault."""
    raise ValueError("no such thing")


def nothing(input_shape, classes, seed):
    """A function that forgets to return."""


def compiled(model, optimizer, loss):
    """Return the model, compiled."""
    model.compile(optimizer, loss)
    return model
