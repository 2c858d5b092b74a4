"""Reading and writing checkpoints of all formats. `table` lists the formats, `format` says what each must provide."""

from __future__ import annotations

from .opening import checkpoints as checkpoints
from .opening import has_kept as has_kept
from .opening import locked as locked
from .opening import open as open
from .opening import retry as retry
from .opening import spool_beside as spool_beside
from .saving import check as check
from .saving import check_binding as check_binding
from .saving import compact as compact
from .saving import copy as copy
from .saving import heal as heal
from .saving import like as like
from .saving import remove as remove
from .saving import save as save
from .saving import stream as stream
from .saving import sync as sync
from .saving import write as write
from .saving import write_state as write_state
