"""The reward model's losses by hand, what its heads see, and the preferences it learns from."""
import math
import random
from types import SimpleNamespace

import pytest
import torch

from afm_min import chat, reward
from afm_min.model import AFM
from afm_min.reward import grade_loss, margin_loss, preference_loss
from afm_min.run import Run, UserError
from afm_min.world import families, people
from afm_min.world.tasks import EVOLVED, Family, Task
from tests.test_chat import FakeModel, Letters, question, tiny_model, use_fake_models


# Losses.

def test_preference_loss_by_hand():
    # r_c - r_r = 1, p = 0.75:
    # 0.75 log(1 + e^-1) + 0.25 log(1 + e) = 0.234946 + 0.328315 = 0.563262.
    # Its gradient by r_c: sigmoid(1) - p = 0.731059 - 0.75 = -0.018941.
    chosen = torch.tensor([3.0], requires_grad=True)
    loss = preference_loss(chosen, rejected=torch.tensor([2.0]), target=torch.tensor([0.75]))
    loss.sum().backward()
    assert loss.item() == pytest.approx(0.563262, abs=1e-6)
    assert chosen.grad.item() == pytest.approx(-0.018941, abs=1e-6)


@pytest.mark.parametrize("p", [0.5, *reward.TARGETS])
def test_preference_loss_has_its_minimum_at_the_log_odds(p):
    chosen = torch.tensor([math.log(p / (1 - p))], requires_grad=True)
    preference_loss(chosen, torch.zeros(1), p).sum().backward()
    assert chosen.grad.item() == pytest.approx(0, abs=1e-6)


def test_targets_of_the_four_levels():
    assert reward.TARGETS == (0.65, 0.75, 0.85, 0.95)


def test_margin_loss_by_hand():
    # -log sigmoid(3 - 1 - 1) = log(1 + e^-1)
    loss = margin_loss(torch.tensor(3.0), rejected=torch.tensor(1.0), margin=1.0)
    assert loss.item() == pytest.approx(0.313262, abs=1e-6)


def test_grade_loss_by_hand():
    # Three heads with equal logits: log 3 each. One has the logits (0, 0, log 2), so the level 2
    # has probability 2 / (1 + 1 + 2): log 2. Together 3 log 3 + log 2 = 3.988984.
    logits = torch.zeros(1, 4, 3)
    logits[0, 1, 2] = math.log(2)
    assert grade_loss(logits, torch.tensor([[0, 2, 1, 2]])).item() == pytest.approx(
        3.988984, abs=1e-6)


def one_row(*responses):
    """Return a batch of one row: the prompt [1, 2, 3], and responses that share it."""
    return chat.share_prompts([([1, 2, 3], responses)])[0]


@pytest.fixture
def reward_model():
    torch.manual_seed(0)
    model = reward.from_language_model(tiny_model())
    torch.nn.init.normal_(model.reward.weight)  # at the start it gives each response 0
    return model


@pytest.fixture
def two_pairs(reward_model):
    """A batch of two pairs, of levels 3 and 0, in which only the first response is found true; and
    rewards, grade logits and log-likelihoods of its four responses."""
    batch, _ = chat.share_prompts([([1, 2], ([4, 5], [6, 7])), ([1, 2], ([8, 9], [3, 3]))])
    batch["pairs"] = torch.tensor([[[0, 1, 3], [2, 3, 0], [-1, -1, -1]]])  # the last is padding
    batch["grades"] = torch.tensor([[[2, 2, 2, 2], [2, 2, 0, 2], [2, 1, 0, 2], [2, 0, 0, 2]]])
    with torch.no_grad():
        rewards, logits, logp = reward_model(batch["ids"], batch["branch"], batch["segment_start"])
    return batch, rewards[0], logits[0], logp[0]


@pytest.mark.parametrize("labels, ranking_loss", [
    ("soft", lambda r: preference_loss(r[0], r[1], 0.95) + preference_loss(r[2], r[3], 0.65)),
    ("hard", lambda r: preference_loss(r[0], r[1], 1.0) + preference_loss(r[2], r[3], 1.0)),
    ("margin", lambda r: margin_loss(r[0], r[1], 3.0) + margin_loss(r[2], r[3], 0.0))],
    ids=["soft", "hard", "margin"])
