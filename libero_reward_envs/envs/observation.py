"""Reads LIBERO's observations out of MuJoCo at the moment at which LIBERO reads them."""

# MuJoCo's names come from a compiled module, which type checkers cannot see into.
# pyright: reportAttributeAccessIssue=false

from typing import Any

import mujoco
import numpy as np
import robosuite.utils.transform_utils as transforms

from libero_reward_envs.envs.scene import OBJECT_SIZE, ROBOT_SIZE, Scene

_XYZW = [1, 2, 3, 0]  # MuJoCo's quaternions begin with the real part, LIBERO's end with it


class ObservationReader:
    """The state observation, laid out as `Scene.state_layout` says.

    Positions and orientations are those that MuJoCo propagated at the beginning of the substep;
    joint values are the ones after it. That is LIBERO's one-substep lag. Drawers, doors and knobs
    are not among LIBERO's observables, nor are the fixtures' places; without them most kitchen
    tasks could not be solved from the state.

    Args:
        env: LIBERO's environment, with its simulation running.
        scene: What is in it.

    Raises:
        RuntimeError: If the model does not hold what the scene says.
    """

    def __init__(self, env: Any, scene: Scene):
        robot = env.robots[0]
        model, self._data = env.sim.model._model, env.sim.data._data
        self._arm = list(robot._ref_joint_pos_indexes)
        self._arm_vel = list(robot._ref_joint_vel_indexes)
        self._fingers = list(robot._ref_gripper_joint_pos_indexes)
        self._fingers_vel = list(robot._ref_gripper_joint_vel_indexes)
        self._eef_site = robot.eef_site_id
        self._eef_body = env.sim.model.body_name2id(robot.robot_model.eef_name)
        self._bodies = [env.obj_body_id[name] for name in scene.names]
        self._joints = [int(model.joint(name).qposadr[0]) for name in scene.joint_names]
        robot_joints = len(self._arm) + len(self._fingers)
        one_valued = [int(mujoco.mjtJoint.mjJNT_SLIDE), int(mujoco.mjtJoint.mjJNT_HINGE)]
        if np.isin(model.jnt_type, one_valued).sum() != robot_joints + len(self._joints):
            raise RuntimeError(
                f"Expected the articulated joints {scene.joint_names}, but the model has others. "
                "The task uses an articulated category that this package does not know."
            )
        self.values = np.zeros(ROBOT_SIZE + OBJECT_SIZE * len(self._bodies) + len(self._joints))

    def read(self) -> None:
        """Read everything now into `values`, float64."""
        data, out = self._data, self.values
        eef_pos = data.site_xpos[self._eef_site]
        eef_quat = data.xquat[self._eef_body][_XYZW]
        robot = (
            data.qpos[self._arm],
            data.qvel[self._arm_vel],
            eef_pos,
            eef_quat,
            data.qpos[self._fingers],
            data.qvel[self._fingers_vel],
        )
        np.concatenate(robot, out=out[:ROBOT_SIZE])
        end = ROBOT_SIZE + OBJECT_SIZE * len(self._bodies)
        objects = out[ROBOT_SIZE:end].reshape(-1, OBJECT_SIZE)
        positions = data.xpos[self._bodies]
        objects[:, 0:3] = positions
        objects[:, 3:7] = data.xquat[self._bodies][:, _XYZW]
        # LIBERO's poses pass through single precision here, and its numbers are what we match.
        rotation = transforms.quat2mat(eef_quat).astype(np.float32).astype(np.float64)
        single = positions.astype(np.float32), eef_pos.astype(np.float32)
        objects[:, 7:10] = single[0] @ rotation - single[1] @ rotation
        out[end:] = data.qpos[self._joints]
