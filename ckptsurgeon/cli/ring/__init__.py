"""The verbs of ring, each of the same shape as the others, and the live view of a run."""
