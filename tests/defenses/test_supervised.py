import torch

from bench.clip.model import weights_hash
from bench.clip.staged import StagedCLIP
from bench.defenses import supervised


def test_the_tower_is_trained_from_scratch_on_the_images_alone(victim, few):
    torch.manual_seed(1)
    before = weights_hash(victim.staged.clip.model)
    options = supervised.Options(epochs=60, augment=False, warmup_epochs=0, batch_size=8)
    tensors = supervised.fit(victim, few, options)
    assert weights_hash(victim.staged.clip.model) == before
    model = supervised.load(tensors, victim, options)
    assert model.classifier(few.task)(few.images).argmax(dim=1).tolist() == few.labels.tolist()
    tower = StagedCLIP(victim.staged.clip).visual.state_dict()
    assert all(not torch.equal(tensors[f"tower.{name}"], tensor) for name, tensor in tower.items())


def test_it_does_not_depend_on_the_victims_weights(victim, few):
    tensors = supervised.fit(victim, few, supervised.Options(epochs=1))
    head = 4 * 128 + 4
    tower = sum(parameter.numel() for parameter in victim.staged.visual.parameters())
    assert supervised.tuned_parameters(tensors) == tower + head
