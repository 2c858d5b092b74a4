"""TensorFlow V2 checkpoints (TensorBundle): an index and its data shards, also inside SavedModels."""
