"""The one error that a user's mistake raises, or a fault in what the user brought."""


class SettingError(ValueError):
    """Bad input: names the setting, the value found, and what to do about it.

    The command line prints the message alone, without a traceback, and exits with status 2.

    Args:
        setting: the setting, file or argument at fault, as the user wrote it (``data.dataset``).
        found: what was found there.
        fix: what to do, as an instruction.

    Attributes:
        details: lines that the command line prints before the message; mostly none.
    """

    details = ""

    def __init__(self, setting: str, found: object, fix: str) -> None:
        self.setting, self.found, self.fix = setting, found, fix
        # What a file of others' holds may be in it: it must not break the line, nor move a terminal's cursor.
        shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in f"{setting}: found {found}")
        super().__init__(f"{shown}. {fix}")

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        # Rebuilt from its three parts, so that it survives the way back from a worker process.
        return type(self), (self.setting, str(self.found), self.fix)


class EnvironmentRaised(SettingError):
    """A user's environment raised an exception.

    Args:
        found: which environment, and what it raised.
        fix: what to do, as an instruction.
        traceback: the environment's own, from its first line on.
    """

    def __init__(self, found: object, fix: str, traceback: str) -> None:
        super().__init__("data.env", found, fix)
        self.details = f"{traceback.rstrip()}\n" if traceback else ""

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (str(self.found), self.fix, self.details)
