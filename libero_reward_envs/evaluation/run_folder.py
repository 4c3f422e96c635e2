"""The folder of a run: what was asked, the result of each stage, and going on after a stop."""

import contextlib
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from libero_reward_envs.atomic_files import write_atomically

CONFIG_FILE = "config.json"
_TIMES_FILE = "times.json"
_PARTIAL_SUFFIX = ".partial"
# Import name of what decides results, and the distribution that it comes in.
_DISTRIBUTIONS = {
    "mujoco": "mujoco",
    "robosuite": "robosuite",
    "hf-libero": "hf_libero",
    "torch": "torch",
    "stable-baselines3": "stable_baselines3",
    "gymnasium": "gymnasium",
    "numpy": "numpy",
}
_logger = logging.getLogger(__name__)


class RunFolder:
    """A folder whose every result is there whole or not at all.

    A second run with the same arguments finds what the first one finished and goes on from there.

    Args:
        path: The folder.

    Example:
        >>> import tempfile
        >>> run = RunFolder(Path(tempfile.mkdtemp()) / "run")
        >>> run.begin({"seed": 0})
        >>> run.write_json("result.json", {"success": True})
        >>> run.begin({"seed": 0})
        >>> run.read_json("result.json")
        {'success': True}
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def begin(
        self,
        arguments: Mapping[str, Any],
        *,
        overwrite: bool = False,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Make the folder and write `config.json`, or check that it is of the same arguments.

        Args:
            arguments: What decides the results, as JSON would hold it.
            overwrite: Whether to delete the results of a run with other arguments.
            about: What is noted beside them when a run begins, and may be another when it goes on.

        Raises:
            ValueError: If there is a run with other arguments, or a folder that is no run.
        """
        arguments = json.loads(json.dumps(dict(arguments), allow_nan=False))
        if (self / CONFIG_FILE).is_file():
            earlier = self.read_json(CONFIG_FILE)
            different = _describe_difference(earlier.get("arguments", {}), arguments)
            if not different:
                _warn_about_versions(earlier.get("versions", {}))
                return
            if not overwrite:
                raise ValueError(
                    f"{str(self.path)!r} holds a run with other arguments: {different}. "
                    "Choose another folder with --out, or pass --overwrite."
                )
            self._delete(earlier.get("results", []))
        elif self.path.is_dir() and any(self.path.iterdir()):
            raise ValueError(
                f"Expected a new folder or one of an earlier run, but {str(self.path)!r} holds "
                f"other files and no {CONFIG_FILE}. Choose another folder with --out."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        config = {
            "arguments": arguments,
            "versions": installed_versions(),
            "commit": current_commit(),
            **(about or {}),
            "results": [],
        }
        self.write_json(CONFIG_FILE, config)

    def register(self, *names: str) -> None:
        """Note names of results, which `--overwrite` may delete; nothing else ever is."""
        config = self.read_json(CONFIG_FILE)
        results = sorted({*config["results"], *names, _TIMES_FILE})
        if results != config["results"]:
            self.write_json(CONFIG_FILE, {**config, "results": results})

    def has(self, name: str) -> bool:
        """Whether a result is there, which means whole."""
        return (self / name).exists()

    def read_json(self, name: str) -> Any:
        """Read a result.

        Raises:
            ValueError: If the file is not JSON.
        """
        try:
            return json.loads((self / name).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{str(self / name)!r} is damaged: {error}. Delete it.") from error

    def write_json(self, name: str, value: Any) -> None:
        """Write a result whole or not at all."""
        self.write_bytes(name, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())

    def write_bytes(self, name: str, value: bytes) -> None:
        """Write a result whole or not at all."""
        write_atomically(self / name, [value], temporary=self / (name + _PARTIAL_SUFFIX))

    @contextlib.contextmanager
    def new_folder(self, name: str) -> Iterator[Path]:
        """Give a folder to fill, which takes its name when the block ends without an error."""
        partial = self / (name + _PARTIAL_SUFFIX)
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was stopped
        partial.mkdir()
        yield partial
        os.replace(partial, self / name)

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the wall time of the block to what `times` tells of a stage, in seconds."""
        start = time.perf_counter()
        try:
            yield
        finally:
            times = self.times()
            times[stage] = round(times.get(stage, 0.0) + time.perf_counter() - start, 2)
            self.write_json(_TIMES_FILE, times)

    def times(self) -> dict[str, float]:
        """Wall time of each stage so far, in seconds, stopped attempts included."""
        return self.read_json(_TIMES_FILE) if self.has(_TIMES_FILE) else {}

    def _delete(self, names: list[str]) -> None:
        for name in names:  # all of them, before anything is deleted
            if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
                raise ValueError(f"{CONFIG_FILE} names {name!r}, which is not in the folder.")
        for name in names:
            for path in (self / name, self / (name + _PARTIAL_SUFFIX)):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)


def installed_versions() -> dict[str, str]:
    """Return the versions of Python, this package and the libraries that decide results."""
    from libero_reward_envs import __version__

    versions = {"python": platform.python_version(), "libero-reward-envs": __version__}
    for name, distribution in _DISTRIBUTIONS.items():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(distribution)
    return versions


def current_commit() -> str | None:
    """Return the commit of the source checkout, with "-dirty" after changes; None elsewhere."""
    import libero_reward_envs

    checkout = Path(str(libero_reward_envs.__file__)).parents[1]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def _describe_difference(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    names = [name for name in {**earlier, **now} if earlier.get(name) != now.get(name)]
    return ", ".join(
        f"{name} was {earlier.get(name)!r} and is now {now.get(name)!r}" for name in names
    )


def _warn_about_versions(earlier: Mapping[str, str]) -> None:
    different = _describe_difference(earlier, installed_versions())
    if different:
        _logger.warning("The run began with other versions: %s.", different)
