"""Test the claims of the AFM report as paired experiments over seeds: make claims.

    python -m afm_min.lab.claims --seeds 0,1 --jobs 2      train what is missing for these two seeds
    python -m afm_min.lab.claims --merge                   only write claims.md from all seed*.json
    python -m afm_min.lab.claims --only distillation       claims or sections with this text
    python -m afm_min.lab.claims --null 40 --preset tiny   arms differ by their random draws alone

The tables are written to claims.md, only.md and null.md.

A claim compares two arms, a treatment and a control. An arm is a stage to train, with the settings
that it and the stages before it change from the preset. Each seed is trained from raw text on, with
its own parent, batches, samples and prompts. The two arms of a seed share every stage before the
first whose settings differ.

Call it again after a kill: finished stages are kept (see arms.py). The metrics of a seed are in a
file such as seed0.json. To use several machines, give each its own --seeds, then copy all
seed*.json into one folder and call --merge.
"""
import itertools
import re
import typing

from afm_min import align, distributed
from afm_min.data import corpus
from afm_min.lab import evidence
from afm_min.lab.arms import arm_names, run_seeds
from afm_min.lab.evidence import HIGHER, LOWER
from afm_min.lab.pictures import write_pictures
from afm_min.lab.settings import PRESET_SETTINGS
from afm_min.model import PRESETS
from afm_min.run import Parser, Run, UserError, run_command, write_text


class Claim(typing.NamedTuple):
    """The claim that `metric`, reported by `stage`, is better with settings `treatment` than with
    `control`."""
    section: str
    claim: str
    stage: str
    metric: str
    better: int  # HIGHER or LOWER
    treatment: dict = {}  # settings that replace the preset's, {"stage.setting": value}
    control: dict = {}  # the same for the control
    control_stage: str = ""  # the control's stage, or "" if it is the same
    main: bool = False  # the most important claim of its section
    effect: float | None = None  # the report's figure, in points of its benchmarks, if it has one
    of_report: bool = True  # the report says so; summaries count these claims alone


# Settings of every arm: more validation tasks and facts than by default, and evaluation without
# the quantized models. (`best1` and `best2` validate six models, so they keep the default.)
POLICIES_OF_ROUNDS = [f"{method}{n}" for method in ("rs", "dpo", "ipo", "mdloo", "committee")
                      for n in (1, 2)]
SETTINGS = {"evaluation.packed": False, "lengthening.facts": 512} | {
    f"{stage}.count": 400 for stage in ("draft", "sft", *POLICIES_OF_ROUNDS, "quantize", "recovery",
                                        "math", "tools", "summary")}
