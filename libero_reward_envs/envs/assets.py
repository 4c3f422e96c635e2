"""Which object and scene models are used: a folder, LIBERO's own, or the built-in set."""

import dataclasses
import logging
import os
import shutil
import socket
import tempfile
import urllib.parse
import urllib.request
import warnings
from pathlib import Path

from libero_reward_envs.envs import builtin_assets, tasks

logger = logging.getLogger(__name__)

ASSETS_VARIABLE = "LIBERO_REWARD_ENVS_ASSETS"
CACHE_VARIABLE = "LIBERO_REWARD_ENVS_CACHE"

_HUB_REPOSITORY = "lerobot/libero-assets"  # where hf-libero 0.1.4 downloads from
_BUILTIN_MARKER = "BUILTIN_ASSETS_VERSION"
_FOLDERS = (
    "articulated_objects",
    "scenes",
    "stable_hope_objects",
    "stable_scanned_objects",
    "textures",
    "turbosquid_objects",
)


@dataclasses.dataclass(frozen=True)
class AssetSet:
    """A folder of models and what it is.

    Args:
        name: "official" for LIBERO's own models, "builtin" for ours, "folder" for one that the user
            named. Results carry it: only "official" ones are benchmark numbers.
        path: The folder.
    """

    name: str
    path: Path


def resolve_assets(assets: str | os.PathLike[str] = "auto") -> AssetSet:
    """The object models to use.

    "auto" takes, in this order: `$LIBERO_REWARD_ENVS_ASSETS`; what the installed libero package
    holds or its download has cached; its download, where there is a network; else the built-in
    set, with one warning. "official" takes LIBERO's own models or fails, "builtin" takes ours, and
    anything else is a folder.

    Raises:
        ValueError: If the folder is missing or incomplete, or "official" cannot be had.
    """
    if assets == "builtin":
        return AssetSet("builtin", builtin_folder())
    if assets not in ("auto", "official"):
        return _folder(Path(assets), f"`assets={str(assets)!r}`")
    if named := os.environ.get(ASSETS_VARIABLE):
        found = _folder(Path(named), f"${ASSETS_VARIABLE}")
        if assets == "official" and found.name == "builtin":
            raise ValueError(
                f"Expected LIBERO's own object models for `assets='official'`, but "
                f"${ASSETS_VARIABLE} ({found.path}) holds the built-in ones. Unset it."
            )
        return found
    for candidate in (tasks.libero_folder() / "assets", _download_folder()):
        if not _missing(candidate):
            return AssetSet("official", candidate)
    failure = _download()
    if failure is None:
        return AssetSet("official", _download_folder())
    if assets == "official":
        raise ValueError(
            "Expected LIBERO's own object models, found none in the installed package or in "
            f"{_download_folder()}, and the download failed ({failure}). "
            f"Set ${ASSETS_VARIABLE} to a folder that has them, or use `assets='builtin'`."
        )
    warnings.warn(
        "LIBERO's own object models are not here and could not be downloaded "
        f"({failure}): using the built-in models. Physics is close, pictures differ, and no result "
        f"on them is a LIBERO benchmark number. Set ${ASSETS_VARIABLE} to use a folder of your "
        "own, or pass `assets='builtin'` to say that this is meant.",
        stacklevel=2,
    )
    return AssetSet("builtin", builtin_folder())


def cache_folder() -> Path:
    """Where what can be made again is kept: `$LIBERO_REWARD_ENVS_CACHE`, or the user's cache."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    user_cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(user_cache) / "libero_reward_envs"


def builtin_folder() -> Path:
    """Folder of the built-in models, which are written at first use.

    Written under a temporary name and renamed, so that processes that start together, or one that
    is killed, leave a whole folder or none.
    """
    version = builtin_assets.BUILTIN_ASSETS_VERSION
    folder = cache_folder() / f"builtin_assets-{version}"
    if (folder / _BUILTIN_MARKER).is_file():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        parent = folder.parent
    except OSError:  # no home to write to: a temporary folder serves this machine's session
        parent = Path(tempfile.gettempdir())
        folder = parent / f"libero_reward_envs-{os.getuid()}-builtin_assets-{version}"
        if _is_whole_and_ours(folder):
            return folder
    draft = Path(tempfile.mkdtemp(prefix="builtin_assets-", dir=parent))
    try:
        builtin_assets.write_builtin_assets(draft / "assets")
        (draft / "assets" / _BUILTIN_MARKER).write_text(version, encoding="utf-8")
        try:
            (draft / "assets").rename(folder)
        except OSError as error:
            if not _is_whole_and_ours(folder):  # else another process was first
                raise ValueError(
                    f"Cannot put the built-in models into {folder} ({error}). Remove that folder."
                ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _is_whole_and_ours(folder: Path) -> bool:
    return (folder / _BUILTIN_MARKER).is_file() and folder.stat().st_uid == os.getuid()


def _folder(path: Path, source: str) -> AssetSet:
    path = path.expanduser().resolve()
    if missing := _missing(path):
        raise ValueError(
            f"Expected LIBERO's asset folder at {source} ({path}), but it lacks "
            f"{', '.join(missing)}. Point it at the folder that holds `articulated_objects`."
        )
    return AssetSet("builtin" if (path / _BUILTIN_MARKER).is_file() else "folder", path)


def _missing(path: Path) -> list[str]:
    return [name for name in _FOLDERS if not (path / name).is_dir()]


def _download_folder() -> Path:
    return Path.home() / ".cache" / "libero" / "assets"


def _download() -> str | None:
    """Fetch LIBERO's models as hf-libero does; the reason when that failed, else None.

    hf-libero's own function passes an argument that current huggingface_hub no longer has, and
    leaves a folder that looks complete when it is interrupted.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return "HF_HUB_OFFLINE is set"
    from huggingface_hub import constants, snapshot_download

    hub = urllib.parse.urlsplit(constants.ENDPOINT)
    if not urllib.request.getproxies():
        # An unreachable hub is found out here in moments, not after the client's many retries.
        try:
            address = (hub.hostname or "", hub.port or 443)
            socket.create_connection(address, timeout=3).close()
        except OSError as error:
            return f"no connection to {hub.hostname}: {error}"
    # Of its own name for each process: those that start together must not meet in one draft.
    draft = _download_folder().with_name(f"assets.partial-{os.getpid()}")
    logger.info("Downloading LIBERO's object models to %s.", _download_folder())
    try:
        snapshot_download(_HUB_REPOSITORY, repo_type="dataset", local_dir=draft)
        if missing := _missing(draft):
            return f"the download lacks {', '.join(missing)}"
        draft.rename(_download_folder())
    except Exception as error:  # the hub client has no common base class for what can go wrong
        if not _missing(_download_folder()):
            return None  # another process was first, and its models are there
        return f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return None
