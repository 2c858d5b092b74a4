"""What every file-based format needs: replacing a file atomically, watched files, zip and JSON."""
