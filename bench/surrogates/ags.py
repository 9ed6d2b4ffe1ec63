"""The substitute of AGS (Wang, Guo and Wang, AAAI 2024): a ResNet trained without labels on adversarial views.

Each image gives two augmented views and an adversarial one: L2 steps from the image itself, without a random start and
with the network in evaluation mode, that raise the contrastive loss of the three. The loss to learn from is

    NTXent3(o1, o2, o_adv) + 0.1 (1 - cos(o_s, stopgrad(o_adv))),

where ``o_adv`` belongs to the adversarial view, augmented with a tenth of the usual probabilities, and ``o_s`` to the
same view, augmented fully. The network is a ResNet and a head of two layers, without input normalisation; what is kept
is the ResNet, and what it gives are the activations of its second stage, which the attack turns.

Follows ``train_ags_lmdb.py`` with the README's settings. The official data are 41,000 images of COCO, or paintings, for
100 epochs of a ResNet-50, and its weights are not to be had; with fewer or smaller images this is "AGS-lite".
Augmentations are torchvision's instead of kornia's; the blur's kernel is a tenth of the side, as there.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet
from torchvision.transforms import v2

from bench.clip.defended import Task
from bench.config import Options as Closed
from bench.datasets.store import open_split, read_manifest
from bench.device import compute_device
from bench.progress import track
from bench.surrogates.contract import Gives, Tensors

GIVES: Gives = "features"
_HIDDEN, _OUT, _STAGE = 512, 128, "layer2"
_BACKBONES: dict[str, Callable[[], resnet.ResNet]] = {
    "resnet50": lambda: resnet.resnet50(weights=None),
    "resnet18": lambda: resnet.resnet18(weights=None),
    "resnet10": lambda: resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1]),
}


class Options(Closed):
    """Settings of the official README.

    Attributes:
        backbone: ``resnet10`` is a ResNet-18 with one block per stage, for small images.
        images: Dataset whose ``train`` images are used, without their labels or captions.
        count: At most so many of them.
        epochs: Passes over the images.
        batch_size: Images per step; a last, smaller batch is left out.
        learning_rate: Of SGD with momentum 0.9.
        weight_decay: On all parameters.
        temperature: Of the contrastive loss.
        eps: L2 radius of the adversarial views in [0,1]; 1.0 is for 224x224 pixels, and scales with the side.
        inner_steps: Steps to an adversarial view, each eps / inner_steps.
        seed: Seed of the weights, the order and the views.
    """

    backbone: Literal["resnet50", "resnet18", "resnet10"] = "resnet50"
    images: str = "captions"
    count: int | None = Field(default=None, gt=0)
    epochs: int = Field(default=100, gt=0)
    batch_size: int = Field(default=64, gt=1)
    learning_rate: float = Field(default=0.1, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    temperature: float = Field(default=0.5, gt=0)
    eps: float = Field(default=1.0, ge=0)
    inner_steps: int = Field(default=1, gt=0)
    seed: int = 0


def make(options: Options, data: Path) -> Tensors:
    """Train the substitute.

    Raises:
        FloatingPointError: The loss is not finite.
    """
    torch.manual_seed(options.seed)
    pixels = open_split(data, read_manifest(data, options.images), "train").images[: options.count]
    backbone = _backbone(options)
    there = compute_device()
    net = nn.Sequential(backbone, _head(backbone)).to(there)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=options.learning_rate, momentum=0.9, weight_decay=options.weight_decay
    )
    for epoch in range(options.epochs):
        batches = torch.randperm(len(pixels)).split(options.batch_size)[: len(pixels) // options.batch_size]
        for rows in track(batches, f"train the substitute, epoch {epoch + 1} of {options.epochs}"):
            images = torch.from_numpy(pixels[rows.numpy()]).float() / 255
            loss = _loss(net, images.to(there), options)
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"ags: the loss is {loss.item()} in epoch {epoch + 1}; lower learning_rate "
                    f"(now {options.learning_rate})"
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return backbone.state_dict()


def restore(tensors: Tensors, options: Options, task: Task) -> nn.Module:
    """Images to the activations of the second stage."""
    del task
    backbone = _backbone(options)
    backbone.load_state_dict(tensors)
    names = [name for name, _ in backbone.named_children()]
    trunk = nn.Sequential(*list(backbone.children())[: names.index(_STAGE) + 1])
    return trunk.eval().requires_grad_(False)


def nt_xent_3(first: Tensor, second: Tensor, third: Tensor, temperature: float) -> Tensor:
    """Contrastive loss of three views.

    The mean over the six ordered pairs of views of ``-log(exp(s_ab) / sum_k exp(s_ak))``, where k leaves out a itself
    and its other positive.

    Args:
        first: Normalised outputs ``(n, d)``.
        second: Those of another view of the same images.
        third: Those of a third view.
        temperature: By which cosines are divided.
    """
    count, outputs = len(first), torch.cat([first, second, third])
    similar = (outputs @ outputs.T / temperature).exp()
    anchors = torch.arange(3 * count)
    others = [(anchors + shift * count) % (3 * count) for shift in (1, 2)]
    rest = similar.sum(dim=1) - similar[anchors, anchors]
    terms = [
        -(similar[anchors, positive] / (rest - similar[anchors, left_out])).log()
        for positive, left_out in (others, reversed(others))
    ]
    return torch.stack(terms).mean()


def adversarial_views(net: nn.Module, views: tuple[Tensor, Tensor], images: Tensor, options: Options) -> Tensor:
    """Images near ``images`` in L2 whose outputs disagree most with those of ``views``; leaves ``net`` in training."""
    net.eval()
    with torch.no_grad():
        first, second = (_outputs(net, view) for view in views)
    change = torch.zeros_like(images)
    for _ in range(options.inner_steps):
        change.requires_grad_()
        loss = nt_xent_3(first, second, _outputs(net, images + change), options.temperature)
        (gradient,) = torch.autograd.grad(loss, change)
        step = options.eps / options.inner_steps / (_norms(gradient) + 1e-10)
        change = change.detach() + step * gradient
        change = change * (options.eps / _norms(change).clamp(min=1e-10)).clamp(max=1)
        change = (images + change).clamp(0, 1) - images
    net.train()
    return (images + change).detach()


def _loss(net: nn.Module, images: Tensor, options: Options) -> Tensor:
    side = images.shape[-1]
    views = (_augmented(images, _views(side)), _augmented(images, _views(side)))
    adversarial = adversarial_views(net, views, images, options)
    lightly, fully = (_augmented(adversarial, _augmentation(side, share)) for share in (0.1, 1.0))
    first, second, third, fourth = (_outputs(net, view) for view in (*views, lightly, fully))
    agreement = functional.cosine_similarity(fourth, third.detach()).mean()
    return nt_xent_3(first, second, third, options.temperature) + 0.1 * (1 - agreement)


def _outputs(net: nn.Module, images: Tensor) -> Tensor:
    return functional.normalize(net(images), dim=-1)


def _norms(tensor: Tensor) -> Tensor:
    return torch.linalg.vector_norm(tensor, dim=(1, 2, 3), keepdim=True)


def _backbone(options: Options) -> resnet.ResNet:
    """The ResNet without its classifier."""
    backbone = _BACKBONES[options.backbone]()
    backbone.fc = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    return backbone


def _head(backbone: Any) -> nn.Sequential:
    width = backbone.bn1.num_features * 8 * (4 if isinstance(backbone.layer1[0], resnet.Bottleneck) else 1)
    layers = nn.Linear(width, _HIDDEN, bias=False), nn.BatchNorm1d(_HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, _OUT)
    return nn.Sequential(*layers)


def _augmented(images: Tensor, transform: v2.Transform) -> Tensor:
    """Each image augmented on its own."""
    return torch.stack([transform(image) for image in images]).clamp(0, 1)


def _views(side: int) -> v2.Transform:
    """What makes the two clean views."""
    jitter = v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)
    return v2.Compose(
        [v2.RandomResizedCrop(side, antialias=True), v2.RandomHorizontalFlip(), jitter, v2.RandomGrayscale(0.2)]
    )


def _augmentation(side: int, share: float) -> v2.Transform:
    """What is done to the adversarial view, with all probabilities multiplied by ``share``."""
    kernel = max(3, int(0.1 * side - 1) // 2 * 2 + 1)
    return v2.Compose(
        [
            v2.RandomApply([v2.RandomResizedCrop(side, antialias=True)], p=share),
            v2.RandomHorizontalFlip(0.5 * share),
            v2.RandomApply([v2.ColorJitter(0.4, 0.8, 0.8, 0.2)], p=0.8 * share),
            v2.RandomGrayscale(0.2 * share),
            v2.RandomApply([v2.GaussianBlur(kernel, (0.1, 2.0))], p=0.5 * share),
        ]
    )
