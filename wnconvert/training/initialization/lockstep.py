"""Run several functions in turns, so that they meet where one has to know of the others.

The statistics of a layer over several batches need all of them at that layer. Running them anew for each layer would
cost a forward for each layer and batch; here each runs once, in a thread of its own, and one at a time.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from queue import SimpleQueue
from typing import Any, TypeAlias

import torch

#: what a function asks by, and waits for the answer
Ask: TypeAlias = Callable[[Any], Any]
_DEVICES = ("cpu", "cuda")


class _Stopped(BaseException):
    """Ends a function that is not needed any more; user code that catches exceptions does not catch it."""


class _Ended:
    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def in_lockstep(
    functions: Sequence[Callable[[Ask], None]], settle: Callable[[Mapping[int, Any]], Mapping[int, Any]]
) -> None:
    """Run functions until all have ended.

    Args:
        functions: each is given what it asks by. A single one runs in this thread.
        settle: called whenever each function has ended or asked. It takes the questions by the index of the function
            that asked, and returns the answers of some: of one at least.

    Raises:
        BaseException: whatever a function or ``settle`` raises; the others are ended.
    """
    if len(functions) == 1:
        functions[0](lambda question: settle({0: question})[0])
        return
    turns = [_Turn(function) for function in functions]
    try:
        waiting = {index: turn.go_on(None) for index, turn in enumerate(turns)}
        while waiting := _still(waiting):
            answers = settle(waiting)
            waiting.update({index: turns[index].go_on(answer) for index, answer in answers.items()})
    finally:
        for turn in turns:
            turn.stop()


def _still(waiting: dict[int, Any]) -> dict[int, Any]:
    """Return the questions of those that have not ended, or raise what one of them raised."""
    for question in waiting.values():
        if isinstance(question, _Ended) and question.error is not None:
            raise question.error
    return {index: question for index, question in waiting.items() if not isinstance(question, _Ended)}


class _Turn:
    """A function in a thread of its own, which runs only while `go_on` waits for it."""

    def __init__(self, function: Callable[[Ask], None]) -> None:
        self._questions: SimpleQueue[Any] = SimpleQueue()
        self._answers: SimpleQueue[Any] = SimpleQueue()
        self._stopped = False
        run = contextvars.copy_context().run
        self._thread = threading.Thread(target=run, args=(self._main, function, _modes()), daemon=True)
        self._thread.start()

    def go_on(self, answer: Any) -> Any:
        self._answers.put(answer)
        return self._questions.get()

    def stop(self) -> None:
        self._stopped = True
        self._answers.put(None)
        self._thread.join()

    def _main(self, function: Callable[[Ask], None], modes: _Modes) -> None:
        error: BaseException | None = None
        try:
            self._wait()
            with _held(modes):
                function(self._ask)
        except _Stopped:
            return
        except BaseException as raised:  # noqa: BLE001 - it is raised where the function was called
            error = raised
        self._questions.put(_Ended(error))

    def _ask(self, question: Any) -> Any:
        if self._stopped:
            raise _Stopped
        self._questions.put(question)
        return self._wait()

    def _wait(self) -> Any:
        answer = self._answers.get()
        if self._stopped:
            raise _Stopped
        return answer


#: gradients, the default device, the CUDA stream, and autocast by device
_Modes: TypeAlias = tuple[bool, Any, Any, list[tuple[str, bool, torch.dtype]]]


def _modes() -> _Modes:
    """Return the modes of this thread, which a new one has not."""
    autocast = [(each, torch.is_autocast_enabled(each), torch.get_autocast_dtype(each)) for each in _DEVICES]
    stream = torch.cuda.current_stream() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    return torch.is_grad_enabled(), torch.get_default_device(), stream, autocast


@contextmanager
def _held(modes: _Modes) -> Iterator[None]:
    grad, device, stream, autocast = modes
    with ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(grad))
        if stream is not None:
            stack.enter_context(torch.cuda.stream(stream))
        if device.type != "cpu":
            stack.enter_context(device)
        for kind, enabled, dtype in autocast:
            if enabled:
                stack.enter_context(torch.autocast(kind, dtype))
        yield
