"""The operations from paths to what was done or found: what the command line and the Python API call."""
