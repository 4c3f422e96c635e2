"""Fixtures that all tests share: asset sets, and simulators that stay started."""

import gc
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from libero_reward_envs.envs.assets import ASSETS_VARIABLE, CACHE_VARIABLE, AssetSet, builtin_folder
from libero_reward_envs.envs.libero_env import LiberoEnv

REPOSITORY = Path(__file__).parents[1]
_TESTS_PER_COLLECTION = 20
_STARTED_ENVS = 5
_n_tests = 0


def _shared_folder() -> Path:
    named = os.environ.get("LIBERO_REWARD_ENVS_SHARED")
    return Path(named) if named else REPOSITORY.parent / "shared"


@pytest.fixture(autouse=True)
def _no_simulators_left() -> Iterator[None]:
    """Let go of simulators of former tests that stand in cycles.

    Each reserves more than a gigabyte, which it does not use; where that adds up to more than the
    machine has, no process can be forked.
    """
    yield
    global _n_tests
    _n_tests += 1
    if _n_tests % _TESTS_PER_COLLECTION == 0:
        gc.collect()


@pytest.fixture(scope="session", autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is read from or written to the home folder; subprocesses inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.delenv(ASSETS_VARIABLE, raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _heed_ctrl_c() -> None:
    """Let subprocesses take a SIGINT; they inherit that jobs in the background ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def official_assets() -> AssetSet:
    """LIBERO's own object models; the tests that need them are skipped where they are not."""
    folder = _shared_folder() / "libero_assets"
    if not folder.is_dir():
        pytest.skip("LIBERO's own object models are not here")
    return AssetSet("folder", folder)


@pytest.fixture(scope="session")
def builtin_assets(_private_cache: None) -> AssetSet:
    return AssetSet("builtin", builtin_folder())


@pytest.fixture(scope="session")
def make_env(builtin_assets: AssetSet) -> Iterator[Callable[..., LiberoEnv]]:
    """Environments on the built-in assets, one for each set of keywords, reset by who uses them.

    The last few stay started; a simulator reserves more than a gigabyte, see above.
    """
    envs: dict[str, LiberoEnv] = {}

    def make(suite: str = "libero_object", task: int | str = 0, **keywords: object) -> LiberoEnv:
        key = repr((suite, task, sorted(keywords.items())))
        if key not in envs:
            envs[key] = LiberoEnv(suite, task, assets="builtin", **keywords)  # pyright: ignore
        envs[key] = envs.pop(key)  # the last one is the one used last
        while len(envs) > _STARTED_ENVS:
            envs.pop(next(iter(envs))).close()
        return envs[key]

    yield make
    for env in envs.values():
        env.close()
