"""bench/quality.py on a tiny random model, against the same weights in files of their own."""

import json
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

import pvq_ref

EXTRA = "needs pip install 'pvq-ref[calibrate]'"
torch = pytest.importorskip("torch", reason=EXTRA)
pytest.importorskip("transformers", reason=EXTRA)
pytest.importorskip("matplotlib", reason="needs pip install 'pvq-ref[bench]'")
from safetensors.numpy import load_file, save_file  # noqa: E402

import quality  # noqa: E402
import quality_report  # noqa: E402
import quality_results  # noqa: E402
from baselines import quantize  # noqa: E402
from pvq_ref.evaluate import evaluate  # noqa: E402
from pvq_ref.model import open_model  # noqa: E402
from pvq_ref.plan import Settings, make_plan  # noqa: E402
from quality_list import configurations, selected  # noqa: E402
from quality_picture import Point, best  # noqa: E402
from tests.language_models import TEXT, make_llama  # noqa: E402

WINDOW = 32
SIZES = ["--calibration-window", str(WINDOW), "--calibration-tokens", "480", "--window", "32"]
NAMES = ["original", "pvq-3.25-no-data", "rtn-3-absmax32", "rotated-gptq-3-offset64-one-pass"]


def run(monkeypatch, folder, results, *options):
    arguments = [str(folder / "model"), str(folder / "t.txt"), str(results), *SIZES, *options]
    monkeypatch.setattr(sys, "argv", ["quality.py", *arguments])
    quality.main()