def test_reward_loss_is_ranking_grades_and_language(reward_model, two_pairs, labels, ranking_loss):
    """All four responses have grades. Only the one found true counts as language."""
    batch, rewards, logits, logp = two_pairs
    with torch.no_grad():
        sums = reward.reward_loss(reward_model, batch, labels, grade_weight=0.5)
    expected = ranking_loss(rewards) + 0.5 * grade_loss(logits, batch["grades"][0]).sum()
    expected = expected - reward.LANGUAGE_WEIGHT * logp[0]
    assert sums["loss"].item() == pytest.approx(expected.item(), abs=1e-5)


def test_reward_loss_counts_pairs_and_those_in_order(reward_model, two_pairs):
    batch, rewards, _, _ = two_pairs
    with torch.no_grad():
        sums = reward.reward_loss(reward_model, batch)
        assert sums["count"] == 2
        assert sums["ordered"] == sum(rewards[::2] > rewards[1::2])
        batch["pairs"] = torch.tensor([[[1, 0, 3], [3, 2, 0]]])  # the other way round
        assert reward.reward_loss(reward_model, batch)["ordered"] == 2 - sums["ordered"]


# The model.

def test_each_response_is_scored_as_if_alone(reward_model, monkeypatch):
    """The heads see neither padding nor the other responses of a row."""
    monkeypatch.setattr(chat, "ROUND", 16)
    responses = [4, 5], [4, 5, 6, 7, 8], [9]
    with torch.no_grad():
        together = reward_model.score(**one_row(*responses))[0, :, 0]
        alone = [reward_model.score(**one_row(response))[0, 0, 0].item() for response in responses]
        batch, places = chat.share_prompts([([1, 2, 3], [response]) for response in responses])
        assert places == [(0, 1), (0, 0), (1, 0)]  # of 5, 8 and 4 tokens, in rows of 16
        scores = reward_model.score(**batch)[..., 0]
    assert together.tolist() == pytest.approx(alone, abs=1e-5)
    assert [scores[place].item() for place in places] == pytest.approx(alone, abs=1e-5)
    assert len({round(x, 3) for x in alone}) == 3


def test_heads_see_the_state_of_the_last_token(reward_model):
    responses = [4, 5], [4, 5, 6, 7, 8]
    with torch.no_grad():
        reward_model.reward.weight.uniform_()
        rewards, _, _ = reward_model(**one_row(*responses))
        expected = []
        for response in responses:
            states = reward_model.hidden_states(torch.tensor([[1, 2, 3, *response]]))
            expected.append((states[0, -1] @ reward_model.reward.weight[0]).item())
    assert rewards[0].tolist() == pytest.approx(expected, abs=1e-5)


def test_rewards_by_likelihood():
    """The report's form gives 0 before training. With the weights a and b of the likelihood's
    functions, the reward is 2 a exp(logp / 2) - b log(1 - logp / 2)."""
    torch.manual_seed(0)
    model = tiny_model()
    assert not reward.from_language_model(model)(**one_row([4, 5, 6], [7]))[0].any()
    reward_model = reward.from_language_model(model, "likelihood")
    assert reward_model.likelihood.weight.tolist() == [[1, 1]]
    reward_model.likelihood.weight.data = torch.tensor([[3.0, 5.0]])
    rewards, grade_logits, logp = reward_model(**one_row([4, 5, 6], [7]))
    assert rewards.shape == (1, 2)
    assert grade_logits.shape == (1, 2, 4, 3)
    expected = []
    for response in ([4, 5, 6], [7]):
        ids = torch.tensor([1, 2, 3, *response])
        log_p = model(ids[None, :-1])[0].log_softmax(-1).gather(1, ids[1:, None])
        expected.append(log_p[-len(response):].sum().item())
    assert logp[0].tolist() == pytest.approx(expected, abs=1e-4)
    assert rewards[0].tolist() == pytest.approx(
        [6 * math.exp(x / 2) - 5 * math.log(1 - x / 2) for x in expected], abs=1e-3)


def test_a_reward_model_starts_as_the_language_model():
    torch.manual_seed(0)
    model = tiny_model()
    reward_model, ids = reward.from_language_model(model), torch.tensor([[1, 2, 3, 4]])
    assert len(reward_model.blocks) == len(model.blocks) + reward.EXTRA_BLOCKS
    torch.testing.assert_close(reward_model.hidden_states(ids), model.hidden_states(ids))
    for name, p in model.state_dict().items():
        assert torch.equal(reward_model.state_dict()[name], p)
    assert reward_model.tokenizer is model.tokenizer


