"""The one exception that input can cause; every command turns it into one line and exit status 2."""

from __future__ import annotations


class InputError(Exception):
    """Something the user gave cannot be used.

    The message is one line: the file (or the option), what is wrong, what to do; so are the attributes ``where``,
    ``problem`` and ``remedy``.
    """

    def __init__(self, where: object, problem: str, remedy: str):
        super().__init__(f"{where}: {problem}; {remedy}")
        self.where, self.problem, self.remedy = str(where), problem, remedy

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str, str]]:
        """Pickled with its three parts: loader processes hand it over."""
        return type(self), (self.where, self.problem, self.remedy)
