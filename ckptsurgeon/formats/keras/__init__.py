"""HDF5 and Keras files: .h5, .weights.h5, .weights.json and .keras."""