@pytest.mark.parametrize("head", ["reward", "grades"])
def test_the_losses_of_all_heads_train_the_whole_model(reward_model, head):
    """Once the new blocks' output projections have left 0, as they do in the first step."""
    for block in reward_model.blocks[-reward.EXTRA_BLOCKS:]:
        block.attention.output.weight.data.normal_(std=0.1)
        block.feed_forward.down.weight.data.normal_(std=0.1)
    rewards, grade_logits, _ = reward_model(**one_row([4, 5], [6]))
    values = {"reward": rewards, "grades": grade_logits}[head]
    (values * torch.randn_like(values)).sum().backward()
    trunk = dict(reward_model.named_parameters())
    trunk = {name: p for name, p in trunk.items() if not name.startswith(("reward", "grades"))}
    for name, p in trunk.items():
        assert name == "likelihood.weight" or p.grad.abs().max() > 0, name


def test_probability_of_truth_is_that_of_its_best_grade(reward_model):
    batch = one_row([4, 5])
    with torch.no_grad():
        rewards, logits, _ = reward_model(**batch)
        score = reward_model.score(**batch)[0, 0]
    assert score[0] == rewards[0, 0]
    expected = logits[0, 0, 2].softmax(0)[2].item()  # truth is the third of the grades
    assert score[1].item() == pytest.approx(expected)


def test_scores_of_groups(reward_model):
    """Equal responses are computed once, and seven responses take several rows."""
    groups = [([1, 2], [[3], [4, 5], [3], [6], [7], [8, 9, 1], [2]]), ([5], [[4]]),
              ([9, 9, 9, 9], [[1, 2], [1, 2]])]
    for (prompt, responses), scores in zip(groups, reward.scores(reward_model, groups),
                                           strict=True):
        assert len(scores) == len(responses)
        for response, score in zip(responses, scores):
            batch, _ = chat.share_prompts([(prompt, [response])])
            with torch.no_grad():
                alone = reward_model.score(**batch)[0, 0]
            assert score.tolist() == pytest.approx(alone.tolist(), abs=1e-5)


# Preference data.

def encode(*texts):
    """Return each text's ids, with the end token."""
    return [[*Letters().encode(text), 0] for text in texts]


class Yes(Family):
    """A family whose solution is always "yes"."""


def say_yes(*questions):
    return [(Yes(), Task(text, "yes", "yes", text)) for text in questions]


def test_members_of_the_committee():
    assert reward.committee_members(1) == ["draft", "sft"]
    assert reward.committee_members(3) == ["committee2", "rs2", "dpo2", "ipo2", "mdloo2",
                                           "best2"]


def test_sampled_responses_are_listed_by_task_and_model(monkeypatch):
    use_fake_models(monkeypatch)
    models = [FakeModel({"a": [[11], [12]], "bb": [[13], [14]]}),
              FakeModel({"a": [[21], [22]], "bb": [[23], [24]]})]
    tasks = [(Yes(), question("a")), (Yes(), question("bb"))]
    responses = reward.sample_responses(models, tasks, samples=2)
    ids = [[[response.ids for response in drawn] for drawn in of_task] for of_task in responses]
    assert ids == [[[[11], [12]], [[21], [22]]], [[[13], [14]], [[23], [24]]]]
    prompts = [[response.prompt for drawn in of_task for response in drawn]
               for of_task in responses]
    assert prompts == [[[1]] * 4, [[2, 2]] * 4]


@pytest.fixture
def two_models(monkeypatch):
    """One gives "yes" twice, one gives "no" twice."""
    use_fake_models(monkeypatch)
    return [FakeModel({"q": encode("yes", "yes")}), FakeModel({"q": encode("no", "no")})]


def test_different_responses_are_compared_once(two_models):
    """Without noise "yes" is chosen: truth is worth 3 for each of 2 levels, so the level is 3."""
    comparison, = reward.collect_comparisons(two_models, say_yes("q"), 4, random.Random(0), 0.0)
    assert comparison == {"family": "yes", "prompt": Letters().encode("q"),
                          "responses": encode("yes", "no"),
                          "grades": [[2, 2, 2, 2], [2, 2, 0, 2]], "pairs": [[0, 1, 3, True]]}


def test_annotators_who_err_choose_the_wrong_response(two_models, monkeypatch):
    monkeypatch.setattr(people, "P_RIGHT", (0, 0, 0, 0))
    comparison, = reward.collect_comparisons(two_models, say_yes("q"), 4, random.Random(0), 1e-9)
    assert comparison["grades"] == [[2, 2, 2, 2], [2, 2, 0, 2]]
    assert comparison["pairs"] == [[1, 0, 3, False]]


