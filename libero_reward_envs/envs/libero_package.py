"""Imports LIBERO without its side effects: its question, its files in the home folder, messages."""

import contextlib
import importlib
import logging
import os
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
    """Import `libero.libero` and its environments; nothing again if they are there."""
    import yaml

    with (
        tempfile.TemporaryDirectory(prefix="libero-config-") as folder,
        contextlib.ExitStack() as stack,
    ):
        root = str(tasks.libero_folder())
        paths = {
            "benchmark_root": root,
            "bddl_files": f"{root}/bddl_files",
            "init_states": f"{root}/init_files",
            "datasets": f"{root}/../datasets",
            "assets": f"{root}/assets",
        }
        Path(folder, "config.yaml").write_text(yaml.dump(paths), encoding="utf-8")
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


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep robosuite's advice off the screen, and its log file out of the temporary folder.

    The log file has one fixed name for all users of a machine, so the second one could not import.
    """
    file_handler = logging.FileHandler
    logging.FileHandler = lambda *_, **__: logging.NullHandler()  # pyright: ignore
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        logging.FileHandler = file_handler
