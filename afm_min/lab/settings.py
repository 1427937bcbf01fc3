"""The values that settings may take, and the settings of presets.

WORDS and NUMBERS name the stages of alignment without their round: "mdloo.loss" is the setting of
mdloo1 and mdloo2. In its words, N is the number of the round.
"""
import re

from afm_min import align, trainer
from afm_min.data import corpus
from afm_min.ondevice import FEATURES
from afm_min.world.tasks import MAX_BENCHMARK

ROUNDS = 2  # of alignment
CHAT_MODELS = ["draft", "sft", *(f"{method}{n}" for n in range(1, ROUNDS + 1)
                                 for method in ("rs", "dpo", "ipo", "mdloo", "committee", "best"))]
WORDS = {  # setting -> the words that it may be: a list, or a dict with these keys
    "prune.method": ["learned", "magnitude", "random"],
    "core.start": ["prune", "parent", "lookup", "scratch"],
    "core.optimizer": trainer.OPTIMIZERS,
    "reward.labels": ["soft", "hard", "margin"],
    "reward.reads": ["likelihood", "state"],
    "rs.choice": ["best", "random"],
    "committee.choice": ["best", "random"],
    "mdloo.rewarded": ["model", "checker"],
    "mdloo.loss": align.LOSSES,
    "mdloo.baseline": align.BASELINES,
    "committee1.only": ["", "sft", "rs1", "dpo1", "ipo1", "mdloo1"],
    "committee.only": ["", "sft", "best1", "rsN", "dpoN", "ipoN", "mdlooN"],
    "quantize.choice": ["sensitivity", "random"],
    "recovery.recipe": ["imitate", "text"],
    **{f"{name}.start": ["recovery", "lengthening", *CHAT_MODELS] for name in FEATURES},
    **dict.fromkeys(["quantize.start", "recovery.start", "evaluation.aligned"], CHAT_MODELS),
}

# Ranges of numbers, as (test, description). NUMBERS has those of some settings, by stage and name,
# or by name alone; NUMBER those of all others, by type. Above LARGEST, time or memory run out.
LARGEST = 1e9
AT_MOST = f"at most {LARGEST:,.0f}"
SHARE = (lambda x: 0 <= x <= 1, "from 0 to 1")
POSITIVE = (lambda x: 0 < x <= LARGEST, f"above 0, {AT_MOST}")
NUMBER = {float: (lambda x: 0 <= x <= LARGEST, f"at least 0, {AT_MOST}"),
          int: (lambda x: 1 <= x <= LARGEST, f"at least 1, {AT_MOST}")}
