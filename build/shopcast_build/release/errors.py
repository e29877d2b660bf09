"""What an export cannot do."""


class TargetError(Exception):
    """A version cannot be exported so, here. One sentence says what is missing."""
