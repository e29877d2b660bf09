"""What can be wrong with the data a build is given."""


class DataError(Exception):
    """One sentence: what is wrong with which file or column, and what to do."""
