import json
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from libero_reward_envs.checkpoints import read_newest_checkpoint, write_checkpoint
from libero_reward_envs.random_states import (
    get_global_random_state,
    pack_random_state,
    set_global_random_state,
    unpack_random_state,
)


def draw(rng: np.random.Generator) -> list[float]:
    return [*rng.random(3), *rng.integers(9, size=3, dtype=np.int32), *rng.standard_normal(3)]


@pytest.mark.parametrize("name", ["MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"])
def test_a_generator_goes_on_where_it_stood(name):
    rng = np.random.Generator(getattr(np.random, name)(7))
    rng.integers(9, size=3, dtype=np.int32)  # leaves half of a 64-bit number for later
    copy = unpack_random_state(json.loads(json.dumps(pack_random_state(rng))))
    assert copy is not None
    assert type(copy.bit_generator).__name__ == name
    assert draw(copy) == draw(rng)


def test_no_generator_is_none():
    assert pack_random_state(None) is None
    assert unpack_random_state(None) is None


@pytest.mark.parametrize(
    "packed",
    [
        {},
        {"bit_generator": "seed"},
        {"bit_generator": "PCG64"},
        {
            "bit_generator": "PCG64",
            "state": {"state": -1, "inc": 0},
            "has_uint32": 0,
            "uinteger": 0,
        },
        {"bit_generator": "MT19937", "state": {"key": {"dtype": "object", "array": []}, "pos": 0}},
    ],
)
def test_what_is_no_state_is_refused(packed):
    with pytest.raises(ValueError, match="Expected the state of"):
        unpack_random_state(packed)


def draw_globally() -> tuple:
    return (
        random.random(),
        random.gauss(0, 1),
        np.random.normal(),  # noqa: NPY002
        np.random.randint(2**31, size=700).tolist(),  # noqa: NPY002
        torch.randn(3).tolist(),
    )


def test_the_global_generators_go_on_where_they_stood(tmp_path):
    draw_globally()  # leaves a second Gaussian number for later in Python's and NumPy's
    arrays, values = get_global_random_state()
    write_checkpoint(tmp_path, 1, arrays, values)
    expected = draw_globally()
    assert draw_globally() != expected
    checkpoint = read_newest_checkpoint(tmp_path)
    assert checkpoint is not None
    set_global_random_state(checkpoint.arrays, checkpoint.values)
    assert draw_globally() == expected


def test_the_state_taken_is_a_copy():
    arrays, values = get_global_random_state()
    before = json.dumps(values), arrays["torch"].tobytes()
    draw_globally()
    assert before == (json.dumps(values), arrays["torch"].tobytes())


def test_a_state_that_is_none_is_refused():
    arrays, values = get_global_random_state()
    with pytest.raises(ValueError, match="global random state"):
        set_global_random_state(arrays, {**values, "numpy": {"bit_generator": "PCG64"}})
    with pytest.raises(ValueError, match="global random state"):
        set_global_random_state(arrays, {"numpy": values["numpy"]})


def test_torch_is_not_loaded_for_its_state():
    code = (
        "import sys\n"
        "from libero_reward_envs.random_states import *\n"
        "import libero_reward_envs.checkpoints\n"
        "arrays, values = get_global_random_state()\n"
        "set_global_random_state(arrays, values)\n"
        "assert not arrays and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_generator_of_the_gpu_goes_on_where_it_stood():
    torch.zeros(1, device="cuda")
    arrays, values = get_global_random_state()
    expected = torch.randn(3, device="cuda").tolist()
    set_global_random_state(arrays, values)
    assert torch.randn(3, device="cuda").tolist() == expected
