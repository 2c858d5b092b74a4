"""What an estimator saves and how it comes back: files, names of variables, architecture."""
