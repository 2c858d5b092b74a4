"""The operations themselves: each reads metadata only, reports all problems at once, and returns a Plan."""
