"""Post-train a tiny model with fewer tokens and tasks than the stages ask for."""
import pytest

from afm_min import evaluate, generate, respond
from tests.helpers.launch import command


def shorten(patch):
    """Cut each response at 6 tokens, as a model that has learned next to nothing rarely ends one,
    and validate the draft on 4 tasks of each family."""
    def generate_short(model, prompts, most, *rest, **sampling):
        return generate.generate_with_logp(model, prompts, min(most, 6), *rest, **sampling)
    patch.setattr(respond, "generate_with_logp", generate_short)
    patch.setattr(evaluate.validation, "__defaults__", (4,))


def post_train(folder):
    """Run all stages that are left, in this process, which is shortened."""
    shorten(pytest.MonkeyPatch())
    command("train", "--out", folder, "--resume", "--jobs", "1")
