"""What a person sees: numbered steps with their times, in colour on a terminal."""

import os
import sys
import time


class Trace:
    def __init__(self, out=sys.stdout):
        self.out = out
        self.colour = out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self.begin = time.time()

    def _paint(self, code, text):
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour else text

    def _line(self, text=""):
        print(text, file=self.out, flush=True)

    def heading(self, text):
        self._line()
        self._line(self._paint("1", text))
        self.begin = time.time()

    def event(self, who, text, at=None):
        """One line: time since the heading, who, what. `at`: when it was (now, if not given)."""
        at = time.time() if at is None else at
        self._line(f"  {max(at - self.begin, 0):6.2f} s  {self._paint('36', f'{who:<18}')} {text}")

    def good(self, text):
        self._line(f"            {self._paint('32', 'ok')}  {text}")

    def bad(self, text):
        self._line(f"            {self._paint('31', 'NOT SEEN')}  {text}")

    def note(self, text=""):
        self._line(text)
