"""NumPy's npz and npy files."""
