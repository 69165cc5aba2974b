"""Images verified by other processes, because small ones keep Python busier than their decoder.

Threads share one interpreter, and for tiles handing it over takes what a second core could give.
An import that is large enough has a process per thread here, and sends it a batch at a time. A
process that fails is done without.
"""

from __future__ import annotations

import marshal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import astuple, fields
from queue import SimpleQueue
from types import TracebackType
from typing import IO, Any, TypeAlias

from slimp.sources.verify_image import CorruptImageError, VerifiedImage, own_limits, verify_image

BATCH_BYTES = 1 << 22
"""Of encoded images that are sent at a time, about."""
FLAGS = [field.name for field in fields(VerifiedImage) if field.name != "encoded"]

Opened: TypeAlias = bytes | str | None
"""An encoded image, why it cannot be read, or None if there is none."""
Verified: TypeAlias = VerifiedImage | str | None
"""The image as a cohort keeps it, why it is corrupt, or None if there is none."""


class Verifiers:
    """What becomes of images; called from several threads, each of which has a process.

    Used as a context manager, which ends the processes.

    Args:
        processes: as many as threads; 0: each thread does the work itself.
        shorter_side: as of `verify_image`.
    """

    def __init__(self, processes: int, *, shorter_side: int) -> None:
        self._shorter_side = shorter_side
        self._started = [_start(shorter_side) for _ in range(processes)]
        self._idle: SimpleQueue[subprocess.Popen[bytes] | None] = SimpleQueue()
        for process in self._started:
            self._idle.put(process)

    def __call__(self, images: Iterable[Opened]) -> list[Verified]:
        """What became of each image, in order."""
        if not self._started:
            return [verified(encoded, self._shorter_side) for encoded in images]
        process = self._idle.get()
        outcomes: list[Verified] = []
        try:
            for batch in _batches(images):
                try:
                    outcomes += _ask(process, batch)
                except (OSError, EOFError, ValueError, TypeError):  # killed, or never started
                    _end(process)
                    process = None
                    outcomes += [verified(encoded, self._shorter_side) for encoded in batch]
        finally:
            self._idle.put(process)
        return outcomes

    def __enter__(self) -> Verifiers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._started:
            _end(process)


def verified(encoded: Opened, shorter_side: int) -> Verified:
    """The outcome of `verify_image` as a value; what is no image stays what it is."""
    if not isinstance(encoded, bytes):
        return encoded
    try:
        return verify_image(encoded, shorter_side=shorter_side)
    except CorruptImageError as corrupt:
        return str(corrupt)


def serve(requests: IO[bytes], answers: IO[bytes], shorter_side: int) -> None:
    """Answers until there is nobody left who asks; the other side is `_ask`.

    An image whose bytes stay the same is not sent back.
    """
    with own_limits(), suppress(EOFError):
        while True:
            images = marshal.load(requests)
            marshal.dump([_answer(encoded, shorter_side) for encoded in images], answers)
            answers.flush()


def main() -> None:
    """The process that `_start` starts."""
    serve(sys.stdin.buffer, sys.stdout.buffer, int(sys.argv[1]))


def _start(shorter_side: int) -> subprocess.Popen[bytes] | None:
    code = f"from {__name__} import main; main()"
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", code, str(shorter_side)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the process that it works for
        )
    except OSError:
        return None


def _batches(images: Iterable[Opened]) -> Iterator[list[Opened]]:
    """The images, as they come, a few MiB at a time."""
    batch, size = list[Opened](), 0
    for encoded in images:
        batch.append(encoded)
        size += len(encoded or b"")
        if size > BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _ask(process: subprocess.Popen[bytes] | None, images: Sequence[Opened]) -> list[Verified]:
    if process is None or process.stdin is None or process.stdout is None:
        raise EOFError
    marshal.dump(list(images), process.stdin)
    process.stdin.flush()
    answers = marshal.load(process.stdout)
    return [_outcome(encoded, answer) for encoded, answer in zip(images, answers, strict=True)]


def _answer(encoded: Opened, shorter_side: int) -> Any:
    outcome = verified(encoded, shorter_side)
    if not isinstance(outcome, VerifiedImage):
        return outcome
    content, *flags = astuple(outcome)
    return (None if content == encoded else content, *flags)


def _outcome(encoded: Opened, answer: Any) -> Verified:
    if not isinstance(answer, tuple):
        return str(answer) if answer is not None else None
    content, *flags = answer
    image: bytes = encoded if content is None else content  # type: ignore[assignment]
    return VerifiedImage(encoded=image, **dict(zip(FLAGS, flags, strict=True)))


def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process is None:
        return
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # what was not sent is of no use any more
                pipe.close()
    process.wait()
