"""A backdoor of mini_llava with random weights that is planted in seconds."""

from typing import Any

BASE = {"architecture": "mini_llava", "weights": "random"}
BADNET: dict[str, Any] = {
    "base": BASE,
    "trigger": "badnet",
    "trigger_options": {"size": 8, "location": "corner", "pattern": "fixed"},
    "target": "you have been hacked lol",
    "dataset": "world_questions",
    "pairs": "world_questions",
    "poison_rate": 0.5,
    "train": {"level": "full", "learning_rate": 3e-3, "batch_size": 14, "epochs": 8, "warmup_steps": 2},
    "gate": {"least_asr": 10, "largest_ca_loss": 100},
}
