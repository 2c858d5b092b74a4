"""The object graph of a TF2 checkpoint: names, layers and slots, and how the graph is edited."""
