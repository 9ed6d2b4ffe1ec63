import pytest
import scipy.fft
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.attacks import cwa
from bench.attacks.contract import Knowledge
from bench.evaluation.adversary import Mean

from .models import cnn, images_of, random_linear, verdicts

SIDE = 6


def run(surrogates: tuple[nn.Module, ...], images: Tensor, labels: Tensor, **options: object) -> Tensor:
    return cwa.attack(
        Mean(surrogates), images, labels, options=cwa.Options(**options), seeds=range(len(images)),
        knowledge=Knowledge(surrogates=surrogates),
    ).images  # fmt: skip


@pytest.fixture(scope="module")
def surrogates() -> tuple[nn.Module, ...]:
    """Three models that mostly agree, as models of one task do."""
    return tuple(alike(seed) for seed in (1, 2, 3))


def alike(seed: int) -> nn.Module:
    model, stream = cnn(4, SIDE), torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter += 0.15 * parameter.std() * torch.randn(parameter.shape, generator=stream)
    return model


@pytest.fixture(scope="module")
def images() -> Tensor:
    return images_of(12, SIDE)


def official_mi_cwa(surrogates: tuple[nn.Module, ...], clean: Tensor, labels: Tensor, eps: float) -> Tensor:
    """MI_CommonWeakness of the authors' code, step by step, with its own constants scaled to ``eps``."""

    def project(x: Tensor) -> Tensor:
        return torch.min(torch.max(x.clamp(0, 1), clean - eps), clean + eps)

    def gradient(loss_of, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        loss_of(x).backward()
        assert x.grad is not None
        return x.grad

    x, inner, outer = clean.clone(), torch.zeros_like(clean), torch.zeros_like(clean)
    for _ in range(10):
        original = x.clone()
        uphill = gradient(lambda at: functional.cross_entropy(sum(model(at) for model in surrogates), labels), x)
        x = project(x - eps / 15 * uphill.sign())
        for model in surrogates:
            grad = gradient(lambda at, model=model: functional.cross_entropy(model(at), labels), x)
            inner = inner + grad / torch.norm(grad.reshape(len(x), -1), p=2, dim=1).view(-1, 1, 1, 1)
            x = project(x + 250 * inner)
        fake = x - original
        outer = outer + fake / torch.norm(fake, p=1)
        x = project(original + eps / 5 * outer.sign())
    return x


def test_mi_cwa_equals_the_official_code_on_single_images(surrogates: tuple[nn.Module, ...], images: Tensor) -> None:
    # The official outer step is normed over the batch; with one image that is the same.
    labels = surrogates[0](images).argmax(dim=1)
    ours = run(surrogates, images, labels, eps=16)
    for row in range(4):
        one = slice(row, row + 1)
        theirs = official_mi_cwa(surrogates, images[one], labels[one], 16 / 255)
        torch.testing.assert_close(ours[one], theirs, rtol=0, atol=1e-6)


def test_with_one_linear_surrogate_it_goes_to_the_corner_of_the_ball() -> None:
    model, images = random_linear(2, SIDE), images_of(6, SIDE, low=0.1, high=0.9)
    labels = model(images).argmax(dim=1)
    found = run((model,), images, labels, eps=4, steps=10)
    margins = (model(found).gather(1, labels[:, None]) - model(found).gather(1, 1 - labels[:, None])).squeeze(1)
    torch.testing.assert_close(margins, model.worst_margins(images, labels, 4 / 255), rtol=0, atol=1e-4)


@pytest.mark.parametrize("variant", ["mi", "ssa"])
def test_almost_no_image_survives_on_the_surrogates(
    surrogates: tuple[nn.Module, ...], images: Tensor, variant: str
) -> None:
    # All three must be right first: labels on which they agree.
    votes = torch.stack([model(images).argmax(dim=1) for model in surrogates])
    agreed = images[(votes == votes[0]).all(dim=0)]
    labels = surrogates[0](agreed).argmax(dim=1)
    assert len(agreed) >= 6
    found = run(surrogates, agreed, labels, variant=variant, eps=40, copies=4)
    for model in surrogates:
        assert sum(verdicts(model, found, labels)) <= 0.05 * len(agreed)


def test_the_transform_is_the_orthonormal_dct_and_its_inverse() -> None:
    images = images_of(2, 7).double()
    images = images[..., :5]
    expected = scipy.fft.dctn(images.numpy(), axes=(-2, -1), norm="ortho")
    torch.testing.assert_close(cwa.dct(images), torch.from_numpy(expected), rtol=0, atol=1e-12)
    torch.testing.assert_close(cwa.idct(cwa.dct(images)), images, rtol=0, atol=1e-12)
    single = images.float()
    torch.testing.assert_close(cwa.idct(cwa.dct(single)), single, rtol=0, atol=1e-5)


def test_ssa_without_noise_and_spectrum_is_mi(surrogates: tuple[nn.Module, ...], images: Tensor) -> None:
    labels = surrogates[0](images).argmax(dim=1)
    doubles = tuple(alike(seed).double() for seed in (1, 2, 3))
    options = {"eps": 8, "steps": 4}
    mi = run(doubles, images.double(), labels, **options)
    ssa = run(doubles, images.double(), labels, variant="ssa", noise=0, spectrum=0, copies=2, **options)
    torch.testing.assert_close(ssa, mi, rtol=0, atol=1e-9)
    noisy = run(doubles, images.double(), labels, variant="ssa", copies=2, **options)
    assert (noisy - mi).abs().max() > 1 / 255


def test_the_inner_momentum_lives_on_and_the_order_of_surrogates_counts(
    surrogates: tuple[nn.Module, ...], images: Tensor
) -> None:
    labels = surrogates[0](images).argmax(dim=1)
    forth, back = run(surrogates, images, labels), run(surrogates[::-1], images, labels)
    assert not torch.equal(forth, back)
    assert not torch.equal(forth, run(surrogates, images, labels, momentum=0.0))


def test_without_surrogates_it_says_what_is_missing(images: Tensor) -> None:
    with pytest.raises(ValueError, match="cwa needs surrogates"):
        cwa.attack(
            cnn(4, SIDE), images, torch.zeros(12, dtype=torch.long), options=cwa.Options(), seeds=range(12),
            knowledge=Knowledge(),
        )  # fmt: skip
