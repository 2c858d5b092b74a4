"""What the models of a ring predict together."""
