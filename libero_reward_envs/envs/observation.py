"""Reads LIBERO's observations out of MuJoCo at the moment at which LIBERO reads them."""

import dataclasses
from typing import Any

import mujoco
import numpy as np
import robosuite.utils.transform_utils as transforms


@dataclasses.dataclass(frozen=True)
class StatePart:
    """A named stretch of the flat state vector.

    Args:
        name: LIBERO's name of the observable, or the joint's name with `_qpos`.
        start: First index.
        size: Number of values.
        unit: Unit and frame.
    """

    name: str
    start: int
    size: int
    unit: str

    @property
    def slice(self) -> slice:
        """Where the part stands in the state."""
        return slice(self.start, self.start + self.size)


class ObservationReader:
    """The state observation: robot, then objects and fixtures, then the fixtures' own joints.

    Positions and orientations are those that MuJoCo propagated at the beginning of the substep;
    joint values are the ones after it. That is LIBERO's one-substep lag. Drawers, doors and knobs
    are not among LIBERO's observables, nor are the fixtures' places; without them most kitchen
    tasks could not be solved from the state.
    """

    def __init__(self, env: Any):
        robot = env.robots[0]
        self._data: mujoco.MjData = env.sim.data._data
        self._arm = list(robot._ref_joint_pos_indexes)
        self._arm_vel = list(robot._ref_joint_vel_indexes)
        self._fingers = list(robot._ref_gripper_joint_pos_indexes)
        self._fingers_vel = list(robot._ref_gripper_joint_vel_indexes)
        self._eef_site = robot.eef_site_id
        self._eef_body = env.sim.model.body_name2id(robot.robot_model.eef_name)
        fixtures = [name for name in env.fixtures_dict if name in env.obj_body_id]
        self.object_names = [*env.objects_dict, *fixtures]
        self._bodies = [env.obj_body_id[name] for name in self.object_names]
        self._joints = self._articulated_joints(env)
        self.layout = self._make_layout()
        self.size = self.layout[-1].start + self.layout[-1].size
        self.values = np.zeros(self.size)

    def read(self) -> None:
        """Read everything now into `values`, float64."""
        data, out = self._data, self.values
        eef_pos = data.site_xpos[self._eef_site]
        eef_quat = data.xquat[self._eef_body][[1, 2, 3, 0]]
        out[0:7] = data.qpos[self._arm]
        out[7:14] = data.qvel[self._arm_vel]
        out[14:17] = eef_pos
        out[17:21] = eef_quat
        out[21:23] = data.qpos[self._fingers]
        out[23:25] = data.qvel[self._fingers_vel]
        end = 25 + 10 * len(self._bodies)
        objects = out[25:end].reshape(-1, 10)
        positions = data.xpos[self._bodies]
        objects[:, 0:3] = positions
        objects[:, 3:7] = data.xquat[self._bodies][:, [1, 2, 3, 0]]
        # LIBERO's poses pass through single precision here, and its numbers are what we match.
        rotation = np.float64(np.float32(transforms.quat2mat(eef_quat)))
        objects[:, 7:10] = np.float32(positions) @ rotation - np.float32(eef_pos) @ rotation
        out[end:] = data.qpos[self._joints]

    @staticmethod
    def _articulated_joints(env: Any) -> dict[int, str]:
        """Addresses and names of the hinges and slides of objects and fixtures."""
        model = env.sim.model._model
        robot_joints = set(env.robots[0].robot_joints) | set(env.robots[0].gripper_joints)
        one_value = (int(mujoco.mjtJoint.mjJNT_SLIDE), int(mujoco.mjtJoint.mjJNT_HINGE))
        joints = {}
        for index in range(model.njnt):
            name = model.joint(index).name
            if model.jnt_type[index] in one_value and name not in robot_joints:
                joints[int(model.jnt_qposadr[index])] = name
        return joints

    def _make_layout(self) -> tuple[StatePart, ...]:
        sizes = [
            ("robot0_joint_pos", 7, "rad"),
            ("robot0_joint_vel", 7, "rad/s"),
            ("robot0_eef_pos", 3, "m, world"),
            ("robot0_eef_quat", 4, "xyzw, world"),
            ("robot0_gripper_qpos", 2, "m"),
            ("robot0_gripper_qvel", 2, "m/s"),
        ]
        for name in self.object_names:
            sizes += [
                (f"{name}_pos", 3, "m, world"),
                (f"{name}_quat", 4, "xyzw, world"),
                (f"{name}_to_robot0_eef_pos", 3, "m, gripper"),
            ]
        sizes += [(f"{name}_qpos", 1, "rad or m") for name in self._joints.values()]
        self._joints = list(self._joints)
        parts, start = [], 0
        for name, size, unit in sizes:
            parts.append(StatePart(name, start, size, unit))
            start += size
        return tuple(parts)
