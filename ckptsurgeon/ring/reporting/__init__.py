"""What a person sees of a run: status, event files, plots."""