def test_equal_responses_are_not_compared(monkeypatch):
    use_fake_models(monkeypatch)
    models = [FakeModel({"q": encode("yes", "yes")})]
    assert reward.collect_comparisons(models, say_yes("q"), 2, random.Random(0), 0.0) == []


@pytest.mark.parametrize("samples, responses", [(2, 2), (3, 4), (4, 4)])
def test_each_model_gives_equally_many_responses(monkeypatch, samples, responses):
    """If three are asked for, two models give two each."""
    use_fake_models(monkeypatch)
    compared = []

    def annotate(true_grades, *_):
        compared.append(len(true_grades))
        return true_grades, []
    monkeypatch.setattr(people, "annotate", annotate)
    models = [FakeModel({"q": encode("a", "b")}), FakeModel({"q": encode("c", "d")})]
    reward.collect_comparisons(models, say_yes("q"), samples, random.Random(0), 0.0)
    assert compared == [responses]


def chosen_and_rejected_texts(comparisons):
    """Return each pair as a text: prompt, chosen and rejected response."""
    texts = []
    for each in comparisons:
        for chosen, rejected, *_ in each["pairs"]:
            ids = [each["prompt"], each["responses"][chosen], each["responses"][rejected]]
            texts.append(" ".join(Letters().decode(of_text).rstrip("`") for of_text in ids))
    return sorted(texts)


@pytest.fixture
def four_responses(monkeypatch):
    """Two models give two responses each to two prompts, all different. One of each four is right,
    so in three of six pairs one is better. Returns a function that collects the comparisons."""
    use_fake_models(monkeypatch)
    models = [FakeModel({"first": encode("ya", "yes"), "second": encode("na", "nb")}),
              FakeModel({"first": encode("yc", "yd"), "second": encode("nc", "yes")})]
    return lambda: reward.collect_comparisons(models, say_yes("first", "second"), 4,
                                              random.Random(1), 0.0)


ALL_PAIRS = [*(f"first yes {other}" for other in ("ya", "yc", "yd")),
             *(f"second yes {other}" for other in ("na", "nb", "nc"))]


def test_responses_are_compared_with_others_to_their_prompt(four_responses):
    comparisons = four_responses()
    assert chosen_and_rejected_texts(comparisons) == ALL_PAIRS
    assert [len(each["responses"]) for each in comparisons] == [4, 4]


def test_at_most_max_pairs_are_compared_for_a_prompt(four_responses, monkeypatch):
    """Five of six are drawn, so one of the three with a better response may be left out."""
    monkeypatch.setattr(reward, "MAX_PAIRS", 5)
    comparisons = four_responses()
    pairs = chosen_and_rejected_texts(comparisons)
    assert set(pairs) < set(ALL_PAIRS)
    assert len(pairs) >= 4
    for each in comparisons:  # responses without a pair are left out
        assert len(each["responses"]) == len(each["pairs"]) + 1


@pytest.fixture
def comparisons():
    """Of 8, 4 and 9 tokens."""
    first = {"prompt": [1, 2], "responses": [[3], [4, 5], [6]],
             "grades": [[2] * 4, [0] * 4, [1] * 4],
             "pairs": [[1, 0, 2, True], [2, 1, 3, False], [2, 0, 1, True]]}
    second = {"prompt": [9], "responses": [[8], [7]], "grades": [[0] * 4, [2] * 4],
              "pairs": [[1, 0, 0, False]]}
    return [first, second, second | {"prompt": [9] * 6}]


def test_groups_of_comparisons(comparisons):
    assert reward.groups_of(comparisons) == [
        ([1, 2], [[3], [4, 5], [6]]), ([9], [[8], [7]]), ([9] * 6, [[8], [7]])]


def test_collate_numbers_the_responses_of_a_row(comparisons, monkeypatch):
    """In rows of 16 tokens: the longest comes first, and leaves room for the shortest."""
    monkeypatch.setattr(chat, "ROUND", 16)
    batch = reward.collate(comparisons,
                           extra=[torch.arange(3), torch.arange(3, 5), torch.arange(5, 7)])
    assert batch["ids"].tolist() == [[9, 9, 9, 9, 9, 9, 8, 9, 7] + [9, 8, 9, 7] + [0] * 3,
                                     [1, 2, 3, 2, 4, 5, 2, 6] + [0] * 8]
    assert batch["branch"].tolist() == [[0, 0, 0, 0, 0, 1, 1, 2, 2] + [3, 3, 4, 4] + [0] * 3,
                                        [0, 1, 1, 2, 2, 2, 3, 3] + [0] * 8]
    assert batch["segment_start"].tolist() == [[0] * 9 + [9] * 4 + [16] * 3, [0] * 8 + [16] * 8]
    assert batch["grades"][:, :, 0].tolist() == [[0, 2, 0, 2], [2, 0, 1, 0]]
    assert batch["extra"].tolist() == [[5, 6, 3, 4], [0, 1, 2, 0]]
    assert batch["pairs"].tolist() == [[[1, 0, 0], [3, 2, 0], [-1, -1, -1]],
                                       [[1, 0, 2], [2, 1, 3], [2, 0, 1]]]


