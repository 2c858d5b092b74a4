"""Runs an iterator ahead in a second thread, so that reading and writing overlap."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeVar

    Item = TypeVar("Item")

_DEPTH = 4  # items buffered
_POLL = 0.1  # seconds after which a blocked thread checks again whether it should stop


def prefetched(items: Iterator[Item]) -> Iterator[Item]:
    """Yields the items of an iterator that runs ahead in its own thread; its exceptions are raised here.

    Args:
        items: used only by that thread until this iterator is exhausted or closed.
    """
    import queue
    import threading

    ready: queue.Queue[tuple[bool, Item | BaseException | None]] = queue.Queue(_DEPTH)
    stopped = threading.Event()

    def put(more: bool, value: Item | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                ready.put((more, value), timeout=_POLL)
                return
            except queue.Full:
                continue

    def run() -> None:
        try:
            for item in items:
                put(True, item)
                if stopped.is_set():
                    return
            put(False, None)
        except BaseException as error:  # re-raised in the consumer's thread
            put(False, error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while True:
            more, value = ready.get()
            if more:
                yield value  # type: ignore[misc]
            elif isinstance(value, BaseException):
                raise value
            else:
                return
    finally:
        stopped.set()
        thread.join()
