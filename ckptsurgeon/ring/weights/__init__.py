"""The weights of a ring's models: the trunk, what is measured, and when they have converged."""
