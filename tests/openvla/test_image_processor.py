import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from libero_reward_envs.openvla.image_processor import PREPROCESSOR_FILE, OpenVLAImageProcessor
from libero_reward_envs.openvla.picture_resizer import PictureResizer

GOLDEN = Path(__file__).parents[1] / "data" / "openvla_processing"
RELEASED = GOLDEN / "as_released"
NAMES = [
    "noise_224x224",
    "smooth_224x224",
    "smooth_256x256",
    "noise_128x128",
    "smooth_480x640",
    "smooth_97x61",
]
IMAGENET, HALF = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.5,) * 3, (0.5,) * 3)


def load(kind: str, prefix: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"image_{kind}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file if key.startswith(prefix)}


def make_processor(*towers: Any, strategy: str = "resize-naive") -> OpenVLAImageProcessor:
    means, stds = zip(*towers, strict=True)
    return OpenVLAImageProcessor(PictureResizer.make(strategy, (224, 224), means[-1]), means, stds)


@pytest.fixture(scope="module")
def released() -> OpenVLAImageProcessor:
    return OpenVLAImageProcessor.from_pretrained(RELEASED)


@pytest.mark.parametrize("variant", ["released", "fp32stats"])
@pytest.mark.parametrize("name", NAMES)
def test_pixel_values_are_the_golden_ones_bit_for_bit(
    released: OpenVLAImageProcessor, name: str, variant: str
) -> None:
    image, expected = load("inputs", name)[name], load("expected", name)
    processor = released if variant == "released" else make_processor(IMAGENET, HALF)
    np.testing.assert_array_equal(processor.resize(image)[0], expected[f"{name}/resized_uint8"])
    made = processor(image)
    assert made.dtype == torch.float32
    values = made[0].numpy()
    prefix = f"{name}/{variant}"
    np.testing.assert_array_equal(values[:, ::4, ::4], expected[f"{prefix}/pixel_values_stride4"])
    sums = values.sum(axis=(1, 2), dtype=np.float64)
    np.testing.assert_allclose(sums, expected[f"{prefix}/channel_sums"], atol=1e-6)
    squares = np.square(values, dtype=np.float64).sum(axis=(1, 2))
    np.testing.assert_allclose(squares, expected[f"{prefix}/channel_sqsums"], rtol=1e-12)
    if f"{prefix}/pixel_values_full" in expected:
        np.testing.assert_array_equal(made, expected[f"{prefix}/pixel_values_full"])


@pytest.mark.parametrize("strategy", ["letterbox", "resize-crop"])
@pytest.mark.parametrize("name", ["smooth_480x640", "smooth_97x61"])
def test_other_strategies_give_the_golden_values(name: str, strategy: str) -> None:
    processor = make_processor(HALF, strategy=strategy)
    values = processor(load("inputs", name)[name])[0, :, ::4, ::4]
    expected = load("expected", name)[f"{name}/siglip_{strategy}/pixel_values_stride4"]
    np.testing.assert_array_equal(values, expected)


def test_the_statistics_applied_are_those_rounded_to_bfloat16(
    released: OpenVLAImageProcessor,
) -> None:
    assert released.means[0] == [0.484375, 0.455078125, 0.40625]
    assert released.stds[0] == [0.228515625, 0.2236328125, 0.224609375]


def test_batches_pictures_and_single_images_are_alike(released: OpenVLAImageProcessor) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 48, 3), np.uint8)
    batch = released(images)
    assert batch.shape == (3, 6, 224, 224)
    for given in (list(images), [Image.fromarray(image) for image in images], iter(images)):
        assert torch.equal(released(given), batch)  # pyright: ignore[reportArgumentType]
    assert torch.equal(released(images[1]), batch[1:2])
    assert torch.equal(released(Image.fromarray(images[1])), batch[1:2])


def test_images_of_different_sizes_go_together(released: OpenVLAImageProcessor) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((224, 224), (50, 80))]
    made = released(images)
    for image, row in zip(images, made, strict=True):
        assert torch.equal(released(image)[0], row)


def test_grey_and_transparent_pictures_become_coloured(released: OpenVLAImageProcessor) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (30, 30), np.uint8)
    picture = Image.fromarray(grey)
    expected = released(np.repeat(grey[:, :, None], 3, axis=2))
    for mode in ("L", "RGBA", "LA"):
        assert torch.equal(released(picture.convert(mode)), expected)


