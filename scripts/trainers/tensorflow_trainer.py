"""A trainer that uses TensorFlow without Keras. Its names are skflow's: `ring predict` evaluates such nets by itself.

[[models]]
name = "d"
worker = ["python", "/path/to/tensorflow_trainer.py", "4,10,20,10,3"]  # features, hidden units, classes
"""

import json
import sys

import numpy as np

sys.modules["keras"] = None  # TensorFlow would import it, unused, in as much time again
import tensorflow as tf

tf.config.experimental.enable_op_determinism()
sizes = [int(size) for size in sys.argv[1].split(",")]
shapes = {"logistic_regression/bias": sizes[-1:], "logistic_regression/weights": sizes[-2:]}
for k in range(len(sizes) - 2):
    shapes |= {f"dnn/layer{k}/Linear/Bias": [sizes[k + 1]], f"dnn/layer{k}/Linear/Matrix": sizes[k : k + 2]}
values = {name: tf.Variable(tf.zeros(shape), name=name) for name, shape in shapes.items()}
saver = tf.compat.v1.train.Saver(values, max_to_keep=None)  # it is not for the trainer to remove any
for request in map(json.loads, sys.stdin):
    if request["op"] == "init":
        tf.random.set_seed(request["seed"])
        for value in values.values():
            value.assign(tf.random.normal(value.shape, stddev=0.5 if len(value.shape) == 2 else 0))
    else:
        saver.restore(None, request["checkpoint"])
    rows = np.load(request["data"])
    with tf.GradientTape() as tape:
        x = rows["X"]
        for k in range(len(sizes) - 2):
            x = tf.nn.relu(x @ values[f"dnn/layer{k}/Linear/Matrix"] + values[f"dnn/layer{k}/Linear/Bias"])
        x = x @ values["logistic_regression/weights"] + values["logistic_regression/bias"]
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(rows["y"], x))
    if request["op"] == "train":
        for value, gradient in zip(values.values(), tape.gradient(loss, list(values.values())), strict=True):
            value.assign_sub(0.1 * gradient)
    saver.save(None, request["output"], write_state=False, write_meta_graph=False)
    print(json.dumps({"step": request["step"], "metrics": {"loss": float(loss)}}), flush=True)
