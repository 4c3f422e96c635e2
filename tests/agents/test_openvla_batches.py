import numpy as np
import pytest
import torch

from libero_reward_envs.agents.openvla_batches import (
    PolicyBatches,
    RawPolicyDataset,
    iterate_holdout,
    order_rows,
)
from libero_reward_envs.agents.openvla_examples import OpenVLAExamples
from libero_reward_envs.agents.openvla_rows import RowEncoder
from libero_reward_envs.data.episodes import EpisodeDataset
from libero_reward_envs.data.orientations import turn_images
from libero_reward_envs.openvla.action_normalization import normalize, unnormalize
from libero_reward_envs.openvla.checkpoint_files import find_checkpoint
from libero_reward_envs.openvla.image_augmentation import ImageAugmentation
from libero_reward_envs.openvla.loading import read_config
from libero_reward_envs.openvla.policy_images import prepare_policy_images
from libero_reward_envs.openvla.processor import OpenVLAProcessor
from libero_reward_envs.openvla.prompt import make_prompt
from tests.agents.openvla_makers import MODEL, make_dataset, make_episode


@pytest.fixture(scope="module")
def processor() -> OpenVLAProcessor:
    return OpenVLAProcessor.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def two_instructions() -> OpenVLAExamples:
    return OpenVLAExamples(
        EpisodeDataset(
            [
                make_episode(0, 5, instruction="pick up the bowl"),
                make_episode(1, 7, instruction="put the alphabet soup in the basket"),
                make_episode(2, 6, instruction="pick up the bowl"),
            ]
        ),
        ("primary", "wrist"),
    )


@pytest.fixture(scope="module")
def encoder(processor: OpenVLAProcessor, two_instructions: OpenVLAExamples) -> RowEncoder:
    config = read_config(find_checkpoint(MODEL))
    return RowEncoder.make(config, processor, two_instructions.compute_statistics())


def test_rows_are_prompt_actions_and_end_padded_on_the_right(
    processor: OpenVLAProcessor, two_instructions: OpenVLAExamples, encoder: RowEncoder
) -> None:
    batch = next(iter(iterate_holdout(two_instructions, encoder, batch_size=18)))
    for row, (episode, position) in enumerate(batch["rows"].tolist()):
        (prompt,) = processor.encode([make_prompt(two_instructions.instructions[episode])])
        assert prompt[-1] == 29871
        action = two_instructions.actions[episode][position]
        answer = [*encoder.encode_actions(action).tolist(), 2]
        n = len(prompt) + len(answer)
        assert batch["input_ids"][row, :n].tolist() == prompt + answer
        assert (batch["input_ids"][row, n:] == 32000).all()
        assert batch["attention_mask"][row].tolist() == [
            i < n for i in range(len(batch["labels"][row]))
        ]
        assert batch["labels"][row, : len(prompt)].eq(-100).all()
        assert batch["labels"][row, len(prompt) : n].tolist() == answer
        assert batch["labels"][row, n:].eq(-100).all()
    assert len(set(batch["attention_mask"].sum(dim=1).tolist())) == 2


def test_actions_come_back_from_their_tokens(
    two_instructions: OpenVLAExamples, encoder: RowEncoder
) -> None:
    actions, statistics = two_instructions.actions[1], encoder.statistics
    ids = encoder.encode_actions(actions)
    assert set(ids[:, -1]) == {31872, 31744}  # the gripper, 0 and 1
    back = unnormalize(encoder.tokenizer.decode(ids), statistics)
    clipped = unnormalize(normalize(actions, statistics), statistics)
    spread = (statistics.q99 - statistics.q01) / 2 + 1e-9
    assert (np.abs(back - clipped)[:, :6] <= spread[:6] / 250).all()


def test_several_cameras_stand_behind_each_other_and_take_the_released_path(
    processor: OpenVLAProcessor, two_instructions: OpenVLAExamples, encoder: RowEncoder
) -> None:
    batch = next(iter(iterate_holdout(two_instructions, encoder, batch_size=2)))
    assert batch["pixel_values"].shape == (2, 12, 112, 112)
    views = two_instructions.read_images(0)
    expected = [
        processor.image_processor(
            prepare_policy_images(view[:2], orientation="upright", size=(112, 112), crop_area=None)
        )
        for view in views
    ]
    assert torch.equal(batch["pixel_values"], torch.cat(expected, dim=1))


def test_a_pass_has_every_step_once_in_an_order_by_seed_and_epoch() -> None:
    lengths = np.array([3, 5, 0, 4, 6])
    orders = [
        order_rows(lengths, seed=s, epoch=e, buffer_steps=7) for s, e in ((0, 0), (0, 1), (1, 0))
    ]
    listed = [list(zip(o.episodes.tolist(), o.positions.tolist(), strict=True)) for o in orders]
    whole = [(e, p) for e, n in enumerate(lengths) for p in range(n)]
    assert all(sorted(rows) == whole for rows in listed)
    assert len({tuple(rows) for rows in listed}) == 3
    again = order_rows(lengths, seed=0, epoch=1, buffer_steps=7)
    np.testing.assert_array_equal(again.episodes, orders[1].episodes)
    assert listed[0] != whole
    for episode, last in enumerate(orders[0].last_use):
        rows = np.flatnonzero(orders[0].episodes == episode)
        assert last == (rows[-1] if len(rows) else -1)


