"""The run directory: files written whole or not at all, and errors that say what to do."""
import contextlib
import errno
import os
import pathlib
import resource
from types import SimpleNamespace

import pytest
import torch

from afm_min import distributed
from afm_min.run import (Run, UserError, atomic_write, choose_device, compute_dtype, load,
                         run_command, save)


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


@contextlib.contextmanager
def file_size_limit(size):
    """Let writing fail once a file would grow beyond `size` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit", [0, 1000, 70_000])
def test_a_failed_save_leaves_the_old_file(tmp_path, limit):
    path = tmp_path / "state.pt"
    save(path, x=torch.ones(100_000))
    with file_size_limit(limit), pytest.raises(UserError, match="cannot write .*state.pt"):
        save(path, x=torch.zeros(100_000))
    assert load(path)["x"].sum() == 100_000
    assert os.listdir(tmp_path) == ["state.pt"]


def test_an_interrupted_write_leaves_no_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "a.pt"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_rank_that_does_not_write_removes_nothing(tmp_path, monkeypatch):
    """Neither the temporary file of rank 0 nor /dev/null, to which it writes itself."""
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    removed = []
    monkeypatch.setattr(pathlib.Path, "unlink", lambda path, **_: removed.append(path))
    with pytest.raises(UserError, match="cannot write .*: No space left on device"):
        with atomic_write(tmp_path / "a.pt"):
            raise OSError(errno.ENOSPC, "No space left on device")
    assert removed == []


def test_if_one_rank_cannot_write_all_raise(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "all_gather_object",
                        lambda failure: [failure, "cannot write its share: full"])
    with pytest.raises(UserError, match="cannot write its share: full; what was there before"):
        save(tmp_path / "share.pt", each=True)
    assert (tmp_path / "share.pt").exists()  # this rank could write


def test_a_damaged_or_foreign_checkpoint_is_refused(tmp_path):
    path, foreign = tmp_path / "state.pt", tmp_path / "foreign.pt"
    save(path, x=torch.ones(1000))
    torch.save({"model": {}}, foreign)
    whole = path.read_bytes()
    for content in (b"", whole[:100], whole[:len(whole) // 2], whole[:-1], b"PK" + whole[:50],
                    b"{}", b"\x80\x02", foreign.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(UserError, match="state.pt is damaged, or no checkpoint"):
            load(path)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match="there is no .*core.pt: train the stage first"):
        load(tmp_path / "core.pt")


def test_a_checkpoint_of_another_tokenizer_is_refused(run):
    run.file("tokenizer.json").write_text("one")
    save(run.checkpoint("core"), x=1, **run.provenance("core"))
    assert run.load(run.checkpoint("core"))["x"] == 1
    run.file("tokenizer.json").write_text("another")
    with pytest.raises(UserError, match="core.pt was made with another tokenizer"):
        run.load(run.checkpoint("core"))


def test_json_files(run):
    assert run.read_json("report.json") == {}
    run.write_json("report.json", {"core": [1, 2.5]})
    assert run.read_json("report.json") == {"core": [1, 2.5]}
    run.file("report.json").write_text('{"core": [1,')
    with pytest.raises(UserError, match="report.json is damaged, not valid JSON"):
        run.read_json("report.json")


def test_json_lines_files(run):
    with pytest.raises(UserError, match="there is no .*sft.jsonl: run the stage sft first"):
        run.read_lines("sft")
    with pytest.raises(UserError, match="no .*rejected.jsonl: run the stage demonstrations first"):
        run.read_lines("rejected", "demonstrations")
    run.write_lines("sft", [{"text": "é\n"}, {"pairs": [1, None]}])
    assert run.file("sft.jsonl").read_text().count("\n") == 3  # the last is the checksum
    assert run.read_lines("sft") == [{"text": "é\n"}, {"pairs": [1, None]}]
    run.write_lines("sft", [])
    assert run.read_lines("sft") == []


def test_the_log(run):
    assert list(run.read_log()) == []
    rows = [{"stage": stage, "step": step} for step in (1, 2, 3) for stage in ("core", "sft")]
    for row in rows:
        run.log(**row)
    assert list(run.read_log()) == rows
    assert list(run.read_log("sft")) == [{"stage": "sft", "step": step} for step in (1, 2, 3)]


def test_a_truncated_log_has_no_later_steps_and_no_incomplete_row(run):
    for stage, step in (("core", 1), ("sft", 1), ("core", 2), ("sft", 2)):
        run.log(stage=stage, step=step)
    with open(run.file("metrics.jsonl"), "a") as file:
        file.write('{"stage": "co')  # as after a kill
    run.truncate_log("core", after=1)
    lines = run.file("metrics.jsonl").read_text().splitlines()
    assert [line.partition(', "crc": ')[0] for line in lines] == [
        '{"stage": "core", "step": 1', '{"stage": "sft", "step": 1', '{"stage": "sft", "step": 2']


def test_a_log_that_cannot_be_written(run):
    with file_size_limit(0), pytest.raises(UserError, match="cannot write .*metrics.jsonl: "):
        run.log(stage="core", step=1)


def test_a_damaged_row_of_the_log_is_left_out(run):
    for step in range(1, 4):
        run.log(stage="core", step=step, loss=0.5)
    text = run.file("metrics.jsonl").read_text()
    for changed in (text.replace('"step": 2', '"step": 9'), text.replace('"step": 2, "loss"', "["),
                    text.replace('{"stage": "core", "step": 2', '["", 2, {"step": 2')):
        run.file("metrics.jsonl").write_text(changed)
        assert [row["step"] for row in run.read_log()] == [1, 3]


def test_a_second_process_on_a_run_is_refused(run):
    with run.reserved():
        with pytest.raises(UserError, match="another process works on .*: wait until it has ended"):
            with Run(run.path).reserved():
                pass
    with Run(run.path).reserved():
        pass


def test_only_the_first_rank_reserves_a_run_and_all_ranks_are_refused(run, monkeypatch):
    with run.reserved():
        monkeypatch.setattr(distributed, "rank", lambda: 1)
        with run.reserved():  # as another rank of the same run
            pass
        monkeypatch.setattr(distributed, "all_gather_object", lambda text: ["taken", text])
        with pytest.raises(UserError, match="taken"), run.reserved():
            pass


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make the folder .*run: Not a directory"):
        Run(tmp_path / "file" / "run").create()


def test_a_user_error_is_printed_in_one_line(capsys):
    def command(arguments):
        raise UserError(f"{arguments} is wrong")
    with pytest.raises(SystemExit) as end:
        run_command(command, "this")
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: this is wrong\n"


def test_an_error_of_any_rank_is_printed(capsys, monkeypatch):
    monkeypatch.setattr(distributed, "rank", lambda: 1)

    def command(arguments):
        raise UserError("the shard is\ndamaged")
    with pytest.raises(SystemExit) as end:
        run_command(command, None)
    assert end.value.code == 2
    assert capsys.readouterr().err == "error on rank 1: the shard is damaged\n"


def test_an_error_of_the_system_is_printed_in_one_line(capsys, tmp_path):
    with pytest.raises(SystemExit) as end:
        run_command(os.listdir, tmp_path / "none")
    assert end.value.code == 2
    errors = capsys.readouterr().err
    assert "No such file or directory" in errors and errors.count("\n") == 1


@pytest.fixture
def cpu_only(monkeypatch):
    for backend in (torch.cuda, torch.backends.mps):
        monkeypatch.setattr(backend, "is_available", lambda: False)


@pytest.mark.parametrize("name", [None, "", "cpu"])
def test_the_cpu_is_chosen(cpu_only, name):
    assert choose_device(name) == torch.device("cpu")


@pytest.mark.parametrize("name", ["abacus", "c", "cp", "CPU", "0", "meta", "cuda", "cuda:7",
                                  "mps"])
def test_a_device_that_is_not_available_is_refused(cpu_only, name):
    with pytest.raises(UserError, match=rf"device '{name}' is not available here \(available: cpu"):
        choose_device(name)


@pytest.mark.parametrize("name, expected", [(None, "cuda:2"), ("cuda", "cuda:2"),
                                            ("cuda:0", "cuda:0"), ("cpu", "cpu")])
def test_each_process_has_a_gpu_of_its_own(monkeypatch, name, expected):
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty",
                        lambda _, device: SimpleNamespace(device=torch.device(device)))
    assert str(choose_device(name)) == expected


@pytest.mark.parametrize("used, has, expected", [
    ("AVX512", {"avx512_bf16": True}, torch.bfloat16),
    ("AVX512", {"amx_bf16": True}, torch.bfloat16),
    ("AVX512", {}, torch.float32),
    ("AVX2", {"avx512_bf16": True}, torch.float32)])
def test_a_cpu_computes_in_bfloat16_if_it_has_instructions_for_it(monkeypatch, used, has, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: used)
    assert compute_dtype("cpu") == expected
    assert compute_dtype("mps") == torch.float32
