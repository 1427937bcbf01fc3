"""The run directory: a checkpoint is replaced whole, or not at all."""
import os
import resource

import pytest
import torch

from afm_min.run import UserError, load, save


@pytest.mark.parametrize("limit", [0, 1000, 70_000])
def test_a_failed_save_leaves_the_old_file(tmp_path, limit):
    path = tmp_path / "state.pt"
    save(path, x=torch.ones(100_000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(UserError, match="cannot write .*state.pt"):
            save(path, x=torch.zeros(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load(path)["x"].sum() == 100_000
    assert os.listdir(tmp_path) == ["state.pt"]
