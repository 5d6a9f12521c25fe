"""What needs torch says so where it isn't there."""

import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from pvq_ref.cli import main

NEEDS_TORCH = ("blocks", "calibrate", "calibrated", "collecting", "extra", "sensitivity", "tuning")


@pytest.mark.parametrize("missing", ["torch", "transformers", "accelerate"])
@pytest.mark.parametrize("command", ["compress", "calibrate"])
def test_a_missing_library_is_named_with_what_installs_it(
    tmp_path, capsys, monkeypatch, missing, command
):
    weights = np.ones((8, 64), np.float32)
    save_file({"layer.weight": weights}, tmp_path / "model.safetensors")
    (tmp_path / "text").write_text("A text.")
    for name in NEEDS_TORCH:
        monkeypatch.delitem(sys.modules, f"pvq_ref.{name}", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    arguments = {
        "compress": [str(tmp_path / "out"), "--calibrate", str(tmp_path / "text")],
        "calibrate": ["--text", str(tmp_path / "text"), "-o", str(tmp_path / "out")],
    }
    assert main([command, str(tmp_path / "model.safetensors"), *arguments[command]]) == 1
    assert "pip install 'pvq-ref[calibrate]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
