"""Batches that are ready before they are needed."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from moto_pl.errors import SettingError

T = TypeVar("T")


class PrefetchLoader(Generic[T]):
    """Makes batches in one background thread, ahead of the step that takes them.

    The thread starts when the first batch is asked for and ends with the iteration: at its end, on an early break, on
    an exception, with :meth:`close`, and when the iterator is dropped. Steps are made in order by ``make`` alone, so
    batches do not depend on how far ahead it runs.

    Args:
        make: gives the batch of a step.
        steps: the steps, in order.
        depth: batches that are made ahead, at least 1.
    """

    def __init__(self, make: Callable[[int], T], steps: range, depth: int = 2) -> None:
        if depth < 1:
            raise SettingError("data.prefetch", depth, "Give at least 1 batch.")
        self._make, self._steps, self._depth = make, steps, depth
        self._worker: _Worker[T] | None = None
        #: Seconds in which a step waited for its batch, over all iterations.
        self.wait_seconds = 0.0

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[T]:
        self.close()
        worker = self._worker = _Worker(self._make, self._steps, self._depth)
        try:
            for _ in self._steps:
                begun = time.perf_counter()
                batch = worker.take()
                self.wait_seconds += time.perf_counter() - begun
                yield batch
        finally:
            worker.close()

    def close(self) -> None:
        """Ends the thread. An iteration in progress can not go on."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None


class _Worker(Generic[T]):
    """The thread of one iteration. It holds no reference to whom it works for, so that dropping those ends it."""

    def __init__(self, make: Callable[[int], T], steps: range, depth: int) -> None:
        self._made: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
        self._room = threading.Semaphore(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(make, steps, self._made, self._room, self._stop), name="prefetch", daemon=True
        )
        self._thread.start()

    @staticmethod
    def _run(
        make: Callable[[int], T],
        steps: range,
        made: queue.SimpleQueue[tuple[T | None, BaseException | None]],
        room: threading.Semaphore,
        stop: threading.Event,
    ) -> None:
        for step in steps:
            room.acquire()
            if stop.is_set():
                return
            try:
                made.put((make(step), None))
            except BaseException as error:  # raised again where the batch is taken
                made.put((None, error))
                return

    def take(self) -> T:
        if self._stop.is_set():
            raise RuntimeError("The loader was closed during the iteration.")
        batch, error = self._made.get()
        if error is not None:
            raise error
        self._room.release()
        return batch  # type: ignore[return-value]

    def close(self) -> None:
        self._stop.set()
        self._room.release()
        # The garbage collector may run in any thread, this one among them.
        if threading.current_thread() is not self._thread:
            self._thread.join()
