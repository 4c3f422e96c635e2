"""What can go wrong with an episode in a file of others."""

# What h5py and JSON raise for damaged content, besides our own ValueError.
DAMAGE = (OSError, RuntimeError, KeyError, TypeError, ValueError)


class SuccessUnknownError(ValueError):
    """An argument is missing; not a damage for which `on_error="skip"` leaves an episode out."""

    def __init__(self, episode: str, said: str) -> None:
        super().__init__(
            f"{said} in {episode}, so whether it succeeded is not in the file. Give "
            "`assume_success`: True if all such episodes succeeded, False if none of them did"
        )


def check_on_error(on_error: str) -> bool:
    """Return whether damaged episodes are left out.

    Raises:
        ValueError: If it is neither "raise" nor "skip".
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"`on_error` must be 'raise' or 'skip', got {on_error!r}.")
    return on_error == "skip"
