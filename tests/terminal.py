"""A program whose standard error is a terminal."""

import os
import pty
import subprocess
import sys

from tests.patience import LONG


class Terminal:
    """Python with these arguments; what its terminal shows is in `shown`."""

    def __init__(self, *arguments):
        self._master, slave = pty.openpty()
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "PYTHONWARNINGS": "error"}
        self.process = subprocess.Popen(
            [sys.executable, *arguments], stdin=slave, stdout=subprocess.PIPE, stderr=slave, env=environment
        )
        os.close(slave)
        self.shown = ""

    def _read(self):
        try:
            part = os.read(self._master, 4096).decode(errors="replace")
        except OSError:  # Linux's way to say that the other end is closed
            part = ""
        self.shown += part
        return part

    def wait_for(self, text):
        while text not in self.shown:
            assert self._read(), f"{text!r} was not shown before the end: {self.shown}"

    def finish(self):
        """(exit code, standard output), once it has ended."""
        while self._read():
            pass
        os.close(self._master)
        out = self.process.stdout.read().decode()
        self.process.stdout.close()
        return self.process.wait(LONG), out
