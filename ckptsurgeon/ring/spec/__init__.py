"""ring.toml: its keys, its checks and its template."""
