"""The reports that a run gives to people: status, event files, plots."""
