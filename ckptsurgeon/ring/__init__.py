"""The ring: M models train as separate processes and share their first layers.

    starting     start.py      `ring init`: the rows, the initial weights, the journal's head
    running      driver.py     `ring run`: asks the schedule for the next step, has it done, and journals it
                 resume.py     where a run continues: the journal, checked against what is on disk
                 retention.py  which checkpoints stay on disk
    checking     checking.py   `ring check`: tries each trainer on copies
    knowing      schedule.py   which step comes next; pure
                 history.py    the finished steps
                 journal.py    the log of finished steps, which is also the lock of the run
                 folder.py     the path of every file of a run
                 environment.py  the software and hardware that a checkpoint's bytes may depend on

    spec/        ring.toml: its keys, reading and checking it, writing it, comparing two versions of it
    trainers/    the Trainer interface and the engines that implement it (engines.py lists them)
    predicting/  what the models predict, one by one and together: `ring evaluate`, `ring predict`
    weights/     the shared trunk, and whether the weights have converged
    reporting/   `ring status`, `ring plot`, and the curves for TensorBoard

Rooms import in one direction, and never the driver, start or checking:

    reporting -> spec      weights -> predicting -> trainers -> spec
"""
