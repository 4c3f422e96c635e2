import pytest

from libero_reward_envs.envs.tasks import all_tasks
from libero_reward_envs.openvla.prompt import make_prompt
from libero_reward_envs.openvla.tiny_tokenizer import make_tiny_tokenizer

# As recorded by others with Llama 2's own tokenizer; the lone space that the processor adds aside.
RECORDED = {
    "pick up the black bowl between the plate and the ramekin and place it on the plate": (
        "1 512 29901 1724 3158 881 278 19964 2125 304 5839 701 278 4628 12580 29880 1546 278 15284 "
        "322 278 364 420 9089 322 2058 372 373 278 15284 29973 13 3744 29901"
    ),
    "put both the alphabet soup and the tomato sauce in the basket": (
        "1 512 29901 1724 3158 881 278 19964 2125 304 1925 1716 278 22968 22300 322 278 6454 1219 "
        "12507 346 297 278 25972 29973 13 3744 29901"
    ),
}


@pytest.mark.parametrize("instruction", list(RECORDED))
def test_recorded_prompts_have_llama_s_own_ids(instruction: str) -> None:
    ids = make_tiny_tokenizer().encode(make_prompt(instruction)).ids
    assert ids == [int(word) for word in RECORDED[instruction].split()]


def test_the_vocabulary_is_laid_out_as_llama_s() -> None:
    tokenizer = make_tiny_tokenizer()
    assert tokenizer.get_vocab_size(with_added_tokens=False) == 32000
    assert tokenizer.get_vocab_size() == 32001
    layout = {"<unk>": 0, "<s>": 1, "</s>": 2, "<0x0A>": 13, "\u2581": 29871, ":": 29901}
    assert {token: tokenizer.token_to_id(token) for token in layout} == layout
    assert tokenizer.token_to_id("<PAD>") == 32000
    assert sorted(tokenizer.get_vocab().values()) == list(range(32001))


def test_every_instruction_of_libero_comes_back_in_few_tokens() -> None:
    tokenizer = make_tiny_tokenizer()
    lengths = []
    for task in all_tasks():
        prompt = make_prompt(task.instruction)
        encoded = tokenizer.encode(prompt)
        assert tokenizer.decode(encoded.ids) == prompt
        assert 0 not in encoded.ids
        lengths.append(len(encoded.ids) / len(prompt.split()))
    assert max(lengths) < 2.2


@pytest.mark.parametrize(
    "text",
    ["Straße 7 \U0001f600", "two  spaces", "tabs\tand\nlines", "<s> [1234] </s>x", "r\u2581b"],
)
def test_any_text_is_tokenized_without_the_unknown_token(text: str) -> None:
    tokenizer = make_tiny_tokenizer()
    ids = tokenizer.encode(text).ids
    assert 0 not in ids
    expected = text.replace("<s>", "").replace("</s>", "").replace("\u2581", " ").split()
    assert tokenizer.decode(ids).split() == expected
