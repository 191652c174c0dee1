"""The one exception that input can cause; every command turns it into one line and exit status 2."""


class InputError(Exception):
    """Something the user gave cannot be used.

    The message is one line: the file (or the option), what is wrong, what to do.
    """

    def __init__(self, where: object, problem: str, remedy: str):
        super().__init__(f"{where}: {problem}; {remedy}")
