"""Which feature of an RLDS set plays which part in an episode."""

from collections.abc import Mapping

from libero_reward_envs.data.rlds.features import STEPS, Leaf

OBSERVATION = f"{STEPS}/observation"
INSTRUCTION = f"{STEPS}/language_instruction"
EPISODE = "episode_metadata"
# What `RldsWriter` adds, which readers of the usual layout pass over.
METADATA, TASK, SUCCESS = f"{EPISODE}/metadata", f"{EPISODE}/task", f"{EPISODE}/success"
FINAL = f"{EPISODE}/final_observation"
_INSTRUCTIONS = (
    INSTRUCTION,
    f"{OBSERVATION}/natural_language_instruction",
    f"{OBSERVATION}/language_instruction",
    f"{EPISODE}/language_instruction",
    "language_instruction",
)


def find_observations(leaves: Mapping[str, Leaf], key_map: Mapping[str, str]) -> dict[str, Leaf]:
    """Return the observations by our names; texts are none.

    Raises:
        ValueError: If there are none, or two of one name.
    """
    found: dict[str, Leaf] = {}
    for path, leaf in leaves.items():
        if leaf.kind == "text" or not (path == OBSERVATION or path.startswith(f"{OBSERVATION}/")):
            continue
        name = "state" if path == OBSERVATION else path.removeprefix(f"{OBSERVATION}/")
        name = key_map.get(name, name)
        if name in found:
            raise ValueError(f"two observations are to be named {name!r}. Change `key_map`")
        found[name] = leaf
    if not found:
        raise ValueError(f"expected observations under `{OBSERVATION}`, got {', '.join(leaves)}")
    return found


def find_action(leaves: Mapping[str, Leaf], action_key: str) -> Leaf:
    """Return the actions.

    Raises:
        ValueError: If there are none under this key, or they are not of shape (a,) a step.
    """
    path = f"{STEPS}/{action_key}"
    leaf = leaves.get(path)
    if leaf is None:
        below = [name for name in leaves if name.startswith(f"{path}/")]
        listed = ", ".join(name.removeprefix(f"{STEPS}/") for name in below or leaves)
        raise ValueError(
            f"no actions `{path}`. Name one of these by `action_key`: {listed}, or write the set "
            "anew with one array of actions"
        )
    if leaf.kind != "tensor" or len(leaf.shape) + (leaf.length is not None) > 1:
        shape = f" of shape {leaf.shape}" if leaf.kind == "tensor" else ""
        raise ValueError(f"expected actions (a,) under `{path}`, got {leaf.kind}{shape}")
    return leaf


def find_instruction(leaves: Mapping[str, Leaf], instruction_key: str | None) -> str:
    """Return the path of the instruction, "" if there is none.

    Raises:
        ValueError: If the key names no text.
    """
    if instruction_key is None:
        texts = (path for path in _INSTRUCTIONS if path in leaves and leaves[path].kind == "text")
        return next(texts, "")
    path = f"{STEPS}/{instruction_key}" if instruction_key else ""
    path = instruction_key if instruction_key in leaves else path
    if path and (path not in leaves or leaves[path].kind != "text"):
        known = ", ".join(path for path, leaf in leaves.items() if leaf.kind == "text")
        raise ValueError(
            f"no text {instruction_key!r}. `instruction_key` can be: {known or 'none'}"
        )
    return path