NO_TEACHER, SCRATCH = {"core.distill": 0.0}, {"core.start": "scratch"}
TWO_BITS = {"quantize.average": 2.0}
ADAMW_LR = 0.008  # the best of .001, .002, .004, .008 and .016, on seeds that no claim uses
PRUNING, MIXTURES = "Pre-training, pruning and distillation", "Mixtures and longer context"
TUNING, POLICIES = "Fine-tuning and the reward model", "Policies of the first round"
COMMITTEE, DEVICE = "Committee and rounds", "On the device"
CLAIMS = [
    Claim(PRUNING, "distillation helps after pruning", "continued", "accuracy %", HIGHER,
          control=NO_TEACHER, main=True, effect=3.0),
    Claim(PRUNING, "distillation helps from scratch", "continued", "accuracy %", HIGHER,
          SCRATCH, SCRATCH | NO_TEACHER, effect=3.0),
    Claim(PRUNING, "distillation helps in continued, too (the report: no)", "continued",
          "accuracy %", HIGHER, {"continued.distill": 0.9}, of_report=False),
    Claim(PRUNING, "a pruned start beats random weights", "continued", "accuracy %", HIGHER,
          NO_TEACHER, SCRATCH | NO_TEACHER, effect=2.0),
    Claim(PRUNING, "learned pruning beats pruning by magnitude", "core", "accuracy %", HIGHER,
          control={"prune.method": "magnitude"}),
    Claim(PRUNING, "AdaStar beats AdamW", "core", "accuracy %", HIGHER,
          control={"core.optimizer": "adamw", "core.lr": ADAMW_LR}),
    Claim(MIXTURES, "continued's mixture helps mathematics", "continued", "math bits/byte", LOWER,
          control={"continued.mixture": corpus.CORE}),
    Claim(MIXTURES, "training on longer text helps recall", "lengthening", "recall at 4x %", HIGHER,
          control={"lengthening.steps": 1}, main=True),  # 1 is nearly none; both raise the base
    Claim(MIXTURES, "a larger RoPE base helps recall", "lengthening", "recall at 4x %", HIGHER,
          control={"lengthening.rope_base": 500_000.0}),
    Claim(TUNING, "synthetic data helps mathematics", "sft", "all math %", HIGHER,
          control={"sft.synthetic": False}, main=True),
    Claim(TUNING, "synthetic data helps code", "sft", "code %", HIGHER,
          control={"sft.synthetic": False}),
    Claim(TUNING, "guards of demonstrations help", "draft", "mean %", HIGHER,
          control={"demonstrations.guarded": False}),
    # Not their log loss: unseen pairs are judged without errors, which favours too large margins.
    Claim(TUNING, "soft labels beat hard ones", "reward1", "all pairs %", HIGHER,
          control={"reward1.labels": "hard"}),
    Claim(TUNING, "the loss on grades helps", "reward1", "all pairs %", HIGHER,
          control={"reward1.grade_weight": 0.0}),
    Claim(TUNING, "reading the likelihood helps (not in the report)", "reward1", "all pairs %",
          HIGHER, control={"reward1.reads": "state"}, of_report=False),
    # sft is the better of two checkpoints by these tasks, which makes the claim harder to show.
    Claim(POLICIES, "MDLOO beats sft, where it starts", "mdloo1", "all math %", HIGHER,
          control_stage="sft", main=True),
    Claim(POLICIES, "MDLOO beats PPO", "mdloo1", "all math %", HIGHER,
          control={"mdloo1.loss": "ppo"}),
    *[Claim(POLICIES, f"leave one out beats the baseline: {baseline}", "mdloo1", "all math %",
            HIGHER, control={"mdloo1.baseline": baseline}) for baseline in ("mean", "none")],
    Claim(COMMITTEE, "a second round helps", "evaluation", "aligned mean %", HIGHER,
          control={"evaluation.aligned": "best1"}, main=True),
    # Five members give 2 samples each, one alone gives 10.
    Claim(COMMITTEE, "choosing among the members beats RS alone", "committee1", "mean %", HIGHER,
          control={"committee1.only": "rs1", "committee1.samples": 10}),
    Claim(COMMITTEE, "the best response beats a random one", "committee1", "mean %", HIGHER,
          control={"committee1.choice": "random"}),
    # At equal epochs, so 8,000 prompts are trained on for 16 times as many steps.
    Claim(COMMITTEE, "8,000 prompts beat 500", "committee1", "mean %", HIGHER,
          {"committee1.prompts": 8000}, {"committee1.prompts": 500}),
    Claim(DEVICE, "post-training lifts the mathematics adapter", "math", "all math %", HIGHER,
          {"math.start": "best2"}, {"math.start": "lengthening"}, main=True),
    *[Claim(DEVICE, f"recovery helps at {bits} bits", "recovery", "mean %", HIGHER,
            {"quantize.average": bits}, {"quantize.average": bits}, "quantize")
      for bits in (3.7, 2.0)],
    *[Claim(DEVICE, f"at 2 bits, rank {more} recovers more than {less}", "recovery", "mean %",
            HIGHER, TWO_BITS | {"recovery.rank": more}, TWO_BITS | {"recovery.rank": less})
      for more, less in ((16, 8), (32, 16))],
    Claim(DEVICE, "the mathematics adapter helps mathematics", "math", "all math %", HIGHER,
          control_stage="recovery"),
    Claim(DEVICE, "choosing the 2-bit groups by sensitivity beats chance", "quantize", "mean %",
          HIGHER, {"quantize.average": 3.0},
          {"quantize.average": 3.0, "quantize.choice": "random"})]


def null_claims(claims, count):
    """Return `count` claims without an effect. The two arms have the same settings, and share the
    stages before the claim's; only the random draws of the claim's stage differ. Stages that draw
    next to nothing are left out."""
    claims = [claim for claim in claims if claim.stage not in ("quantize", "evaluation")]
    null = []
    for i, claim in enumerate(itertools.islice(itertools.cycle(claims), count)):
        treatment, control = ({f"{claim.stage}.draw": 2 * i + side} for side in (1, 2))
        null.append(Claim(claim.section, f"null {i + 1}", claim.stage, claim.metric, claim.better,
                          claim.treatment | treatment, claim.treatment | control, of_report=False))
    return null


# The stages of the run without special settings, and the metrics that claims.md lists of them.
DEFAULT_RUN = [
    ("teacher", "accuracy %"), ("core", "accuracy %"), ("continued", "accuracy %"),
    ("lengthening", "recall at 4x %"),
    *[(stage, metric) for stage in ("draft", "sft", *align.policy_stages(1), "committee1", "mdloo2",
                                    "committee2", "quantize", "recovery")
      for metric in ("mean %", "all math %")],
    ("best1", "mean %"), ("best2", "mean %"),
    ("math", "all math %"), ("tools", "tools %"), ("summary", "summary %"),
    ("reward1", "all pairs %"), ("reward1", "all pairs by likelihood %"), ("reward1", "log loss"),
    ("mdloo1", "truth gain"), ("evaluation", "wins %"), ("evaluation", "losses %"),
    *[("evaluation", f"{name} mean %") for name in ("base", "draft", "sft", "aligned")]]


def arm(config, stage, settings):
    """Return an arm: (its name, stage, settings)."""
    return arm_names(config, stage, settings)[stage][0], stage, settings


def arms_of(claim, config, settings):
    """Return the two arms of a claim."""
    return [arm(config, claim.stage, settings | claim.treatment),
            arm(config, claim.control_stage or claim.stage, settings | claim.control)]


