"""What surrounds `agent.learn`: a progress bar, log files, and envs that are closed in any case."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import CSVOutputFormat, Logger, TensorBoardOutputFormat

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv


class ShowProgress(BaseCallback):
    """A progress bar that goes on where the training does.

    Args:
        total: Env steps at the end, those before a checkpoint included.
    """

    def __init__(self, total: int) -> None:
        super().__init__()
        self._total = total
        self._bar: Any = None

    def _on_training_start(self) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            total=self._total,
            initial=self.num_timesteps,
            desc="train",
            unit="step",
            mininterval=1 if sys.stderr.isatty() else 30,  # seconds; a log file keeps every line
        )

    def _on_step(self) -> bool:
        self._bar.update(self.num_timesteps - self._bar.n)
        return True

    def _on_training_end(self) -> None:
        self._bar.close()


@contextmanager
def logging_into(agent: "BaseAlgorithm", folder: Path, done: int) -> Iterator[None]:
    """Let SB3 write CSV and TensorBoard files; each start has a CSV file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"progress_from_{done}.csv" if done else "progress.csv"
    formats = [CSVOutputFormat(str(folder / name)), TensorBoardOutputFormat(str(folder))]
    logger = Logger(str(folder), formats)
    agent.set_logger(logger)
    try:
        yield
    finally:
        logger.close()


@contextmanager
def closing(venv: "VecEnv") -> Iterator[None]:
    """Close the envs at the end; after Ctrl-C their processes may have ended by themselves."""
    try:
        yield
    except BaseException:
        with suppress(EOFError, OSError):
            venv.close()
        raise
    venv.close()


@contextmanager
def heed_ended_processes() -> Iterator[None]:
    """Say in words that the process of an env ended."""
    try:
        yield
    except (EOFError, BrokenPipeError, ConnectionResetError) as error:
        raise RuntimeError(
            "The process of an environment ended; what it said stands above. With "
            "`env.subprocesses=False` the environments run in this process."
        ) from error
