"""A check that a model looks at its images and reads its instructions.

A model that does neither still gives actions, plausible ones: on transformers 4.50 and later the
original OpenVLA code skipped the image and gave the middle of the action range, without an error.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from libero_reward_envs.openvla.generation import LONE_SPACE_ID, generate_tokens

if TYPE_CHECKING:
    from libero_reward_envs.openvla.feature_extractor import OpenVLAFeatureExtractor
    from libero_reward_envs.openvla.modeling import OpenVLAForActionPrediction

# Share of the logits' range by which they must differ. Rounding within a batch moves them by less
# than 1e-5 of it in float32 and by about 1e-2 in bfloat16, but the same way in all rows.
_LEAST_DIFFERENCE = 1e-4
_DAMAGED = (
    "The weights are damaged, or too large for float16. Load the checkpoint again, in bfloat16 or "
    "float32."
)
_N_TOKENS = 2  # the first is read from the prompt, the second from the cache
_N_WORDS = 12


class SeenDifferences(NamedTuple):
    """By how much the logits differ, as a share of their range, at each generated token.

    Attributes:
        image: Between two images.
        instruction: Between two instructions.
    """

    image: tuple[float, ...]
    instruction: tuple[float, ...]


def check_sees_inputs(model: "OpenVLAForActionPrediction", *, n_views: int = 1) -> SeenDifferences:
    """Check that two images, and two instructions, give different outputs.

    Both are random. Outputs are compared at the first token and at the second, which sees image and
    instruction through the cache alone. Takes as long as one action for a batch of three.

    Args:
        model: The model, on the device where it is to be used.
        n_views: Views that it is to be used with; each must make a difference.

    Raises:
        RuntimeError: If an input makes no difference, or outputs are not finite.
    """
    text, vision = model.config.text_config, model.vision_backbone
    draw = torch.Generator().manual_seed(0)
    shape = (2, vision.n_channels * n_views, vision.image_size, vision.image_size)
    images = torch.randn(shape, generator=draw)
    words = torch.randint(3, min(text.vocab_size, 30000), (2, _N_WORDS), generator=draw)
    ends = torch.tensor([[text.bos_token_id], [LONE_SPACE_ID]]).expand(2, 2)
    prompts = torch.cat([ends[:1].T, words, ends[1:].T], dim=1)
    # Row 0 is what the others are compared with; 1 has another instruction; then one view changes.
    pixel_values = [images[0], images[0]]
    for view in range(n_views):
        channels = slice(view * vision.n_channels, (view + 1) * vision.n_channels)
        changed = images[0].clone()
        changed[channels] = images[1, channels]
        pixel_values.append(changed)
    scores = generate_tokens(
        model,
        prompts[[0, 1] + [0] * n_views].to(model.device),
        torch.stack(pixel_values).to(model.device),
        _N_TOKENS,
        return_scores=True,
    ).scores
    assert scores is not None
    return _compare(scores.float().cpu())


def check_features_differ(extractor: "OpenVLAFeatureExtractor") -> SeenDifferences:
    """Check that two images, and two instructions, give different features.

    Args:
        extractor: Whose features.

    Returns:
        By how much they differ, as a share of their range.

    Raises:
        RuntimeError: If an input makes no difference, or features are not finite.
    """
    side = extractor.image_size
    images = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), np.uint8)
    vision = extractor.extract_vision([images])
    language, mask = extractor.extract_language(["pick up the bowl", "open the drawer"])
    language = language[:, mask.all(dim=0)]  # beyond, one of them is padding
    shares = []
    for name, features in (("images", vision), ("instructions", language)):
        if not torch.isfinite(features).all():
            raise RuntimeError(
                f"Expected finite features of {name}, got NaN or infinity. {_DAMAGED}"
            )
        first, second = features.float()
        shares.append(_measure(first.flatten(), second.flatten()).item())
        if not shares[-1] > _LEAST_DIFFERENCE:
            raise RuntimeError(_say_blind(name, "features", shares[-1]))
    return SeenDifferences((shares[0],), (shares[1],))


def _measure(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the largest difference as a share of the first one's range, over the last axis."""
    spread = first.amax(dim=-1) - first.amin(dim=-1)
    return (second - first).abs().amax(dim=-1) / spread.clamp_min(1e-30)


def _say_blind(name: str, outputs: str, share: float) -> str:
    return (
        f"Expected different {outputs} for two different {name}, got {outputs} that differ by "
        f"{share:.1e} of their range: the model does not see its {name}. Its actions and features "
        "must not be used; check the versions of torch, transformers and timm, and the checkpoint."
    )


def _compare(scores: torch.Tensor) -> SeenDifferences:
    """Compare row 0 with row 1, another instruction, and with the others, another view each."""
    if not torch.isfinite(scores).all():
        raise RuntimeError(f"Expected finite logits, got NaN or infinity. {_DAMAGED}")
    differences = _measure(scores[0], scores[1:])
    instruction = tuple(differences[0].tolist())
    image = tuple(differences[1:].amin(dim=0).tolist())
    for name, shares in (("images", image), ("instructions", instruction)):
        for token, share in enumerate(shares):
            if not share > _LEAST_DIFFERENCE:
                raise RuntimeError(_say_blind(name, f"logits of token {token}", share))
    return SeenDifferences(image, instruction)
