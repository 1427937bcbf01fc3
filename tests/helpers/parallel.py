"""Train and sample in one process or several, for test_distributed.py: writes outcome.json."""
import json
import pathlib
import sys
from types import SimpleNamespace

import pytest
import torch

from afm_min import chat, distributed, files, generate, respond
from afm_min.trainer import fit
from afm_min.model import AFM, Config
from afm_min.pretrain import next_token_loss
from afm_min.reward import RewardModel, reward_loss
from afm_min.run import Run, UserError

CONFIG = Config(dim=32, layers=2, heads=4, kv_heads=2, head_dim=8, hidden=84, vocab_size=50,
                context=64)
TEXT_STEPS, CHAT_STEPS, JUDGE_STEPS = 4, 4, 2
# Stands in for a tokenizer. The conversations below are ids already.
TOKENIZER = SimpleNamespace(encode_chat=lambda messages, reply: messages, special=lambda _: 3,
                            decode=lambda _: "")


def outcome(run):
    """Train a model on text and then conversations, and a reward model; sample from another.

    Returns all that must not depend on the number of processes."""
    run.create()
    (run.path / "tokenizer.json").write_text("any")
    torch.manual_seed(0)
    ids = torch.randint(50, (20, 34))
    conversations = [(ids[i, :n], (torch.arange(n) > n // 2).float())
                     for i, n in enumerate(range(8, 28))]

    def text_batches(step):  # seven rows, which no number of processes divides evenly
        with torch.no_grad():  # as rollouts do; it must not change the training
            model.logits(model.hidden_states(ids))
        return {"ids": ids[torch.randint(20, (7,))]}

    for steps in (TEXT_STEPS // 2, TEXT_STEPS):  # the second resumes from the first's checkpoint
        torch.manual_seed(steps)  # so its initial weights must not matter
        model = AFM(CONFIG)
        fit(model, text_batches, next_token_loss, steps=steps, lr=0.01, micro_batch_size=2, run=run,
            stage="text", save_every=TEXT_STEPS // 2, quiet=True)
    for block in model.blocks:
        block.dropout = 0.1
    fit(model, chat.batches({"a": conversations}, {"a": 1.0}, 5), chat.response_loss,
        steps=CHAT_STEPS, lr=0.01, run=run, stage="chat")
    torch.manual_seed(1)
    pairs = {"ids": ids[:10], "grades": torch.arange(80).view(10, 2, 4) % 3,
             "branch": ((torch.arange(34) + 4) // 13).expand(10, 34),  # 9, 13, 12 ids
             "segment_start": torch.zeros(10, 34, dtype=torch.long),
             "pairs": torch.tensor([[[0, 1, i % 4]] for i in range(10)])}
    judge = RewardModel(CONFIG)
    judge.tokenizer = TOKENIZER
    fit(judge, lambda step: pairs, reward_loss, steps=JUDGE_STEPS, lr=0.01, run=run, stage="judge")
    responses, margin = sample_responses([ids.tolist() for ids, _ in conversations[:9]])
    # The trained model generates too, sharded or not.
    model.tokenizer = TOKENIZER
    prompts = [ids.tolist() for ids, _ in conversations[:3]]  # of two processes: 2 and 1
    respond.generate_responses(model, prompts, max_rows=1, max_new_tokens=6, temperature=1.0)
    decoder = generate.Decoder(model)
    with torch.no_grad():
        decoded = decoder(ids[:2, :1], generate.Cache(decoder, 2, 1))
    shard_files = []
    if run.shard:
        folder = run.shards("chat", CHAT_STEPS)
        shard_files = [path.stat().st_size for path in folder.glob("*.distcp")]
        v = torch.zeros(model.blocks[0].attention.query.weight.shape)
        files.load_sharded({"optimizer": {"state": {0: {"v": v}}}}, folder)
    else:
        v = torch.load(run.partial_checkpoint("chat"))["optimizer"]["state"][0]["v"]
    return {
        "losses": [row["loss"] for row in run.read_log()],
        "responses": [response.ids for response in responses],
        "decoded": decoded[:, -1].tolist(), "margin": margin,
        "logp": [response.logp for response in responses],
        "losses of each": chat.conversation_losses(model, conversations).tolist(),
        "rows": len(list(run.read_log())),
        "saved": sorted(path.name for path in run.path.iterdir()),
        "weights": {name: x.tolist() for name, x in
                    distributed.full_state_dict(model.state_dict()).items()},
        "state": v.tolist(), "bytes": shard_files}


def sample_responses(prompts):
    """Return responses of an untrained model, and the least distance of a uniform random number
    from one that would choose another id.

    Several processes add rows in another order, so weights differ in the last digits after
    training, and so could an id. The distance must be far more than rounding errors."""
    torch.manual_seed(1)
    model, margins, sample = AFM(CONFIG), [], generate.sample

    def watching_sample(logits, uniforms, *rest):
        cumulative = logits.softmax(-1).cumsum(-1)
        margins.append((cumulative[:, :-1] - uniforms[:, None]).abs().min().item())
        return sample(logits, uniforms, *rest)
    model.tokenizer = TOKENIZER
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "sample", watching_sample)
        responses = respond.generate_responses(model, prompts, max_new_tokens=6, max_rows=4,
                                            temperature=1.0)
    return responses, min(margins)


def damaged_shard(folder):
    """Return the errors of all ranks when a shard that rank 1 wrote has changed."""
    run = Run(folder, torch.device("cpu"))
    shards = run.shards("chat", CHAT_STEPS)
    if distributed.rank() == 0:
        path = shards / "__1_0.distcp"
        path.write_bytes(path.read_bytes()[:-9])
    distributed.all_gather_object(None)  # wait for rank 0
    try:
        files.load_sharded({}, shards)
    except UserError as error:
        return distributed.all_gather_object(str(error))


def main(folder, *ways):
    """Write outcome.json: {way: outcome}. ways: "whole", and in several processes "sharded", after
    which "damaged" may follow."""
    distributed.join(torch.device("cpu"))
    outcomes = {}
    for way in ways:
        if way == "damaged":
            outcomes[way] = damaged_shard(pathlib.Path(folder, "sharded"))
            continue
        run = Run(pathlib.Path(folder, way), torch.device("cpu"))
        run.shard = way == "sharded"
        outcomes[way] = outcome(run)
    if distributed.rank() == 0:
        pathlib.Path(folder, "outcome.json").write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main(*sys.argv[1:])
