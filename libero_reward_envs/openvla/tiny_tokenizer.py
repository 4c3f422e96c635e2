"""A tokenizer for the tiny OpenVLA: laid out as Llama 2's, with the words of LIBERO."""

import string

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE

VOCAB_SIZE = 32000
BOS_ID, EOS_ID, PAD_ID = 1, 2, 32000
BOS, EOS, UNKNOWN, PAD = "<s>", "</s>", "<unk>", "<PAD>"
_SPACE = "\u2581"
_FIRST_BYTE_ID = 3  # of 256, so that the newline, which has no piece, is 13
_FIRST_CHARACTER_ID = 29871

# The pieces of OpenVLA's prompt and of two of LIBERO's instructions have Llama 2's own ids, as
# recorded in public logs of OpenVLA. All other ids are made up.
_RECORDED_WORDS = {
    "In": 512, "What": 1724, "action": 3158, "should": 881, "the": 278, "robot": 19964,
    "take": 2125, "to": 304, "pick": 5839, "up": 701, "black": 4628, "bow": 12580,
    "between": 1546, "plate": 15284, "and": 322, "r": 364, "place": 2058, "it": 372, "on": 373,
    "put": 1925, "both": 1716, "alphabet": 22968, "soup": 22300, "tom": 6454, "sau": 12507,
    "in": 297, "basket": 25972,
}  # fmt: skip
_RECORDED_PARTS = {"Out": 3744, "ame": 420, "kin": 9089, "ato": 1219, "ce": 346}
_RECORDED_CHARACTERS = {_SPACE: 29871, "l": 29880, ":": 29901, "?": 29973}
# LIBERO's other words, less those that Llama 2 is known to split or that begin as one of those.
_WORDS = (
    "at back bbq book bottle bottom box butter cabinet caddy center cheese chocolate close "
    "compartment cookie cream drawer dressing from front frying inside juice ketchup left "
    "microwave middle milk moka mug next of off open orange pan pot pots pudding push red "
    "right salad shelf stack stove table them top tray turn under white wine wooden yellow"
)


def make_tiny_tokenizer() -> Tokenizer:
    """Return a tokenizer of 32000 pieces and the padding token, as OpenVLA's is.

    Byte-pair encoding that falls back to bytes; white space becomes U+2581, one of which is put
    before the text, and the beginning of text before that. Words that it does not know are spelt.

    Example:
        >>> make_tiny_tokenizer().encode("pick up the plate").ids
        [1, 5839, 701, 278, 15284]
    """
    merges = _make_merges()
    tokenizer = Tokenizer(
        BPE(
            vocab=_make_vocabulary(merges),
            merges=merges,
            unk_token=UNKNOWN,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, BOS_ID)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    special = (UNKNOWN, BOS, EOS, PAD)  # the last is new: it gets the next id, 32000
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    return tokenizer


def _make_merges() -> list[tuple[str, str]]:
    """Return which pieces join, words letter by letter; words before parts of words."""
    words = [_SPACE + word for word in (*_RECORDED_WORDS, *_WORDS.split())]
    merges = {
        (piece[:end], piece[end]): None
        for piece in (*words, *_RECORDED_PARTS)
        for end in range(1, len(piece))
    }
    return list(merges)


def _make_vocabulary(merges: list[tuple[str, str]]) -> dict[str, int]:
    """Return the id of each piece; ids that are left hold pieces that no text becomes."""
    by_id = {0: UNKNOWN, BOS_ID: BOS, EOS_ID: EOS}
    by_id |= {_FIRST_BYTE_ID + byte: f"<0x{byte:02X}>" for byte in range(256)}
    recorded = {_SPACE + word: number for word, number in _RECORDED_WORDS.items()}
    recorded |= _RECORDED_PARTS | _RECORDED_CHARACTERS
    by_id |= {number: piece for piece, number in recorded.items()}
    characters = list(string.ascii_letters + string.digits + string.punctuation)
    for pieces, first in (
        (characters, _FIRST_CHARACTER_ID),
        ([left + right for left, right in merges], _FIRST_BYTE_ID + 256),
    ):
        free = (number for number in range(first, VOCAB_SIZE) if number not in by_id)
        new = [piece for piece in pieces if piece not in recorded]
        by_id |= dict(zip(free, new, strict=False))
    return {by_id.get(number, f"[{number}]"): number for number in range(VOCAB_SIZE)}