def test_views_lie_behind_each_other(released: OpenVLAImageProcessor) -> None:
    views = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32, 3), np.uint8)
    made = released(views[0], views[1])
    assert made.shape == (3, 12, 224, 224)
    assert torch.equal(made[:, :6], released(views[0]))
    assert torch.equal(made[:, 6:], released(views[1]))
    with pytest.raises(ValueError, match=r"\[3, 2\]"):
        released(views[0], views[1][:2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_precisions_are_rounded_from_float32(
    released: OpenVLAImageProcessor, dtype: torch.dtype
) -> None:
    image = load("inputs", "noise_128x128")["noise_128x128"]
    assert torch.equal(released(image, dtype=dtype), released(image).to(dtype))


@pytest.mark.gpu
def test_the_gpu_gives_the_same_bits(released: OpenVLAImageProcessor) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    image = load("inputs", "noise_128x128")["noise_128x128"]
    for dtype in (torch.float32, torch.bfloat16):
        made = released(image, device="cuda", dtype=dtype)
        assert made.is_cuda
        assert torch.equal(made.cpu(), released(image, dtype=dtype))


def test_flipped_and_read_only_images_are_taken(released: OpenVLAImageProcessor) -> None:
    images = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8)
    expected = released(images[:, ::-1].copy())
    assert torch.equal(released(images[:, ::-1]), expected)
    images.flags.writeable = False
    assert torch.equal(released(images[:, ::-1]), expected)


def test_images_are_never_changed(released: OpenVLAImageProcessor) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    before = images.copy()
    released(images).mul_(0)
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 8, 8, 3), np.float32), "uint8, from 0 to 255, got float32"),
        (np.zeros((1, 3, 8, 8), np.uint8), "transpose"),
        (np.zeros((8, 8), np.uint8), r"\(n, H, W, 3\)"),
        ([np.zeros((8, 8, 3))], "float64"),
        ([], "at least one"),
        (["photo.png"], "got str"),
    ],
)
def test_other_things_than_images_are_refused(
    released: OpenVLAImageProcessor, images: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        released(images)


def test_a_saved_configuration_is_the_one_that_was_read(
    released: OpenVLAImageProcessor, tmp_path: Path
) -> None:
    released.save_pretrained(tmp_path / "new")
    saved = json.loads((tmp_path / "new" / PREPROCESSOR_FILE).read_text())
    assert saved == json.loads((RELEASED / PREPROCESSOR_FILE).read_text())


@pytest.mark.parametrize("strategy", ["resize-naive", "letterbox", "resize-crop"])
def test_one_that_was_made_survives_saving(tmp_path: Path, strategy: str) -> None:
    processor = make_processor(IMAGENET, HALF, strategy=strategy)
    processor.save_pretrained(tmp_path)
    again = OpenVLAImageProcessor.from_pretrained(tmp_path)
    stored = json.loads((RELEASED / PREPROCESSOR_FILE).read_text())
    assert again.as_json().keys() == stored.keys()  # those that the original reads
    assert again.as_json()["image_resize_strategy"] == strategy
    image = load("inputs", "smooth_97x61")["smooth_97x61"]
    assert torch.equal(again(image), processor(image))


def test_what_the_file_leaves_out_follows_from_the_rest(tmp_path: Path) -> None:
    stored = json.loads((RELEASED / PREPROCESSOR_FILE).read_text())
    short = {key: value for key, value in stored.items() if not key.startswith("tvf_")}
    image = load("inputs", "smooth_97x61")["smooth_97x61"]
    found = OpenVLAImageProcessor.from_json(short)(image)
    assert torch.equal(found, make_processor(IMAGENET, HALF)(image))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_resize_strategy": "squash"}, "resize-naive, letterbox, resize-crop"),
        ({"input_sizes": None}, "cannot be used"),
        ({"input_sizes": []}, "resize alike"),
        ({"input_sizes": [[3, 224, 224], [3, 336, 336]]}, "cannot be used|resize alike"),
        ({"input_sizes": [[1, 224, 224]] * 2}, "3 channels"),
        ({"tvf_crop_params": [{"output_size": [10**9, 10**9]}] * 2}, "1 to 4096"),
        ({"tvf_normalize_params": [{"mean": [0, 0, 0], "std": [1, 1, 1]}]}, "2 towers"),
        ({"tvf_normalize_params": [{"mean": [0, 0, 0], "std": [1, 0, 1]}] * 2}, "positive"),
        ({"tvf_normalize_params": [{"mean": [0, 0], "std": [1, 1]}] * 2}, "three finite"),
        ({"tvf_resize_params": [{"size": 224, "interpolation": 77}] * 2}, "77"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    stored = json.loads((RELEASED / PREPROCESSOR_FILE).read_text())
    if "input_sizes" in changes:
        stored.pop("tvf_crop_params")
        stored.pop("tvf_resize_params")
    (tmp_path / PREPROCESSOR_FILE).write_text(json.dumps({**stored, **changes}))
    with pytest.raises(ValueError, match=message):
        OpenVLAImageProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "cannot be used"), ("[]", "list"), ("{}", "no entry 'input_sizes'")],
)
def test_damaged_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / PREPROCESSOR_FILE).write_text(content)
    with pytest.raises(ValueError, match=message):
        OpenVLAImageProcessor.from_pretrained(tmp_path)


def test_a_missing_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=PREPROCESSOR_FILE):
        OpenVLAImageProcessor.from_pretrained(tmp_path)
