"""Imports LIBERO without its side effects: its question, its files in the home folder, messages."""

import contextlib
import importlib
import json
import logging
import multiprocessing.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from libero_reward_envs.envs import rendering, tasks

gl_backend: str | None = None  # what pictures are drawn with, known once LIBERO was imported


def import_problem(assets: Path, task: tasks.Task) -> tuple[Any, dict[str, Any]]:
    """LIBERO's environment class for the task, and the controller's settings.

    robosuite insists on a GL library even where nothing is drawn; "glx" makes it take the one
    that comes as a wheel.
    """
    global gl_backend
    tasks.libero_folder()  # its error names the command to install
    gl_backend = gl_backend or rendering.prepare_gl()
    libero = _import_quietly()
    libero._assets_path_cache = str(assets)
    import libero.libero.envs.bddl_utils as bddl_utils
    from libero.libero.envs import TASK_MAPPING
    from robosuite import load_controller_config

    problem = bddl_utils.get_problem_info(str(tasks.bddl_file(task)))
    return (
        TASK_MAPPING[problem["problem_name"]],
        load_controller_config(default_controller="OSC_POSE"),
    )


def _import_quietly() -> Any:
    """Import `libero.libero` and its environments; nothing again if they are there.

    LIBERO asks its question unless it finds a configuration. The user's is used where there is
    one. Else a private one is made, which stays for as long as the process, since LIBERO's own
    functions read it again.
    """
    with contextlib.ExitStack() as stack:
        if not _user_config().is_file() and "libero.libero" not in sys.modules:
            folder = tempfile.mkdtemp(prefix="libero-config-")
            # Unlike atexit, this is run at the end of multiprocessing's workers too.
            multiprocessing.util.Finalize(None, shutil.rmtree, (folder, True), exitpriority=0)
            Path(folder, "config.yaml").write_text(_make_config(), encoding="utf-8")
            stack.enter_context(_environment("LIBERO_CONFIG_PATH", folder))
        if gl_backend is None:
            stack.enter_context(_environment("MUJOCO_GL", "glx"))
        stack.enter_context(quiet())
        try:
            libero = importlib.import_module("libero.libero")
            importlib.import_module("libero.libero.envs")
        except ImportError as error:
            raise ImportError(
                f"Cannot import the simulator: {error}. "
                f"Install it with `{tasks.INSTALL_COMMAND}` (or `make install` in a checkout)."
            ) from error
    return libero


def _user_config() -> Path:
    folder = os.environ.get("LIBERO_CONFIG_PATH") or Path.home() / ".libero"
    return Path(folder) / "config.yaml"


def _make_config() -> str:
    root = tasks.libero_folder()
    return json.dumps(  # which is YAML too
        {
            "benchmark_root": str(root),
            "bddl_files": str(root / "bddl_files"),
            "init_states": str(root / "init_files"),
            "datasets": str(root.parent / "datasets"),
            "assets": str(root / "assets"),
        }
    )


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


class _NoFileHandler(logging.FileHandler):
    """A file handler that opens and writes nothing."""

    def __init__(self, *_: Any, **__: Any):
        logging.Handler.__init__(self)
        self.stream = None  # pyright: ignore[reportAttributeAccessIssue]  what `close` looks at

    def emit(self, record: logging.LogRecord) -> None:
        """Do nothing."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep robosuite's advice off the screen, and its log file out of the temporary folder.

    The log file has one fixed name for all users of a machine, so the second one could not import.
    """
    file_handler = logging.FileHandler
    disabled = logging.root.manager.disable
    logging.FileHandler = _NoFileHandler
    logging.disable(max(disabled, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(disabled)
        logging.FileHandler = file_handler
