"""The settings of the preset "tiny", and the values that settings may take.

There is a table of words and one of numbers. A setting of an alignment round is in them without
the round: "mdloo.loss" for mdloo1 and mdloo2. In its words, N is the round.
"""
import re

from afm_min.data import corpus
from afm_min.ondevice import FEATURES
from afm_min.world.tasks import MAX_BENCHMARK

ROUNDS = 2  # of alignment
CHAT_MODELS = ["draft", "sft", *(f"{method}{n}" for n in range(1, ROUNDS + 1)
                                 for method in ("rs", "dpo", "ipo", "mdloo", "committee", "best"))]
WORDS = {
    "prune.method": ["learned", "magnitude", "random"],
    "core.start": ["prune", "parent", "scratch"],
    "reward.labels": ["soft", "hard", "margin"],
    "reward.reads": ["likelihood", "state"],
    "rs.choice": ["best", "random"],
    "committee.choice": ["best", "random"],
    "mdloo.rewarded": ["model", "checker"],
    "mdloo.loss": ["mdpo", "ppo", "reinforce"],
    "mdloo.baseline": ["leave one out", "mean", "none"],
    "committee.only": ["", "sft", "best1", "rsN", "dpoN", "ipoN", "mdlooN"],
    "quantize.choice": ["sensitivity", "random"], "recovery.recipe": ["imitate", "text"],
    **{f"{name}.start": ["recovery", "lengthening", *CHAT_MODELS] for name in FEATURES},
    **dict.fromkeys(["quantize.start", "recovery.start", "evaluation.aligned"], CHAT_MODELS),
}

# What a number must be: (test, the same in words). Any other number must be at least 0, or 1 if it
# is an integer. A number above LARGEST is a slip, which would exhaust time or memory.
LARGEST = 1e9
AT_MOST = f"at most {LARGEST:,.0f}"
SHARE = (lambda x: 0 <= x <= 1, "from 0 to 1")
POSITIVE = (lambda x: 0 < x <= LARGEST, f"above 0, {AT_MOST}")
NUMBER = {float: (lambda x: 0 <= x <= LARGEST, f"at least 0, {AT_MOST}"),
          int: (lambda x: 1 <= x <= LARGEST, f"at least 1, {AT_MOST}")}
NUMBERS = {  # by stage and name, or by name alone
    **dict.fromkeys(["coverage", "soft", "distill", "flawed", "similar", "threshold", "noise",
                     "floor", "weight_decay"], SHARE),
    **dict.fromkeys(["first_eps", "last_eps", "dpo.beta", "ipo.beta", "rope_base", "norm_eps"],
                    POSITIVE),
    "data.share": (lambda x: 0 < x <= 1, "above 0, at most 1"),
    "synthetic.seen_tests": (lambda x: 1 <= x <= 19, "from 1 to 19 of 20 unit tests"),
    "evaluation.count": (lambda x: 1 <= x <= MAX_BENCHMARK,
                         f"from 1 to {MAX_BENCHMARK}: training text is free of these tasks only"),
    "sft.dropout": (lambda x: 0 <= x < 1, "at least 0, below 1"),
    "mixture.dw": (lambda x: 0 < x < 1, "above 0, below 1"),  # so that all weights stay positive
    "quantize.average": (lambda x: 2 <= x <= 4, "from 2 to 4"),
}


# Settings of the preset "tiny", a trial of every stage: {"parent.steps": 10, ...}. Below, each key
# lists the stages that share the settings.
TINY_SETTINGS = {}
for names, settings in {
        "data": {"share": 0.2},
        "parent prune teacher core continued draft": {"steps": 10},
        "lengthening": {"steps": 10, "facts": 32},
        "demonstrations": {"count": 30, "evolved": 3},
        "synthetic": {"math": 4, "code_questions": 4, "tool_questions": 4, "samples": 2},
        "mixture": {"rounds": 1, "steps": 1, "count": 4, "seeds": 1, "longer": 1},
        "sft": {"steps": 10, "checkpoints": 1, "count": 2},
        "preferences1 preferences2": {"prompts": 20},
        "reward1 reward2": {"steps": 2, "held_out": 2},
        "mdloo1 mdloo2": {"iterations": 2, "prompts": 2, "count": 2},
        "rs1 rs2 committee1 committee2": {"prompts": 20, "count": 2},
        "best1 best2": {"samples": 2, "count": 2},
        "dpo1 dpo2 ipo1 ipo2": {"steps": 2, "count": 2},
        "quantize": {"calibration": 8, "count": 2},
        "recovery": {"steps": 5, "prompts": 20, "count": 2},
        "math tools summary": {"steps": 5, "examples": 20, "count": 2},
        "evaluation": {"count": 4}}.items():
    for stage in names.split():
        TINY_SETTINGS |= {f"{stage}.{name}": value for name, value in settings.items()}

# Settings of a preset that differ from the defaults. A server model has its own recipe: trained
# from scratch, without distillation, and not packed.
SERVER_SETTINGS = {"core.start": "scratch", "core.distill": 0.0, "evaluation.packed": False}
PRESET_SETTINGS = {"tiny": TINY_SETTINGS, "toy-server": SERVER_SETTINGS,
                   "afm-server": SERVER_SETTINGS}


def are_weights(values, sources):
    """Return True if `values` are weights of some of these sources, at least 0 but not all 0."""
    weights = list(values.values())
    return (values.keys() <= sources.keys() and all(type(w) in (int, float) for w in weights)
            and all(0 <= w <= LARGEST for w in weights) and sum(weights) > 0)


def problem(name, value, default):
    """Return what is wrong with the value of a setting: "" if nothing, else what it may be.

    problem("sft.dropout", 2.0, 0.1) -> "takes a value like 0.1, at least 0, below 1"
    """
    key, stage = re.sub(r"\d\.", ".", name), name.partition(".")[0]
    if key in WORDS:
        words = [word.replace("N", stage[-1]) for word in WORDS[key] if word != stage]
        return "" if value in words else f"takes one of {', '.join(map(repr, words))}"
    like, right_type = f"takes a value like {default!r}", type(value) is type(default)
    if type(default) is dict:
        right = right_type and are_weights(value, corpus.CONTINUED if "web" in default else default)
        return "" if right else f"{like}: weights of sources, at least 0, not all 0"
    if type(default) in NUMBER:
        is_right, limit = NUMBERS.get(key) or NUMBERS.get(key.partition(".")[2],
                                                          NUMBER[type(default)])
        return "" if right_type and is_right(value) else f"{like}, {limit}"
    return "" if right_type else like  # a path, or True or False
