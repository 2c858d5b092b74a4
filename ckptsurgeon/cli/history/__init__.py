"""The verbs that look back: one module per verb."""
