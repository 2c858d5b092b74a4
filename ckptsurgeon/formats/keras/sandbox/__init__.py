"""The child process that runs libhdf5, which may crash or loop on damaged files."""