def test_few_episodes_lie_in_memory_at_once() -> None:
    lengths = np.full(50, 10)
    order = order_rows(lengths, buffer_steps=40)
    first_use = [int(np.flatnonzero(order.episodes == e)[0]) for e in range(50)]
    held = [
        sum(f <= row <= last for f, last in zip(first_use, order.last_use, strict=True))
        for row in range(500)
    ]
    assert max(held) <= 5


def _collect(examples: OpenVLAExamples, encoder: RowEncoder, start: int = 0, **options: int):
    return list(PolicyBatches(examples, encoder, seed=3, **options).iterate(1, start))


def test_a_pass_goes_on_at_any_update_and_with_any_number_of_processes(
    two_instructions: OpenVLAExamples, processor: OpenVLAProcessor, encoder: RowEncoder
) -> None:
    changing = RowEncoder(
        processor, encoder.tokenizer, encoder.statistics, augmentation=ImageAugmentation()
    )
    whole = _collect(two_instructions, changing, batch_size=4)
    assert len(whole) == 18 // 4
    again = _collect(two_instructions, changing, batch_size=4, n_threads=1)
    later = _collect(two_instructions, changing, 2, batch_size=4)
    shared = [
        _collect(two_instructions, changing, batch_size=2, n_processes=2, process=k) for k in (0, 1)
    ]
    for index, batch in enumerate(whole):
        for name in ("rows", "input_ids", "labels", "pixel_values"):
            assert torch.equal(batch[name], again[index][name])
            if index >= 2:
                assert torch.equal(batch[name], later[index - 2][name])
        for name in ("rows", "pixel_values"):
            halves = [shared[k][index][name] for k in (0, 1)]
            assert torch.equal(batch[name], torch.cat(halves))
    halved = _collect(two_instructions, changing, batch_size=2, accumulate=2)
    pixels = torch.cat([halved[0]["pixel_values"], halved[1]["pixel_values"]])
    assert torch.equal(pixels, whole[0]["pixel_values"])
    assert not torch.equal(
        whole[0]["pixel_values"],
        _collect(two_instructions, encoder, batch_size=4)[0]["pixel_values"],
    )


def test_held_out_steps_are_cut_to_their_middle_and_spread_over_all(
    two_instructions: OpenVLAExamples, processor: OpenVLAProcessor, encoder: RowEncoder
) -> None:
    changing = RowEncoder(
        processor, encoder.tokenizer, encoder.statistics, augmentation=ImageAugmentation()
    )
    (batch,) = iterate_holdout(two_instructions, changing, batch_size=8, max_rows=3)
    assert batch["rows"].tolist() == [[0, 0], [1, 3], [2, 5]]
    view = two_instructions.read_images(1)[0][3:4]
    cropped = prepare_policy_images(view, orientation="upright", size=(112, 112), crop_area=0.9)
    assert torch.equal(batch["pixel_values"][1, :6], processor.image_processor(cropped)[0])


def test_plain_batches_give_the_same_rows(
    two_instructions: OpenVLAExamples, encoder: RowEncoder
) -> None:
    raw = RawPolicyDataset(two_instructions)
    assert len(raw) == 18
    item = raw[6]
    assert item["image"].shape == (6, 32, 32)
    assert item["image"].dtype == torch.uint8
    assert item["raw_lang"] == "put the alphabet soup in the basket"
    first = turn_images(two_instructions.read_images(1)[0][1], "upright", "vla180")
    np.testing.assert_array_equal(item["image"][:3].movedim(0, -1).numpy(), first)
    loader = torch.utils.data.DataLoader(raw, batch_size=4)
    (expected, *_) = iterate_holdout(two_instructions, encoder, batch_size=4)
    found = encoder.encode_raw(next(iter(loader)))
    for name in ("input_ids", "labels", "pixel_values"):
        assert torch.equal(found[name], expected[name])
    alone = encoder.encode_raw({**item, "image": item["image"].float() / 255})
    assert alone["pixel_values"].shape == (1, 12, 112, 112)
    with pytest.raises(ValueError, match=r"`action` \(1, 7\)"):
        encoder.encode_raw({**item, "action": torch.zeros(3)})
    with pytest.raises(ValueError, match="raw_lang"):
        encoder.encode_raw({"image": item["image"], "action": item["action"]})


def test_too_few_steps_and_too_long_rows_are_refused(
    two_instructions: OpenVLAExamples, processor: OpenVLAProcessor, encoder: RowEncoder
) -> None:
    with pytest.raises(ValueError, match="Expected at least the 32 steps"):
        PolicyBatches(two_instructions, encoder, batch_size=16, accumulate=2)
    short = RowEncoder(processor, encoder.tokenizer, encoder.statistics, max_length=20)
    with pytest.raises(ValueError, match="at most 20 tokens"):
        next(iter(iterate_holdout(two_instructions, short, batch_size=2)))


def test_the_bins_of_a_gripper_less_robot() -> None:
    examples = OpenVLAExamples(make_dataset(2, action_dim=3, task="x/y", gripper_closed_at=None))
    assert examples.compute_statistics().mask.tolist() == [True] * 3