def compare_claims(claims, config, settings, results):
    """Return pairs (claim, Comparison) of the claims for which a seed has both arms.

    Results of other settings or of older code have other names, so they are left out."""
    compared = []
    for claim in claims:
        (treatment, *_), (control, *_) = arms_of(claim, config, settings)
        values = evidence.values_of(results, treatment, control, claim.metric)
        if values[0]:
            compared.append((claim, evidence.compare(*values)))
    return compared


def further_tables(config, settings, results):
    """Return two tables as text: the policies by family, and the run without special settings."""
    names = {stage: arm(config, stage, settings)[0] for stage, _ in DEFAULT_RUN}
    policies = {stage: names[stage] for stage in align.policy_stages(1)}
    rows = [[stage, metric, names[stage]] for stage, metric in DEFAULT_RUN]
    return ("## Policies of the first round, by family\n\n"
            + evidence.family_table(results, policies, names["sft"])
            + "## The run without special settings\n\n" + evidence.default_run_table(results, rows))


def choose_claims(arguments):
    """Return the claims to test. Raises UserError if an argument has a bad value."""
    if not re.fullmatch(r"\d{1,3}(,\d{1,3})*", arguments.seeds):
        raise UserError(f"--seeds {arguments.seeds}: expected numbers up to 999, such as 0,1,2")
    if arguments.jobs < 1 or arguments.null < 0:
        raise UserError(f"--jobs {arguments.jobs} --null {arguments.null}: expected at least 1 job "
                        "and 0 claims without effect")
    if arguments.preset not in PRESETS:
        raise UserError(f"--preset {arguments.preset}: choose one of {', '.join(PRESETS)}")
    claims = [claim for claim in CLAIMS if arguments.only in f"{claim.section}: {claim.claim}"]
    if arguments.null:
        claims = null_claims(claims, arguments.null)
    if not claims:
        raise UserError(f"--only {arguments.only}: no claim or section with this text to test")
    return claims


def arms_to_run(claims, preset, config, settings):
    """Return all arms of the claims and, with all CLAIMS, those of DEFAULT_RUN.

    Raises UserError if the preset makes both arms of a claim equal."""
    pairs = [arms_of(claim, config, settings) for claim in claims]
    if same := [claim.claim for claim, (treatment, control) in zip(claims, pairs)
                if treatment[0] == control[0]]:
        raise UserError(f"--preset {preset} gives both arms of these claims the same settings: "
                        f"{'; '.join(same)}; choose other claims with --only")
    default_run = DEFAULT_RUN if claims == CLAIMS else []
    return sum(pairs, []) + [arm(config, stage, settings) for stage, _ in default_run]


def read_results(base, arms):
    """Return the metrics of all seed*.json, {"seed0": {name of an arm: its metrics}}, without those
    of other arms, such as arms of older code."""
    names = {name for name, *_ in arms}
    return {file.stem: {name: metrics for name, metrics in base.read_json(file.name).items()
                        if name in names}
            for file in sorted(base.path.glob("seed*.json"))}


def run_claims(arguments):
    """Train what the claims lack with these seeds, and write a table from all seeds' files."""
    claims = choose_claims(arguments)
    config, base, errors = PRESETS[arguments.preset], Run(arguments.out), []
    settings = SETTINGS | PRESET_SETTINGS.get(arguments.preset, {})
    arms = arms_to_run(claims, arguments.preset, config, settings)
    base.create()
    with base.reserved():  # no other process may train the same arms
        if not arguments.merge:
            seeds = list(dict.fromkeys(map(int, arguments.seeds.split(","))))
            errors = run_seeds(base, config, seeds, arms, arguments.jobs)
        results = read_results(base, arms)
        compared = compare_claims(claims, config, settings, results)
        if compared:
            name = "null" if arguments.null else "only" if arguments.only else "claims"
            pictures = write_pictures(base, {name: (compared, evidence.summary(compared))})
            further = further_tables(config, settings, results) if name == "claims" else ""
            write_text(base.file(f"{name}.md"), evidence.claims_text(
                compared, results, f"{arguments.preset} models", pictures or "", further))
    if errors:
        raise UserError(f"{len(errors)} arms failed, so rows lack seeds: {'; '.join(errors)}")
    if not compared:
        raise UserError(f"{base.path}: no seed*.json has results of these claims by the current "
                        "code, so no table is written: leave out --merge to train them")


def main():
    parser = Parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("--out", metavar="DIR", default="runs/claims", help="folder (default: %(default)s)")
    add("--seeds", metavar="LIST", default="0,1,2,3,4,5", help="0 to 999 (default: %(default)s)")
    add("--jobs", metavar="N", type=int, default=distributed.cores(),
        help="processes of one thread each (default: %(default)s)")
    add("--only", metavar="TEXT", default="",
        help="test only claims or sections that contain this text: only.md")
    add("--preset", metavar="NAME", default="toy", help="size of the models (default: toy)")
    add("--merge", action="store_true", help="train nothing, only write claims.md")
    add("--null", metavar="N", type=int, default=0, help="test N claims without effect: null.md")
    run_command(run_claims, parser.parse_args())


if __name__ == "__main__":
    main()