def test_chosen_and_rejected_values_of_pairs():
    pairs = torch.tensor([[[1, 0, 0], [3, 2, 0], [-1, -1, -1]], [[1, 0, 2], [2, 1, 3], [2, 0, 1]]])
    chosen, rejected = reward.chosen_and_rejected(torch.arange(8).view(2, 4), pairs)
    assert chosen.tolist() == [1, 3, 5, 6, 6]
    assert rejected.tolist() == [0, 2, 4, 5, 4]


def test_a_run_without_any_pair_is_refused(tmp_path):
    run = Run(tmp_path)
    run.write_lines("preferences2", [])
    with pytest.raises(UserError, match="has 0 pairs.*raise preferences2.prompts"):
        reward.read_preferences(run, 2)


# The stages.

# For draw_prompts: a model whose context has room for every prompt.
ROOMY = SimpleNamespace(config=SimpleNamespace(context=9999), tokenizer=Letters())


def test_prompts_are_drawn_from_every_family():
    assert set(reward.PROMPTS) == set(families.all_families() | EVOLVED)


def test_prompts_are_drawn_by_weight():
    tasks = reward.draw_prompts(ROOMY, 9, random.Random(0), {"refuse": 1, "code": 0})
    assert [family.name for family, _ in tasks] == ["refuse"] * 9


def test_prompts_that_do_not_fit_the_context_are_replaced(monkeypatch):
    """FakeModel has a context of 40 tokens, one for each letter."""
    drawn = say_yes("a" * 39, "b" * 40, "c", "d" * 99)
    monkeypatch.setattr(reward, "draw_mixture", lambda *_: drawn)
    tasks = reward.draw_prompts(FakeModel({}), 4, random.Random(0))
    assert [task.question for _, task in tasks] == ["a" * 39, "c", "a" * 39, "c"]
    drawn[:] = say_yes("b" * 40, "d" * 99)
    with pytest.raises(UserError, match="none of 2 prompts fits the model's context of 40 tokens"):
        reward.draw_prompts(FakeModel({}), 2, random.Random(0))


def test_preferences_are_written_and_the_right_ones_counted(monkeypatch, tmp_path, comparisons):
    """Of five pairs, two are right."""
    monkeypatch.setattr(reward, "load_model", lambda run, name: name)
    monkeypatch.setattr(reward, "draw_prompts", lambda *_: [])
    monkeypatch.setattr(reward, "collect_comparisons", lambda models, *_: comparisons)
    run = Run(tmp_path)
    metrics = reward.preferences(1, run)
    assert metrics == {"pairs": 5, "labels right %": 40}
    assert reward.read_preferences(run, 1) == comparisons


@pytest.fixture
def stage(monkeypatch, reward_model):
    """A first round with one comparison of mathematics and two examples. Returns what the stage
    reports and hands to `fit`, which trains nothing here. Held out are that pair, in mathematics,
    and its opposite, three times in code."""
    settings = {}
    comparison = {"family": "math", "prompt": [1, 2], "responses": [[3], [4, 5]],
                  "pairs": [[0, 1, 2, True]], "grades": [[2] * 4, [2, 2, 0, 2]]}

    def fit(model, batches, loss, **others):
        settings.update(others, batches=batches, loss=loss)
    monkeypatch.setattr(reward, "fit", fit)
    monkeypatch.setattr(reward, "load_model", lambda run, name, kind=AFM: reward_model)
    monkeypatch.setattr(reward, "from_language_model", lambda model, reads: model)
    monkeypatch.setattr(reward, "save_model", lambda *_: None)
    monkeypatch.setattr(reward, "read_preferences", lambda run, round_number: [comparison])
    monkeypatch.setattr(reward, "collect_comparisons", lambda *_: [comparison])
    monkeypatch.setattr(chat, "read_examples",
                        lambda *_: {"code": [chat.render_response([7], [8, 9], Letters())]})
    monkeypatch.setattr(reward.evaluate, "validation_tasks", lambda count: [])
    metrics = reward.reward(1, SimpleNamespace(seed=0), examples=2, prompts=3, grade_weight=0.5)
    return metrics, settings


