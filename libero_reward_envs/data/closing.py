"""What is closed where its `with` block ends."""

import abc

from typing_extensions import Self


class ClosedAtExit(abc.ABC):
    """Gives whatever has `close` a `with` block that ends in it."""

    @abc.abstractmethod
    def close(self) -> None:
        """Finish, or free what is held; calling it again does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
