"""TensorFlow graphs and sessions of the models: built, trained a step at a time, summarised."""
