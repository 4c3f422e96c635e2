"""Draws a simulator's cameras as LIBERO draws them, in the process that asks first."""

# MuJoCo's names come from a compiled module, which type checkers cannot see into.
# pyright: reportAttributeAccessIssue=false

import atexit
import functools
import importlib
import os
import weakref
from typing import Any

import mujoco
import numpy as np

from libero_reward_envs.envs import rendering

_gl_process: int | None = None  # the process in which GL was first used
_MAX_GEOMS = 1000  # robosuite's limit; beyond it, geoms are left out of the picture


class CameraRenderer:
    """Off-screen pictures of one model.

    The GL context is made at the first picture and belongs to that process: contexts do not
    survive a fork. Each picture makes its context current, so that several environments can live
    in one process, which robosuite's own renderer does not do.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData):
        self._model, self._data = model, data
        self._handles: dict[str, Any] = {}
        self._free = weakref.finalize(self, _free_handles, self._handles)
        self._free.atexit = False
        self._size = (0, 0)
        self._scene: Any = None
        self._option = mujoco.MjvOption()
        self._option.geomgroup[0] = 0  # collision shapes
        self._option.geomgroup[1] = 1  # what is meant to be seen
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._perturb = mujoco.MjvPerturb()

    def camera_names(self) -> list[str]:
        """Names of the model's cameras."""
        return [self._model.camera(index).name for index in range(self._model.ncam)]

    def render(self, camera: str, height: int, width: int) -> np.ndarray:
        """One picture, shape (height, width, 3), uint8, first row at the bottom (`raw`).

        Raises:
            ValueError: If the model has no such camera.
            RuntimeError: If there is no working GL backend.
        """
        try:
            self._camera.fixedcamid = self._model.camera(camera).id
        except KeyError:
            known = ", ".join(self.camera_names())
            raise ValueError(f"Unknown camera {camera!r}. Choose among: {known}.") from None
        self._make_current(height, width)
        mujoco.mjv_updateScene(
            self._model,
            self._data,
            self._option,
            self._perturb,
            self._camera,
            mujoco.mjtCatBit.mjCAT_ALL,
            self._scene,
        )
        viewport = mujoco.MjrRect(0, 0, width, height)
        mujoco.mjr_render(viewport, self._scene, self._handles["context"])
        image = np.empty((height, width, 3), np.uint8)
        mujoco.mjr_readPixels(image, None, viewport, self._handles["context"])
        return image

    def close(self) -> None:
        """Free the GL context."""
        self._free()

    def _make_current(self, height: int, width: int) -> None:
        global _gl_process
        handles = self._handles
        if _gl_process not in (None, os.getpid()):
            raise RuntimeError(
                "Pictures were drawn before this process was forked, and GL does not survive a "
                "fork: drawing here would hang. Start the workers first, or with another method, "
                "as in `gym.make_vec(..., vector_kwargs={'context': 'forkserver'})`."
            )
        if "gl" not in handles:
            _gl_process = os.getpid()
            rendering.keep_triton_ahead_of_software_gl()
            try:
                handles["gl"] = _gl_context_class()(width, height)
            except Exception as error:
                raise RuntimeError(f"{rendering.no_gl_message()} ({error})") from error
            # MuJoCo shuts the GL library down at exit; what is registered later runs earlier.
            handles["at_exit"] = atexit.register(functools.partial(_free_handles, handles))
            self._scene = mujoco.MjvScene(self._model, maxgeom=_MAX_GEOMS)
        handles["gl"].make_current()
        if height > self._size[0] or width > self._size[1]:
            if "context" in handles:
                handles.pop("context").free()
            self._size = (max(height, self._size[0], 480), max(width, self._size[1], 640))
            self._model.vis.global_.offheight, self._model.vis.global_.offwidth = self._size
            handles["context"] = mujoco.MjrContext(
                self._model, mujoco.mjtFontScale.mjFONTSCALE_150.value
            )
            mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, handles["context"])


def _gl_context_class() -> Any:
    """MuJoCo's context class for the backend that was chosen.

    `mujoco.GLContext` is the one of when MuJoCo was imported, which may have been before that.
    """
    backend = os.environ.get("MUJOCO_GL", "").lower()
    if backend in ("egl", "osmesa"):
        return importlib.import_module(f"mujoco.{backend}").GLContext
    return mujoco.GLContext


def _free_handles(handles: dict[str, Any]) -> None:
    if "at_exit" in handles:
        atexit.unregister(handles.pop("at_exit"))
    if "context" in handles:
        handles["gl"].make_current()
        handles.pop("context").free()
    if "gl" in handles:
        handles.pop("gl").free()
