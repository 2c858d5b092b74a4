"""Where a run continues: edited checkpoints are adopted, damaged ones left behind, changed settings taken up."""
