"""Files in the published layouts of LIBERO and robomimic, with small arrays."""

import json

import h5py
import numpy as np

LIBERO_NAME = "KITCHEN_SCENE3_turn_on_the_stove_and_put_the_moka_pot_on_it"
ENV_KWARGS = {
    "robots": ["Panda"],
    "controller_configs": {"type": "OSC_POSE", "control_delta": True},
    "control_freq": 20,
    "camera_heights": 128,
}


def make_arrays(n_steps, seed, size=8):
    """One demonstration as LIBERO's script makes it, with small images."""
    rng = np.random.default_rng(seed)
    ends = np.zeros(n_steps, np.uint8)
    ends[-1] = 1
    arrays = {
        "actions": rng.uniform(-1, 1, (n_steps, 7)),
        "states": rng.normal(size=(n_steps, 23)),
        "robot_states": rng.normal(size=(n_steps, 9)),
        "rewards": ends,
        "dones": ends,
    }
    for key in ("agentview_rgb", "eye_in_hand_rgb"):
        arrays[f"obs/{key}"] = rng.integers(0, 256, (n_steps, size, size, 3), np.uint8)
    widths = {"ee_states": 6, "ee_pos": 3, "ee_ori": 3, "gripper_states": 2, "joint_states": 7}
    for key, width in widths.items():
        arrays[f"obs/{key}"] = rng.normal(size=(n_steps, width))
    return arrays


def write_demos(path, demos, attributes=None, demo_attributes=None):
    """Write arrays by number; strings become attributes of variable length, as in real files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for number, arrays in demos.items():
            demo = data.create_group(f"demo_{number}")
            for name, array in arrays.items():
                demo.create_dataset(name, data=array)
            if demo_attributes is not None:
                demo.attrs.update({"num_samples": len(arrays["actions"]), **demo_attributes})
        data.attrs.update(attributes or {})
    return path


def write_libero(path, demos, **changes):
    attributes = {
        "env_name": "Libero_Kitchen_Tabletop_Manipulation",
        "problem_info": json.dumps({"language_instruction": "Turn on the stove"}),
        "macros_image_convention": "opengl",
        "bddl_file_name": f"chiliocosm/bddl_files/libero_10/{LIBERO_NAME}.bddl",
        "bddl_file_content": "(define (problem ...))" * 2000,
        "env_args": json.dumps({"type": 1, "env_kwargs": ENV_KWARGS}),
        "num_demos": len(demos),
        "total": 1,
        **changes,
    }
    text = "<mujoco>" * 20000
    return write_demos(path, demos, attributes, {"model_file": text, "init_state": np.zeros(23)})


def write_robomimic(path, demos, **changes):
    env_args = {"env_name": "Lift", "type": 1, "env_kwargs": ENV_KWARGS}
    attributes = {"total": 1, "env_args": json.dumps(env_args, indent=4), **changes}
    return write_demos(path, demos, attributes, {"model_file": "<mujoco/>"})


def make_robomimic_arrays(n_steps, seed, *, next_obs=True):
    rng = np.random.default_rng(seed)
    arrays = {
        "actions": rng.uniform(-1, 1, (n_steps, 7)),
        "rewards": np.eye(n_steps)[-1],
        "dones": np.eye(n_steps)[-1].astype(np.int64),
    }
    whole = {
        "robot0_eef_pos": rng.normal(size=(n_steps + 1, 3)),
        "agentview_image": rng.integers(0, 256, (n_steps + 1, 6, 6, 3), np.uint8),
    }
    for key, value in whole.items():
        arrays[f"obs/{key}"] = value[:-1]
        if next_obs:
            arrays[f"next_obs/{key}"] = value[1:]
    return arrays
