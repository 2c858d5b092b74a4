"""safetensors files, and sets of them with an index."""
