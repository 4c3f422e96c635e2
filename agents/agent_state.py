"""What a Stable-Baselines3 agent is made of while it trains, as arrays and JSON values."""

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.vec_env import VecNormalize

from libero_reward_envs.random_states import pack_random_state, unpack_random_state

# DQN has the last two; it syncs its target by the one and explores by the other.
_COUNTERS = ("num_timesteps", "_n_updates", "_episode_num", "_n_calls", "exploration_rate")


def describe_agent(agent: BaseAlgorithm) -> dict[str, Any]:
    """Return what must be the same when a state is taken and when it is set, as JSON holds it."""
    buffer = getattr(agent, "replay_buffer", None)
    normalize = agent.get_vec_normalize_env()
    return {
        "algorithm": type(agent).__name__,
        "policy": type(agent.policy).__name__,
        "observation_space": str(agent.observation_space),
        "action_space": str(agent.action_space),
        "replay_buffer": type(buffer).__name__ if buffer is not None else None,
        "replay_buffer rows": buffer.buffer_size if buffer is not None else None,
        "replay_buffer envs": buffer.n_envs if buffer is not None else None,
        "VecNormalize": sorted(_running_statistics(normalize)) if normalize is not None else None,
        "networks": {
            name: list(tensor.shape) for name, tensor in agent.policy.state_dict().items()
        },
        "optimizers": {
            name: type(part).__name__
            for name, part in _trained_parts(agent).items()
            if isinstance(part, torch.optim.Optimizer)
        },
        "other tensors": agent._get_torch_save_params()[1],
    }


def get_agent_state(agent: BaseAlgorithm) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return networks, optimisers, entropy coefficient, counters, statistics: all but the buffer.

    Returns:
        Arrays by name, which are copies, and values as JSON holds them.
    """
    arrays: dict[str, np.ndarray] = {}
    values: dict[str, Any] = {
        "counters": {name: getattr(agent, name) for name in _COUNTERS if hasattr(agent, name)},
        "optimizers": {},
        "action_space_random_state": pack_random_state(agent.action_space.np_random),
    }
    for name, part in _trained_parts(agent).items():
        if isinstance(part, torch.optim.Optimizer):
            tensors, values["optimizers"][name] = _get_optimizer_state(part)
        else:
            tensors = part.state_dict()
        arrays |= {f"{name}/{key}": _to_array(tensor) for key, tensor in tensors.items()}
    for name in agent._get_torch_save_params()[1]:
        arrays[f"tensor/{name}"] = _to_array(recursive_getattr(agent, name))
    arrays |= _get_episode_statistics(agent)
    normalize = agent.get_vec_normalize_env()
    if normalize is not None:
        for name, statistics in _running_statistics(normalize).items():
            for kind in ("mean", "var", "count"):
                arrays[f"normalize/{name}/{kind}"] = np.array(getattr(statistics, kind))
    return arrays, values


def set_agent_state(
    agent: BaseAlgorithm, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]
) -> None:
    """Bring an agent to the state that `get_agent_state` returned of one with its description."""
    parts: dict[str, Any] = {}
    for name, part in _trained_parts(agent).items():
        tensors = {key: torch.tensor(array) for key, array in _select(arrays, name).items()}
        if isinstance(part, torch.optim.Optimizer):
            parts[name] = _make_optimizer_state(tensors, values["optimizers"][name])
        else:
            parts[name] = tensors
    agent.set_parameters(parts, exact_match=True)
    with torch.no_grad():
        for name, array in _select(arrays, "tensor").items():
            recursive_getattr(agent, name).copy_(torch.tensor(array))
    for name, value in values["counters"].items():
        setattr(agent, name, value)
    _set_episode_statistics(agent, arrays)
    normalize = agent.get_vec_normalize_env()
    if normalize is not None:
        for name, statistics in _running_statistics(normalize).items():
            found = _select(arrays, f"normalize/{name}")
            statistics.mean, statistics.var = found["mean"].copy(), found["var"].copy()
            statistics.count = found["count"].item()
    rng = unpack_random_state(values["action_space_random_state"])
    if rng is not None:
        agent.action_space.np_random.bit_generator.state = rng.bit_generator.state


def _trained_parts(agent: BaseAlgorithm) -> dict[str, Any]:
    """Return the modules and optimisers that SB3 itself would save, by name."""
    names = agent._get_torch_save_params()[0]
    found = {name: recursive_getattr(agent, name) for name in names}
    return {name: getattr(part, "_orig_mod", part) for name, part in found.items()}


def _get_optimizer_state(
    optimizer: torch.optim.Optimizer,
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors as "<parameter number>/<name>", and the rest as JSON holds it."""
    state = optimizer.state_dict()
    tensors, numbers = {}, {}
    for index, entries in state["state"].items():
        for name, entry in entries.items():
            (tensors if torch.is_tensor(entry) else numbers)[f"{index}/{name}"] = entry
    groups = [{name: _to_json(entry) for name, entry in g.items()} for g in state["param_groups"]]
    return tensors, {"groups": groups, "numbers": numbers}


def _make_optimizer_state(
    tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what `Optimizer.load_state_dict` takes, from what `_get_optimizer_state` returned."""
    state: dict[int, dict[str, Any]] = {}
    for path, entry in {**tensors, **values["numbers"]}.items():
        index, _, name = path.partition("/")
        state.setdefault(int(index), {})[name] = entry
    groups = [
        {
            name: tuple(entry) if isinstance(entry, list) and name != "params" else entry
            for name, entry in group.items()
        }
        for group in values["groups"]
    ]
    return {"state": state, "param_groups": groups}


def _get_episode_statistics(agent: BaseAlgorithm) -> dict[str, np.ndarray]:
    """Return the window of finished episodes behind `rollout/ep_rew_mean`: numbers alone."""
    infos, successes = list(agent.ep_info_buffer or ()), list(agent.ep_success_buffer or ())
    found = {f"ep_info/{name}": np.array([info.get(name) for info in infos]) for name in "rlt"}
    found["ep_success"] = np.array(successes)
    return {name: array for name, array in found.items() if array.dtype.kind in "biuf"}


def _set_episode_statistics(agent: BaseAlgorithm, arrays: Mapping[str, np.ndarray]) -> None:
    window = agent._stats_window_size
    columns = {name: array.tolist() for name, array in _select(arrays, "ep_info").items()}
    rows = zip(*columns.values(), strict=True)
    agent.ep_info_buffer = deque((dict(zip(columns, row, strict=True)) for row in rows), window)
    agent.ep_success_buffer = deque(arrays.get("ep_success", np.empty(0)).tolist(), window)


def _running_statistics(normalize: VecNormalize) -> dict[str, Any]:
    """Return the running means and variances that SB3 keeps, by name."""
    found: dict[str, Any] = {"return": normalize.ret_rms}
    if normalize.norm_obs:
        rms: Any = normalize.obs_rms
        parts = rms if isinstance(rms, dict) else {"": rms}
        found |= {f"observation/{key}": part for key, part in parts.items()}
    return found


def _select(arrays: Mapping[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    start = part + "/"
    return {n.removeprefix(start): array for n, array in arrays.items() if n.startswith(start)}


def _to_array(tensor: torch.Tensor) -> np.ndarray:
    return np.array(tensor.detach().cpu().numpy())


def _to_json(entry: Any) -> Any:
    if torch.is_tensor(entry):
        return entry.item()  # a learning rate may be one
    return list(entry) if isinstance(entry, tuple) else entry
