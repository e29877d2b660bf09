"""What a repository cannot do, in one sentence each."""


class RepositoryError(Exception):
    """A repository, or a version in it, is not what was asked for. One sentence says what to do."""


class UnknownVersion(RepositoryError):
    """A version is not published. One sentence says which ones are."""


class PublishError(RepositoryError):
    """Nothing was published. One sentence says why and what to do."""
