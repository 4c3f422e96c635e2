"""robosuite's operational-space controller for the Panda, without its overhead and bit for bit.

Contact amplifies a difference in the last bit of a torque into centimetres within a hundred steps.
So the arithmetic here is robosuite's (`controllers/osc.py`, `OSC_POSE` in its default settings), in
its order, with its compiled functions and its array layouts; what is left out is the bookkeeping
between: three forward passes a substep, look-ups by name, copies, and buffers that nothing reads.
"""

# MuJoCo's names come from a compiled module, which type checkers cannot see into.
# pyright: reportAttributeAccessIssue=false

from typing import Any, NamedTuple

import mujoco
import numba
import numpy as np
from robosuite.utils.control_utils import (
    nullspace_torques,
    opspace_matrices,
    orientation_error,
    set_goal_orientation,
)

ARM = slice(0, 7)  # the robot is the first thing in every LIBERO model
GRIPPER_SPEED = 0.01  # of the finger command, a substep; robosuite's PandaGripper


class ArmState(NamedTuple):
    """What the controller reads of the arm at one moment, in robosuite's array layouts."""

    eef_pos: np.ndarray  # (3,) m, world
    eef_mat: np.ndarray  # (3, 3)
    eef_vel: np.ndarray  # (3,) m/s
    eef_ang_vel: np.ndarray  # (3,) rad/s
    joint_pos: np.ndarray  # (7,) rad
    joint_vel: np.ndarray  # (7,) rad/s
    jac_pos: np.ndarray  # (3, 7), Fortran order
    jac_ori: np.ndarray  # (3, 7), Fortran order
    jac: np.ndarray  # (6, 7), Fortran order
    mass: np.ndarray  # (7, 7) kg m^2, Fortran order