NUMBERS = {
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


# The meaning of each setting, by its name or by stage and name; stages without their round.
MEANINGS = {
    "dim": "width of the residual stream",
    "layers": "transformer layers",
    "heads": "query heads of a layer, a multiple of kv_heads",
    "kv_heads": "key/value heads of a layer",
    "head_dim": "width of a head, an even number",
    "hidden": "feed-forward units of a layer, after pruning",
    "vocab_size": "tokens of the vocabulary",
    "context": "length of core's sequences; two later stages lengthen it",
    "model.rope_base": "base of the rotary embedding, until lengthening",
    "norm_eps": "added to the mean square in RMSNorm",
    "folder": "your own UTF-8 text, as --data",
    "data.common": "an n-gram in so many documents is common usage, not a copied benchmark",
    "share": "part of the built-in sources to use",
    "lexicon": "a file of more offensive words, one a line",
    "filtered": "send files of --data through the filters, too",
    "coverage": "share of the characters that get a token of their own",
    "mixture": "weights of the sources or task families",
    "steps": "optimizer steps",
    "mixture.steps": "optimizer steps of one trial",
    "batch_size": "sequences or examples in a batch",
    "lr": "peak of the learning rate",
    "warmup": "steps in which the learning rate rises to its peak",
    "floor": "learning rate at the end, as a share of the peak",
    "weight_decay": "weights shrink by this share a step, at the peak",
    "compile": "compile the training step with torch.compile",
    "matrix_scale": "learning rate of weight matrices, as a share of lr",
    "note_steps": "steps on facts and questions, after those on keys and values",
    "num_keys": "tokens that are keys; as many are values, all others stand between",
    "largest_gap": "most tokens before a key, and between key and value",
    "widen": "feed-forward width, as a multiple of the pruned model's",
    "method": "how to choose the units to keep",
    "soft": "share of the steps with a soft mask",
    "first_eps": "softness of the mask at the start",
    "last_eps": "softness of the mask before it becomes 0 or 1",
    "core.start": "the model to start from",
    "quantize.start": "the model to quantize",
    "recovery.start": "the float model to imitate",
    "start": "the model to adapt",
    "distill": "weight of the teacher's prediction in the target",
    "optimizer": "the optimizer",
    "times": "sequence length, as a multiple of core's",
    "rope_base": "base of the rotary embedding",
    "facts": "held-out facts to recall",
    "count": "validation tasks of each family",
    "demonstrations.count": "demonstrations of each family",
    "mixture.count": "validation tasks of each family, a third to search on",
    "evaluation.count": "test tasks of each family",
    "evolved": "demonstrations of each kind of evolved mathematics",
    "flawed": "share of the demonstrations with a flaw",
    "guarded": "drop the demonstrations that the guards suspect",
    "unlikely": "drop questions whose loss exceeds the median by this factor",
    "similar": "drop texts whose embedding has a higher cosine with an earlier one",
    "math": "problems of each kind of mathematics",
    "code_questions": "questions about code",
    "tool_questions": "questions that need tools",
    "samples": "responses to a prompt",
    "committee.samples": "responses of each member to a prompt",
    "threshold": "share of the seen unit tests that selected code must pass",
    "seen_tests": "unit tests to select by, of 20; the others check the selection",
    "rounds": "rounds of the search, each with smaller changes",
    "dw": "change of a weight in the first round, as a share of it",
    "seeds": "trainings that compare the result with equal weights",
    "longer": "length of these trainings, in multiples of `steps`",
    "dropout": "share of activations set to 0",
    "synthetic": "use synthetic examples, too",
    "checkpoints": "checkpoints to choose from",
    "preferences.samples": "least responses to a prompt, equally many of each model",
    "preferences.prompts": "prompts whose responses are compared",
    "prompts": "prompts to sample responses to",
    "recovery.prompts": "prompts that the float model answers",
    "reward.prompts": "prompts in a batch, each with all its pairs",
    "dpo.prompts": "prompts in a batch, each with all its pairs",
    "ipo.prompts": "prompts in a batch, each with all its pairs",
    "mdloo.prompts": "prompts of an iteration",
    "noise": "probability that a grade is random",
    "labels": "how the level of a preference enters the loss",
    "reads": "let the reward depend on the likelihood and the state, or on the state alone",
    "grade_weight": "weight of the loss on grades",
    "examples": "training examples",
    "reward.examples": "demonstrations in a batch",
    "held_out": "validation prompts of each family",
    "rewarded": "the source of rewards",
    "iterations": "rounds of sampling and training",
    "epochs": "passes over the samples",
    "num_minibatches": "optimizer steps in a pass",
    "beta": "weight of the KL to the reference model",
    "gamma": "weight of the KL to the model that sampled",
    "clip": "range of the probability ratio, for loss=ppo",
    "loss": "the loss",
    "baseline": "what is subtracted from the rewards",
    "choice": "which response to imitate",
    "quantize.choice": "how to choose the groups of columns that take 4 bits",
    "only": "the one member to sample from, or all if empty",
    "average": "largest average of bits of a projection's weight, without tables",
    "calibration": "prompts to measure sensitivity with",
    "recipe": "what the recovery adapter learns from",
    "rank": "rank of the adapter",
    "aligned": "the aligned model",
    "packed": "evaluate the quantized models, too",
    "opponent": "folder of another run to compare with, or empty",
}

# Settings of the preset "tiny", a trial of every stage: {"parent.steps": 10, ...}. Each key below
# lists stages that share settings.
TINY_SETTINGS = {}
for names, settings in {
        "data": {"share": 0.2},
        "lookup parent prune teacher core continued draft": {"steps": 10},
        "lookup": {"note_steps": 2},
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

# The settings in which presets differ from the defaults. A server model has its own recipe: train
# core right after lookup, without distillation, and do not pack.
SERVER_SETTINGS = {"lookup.widen": 1, "core.start": "lookup", "core.distill": 0.0,
                   "evaluation.packed": False}
PRESET_SETTINGS = {"tiny": TINY_SETTINGS, "toy-server": SERVER_SETTINGS,
                   "afm-server": SERVER_SETTINGS}


def meaning(name):
    """Return the meaning of a setting: "mdloo1.iterations" -> "rounds of sampling and training"."""
    key = re.sub(r"\d\.", ".", name)  # "mdloo1.loss" -> "mdloo.loss"
    text = MEANINGS.get(key) or MEANINGS[name.partition(".")[2]]
    words = WORDS.get(key, [])
    return f"{text}: {', '.join(words)}" if 0 < len(words) < 5 else text


def are_weights(values, sources):
    """Return True if `values` are weights of some of these sources, at least 0 but not all 0."""
    weights = list(values.values())
    return (values.keys() <= sources.keys() and all(type(w) in (int, float) for w in weights)
            and all(0 <= w <= LARGEST for w in weights) and sum(weights) > 0)


def problem(name, value, default):
    """Return "" if a setting may have this value, else what it takes.

    problem("sft.dropout", 2.0, 0.1) -> "takes a value like 0.1, at least 0, below 1"
    """
    stage, _, setting = name.partition(".")
    # "mdloo1.loss" -> "mdloo.loss"
    key = name if name in WORDS else re.sub(r"\d\.", ".", name)
    if key in WORDS:
        words = [word.replace("N", stage[-1]) for word in WORDS[key]]
        return "" if value in words else f"takes one of {', '.join(map(repr, words))}"
    like = f"takes a {'whole number' if type(default) is int else 'value'} like {default!r}"
    same_type = type(value) is type(default)  # isinstance(True, int) is true
    if type(default) is dict:  # of text, where any source may have a weight, or of task families
        sources = corpus.CONTINUED if "web" in default else default
        right = same_type and are_weights(value, sources)
        return "" if right else f"{like}: weights of sources, at least 0, not all 0"
    if type(default) in NUMBER:
        general = NUMBERS.get(setting, NUMBER[type(default)])
        is_in_range, description = NUMBERS.get(key, general)
        return "" if same_type and is_in_range(value) else f"{like}, {description}"
    return "" if same_type else like  # a path, or True or False
