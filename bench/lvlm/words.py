"""A word-level tokenizer in transformers' own class, for models of our own: one id per word of a short vocabulary."""

from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase, Replace
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

PAD, START, END, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"


def word_tokenizer(words: Sequence[str], special: Sequence[str]) -> Any:
    """Sentences to ids; case and punctuation are dropped, and every sentence starts with ``<s>``.

    Args:
        words: The vocabulary.
        special: Tokens beside those for padding, start, end and unknown words, such as ``<image>``.
    """
    fixed = [PAD, START, END, UNKNOWN, *special]
    ids = {token: number for number, token in enumerate([*fixed, *words])}
    tokenizer = Tokenizer(WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.normalizer = Normalizers([Lowercase(), Replace(Regex("[^a-z]+"), " ")])
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(single=f"{START} $A", pair=None, special_tokens=[(START, ids[START])])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in fixed])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=START, eos_token=END, unk_token=UNKNOWN
    )
