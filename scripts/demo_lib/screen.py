"""One live line at the bottom of a terminal, and lines above it. Without a terminal, lines only."""

import shutil
import sys
import time

# Interval of the live line where it cannot be overwritten, in seconds.
PLAIN_EVERY_S = 2.0


class Screen:
    def __init__(self):
        self.is_terminal = sys.stdout.isatty()
        self.line = ""
        self.written_at = 0.0

    def log(self, text=""):
        """Writes a line that stays."""
        self._wipe()
        print(text, flush=True)
        self._draw()

    def live(self, text):
        """Replaces the live line."""
        if self.is_terminal:
            if text != self.line:
                self._wipe()
                self.line = text
                self._draw()
        elif time.monotonic() - self.written_at >= PLAIN_EVERY_S:
            self.written_at = time.monotonic()
            print(text, flush=True)

    def end(self):
        """Removes the live line."""
        self._wipe()
        self.line = ""

    def _wipe(self):
        if self.is_terminal and self.line:
            sys.stdout.write("\r\x1b[K")
            sys.stdout.flush()

    def _draw(self):
        if self.is_terminal and self.line:
            width = shutil.get_terminal_size().columns - 1
            sys.stdout.write(self.line[:width])
            sys.stdout.flush()


def bar(done, total, width=24):
    """Returns ####------ of this width."""
    full = width * done // total if total else 0
    return "#" * full + "-" * (width - full)