def test_a_step_learns_from_pairs_and_from_examples(stage, reward_model):
    _, settings = stage
    batch = settings["batches"](0)
    examples = {name: batch[f"example {name}"] for name in ("ids", "loss_mask", "segment_start")}
    assert (batch["pairs"][..., 2] >= 0).sum() == 3
    assert examples["loss_mask"].sum() == 4  # two examples of two tokens
    with torch.no_grad():
        expected = (reward.reward_loss(reward_model, batch, grade_weight=0.5)["loss"]
                    + 0.1 * chat.response_loss(reward_model, examples)["loss"])
        loss = settings["loss"](reward_model, batch)["loss"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_held_out_pairs_are_reported_by_family(monkeypatch):
    """Margins by hand: 3 - 1 and 1 - 2 in code, 0 - 0 in follow: 50% and 0%, as a tie is not right.
    Log loss: (log(1 + e^-2) + log(1 + e) + log 2) / 3 = (0.126928 + 1.313262 + 0.693147) / 3."""
    comparisons = [
        {"family": "code", "prompt": [1], "responses": [[2], [3], [4]],
         "pairs": [[0, 1, 2, True], [1, 2, 0, True]]},
        {"family": "follow", "prompt": [1], "responses": [[2], [3]], "pairs": [[1, 0, 0, True]]}]
    rewards = [torch.tensor([[3.0, 0.5], [1.0, 0.5], [2.0, 0.5]]), torch.zeros(2, 2)]
    logps = [torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([-5.0, -4.0])]
    monkeypatch.setattr(reward, "scores", lambda model, groups: rewards)
    monkeypatch.setattr(chat, "map_responses", lambda function, model, groups: logps)
    metrics = reward.ranking_metrics("model", "policy", comparisons)
    assert metrics["mean %"] == 25
    assert metrics["all pairs %"] == pytest.approx(100 / 3)
    assert metrics["log loss"] == pytest.approx(0.711112, abs=1e-6)
    assert metrics["all pairs by likelihood %"] == 100
    code, follow = metrics["pairs judged right"]
    assert (code[0], code[1], code[3:]) == ("code", 50, [2, 100])
    assert (follow[0], follow[1], follow[3:]) == ("follow", 0, [1, 100])


@pytest.mark.parametrize("round_number, start, rounds", [(1, "heads on sft", [1]),
                                                        (2, "reward1", [1, 2])])
def test_a_reward_model_continues_that_of_the_round_before(monkeypatch, round_number, start,
                                                           rounds):
    """It learns from the pairs of all rounds so far. A model here is its stage's name. Held-out
    responses are those of the committee, compared without noise."""
    read, held_out, settings = [], {}, {}

    def read_preferences(run, number):
        read.append(number)
        return []

    def fit(model, batches, loss, **others):
        settings.update(others, model=model)

    def collect_comparisons(models, tasks, samples, rng, noise):
        held_out.update(models=models, samples=samples, noise=noise)
        return []
    monkeypatch.setattr(reward, "fit", fit)
    monkeypatch.setattr(reward, "load_model", lambda run, name, kind=AFM: name)
    monkeypatch.setattr(reward, "from_language_model", lambda model, reads: f"heads on {model}")
    monkeypatch.setattr(reward, "save_model",
                        lambda run, stage, model: settings.update(saved=(stage, model)))
    monkeypatch.setattr(reward, "read_preferences", read_preferences)
    monkeypatch.setattr(reward, "collect_comparisons", collect_comparisons)
    monkeypatch.setattr(reward, "ranking_metrics", lambda model, policy, comparisons: {
        "pairs judged right": []})
    monkeypatch.setattr(chat, "read_examples", lambda *_: {})
    monkeypatch.setattr(chat, "batches", lambda *_: None)
    monkeypatch.setattr(reward.evaluate, "validation_tasks", lambda count: [])
    reward.reward(round_number, SimpleNamespace(seed=0), steps=100)
    assert settings["model"] == start
    assert settings["saved"] == (f"reward{round_number}", start)
    assert [settings["schedule"](step) for step in (0, 50)] == pytest.approx([0.05, 0.5])
    assert read == rounds
    assert held_out == {"models": reward.committee_members(round_number), "samples": 8,
                        "noise": 0.0}
