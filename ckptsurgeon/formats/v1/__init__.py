"""TensorFlow V1 checkpoints: tables of saved tensor slices."""
