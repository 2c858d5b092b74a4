"""A convolutional Keras net for a ring, from a function: scikit-learn's digits as [8, 8, 1], or any small images.

ckptsurgeon ring init R --data digits.npz --trainer keras_function.py:images --models 5 --layers 0-3

Layers 0 to 3, as `ckptsurgeon layers` counts them, are the two convolutions with their batch normalisations.
"""

import keras
from keras import layers


def images(input_shape, classes, seed):
    """Return a compiled model. All randomness comes from the run's seed, so `seed` is of no use here."""
    model = keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Conv2D(16, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(16, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(32, activation="relu"),
            layers.Dense(classes, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