def only(names):
    return [word for name in names for word in ("--only", name)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("quality")
    make_llama(root / "model", tied=False)
    (root / "t.txt").write_text(TEXT)
    return root


@pytest.fixture(scope="module")
def measured(folder):
    """Results of NAMES and of the same error feedback as in one of them, by name."""
    path = folder / "results.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        run(patch, folder, path, *only([*NAMES, "gptq-3-absmax32", "pvq-3.25"]))
    return {one["asked"]["name"]: one for one in quality_results.read(path)}


def perplexity(path, folder):
    report = evaluate(path, text=folder / "t.txt", window=WINDOW, part=(0.5, 1.0))
    return report.perplexity().value


def test_the_original(folder, measured):
    got = measured["original"]
    assert got["perplexity"]["value"] == pytest.approx(perplexity(folder / "model", folder))
    assert got["ratio"]["value"] == 1.0
    assert got["kl"]["value"] == pytest.approx(0.0, abs=1e-6)


def test_round_to_nearest_is_what_files_with_such_weights_give(folder, measured, tmp_path):
    one = selected(configurations(), ["rtn-3-absmax32"])[0]
    shutil.copytree(folder / "model", tmp_path, dirs_exist_ok=True)
    tensors = load_file(folder / "model" / "model.safetensors")
    bits = weights = 0
    for name, w in tensors.items():
        if "_proj" in name:
            decoded, took = quantize(w, None, one.method.setting)
            tensors[name] = decoded.astype(np.float16)
            bits, weights = bits + took, weights + w.size
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    got = measured["rtn-3-absmax32"]
    assert got["file_rate"] == bits / weights
    assert got["weights"] == weights
    assert got["perplexity"]["value"] == pytest.approx(perplexity(tmp_path, folder), rel=1e-5)
    assert got["perplexity"]["value"] != measured["original"]["perplexity"]["value"]


def test_pvq_without_data_is_what_compress_makes(folder, measured, tmp_path):
    pvq_ref.compress(folder / "model", tmp_path / "c", bits=3.25)
    got = measured["pvq-3.25-no-data"]
    assert got["perplexity"]["value"] == pytest.approx(perplexity(tmp_path / "c", folder), rel=1e-5)
    plan = make_plan(open_model(folder / "model"), Settings(bits=3.25))
    assert got["file_rate"] == plan.file_rate


def test_feedback_lowers_losses(measured):
    def losses(name):
        return np.array([*measured[name]["losses"].values()])

    assert (losses("rotated-gptq-3-offset64-one-pass") < losses("rtn-3-absmax32")).mean() > 0.8
    assert losses("pvq-3.25").mean() < 0.8 * losses("pvq-3.25-no-data").mean()
    assert len(losses("pvq-3.25")) == 14


def test_what_is_done_is_not_done_again(folder, measured, monkeypatch, capsys, tmp_path):
    path = folder / "results.jsonl"
    before = path.read_bytes()
    run(monkeypatch, folder, path, *only(NAMES))
    assert capsys.readouterr().out.startswith("4 done already, 0 to do")
    assert path.read_bytes() == before
    run(monkeypatch, folder, path, *only(NAMES), "--list")
    listed = capsys.readouterr().out.splitlines()
    assert listed == [f"done {name}" for name in sorted(NAMES, key=at)]
    run(monkeypatch, folder, tmp_path / "r", *only(["original"]), "--minutes", "0")
    assert "no time left" in capsys.readouterr().out
    assert not (tmp_path / "r").exists()
    run(monkeypatch, folder, tmp_path / "r", *only(["original"]))
    run(monkeypatch, folder, tmp_path / "r", *only(["original"]), "--again")
    assert len((tmp_path / "r").read_text().splitlines()) == 2
    assert len(quality_results.read(tmp_path / "r")) == 1


def at(name):
    return [one.name for one in configurations()].index(name)


@pytest.mark.slow
def test_several_processes_give_the_same(folder, measured, tmp_path, monkeypatch):
    run(monkeypatch, folder, tmp_path / "r", *only(NAMES), "--jobs", "2")
    several = quality_results.read(tmp_path / "r")
    assert len(several) == len(NAMES)
    for got in several:
        ref = measured[got["asked"]["name"]]
        assert got["asked"] == ref["asked"]
        assert got["perplexity"]["value"] == pytest.approx(ref["perplexity"]["value"], rel=1e-4)


def test_names_and_settings():
    every = configurations()
    assert len({one.name for one in every}) == len(every)
    sources = {"model_sha256": "0", "text_sha256": "1"}
    asked = [quality_results.asked(replace(one, name=""), sources) for one in every if one.method]
    kept = [json.dumps(one, sort_keys=True) for one in asked]
    assert len(set(kept)) == len(kept)  # none is measured twice under two names
    assert all(json.loads(text) == one for text, one in zip(kept, asked, strict=True))
    with pytest.raises(SystemExit, match="must match"):
        selected(every, ["pvq-*", "nothing"])


def test_lines_of_several_writers_do_not_mix(tmp_path):
    path = tmp_path / "new" / "results.jsonl"
    with ThreadPoolExecutor(8) as pool:  # each call opens the file anew, as processes would
        lines = ({"asked": i, "filling": "x" * 100_000} for i in range(64))
        list(pool.map(lambda line: quality_results.append(path, line), lines))
    assert sorted(one["asked"] for one in quality_results.read(path)) == list(range(64))


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    path = tmp_path / "results.jsonl"
    quality_results.append(path, {"asked": 1, "value": 1})
    with path.open("a") as file:
        file.write('{"asked": 2, "val')
    quality_results.append(path, {"asked": 3})
    quality_results.append(path, {"asked": 1, "value": 2})
    assert quality_results.read(path) == [{"asked": 1, "value": 2}, {"asked": 3}]
    assert quality_results.read(tmp_path / "none") == []


def test_the_page(measured, tmp_path, monkeypatch):
    def report(*paths):
        monkeypatch.setattr(sys, "argv", ["quality_report.py", *map(str, paths)])
        quality_report.main()

    lines = {name: json.loads(json.dumps(one)) for name, one in measured.items()}
    lines["pvq-3.25"]["file_rate"], lines["pvq-3.25"]["ratio"]["value"] = 3.24, 1.1
    for name, ratio in (("rtn-3-absmax32", 1.2), ("gptq-3-absmax32", 1.05)):
        lines[name]["file_rate"], lines[name]["ratio"]["value"] = 3.5, ratio
    again = json.loads(json.dumps(lines["pvq-3.25"]))
    again["asked"]["name"], again["ratio"]["value"] = "pvq-3.25-seed1", 1.3
    wide = json.loads(json.dumps(lines["pvq-3.25"]))
    wide["asked"]["name"], wide["ratio"]["value"] = "pvq-3.25-n64", 1.08
    above = json.loads(json.dumps(lines["gptq-3-absmax32"]))
    above["asked"]["name"], above["file_rate"] = "gptq-3-minmax32", 3.52
    above["ratio"]["value"] = 1.01
    for one in (*lines.values(), again, wide, above):
        quality_results.append(tmp_path / "results", one)
    pages = [tmp_path / "a.md", tmp_path / "b" / "a.md"]
    for page in pages:
        report(tmp_path / "results", "--markdown", page)
    text = pages[0].read_text()
    for name, one in measured.items():
        assert f"| {name} | " in text
        assert f"| {one['perplexity']['value']:.2f} | " in text
    assert re.search(r"round to nearest: rtn-3-absmax32 \| 3.500 \| 1.2000 .* \| worse \|", text)
    assert re.search(r"GPTQ: gptq-3-absmax32 \| 3.500 \| 1.0500 .* \| \*\*better\*\* \|", text)
    assert re.search(r"PVQ: pvq-3.25-n64 \| 3.240 \| 1.0800 .* \| \*\*better\*\* \|", text)
    assert "GPTQ: gptq-3-minmax32" not in text  # more than a quarter bit above
    assert re.search(r"\| pvq-3.25 \| 2 \| [0-9.]+ \| 1.2000 \| 1.1000 \| 1.3000 \|", text)
    assert text.replace(str(pages[0]), str(pages[1])) == pages[1].read_text()
    assert pages[0].with_suffix(".svg").read_bytes() == pages[1].with_suffix(".svg").read_bytes()
    again["asked"]["model_sha256"] = "another"
    quality_results.append(tmp_path / "more", again)
    with pytest.raises(SystemExit, match="one model"):
        report(tmp_path / "results", tmp_path / "more")


def test_lines_pass_through_the_best_points():
    points = [Point("PVQ", *pair) for pair in [(3, 1.2), (2, 2.0), (2.5, 2.1), (3, 1.3), (4, 1.0)]]
    assert [(p.rate, p.ratio) for p in best(points)] == [(2, 2.0), (3, 1.2), (4, 1.0)]
