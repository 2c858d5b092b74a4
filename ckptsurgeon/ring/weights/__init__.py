"""The weights of a ring's models: the trunk, the measurements, and convergence."""
