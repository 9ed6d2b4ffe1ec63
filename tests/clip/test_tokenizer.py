import pytest
import torch

from bench.clip.defended import PLACEHOLDER
from bench.clip.small import vocabulary
from bench.clip.tokenizer import WordTokenizer
from bench.datasets import digits, world
from bench.errors import UserError

WORDS = ["a", "red", "circle", "x"]


def test_a_sentence_is_start_words_end_and_padding():
    ids = WordTokenizer(WORDS, 8)(["a red circle"])
    assert ids.tolist() == [[1, 2, 3, 4, 6, 0, 0, 0]]
    assert ids.dtype == torch.int64


def test_the_end_has_the_largest_id_so_that_argmax_finds_it():
    ids = WordTokenizer(WORDS, 8)(["a", "a red circle", ""])
    assert ids.argmax(dim=-1).tolist() == [2, 4, 1]


def test_every_id_is_below_the_vocabulary_size():
    tokenizer = WordTokenizer(WORDS, 8)
    assert tokenizer(["a red circle x"]).max() == tokenizer.vocab_size - 1


def test_case_and_punctuation_do_not_matter():
    tokenizer = WordTokenizer(WORDS, 8)
    assert torch.equal(tokenizer(["A Red, circle!"]), tokenizer(["a red circle"]))


def test_one_string_is_a_list_of_one():
    tokenizer = WordTokenizer(WORDS, 8)
    assert torch.equal(tokenizer("a circle"), tokenizer(["a circle"]))


def test_an_unknown_word_is_refused_with_its_sentence_and_the_nearest_word():
    with pytest.raises(UserError, match=r"'circl' in 'a circl'; the nearest is 'circle'"):
        WordTokenizer(WORDS, 8)(["a circl"])


def test_an_unknown_word_without_a_near_one_is_refused_without_a_guess():
    with pytest.raises(UserError, match=r"'zebu' in 'a zebu'$"):
        WordTokenizer(WORDS, 8)(["a zebu"])


def test_a_sentence_may_fill_the_context_but_not_overflow_it():
    tokenizer = WordTokenizer(WORDS, 5)
    assert tokenizer(["a red circle"]).tolist() == [[1, 2, 3, 4, 6]]
    with pytest.raises(UserError, match="has 6 tokens, the model takes 5"):
        tokenizer(["a a red circle"])


def test_no_word_of_the_mini_vocabulary_is_there_twice():
    words = vocabulary()
    assert len(set(words)) == len(words)


def test_every_word_of_the_mini_vocabulary_is_one_token():
    words = vocabulary()
    ids = WordTokenizer(words, 3)(words)
    assert ids[:, 1].tolist() == list(range(2, len(words) + 2))


def test_the_placeholder_is_one_id_per_repetition(mini):
    ids = mini.clip.tokenize([f"{PLACEHOLDER} {PLACEHOLDER} circle.", "circle."])
    assert ids[0, 1] == ids[0, 2] != 0
    assert ids[0, 3] == ids[1, 1]


def test_the_mini_clip_knows_every_word_of_the_rendered_world(mini):
    mini.clip.tokenize(list(world.captioned(200, 5).captions))
    mini.clip.tokenize([*world.SHAPES, *world.COLOURS, *world.BACKGROUNDS, *world.SIZES, *digits.CLASS_NAMES])
