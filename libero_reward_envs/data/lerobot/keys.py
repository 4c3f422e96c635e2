"""Which columns of a LeRobotDataset are observations, and what they are called here."""

from collections.abc import Mapping
from dataclasses import dataclass

from libero_reward_envs.data.lerobot.info import PLAIN_DTYPES, Feature

ROLES = ("action", "reward", "done", "truncated", "success")
# The published LIBERO sets, as the package's envs call their cameras.
_KNOWN_IMAGES = {
    "image": "agentview_image",
    "image2": "robot0_eye_in_hand_image",
    "wrist_image": "robot0_eye_in_hand_image",
}
_KNOWN_ROLES = {
    "action": "action",
    "actions": "action",
    **{f"next.{name}": name for name in ROLES[1:]},
    **{name: name for name in ROLES[1:]},
}
_PLAIN_OBSERVATIONS = ("state", "joint_state")  # of sets that leave "observation." out
_PREFIX = "observation."
_IMAGES_PREFIX = "observation.images."


@dataclass(frozen=True)
class FeatureMap:
    """What the columns of a set are.

    Attributes:
        observations: The feature of each observation, by the observation's key.
        roles: The feature of each of `ROLES` that the set has.
    """

    observations: dict[str, Feature]
    roles: dict[str, Feature]


def map_features(
    features: Mapping[str, Feature], key_map: Mapping[str, str | None] | None = None
) -> FeatureMap:
    """Say what each feature is.

    `observation.images.image` is "agentview_image"; `.image2` and `.wrist_image` are
    "robot0_eye_in_hand_image"; other images `observation.images.<name>` are "<name>_image", or
    "<name>" where that ends in "image" by itself; other `observation.<name>` are "<name>". `action`
    is the action, `next.reward`, `next.done`, `next.truncated` and `next.success` are those. The
    same names without "observation.images.", "observation." or "next." are understood, and
    `actions`. Features of other names, or of types that are not numbers, are left out.

    Args:
        features: The features by name.
        key_map: What else a feature is: a key of an observation, one of `ROLES`, or None to leave
            it out.

    Raises:
        ValueError: If there is no action or no observation, two features would get one key, or
            `key_map` names one that is not there.
    """
    key_map = dict(key_map or {})
    if unknown := [name for name in key_map if name not in features]:
        raise ValueError(
            f"`key_map` names {', '.join(map(repr, unknown))}. The set has: {', '.join(features)}."
        )
    found = FeatureMap({}, {})
    for name, feature in features.items():
        is_said = name in key_map
        target = key_map[name] if is_said else _name_target(feature)
        if target is not None:
            _add(found, target, feature, is_said)
    if "action" not in found.roles or not found.observations:
        raise ValueError(
            f"Expected an action and observations in a set with {', '.join(features)}. Name them "
            "by `key_map`, for example {'my_action': 'action', 'my_camera': 'agentview_image'}."
        )
    return found


def name_feature(key: str, is_image: bool) -> str:
    """Return what an observation is called in a set; the reverse of what `map_features` does.

    Example:
        >>> name_feature("robot0_eye_in_hand_image", True), name_feature("state", False)
        ('observation.images.image2', 'observation.state')
    """
    plain = key.replace("/", ".")  # which a name cannot hold
    if is_image:
        for short, known in _KNOWN_IMAGES.items():
            if key == known:
                return _IMAGES_PREFIX + short
        return _IMAGES_PREFIX + plain.removesuffix("_image")
    # The lerobot package takes all that is called "image" for pictures of three channels.
    return _PREFIX + plain.replace("image", "picture")


def _add(found: FeatureMap, target: str, feature: Feature, is_said: bool) -> None:
    name = feature.name
    if not feature.is_image and feature.dtype not in PLAIN_DTYPES:
        if is_said:
            raise ValueError(f"Feature {name!r} is of type {feature.dtype!r}, not numbers.")
        return
    group = found.roles if target in ROLES else found.observations
    if target not in group:
        group[target] = feature
    elif target in found.observations or is_said:
        raise ValueError(
            f"{group[target].name!r} and {name!r} would both be {target!r}. Say which is what by "
            f"`key_map`, for example key_map={{{name!r}: None}} to leave one out."
        )
    # Else it is "reward" beside "next.reward", of which the first is taken.


def _name_target(feature: Feature) -> str | None:
    name = feature.name
    if name in _KNOWN_ROLES:
        return _KNOWN_ROLES[name]
    short = name.removeprefix(_IMAGES_PREFIX)
    if feature.is_image:
        short = short.removeprefix(_PREFIX)
        return _KNOWN_IMAGES.get(short, short if short.endswith("image") else f"{short}_image")
    if name in _PLAIN_OBSERVATIONS or name.startswith(_PREFIX):
        return name.removeprefix(_PREFIX)
    return None
