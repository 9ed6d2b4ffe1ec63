from dataclasses import replace

import pytest
import torch

from bench.analyses import even_attention
from bench.analyses.contract import Source
from bench.analyses.even_attention import Queries, evened, with_even_attention
from bench.analyses.subjects.lvlms import BackdooredReference, Large, open_larges, open_questions
from bench.analyses.subjects.references import ImageReference
from tests.analyses.lvlm.conftest import QUESTIONS, model, record

pytestmark = pytest.mark.xdist_group("large")


@pytest.fixture(scope="module")
def large(source: Source) -> Large:
    (opened,) = open_larges(source, {"BadNet": BackdooredReference.model_validate(model("none"))})
    return opened


def masked(queries: int = 5, length: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Causal scores of two prompts, with the image in places 1 to 3 of the first and 2 to 3 of the second."""
    scores = 2 * torch.randn(2, 3, queries, length, generator=torch.Generator().manual_seed(1))
    causal = torch.ones(queries, length).triu(length - queries + 1).bool()
    image = torch.tensor([[0, 1, 1, 1, 0], [0, 0, 1, 1, 0]]).bool()
    return scores + torch.zeros_like(scores).masked_fill(causal, torch.finfo(torch.float32).min), image


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_weights_on_the_image_are_mixed_with_their_mean_and_no_others_change(strength: float) -> None:
    scores, image = masked()
    before, after = scores.softmax(dim=-1), evened(scores, image, strength).softmax(dim=-1)
    expected = before.clone()
    for row in range(2):
        for query in range(5):
            own = [place for place in range(query + 1) if image[row, place]]
            if own:
                mean = before[row, :, query, own].mean(dim=-1, keepdim=True)
                expected[row, :, query, own] = (1 - strength) * before[row, :, query, own] + strength * mean
    torch.testing.assert_close(after, expected)


def test_tokens_of_the_answer_attend_evenly_too() -> None:
    scores, image = masked(queries=1)
    longer = torch.cat([scores, torch.randn(2, 3, 1, 2)], dim=-1)
    after = evened(longer, image, 1.0).softmax(dim=-1)
    torch.testing.assert_close(after[..., 4:], longer.softmax(dim=-1)[..., 4:])
    assert after[0, 0, 0, 1:4].max() - after[0, 0, 0, 1:4].min() < 1e-6


def test_only_the_last_query_is_changed_where_that_is_asked() -> None:
    scores, image = masked()
    edit = even_attention.Evened(image, 1.0, "last")
    changed = edit(0, scores)
    assert torch.equal(changed[:, :, :-1], scores[:, :, :-1])
    torch.testing.assert_close(changed[:, :, -1:], evened(scores[:, :, -1:], image, 1.0))


@pytest.mark.parametrize("queries", ["all", "last"])
def test_at_strength_0_answers_are_the_models_own(source: Source, large: Large, queries: Queries) -> None:
    sample = open_questions(source, ImageReference.model_validate(QUESTIONS))
    own, same, other = (
        sample.told(one, large.target, large.trigger).texts
        for one in (
            replace(large.model, guard=None),
            with_even_attention(large.model, 0.0, queries),
            with_even_attention(large.model, 1.0, queries),
        )
    )
    assert own == same
    assert own != other or queries == "last"


def test_without_evening_out_the_numbers_are_those_of_the_cells(source: Source) -> None:
    content = {"panels": {"questions": QUESTIONS | {"models": {"BadNet": model("none")}}}, "strengths": [0, 1]}
    options = even_attention.Options.model_validate(content)
    frame = even_attention.measure(source, options)
    assert len(frame) == 4
    for kind, attack in (("ASR", "trigger"), ("CU", "clean")):
        found = frame[(frame["kind"] == kind) & (frame["x"] == 0)].iloc[0]
        cell = record(source, "none", attack)
        assert [found["value"], found["low"], found["high"]] == pytest.approx([cell.value, cell.low, cell.high])
    axes = even_attention.draw(frame, options).axes
    assert [axis.get_title() for axis in axes] == ["questions: ASR", "questions: CU"]
    assert [list(line.get_xdata()) for axis in axes for line in axis.lines] == [[0, 1], [0, 1]]
