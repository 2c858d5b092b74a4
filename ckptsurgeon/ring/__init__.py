"""The ring: M models train as separate processes and share their first layers.

Models of a ring are described in ring.toml (spec.py). The schedule says which step comes next (schedule.py),
the driver has it done (driver.py) by a trainer (local.py) or a graft, and the journal remembers it
(journal.py). The weights of the models are compared from one block of rounds to the next (convergence.py)
until they have settled.
"""
