"""A port as a process: requests in, lines out, each with a deadline (docs/conform.md).

Two threads write and read, so that a port that doesn't read, doesn't answer, prints without end or
ends can't stop the checker.
"""

import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import Any

LONGEST = 1 << 24  # bytes of an answer


class NoAnswerError(Exception):
    """A port is late, or has ended."""


class Port:
    """A process that speaks the protocol."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self._requests: queue.Queue[bytes | None] = queue.Queue()
        self._lines: queue.Queue[bytes] = queue.Queue(64)  # so that a flood waits
        for work in (self._write, self._read):
            threading.Thread(target=work, daemon=True).start()

    def _write(self) -> None:
        assert self._process.stdin is not None
        try:
            while (request := self._requests.get()) is not None:
                self._process.stdin.write(request)
                self._process.stdin.flush()
            self._process.stdin.close()
        except (OSError, ValueError):  # it has ended, which its output shows too
            pass

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            while line := self._process.stdout.readline(LONGEST):
                self._lines.put(line)
        except (OSError, ValueError):
            pass
        self._lines.put(b"")

    def send(self, request: dict[str, Any]) -> None:
        """Send a request; don't wait."""
        self._requests.put(json.dumps(request).encode() + b"\n")

    def line(self, deadline: float) -> bytes:
        """Return the next line; raise NoAnswerError at the deadline or where there is none."""
        left = deadline - time.monotonic()
        try:
            if left <= 0:  # also where lines come without end
                raise queue.Empty
            line = self._lines.get(timeout=left)
        except queue.Empty:
            raise NoAnswerError("no answer in time") from None
        if line == b"":
            raise NoAnswerError(f"no answer: the port has ended{self._code()}")
        return line

    def _code(self) -> str:
        try:
            return f" with code {self._process.wait(1.0)}"
        except subprocess.TimeoutExpired:
            return ", or closed its output"

    def finish(self, timeout: float) -> tuple[list[bytes], str | None]:
        """Close the input; return what still comes, and what is wrong with the end."""
        self._requests.put(None)
        deadline = time.monotonic() + timeout
        rest: list[bytes] = []
        try:
            while len(rest) < 1000:
                rest.append(self.line(deadline))
        except NoAnswerError:
            pass
        try:
            code = self._process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return rest, "the port must end when its input is closed"
        return rest, None if code == 0 else f"the port must end with code 0, got {code}"

    def kill(self) -> None:
        """End the process and what it has started."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self._process.kill()
        self._process.wait()
        self._requests.put(None)
        while True:  # so that the reading thread comes to its end
            try:
                if self._lines.get(timeout=1.0) == b"":
                    break
            except queue.Empty:
                break
        assert self._process.stdout is not None
        self._process.stdout.close()
