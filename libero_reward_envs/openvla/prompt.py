"""The question in which an instruction reaches OpenVLA."""

# Kim et al. (2024), "OpenVLA", sec. 3.2; "v01" is that of the earlier checkpoints, built on Vicuna.
_PROMPTS = {
    "v02": "In: What action should the robot take to {}?\nOut:",
    "v01": (
        "A chat between a curious user and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the user's questions. USER: What action "
        "should the robot take to {}? ASSISTANT:"
    ),
}
PROMPT_VERSIONS = tuple(_PROMPTS)
_MAX_CHARACTERS = 8192  # four for each of 2048 tokens, the longest sequence of the language model


def make_prompt(instruction: str, version: str = "v02") -> str:
    r"""Return the prompt for an instruction, which is lower-cased.

    White space around the instruction is dropped, unlike in the original, whose training data has
    none. The prompt ends with a colon; the processor adds the lone space that follows in training.

    Args:
        instruction: What to do, such as "pick up the bowl".
        version: "v02"; "v01" for checkpoints whose name contains "openvla-v01".

    Raises:
        TypeError: If the instruction is no text.
        ValueError: If it is empty or longer than any prompt, or the version is unknown.

    Example:
        >>> make_prompt("Pick up the bowl")
        'In: What action should the robot take to pick up the bowl?\nOut:'
    """
    if version not in _PROMPTS:
        raise ValueError(
            f"Unknown version {version!r}. Choose one of: {', '.join(PROMPT_VERSIONS)}."
        )
    if not isinstance(instruction, str):
        raise TypeError(f"Expected an instruction as text, got {type(instruction).__name__}.")
    stripped = instruction.strip()
    if not stripped:
        raise ValueError(
            f"Expected an instruction such as 'pick up the bowl', got {instruction!r}."
        )
    if len(stripped) > _MAX_CHARACTERS:
        raise ValueError(
            f"Expected an instruction of at most {_MAX_CHARACTERS} characters, got "
            f"{len(stripped)} that begin with {stripped[:40]!r}. Shorten it."
        )
    return _PROMPTS[version].format(stripped.lower())


def is_prompt(text: str) -> bool:
    """Whether a text is a prompt of `make_prompt` rather than an instruction."""
    parts = [prompt.split("{}") for prompt in _PROMPTS.values()]
    return any(text.startswith(before) and text.endswith(after) for before, after in parts)
