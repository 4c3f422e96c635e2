"""The 130 LIBERO tasks: suites, names, instructions, step limits and stored initial states."""

import dataclasses
import difflib
import functools
import importlib.util
import json
import re
from pathlib import Path

import numpy as np

SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")

# The limits of the OpenVLA evaluation protocol, in control steps: the longest demonstration of the
# suite, rounded up. LIBERO itself has one limit of 600 for every suite.
STEP_LIMITS = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
CUSTOM_STEP_LIMIT = 600
DEFAULT_SUITE = "libero_object"

INSTALL_COMMAND = "pip install --no-deps robosuite==1.4.0 hf-libero==0.1.4"


@dataclasses.dataclass(frozen=True)
class Task:
    """One LIBERO task.

    Args:
        suite: Name of the suite, or "custom" for a task given as a BDDL file.
        name: LIBERO's name of the task, which is also the stem of its BDDL file.
        index: Position in the suite, as LIBERO counts it; 0 for a custom task.
        bddl_path: The BDDL file of a custom task; None for the tasks that LIBERO ships.
    """

    suite: str
    name: str
    index: int = 0
    bddl_path: str | None = None

    @property
    def id(self) -> str:
        """`suite/name`, which with `-v0` is the id of the task's environment."""
        return f"{self.suite}/{self.name}"

    @property
    def instruction(self) -> str:
        """What the robot is told: LIBERO's `Task.language`, or a custom BDDL file's `:language`."""
        if self.bddl_path is not None:
            text = Path(self.bddl_path).read_text(encoding="utf-8")
            found = re.search(r"\(:language ([^)]*)\)", text)
            return found.group(1).strip() if found else ""
        words = self.name.split("_")
        scene = next((i for i, word in enumerate(words) if word.startswith("SCENE")), -1)
        return " ".join(words[scene + 1 :])

    @property
    def max_episode_steps(self) -> int:
        """Step limit of the suite, in control steps."""
        return STEP_LIMITS.get(self.suite, CUSTOM_STEP_LIMIT)


@functools.cache
def task_names() -> dict[str, tuple[str, ...]]:
    """Names of all tasks by suite, in LIBERO's order."""
    text = (Path(__file__).parent / "tasks.json").read_text(encoding="utf-8")
    return {suite: tuple(names) for suite, names in json.loads(text).items()}


def all_tasks() -> list[Task]:
    """The 130 tasks, suite by suite."""
    return [
        Task(suite, name, index)
        for suite in SUITES
        for index, name in enumerate(task_names()[suite])
    ]


def find_task(suite: str | None = None, task: int | str = 0) -> Task:
    """The task that `suite` and `task` name.

    Args:
        suite: One of `SUITES`. May be left out when `task` is a name that one suite has only, or
            names its suite; an index alone counts in `DEFAULT_SUITE`.
        task: Index in the suite, name, `suite/name`, or the path of a BDDL file.

    Raises:
        ValueError: If there is no such suite or task; the message names the nearest ones.
    """
    if isinstance(task, str) and task.endswith(".bddl"):
        return _task_of_bddl(Path(task))
    if isinstance(task, str) and "/" in task:
        named_suite, task = task.split("/", 1)
        if suite is not None and suite != named_suite:
            raise ValueError(f"`suite` is {suite!r}, but `task` names the suite {named_suite!r}.")
        suite = named_suite
    if isinstance(task, str) and task.endswith("-v0"):
        task = task.removesuffix("-v0")
    if suite is None:
        suite = _suite_of(task)
    if suite not in SUITES:
        raise ValueError(f"Unknown suite {suite!r}. Choose one of: {', '.join(SUITES)}.")
    names = task_names()[suite]
    if isinstance(task, str):
        if task not in names:
            raise ValueError(_unknown_task(task, suite, names))
        return Task(suite, task, names.index(task))
    index = int(task)
    if not 0 <= index < len(names):
        raise ValueError(f"`task` must be in 0..{len(names) - 1} for {suite!r}, got {task}.")
    return Task(suite, names[index], index)


def _suite_of(task: int | str) -> str:
    if not isinstance(task, str):
        return DEFAULT_SUITE
    found = [suite for suite in SUITES if task in task_names()[suite]]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"Task {task!r} is in {' and '.join(found)}; say which with `suite`.")
    every = tuple(name for names in task_names().values() for name in names)
    raise ValueError(_unknown_task(task, "any suite", every))


def _unknown_task(task: str, suite: str, names: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(task, names, n=3, cutoff=0.4)
    hint = "; nearest: " + ", ".join(repr(name) for name in near) if near else ""
    return f"Unknown task {task!r} in {suite}{hint}. `libero_reward_envs.all_tasks()` lists them."


def _task_of_bddl(path: Path) -> Task:
    if not path.is_file():
        raise ValueError(f"Expected a BDDL file at `task={str(path)!r}`, found none.")
    suite = path.parent.name
    if suite in SUITES and path.stem in task_names()[suite]:
        shipped = bddl_file(find_task(suite, path.stem))
        if path.resolve() == shipped.resolve():
            return find_task(suite, path.stem)
    return Task("custom", path.stem, 0, str(path.resolve()))


def libero_folder() -> Path:
    """Folder of the installed `libero.libero` package, found without importing it.

    Raises:
        ImportError: If hf-libero is not installed; the message has the command.
    """
    spec = importlib.util.find_spec("libero")
    for location in (spec.submodule_search_locations or []) if spec else []:
        if (Path(location) / "libero" / "bddl_files").is_dir():
            return Path(location) / "libero"
    raise ImportError(
        "Expected the simulator packages robosuite and hf-libero, found no `libero`. "
        f"Install them with `{INSTALL_COMMAND}` (or `make install` in a checkout)."
    )


def bddl_file(task: Task) -> Path:
    """The BDDL file that defines `task`."""
    if task.bddl_path is not None:
        return Path(task.bddl_path)
    return libero_folder() / "bddl_files" / task.suite / f"{task.name}.bddl"


def load_init_states(task: Task) -> np.ndarray:
    """LIBERO's stored initial states of a task, shape (50, 1 + nq + nv), float64.

    A row is MuJoCo's time, joint positions and joint velocities.

    Raises:
        ValueError: If the task is a BDDL file without stored states, or the file is damaged.
    """
    if task.bddl_path is not None:
        raise ValueError(
            f"Custom task {task.name!r} has no stored initial states. "
            "Make the environment with `init_states='sampled'`."
        )
    path = libero_folder() / "init_files" / task.suite / f"{task.name}.pruned_init"
    return _read_init_states(path)


@functools.lru_cache(maxsize=8)
def _read_init_states(path: Path) -> np.ndarray:
    # The files are NumPy arrays inside torch's archive: these four names rebuild an array of
    # numbers, and the loader refuses everything else.
    import _codecs

    import torch  # here, because nothing else in making an environment needs it

    array_names = [
        (np._core.multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),  # pyright: ignore
        np.ndarray,
        np.dtype,
        type(np.dtype(np.float64)),
        _codecs.encode,
    ]
    try:
        with torch.serialization.safe_globals(array_names):
            states = torch.load(path, weights_only=True)
    except Exception as error:
        raise ValueError(f"Cannot read the initial states in {path}: {error}") from error
    if not (isinstance(states, np.ndarray) and states.dtype == np.float64 and states.ndim == 2):
        raise ValueError(f"Expected a float64 array (states, values) in {path}.")
    states.flags.writeable = False
    return states
