"""The one place where environments and wrappers are stacked."""

from libero_reward_envs.factory.classifier_env import choose_images, make_classifier_env
from libero_reward_envs.factory.openvla_env import make_openvla_env
from libero_reward_envs.factory.rrd_env import PRETRAINED_FOLDER, find_pretrained, make_rrd_env
from libero_reward_envs.factory.vec_env import make_vec_env

__all__ = [
    "PRETRAINED_FOLDER",
    "choose_images",
    "find_pretrained",
    "make_classifier_env",
    "make_openvla_env",
    "make_rrd_env",
    "make_vec_env",
]
