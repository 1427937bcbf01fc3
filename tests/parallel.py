"""What test_processes.py runs in one process, in several, and sharded: a JSON line
of what came out."""
import json
import resource
import sys
from types import SimpleNamespace

import torch

from afm_min import chat, evaluate, generate, processes
from afm_min.fit import fit
from afm_min.model import AFM, Config
from afm_min.pretrain import next_token_loss
from afm_min.reward import RewardModel, reward_loss
from afm_min.run import Run

run = Run(sys.argv[1], torch.device("cpu"))
run.shard = "shard" in sys.argv
processes.join(run.device)
run.create()
(run.path / "tokenizer.json").write_text("any")
torch.manual_seed(0)
config = Config(dim=32, layers=2, heads=4, kv_heads=2, head_dim=8, hidden=84, vocab_size=50,
                context=64)
ids = torch.randint(50, (20, 34))
conversations = [(ids[i, :n], (torch.arange(n) > n // 2).float())
                 for i, n in enumerate(range(8, 28))]


def windows(step):  # seven rows: no even share
    with torch.no_grad():  # as rollouts do: it must leave no trace
        model.logits(model.states(ids))
    return {"ids": ids[torch.randint(20, (7,))]}


for steps in (5, 10):  # the second goes on from what the first has saved
    torch.manual_seed(steps)  # with what the second begins must not count
    model = AFM(config)
    fit(model, windows, next_token_loss, steps=steps, lr=0.01, micro_batch=2, run=run,
        stage="text", save_every=5, quiet=True)
for block in model.blocks:
    block.dropout = 0.1
fit(model, chat.batches({"a": conversations}, {"a": 1.0}, 5), chat.response_loss, steps=10, lr=0.01,
    run=run, stage="chat")
torch.manual_seed(1)
pairs = {"ids": ids[:10], "branch": ((torch.arange(34) + 4) // 13).expand(10, 34),  # 9, 13, 12 ids
         "level": torch.arange(10) % 4, "grades": torch.arange(80).view(10, 2, 4) % 3}
fit(RewardModel(config), lambda step: pairs, reward_loss, steps=3, lr=0.01, run=run, stage="judge")
# Responses of an untrained model: training ends with weights that differ in the last digits, as
# sums of rows are in another order, and a drawn id may hang on a digit. The margin tells by how much
# the nearest draw misses another id: far more than rounding, so that none can flip.
torch.manual_seed(1)
untrained, margins, sample = AFM(config), [], generate.sample


def watched(logits, uniforms, *rest):
    cumulative = logits.softmax(-1).cumsum(-1)
    margins.append((cumulative[:, :-1] - uniforms[:, None]).abs().min().item())
    return sample(logits, uniforms, *rest)


generate.sample = watched
untrained.tokenizer = SimpleNamespace(encode_chat=lambda messages, reply: messages,
                                      special=lambda _: 3, decode=lambda _: "")
said = evaluate.replies(untrained, [c[0].tolist() for c in conversations[:9]], most=6, rows=4,
                        temperature=1.0)
files = [run.file(f"chat--10.{i}.pt")
         for i in range(run.share_count())] or [run.partial("chat")]
shares = [torch.load(path)["optimizer"]["state"][0]["v"] for path in files]  # by rows
print(json.dumps({
    "losses": [row["loss"] for row in run.logged()], "said": [reply.ids for reply in said],
    "margin": min(margins), "logp": [reply.logp for reply in said],
    "each": chat.losses(model, conversations).tolist(),
    "rows": len(list(run.logged())), "saved": sorted(path.name for path in run.path.iterdir()),
    "weights": {name: x.tolist() for name, x in processes.whole(model.state_dict()).items()},
    "state": torch.cat(shares).tolist(), "bytes": [share.nbytes for share in shares]}))
