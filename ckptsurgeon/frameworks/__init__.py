"""Trains models that a user's function builds, in Keras or PyTorch; the only folder beside skflow/ that imports them.

`ring.toml` names the function (`trainer = "file.py:function"`), `function.py` calls it, `keras_net.py` and
`torch_net.py` turn what it returns into a `Net`, and `worker.py` trains that from checkpoint to checkpoint.
`members.py` gives a member of a run as a model of its framework.
"""
