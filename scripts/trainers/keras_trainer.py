"""A trainer that uses Keras. Its .weights.h5 files also hold the state of the optimizer.

[[models]]
name = "c"
worker = ["python", "/path/to/keras_trainer.py", "4,10,20,10,3"]  # features, hidden units, classes
predict = ["python", "/path/to/keras_trainer.py", "4,10,20,10,3", "{checkpoint}", "{data}", "{output}"]
format = "weights.h5"
scheme = "layers/dense{_K}/**"
"""

import json
import sys

sys.modules.update(dict.fromkeys(("matplotlib", "sklearn")))  # Keras would import them, unused: a third of its start
import keras
import numpy as np
import tensorflow as tf

tf.config.experimental.enable_op_determinism()
(features, *hidden, classes), predict = map(int, sys.argv[1].split(",")), sys.argv[2:]
model = None
for request in map(json.loads, sys.stdin if not predict else ['{"op": "init", "seed": 0}']):
    if request["op"] == "init" or model is None:
        keras.utils.clear_session()  # else a second model's layers would be dense_4, dense_5, ...
        keras.utils.set_random_seed(request["seed"])
        model = keras.Sequential([keras.Input((features,)), *(keras.layers.Dense(n, "relu") for n in hidden)])
        model.add(keras.layers.Dense(classes, "softmax"))
        model.compile(keras.optimizers.Adagrad(0.1), "sparse_categorical_crossentropy")
        model.optimizer.build(model.trainable_variables)
    checkpoint, data, output = predict or (request[key] for key in ("checkpoint", "data", "output"))
    if checkpoint:
        model.load_weights(checkpoint)
    if predict:
        sys.exit(np.save(output, model.predict_on_batch(np.load(data)["X"])))
    model.reset_metrics()
    train = model.train_on_batch if request["op"] == "train" else model.test_on_batch
    rows = np.load(data)
    loss = float(train(rows["X"], rows["y"]))
    model.save_weights(output)
    print(json.dumps({"step": request["step"], "metrics": {"loss": loss}}), flush=True)