class OscController:
    """Turns an action in [-1, 1]^7 into joint torques and finger commands, one substep at a time.

    Args:
        model: The compiled model.
        data: Its state.
        reference: robosuite's `OperationalSpaceController`, just made for this model. Its first
            state is kept: robosuite computes the first goal and the first torque after a reset from
            the pose in which the controller was made, not from the initial state set afterwards.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, reference: Any):
        self._model, self._data = model, data
        self._site = model.site(reference.eef_name).id
        self._qvel, self._bias, self._ctrl = data.qvel, data.qfrc_bias[ARM], data.ctrl
        self._sparse_mass = data.qM
        self._full_jac_pos = np.zeros((3, model.nv))
        self._full_jac_ori = np.zeros((3, model.nv))
        self._full_mass = np.zeros((model.nv, model.nv))
        self._first_state = _state_of(reference)
        # Views into MuJoCo's memory, and arrays that `_update` fills.
        self._live_state = ArmState(
            eef_pos=data.site_xpos[self._site],
            eef_mat=data.site_xmat[self._site].reshape(3, 3),
            eef_vel=np.zeros(3),
            eef_ang_vel=np.zeros(3),
            joint_pos=data.qpos[ARM],
            joint_vel=data.qvel[ARM],
            jac_pos=np.zeros((3, 7), order="F"),
            jac_ori=np.zeros((3, 7), order="F"),
            jac=np.zeros((6, 7), order="F"),
            mass=np.zeros((7, 7), order="F"),
        )
        self._kp, self._kd = reference.kp, reference.kd
        self._scale = np.asarray(reference.output_max, np.float64)
        self._rest_joints = np.array(reference.initial_joint)
        self._torque_low, self._torque_high = model.actuator_ctrlrange[ARM].T.copy()
        self._wrench = np.zeros(6)
        finger_range = model.actuator_ctrlrange[ARM.stop :]
        self._finger_centre = (0.5 * (finger_range[:, 1] + finger_range[:, 0])).tolist()
        self._finger_span = (0.5 * (finger_range[:, 1] - finger_range[:, 0])).tolist()
        self.reset()

    def reset(self) -> None:
        """Forget the goal, as a newly made robosuite controller does."""
        self._state = self._first_state
        self._state_is_fresh = True
        self._goal_pos = self._state.eef_pos
        self._goal_mat = self._state.eef_mat
        self._fingers = [0.0, 0.0]

    @property
    def has_run(self) -> bool:
        """Whether a substep was taken since the reset."""
        return not self._state_is_fresh

    def set_goal(self, action: np.ndarray) -> None:
        """Take a new action, shape (7,) float64: displacement, rotation vector, gripper."""
        self._update()
        delta = np.clip(action[:6], -1.0, 1.0) * self._scale
        if delta[3:].any():  # a zero rotation keeps the old goal orientation
            self._goal_mat = set_goal_orientation(delta[3:], self._state.eef_mat)
        self._goal_pos = self._state.eef_pos + delta[:3]
        change = GRIPPER_SPEED * float(np.sign(action[6]))
        self._finger_change = (-change, change)

    def run(self) -> None:
        """Write the torques and finger commands of this substep into `data.ctrl`."""
        self._update()
        force, torque, lambda_pos, lambda_ori, null_torques = _task_space(
            self._goal_pos, self._goal_mat, self._kp, self._kd, self._rest_joints, *self._state
        )
        # robosuite multiplies these with NumPy, whose BLAS need not round as numba's does.
        wrench = self._wrench
        wrench[:3] = np.dot(lambda_pos, force)
        wrench[3:] = np.dot(lambda_ori, torque)
        torques = np.dot(self._state.jac.T, wrench)
        torques += self._bias
        torques += null_torques
        np.maximum(torques, self._torque_low, out=torques)
        np.minimum(torques, self._torque_high, out=torques)
        self._ctrl[ARM] = torques
        for finger in (0, 1):
            command = self._fingers[finger] + self._finger_change[finger]
            self._fingers[finger] = command = min(max(command, -1.0), 1.0)
            self._ctrl[ARM.stop + finger] = (
                self._finger_centre[finger] + self._finger_span[finger] * command
            )
        self._state_is_fresh = False

    def _update(self) -> None:
        """Read the arm, at most once a substep; after a reset, not before the second one."""
        if self._state_is_fresh:
            return
        model, data, state = self._model, self._data, self._live_state
        jac_pos, jac_ori = self._full_jac_pos, self._full_jac_ori
        mujoco.mj_jacSite(model, data, jac_pos, jac_ori, self._site)
        mujoco.mj_fullM(model, self._full_mass, self._sparse_mass)
        np.dot(jac_pos, self._qvel, out=state.eef_vel)
        np.dot(jac_ori, self._qvel, out=state.eef_ang_vel)
        state.jac_pos[:] = state.jac[:3] = jac_pos[:, ARM]
        state.jac_ori[:] = state.jac[3:] = jac_ori[:, ARM]
        state.mass[:] = self._full_mass[ARM, ARM]
        self._state = state
        self._state_is_fresh = True


@numba.njit(cache=True)
def _task_space(
    goal_pos,
    goal_mat,
    kp,
    kd,
    rest_joints,
    eef_pos,
    eef_mat,
    eef_vel,
    eef_ang_vel,
    joint_pos,
    joint_vel,
    jac_pos,
    jac_ori,
    jac,
    mass,
):
    """One compiled call for what robosuite does in four: error terms, inertias, null space."""
    force = (goal_pos - eef_pos) * kp[:3] - eef_vel * kd[:3]
    turn = orientation_error(goal_mat, eef_mat)
    torque = turn * kp[3:] - eef_ang_vel * kd[3:]
    _, lambda_pos, lambda_ori, nullspace = opspace_matrices(mass, jac, jac_pos, jac_ori)
    null_torques = nullspace_torques(mass, nullspace, rest_joints, joint_pos, joint_vel)
    return force, torque, lambda_pos, lambda_ori, null_torques


def _state_of(reference: Any) -> ArmState:
    return ArmState(
        eef_pos=reference.ee_pos,
        eef_mat=reference.ee_ori_mat,
        eef_vel=reference.ee_pos_vel,
        eef_ang_vel=reference.ee_ori_vel,
        joint_pos=reference.joint_pos,
        joint_vel=reference.joint_vel,
        jac_pos=reference.J_pos,
        jac_ori=reference.J_ori,
        jac=reference.J_full,
        mass=reference.mass_matrix,
    )
