"""Walks block by block, calibrated compression, tuning (spec sections 7.5 to 7.8)."""

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra `calibrate`")
pytest.importorskip("transformers", reason="needs the extra `calibrate`")
pytest.importorskip("accelerate", reason="needs the extra `calibrate`")

from pvq_ref import checkpoint, errors  # noqa: E402
from pvq_ref.blocks import Blocks  # noqa: E402
from pvq_ref.calibrate import Moments, moments, target, token_counts, walk  # noqa: E402
from pvq_ref.calibrated import (  # noqa: E402
    REPORT,
    Calibration,
    Text,
    allocated,
    compress_calibrated,
)
from pvq_ref.cli import main  # noqa: E402
from pvq_ref.compensated import Feedback  # noqa: E402
from pvq_ref.curvature import layer_curvature  # noqa: E402
from pvq_ref.hessians import Hessians  # noqa: E402
from pvq_ref.language_model import load, load_tokenizer  # noqa: E402
from pvq_ref.model import open_model  # noqa: E402
from pvq_ref.plan import Settings, make_plan  # noqa: E402
from pvq_ref.sensitivity import token_slopes  # noqa: E402
from pvq_ref.tuning import tune, with_norms  # noqa: E402
from pvq_ref.verification import verify  # noqa: E402
from tests.language_models import TEXT, make_llama  # noqa: E402

SETTINGS = Settings(bits=4.0, group=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make_llama(folder / "model", shards=True)
    (folder / "text.txt").write_text(TEXT * 3)
    return folder


@pytest.fixture(scope="module")
def text(folder):
    return Text(folder / "text.txt", tokens=1024, window=64)


@pytest.fixture(scope="module")
def windows(folder, text):
    return text.windows(load_tokenizer(folder / "model"))


def compressed(folder, out, calibration, settings=SETTINGS, **more):
    model = open_model(folder / "model")
    more = {"threads": 1, **more}  # for models this small, more only wait for each other
    return compress_calibrated(model, make_plan(model, settings), out, calibration, **more)


def printed(capsys, schema):
    """The JSON object that a command printed, which obeys its schema."""
    value = json.loads(capsys.readouterr().out)
    schemas = Path(__file__).parent.parent / "docs" / "schemas"
    jsonschema.validate(value, json.loads((schemas / f"{schema}.json").read_text()))
    return value


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def weights(folder):
    return {name: data for name, data in contents(folder).items() if name.endswith("safetensors")}


def test_blocks_one_at_a_time_give_the_model_s_hidden_states(folder, windows):
    blocks = Blocks(open_model(folder / "model"))
    stream = blocks.enter(windows, batch=5)
    for number in range(len(blocks)):
        with blocks.block(number) as block:
            stream.advance(block, number)
    got = torch.cat(stream.states)
    model = load(folder / "model").model.model
    with torch.inference_mode():
        ref = model(torch.from_numpy(windows))
    with torch.inference_mode():
        torch.testing.assert_close(model.norm(got), ref.last_hidden_state)


def test_a_block_has_weights_only_inside_its_context(folder):
    blocks = Blocks(open_model(folder / "model"))
    with blocks.block(1) as block:
        assert not any(p.is_meta for p in block.parameters())
    assert all(p.is_meta for p in block.parameters())


def test_layers_are_grouped_by_their_input_in_the_order_they_run(folder, windows):
    blocks = Blocks(open_model(folder / "model"))
    stream = blocks.enter(windows, batch=8)
    with blocks.block(0) as block:
        got = stream.stages(block, 0, blocks.linear_layers(0))
    ref = [
        ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        ["self_attn.o_proj"],
        ["mlp.gate_proj", "mlp.up_proj"],
        ["mlp.down_proj"],
    ]
    assert got == ref


def test_moments_are_means_over_all_tokens():
    random = torch.Generator().manual_seed(0)
    pairs = [[torch.randn(m, 6, generator=random) for _ in range(2)] for m in (5, 9)]
    got = moments(iter(map(tuple, pairs)))
    ours, original = (torch.cat([pair[i] for pair in pairs]).double() for i in range(2))
    assert got.tokens == 14
    torch.testing.assert_close(got.own, ours.T @ ours / 14, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got.cross, ours.T @ original / 14, rtol=1e-5, atol=1e-6)


def test_a_token_that_counts_twice_is_as_good_as_two():
    random = torch.Generator().manual_seed(0)
    ours, original = (torch.randn(9, 6, generator=random) for _ in range(2))
    counts = torch.tensor([2.0, 1, 1, 1, 2, 1, 1, 0, 0])
    got = moments([(ours[:5], original[:5]), (ours[5:], original[5:])], counts)
    twice = torch.tensor([0, 0, 1, 2, 3, 4, 4, 5, 6])
    ref = moments([(ours[twice], original[twice])])
    torch.testing.assert_close(got.own, ref.own)
    torch.testing.assert_close(got.cross, ref.cross)


def test_tokens_count_by_the_root_of_what_errors_cost():
    slopes = {"a": torch.tensor([1.0, 0, 16, 4]), "b": torch.tensor([8.0, 0, 0, 0]), "c": None}
    got = token_counts(slopes, ["a", "b"])
    torch.testing.assert_close(got, torch.tensor([3.0, 0, 4, 2]) * 4 / 9)
    none = token_counts({"a": torch.zeros(3)}, ["a"])
    torch.testing.assert_close(none, torch.ones(3))


def test_token_slopes_are_the_squared_derivatives_by_a_layer_s_outputs(folder, windows):
    """Moving one output of one layer at one token moves the log-likelihood by its derivative."""
    model = load(folder / "model")
    name, window = "model.layers.1.mlp.up_proj", windows[0]
    got = token_slopes(model, {f"{name}.weight"}, windows[:2])[f"{name}.weight"]
    assert got.shape == (windows[:2].size,)
    layer = model.model.get_submodule(name)
    moved = torch.zeros(len(window), layer.out_features, requires_grad=True)
    handle = layer.register_forward_hook(lambda _, args, out: out + moved)
    ids = torch.from_numpy(window)[None]
    logits = model.model(input_ids=ids, use_cache=False).logits[0].float()
    generator = torch.Generator().manual_seed(0)
    drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
    (ref,) = torch.autograd.grad(-logits.log_softmax(-1)[range(len(drawn)), drawn].sum(), moved)
    handle.remove()
    torch.testing.assert_close(got[: len(window)], (ref**2).sum(1), rtol=1e-4, atol=1e-8)
    assert float(got.min()) >= 0.0 and float(got.max()) > 0.0


def test_weighed_tokens_change_the_result_and_equal_weights_do_not(
    folder, text, tmp_path, monkeypatch
):
    plain = Calibration(text, Feedback(sweeps=0))
    compressed(folder, tmp_path / "plain", plain)
    compressed(folder, tmp_path / "weighed", replace(plain, weigh_tokens=True))

    def equal(model, names, windows):
        return {name: torch.full((windows.size,), 0.25) for name in names}

    monkeypatch.setattr("pvq_ref.calibrated.token_slopes", equal)
    compressed(folder, tmp_path / "equal", replace(plain, weigh_tokens=True))
    ref, weighed, got = (weights(tmp_path / name) for name in ("plain", "weighed", "equal"))
    assert got == ref != weighed


def test_the_target_is_the_least_squares_solution():
    random = np.random.default_rng(0)
    x, w = random.standard_normal((50, 7)), random.standard_normal((4, 7))
    behind = x + 0.3 * random.standard_normal((50, 7))
    m = Moments(*(torch.from_numpy(behind.T @ other / 50) for other in (behind, x)), 50)
    got = target(torch.from_numpy(w), m, 0.0, 1.0)
    ref = np.linalg.lstsq(behind, x @ w.T, rcond=None)[0].T
    np.testing.assert_allclose(got, ref, rtol=1e-9)
    half = target(torch.from_numpy(w), m, 0.0, 0.5)
    np.testing.assert_allclose(half, (w + ref) / 2, rtol=1e-9)
    np.testing.assert_array_equal(target(torch.from_numpy(w), m, 0.1, 0.0), w)


def test_damping_of_the_target_pulls_it_to_the_weights():
    random = np.random.default_rng(1)
    x, w = random.standard_normal((50, 7)), random.standard_normal((4, 7))
    behind = x + random.standard_normal((50, 7))
    m = Moments(*(torch.from_numpy(behind.T @ other / 50) for other in (behind, x)), 50)
    distance = [
        np.linalg.norm(target(torch.from_numpy(w), m, damping, 1.0) - w)
        for damping in (0.0, 1.0, 1e6)
    ]
    assert distance[0] > distance[1] > distance[2]
    assert distance[2] < 1e-4 * distance[0]


def test_a_walk_that_changes_nothing_sees_equal_streams(folder, windows):
    blocks = Blocks(open_model(folder / "model"))
    stream = blocks.enter(windows, batch=8)
    seen = []

    def same(names, targets, hessian):
        seen.extend(names)
        assert hessian.shape == (targets[0].shape[1],) * 2
        np.testing.assert_allclose(hessian, hessian.T)
        return targets

    names = {f"model.layers.{i}.mlp.{name}_proj.weight" for i in (0, 1) for name in ("up", "down")}
    walk(blocks, stream, names, same, damping=0.01, share=1.0)
    assert sorted(seen) == sorted(names)
    with torch.inference_mode():
        model = load(folder / "model").model.model
        ref = model(torch.from_numpy(windows)).last_hidden_state
        torch.testing.assert_close(model.norm(torch.cat(stream.states)), ref, rtol=1e-3, atol=1e-3)


def test_a_calibrated_folder_is_whole_and_says_how_it_was_made(folder, text, tmp_path):
    result, report = compressed(folder, tmp_path / "out", Calibration(text, Feedback(sweeps=1)))
    assert not verify(tmp_path / "out").problems
    assert json.loads((tmp_path / "out" / REPORT).read_bytes()) == json.loads(json.dumps(report))
    assert report["calibration"]["text"]["tokens"] == 1024
    assert report["calibration"]["tokens_seen"] == 1024
    assert report["calibration"]["text"]["path"] == "text.txt"
    assert len(report["tensors"]) == 14
    for one in report["tensors"].values():
        assert 0.0 < one["loss"]["coded"] < one["loss"]["without"]
    assert not list(tmp_path.glob("*.partial"))
    assert result.plan.compressed_size == sum(t.size for t in result.plan.compressed)


def test_the_number_of_threads_and_batches_does_not_matter_much(folder, text, tmp_path):
    calibration = Calibration(text, Feedback(sweeps=0))
    for threads in (1, 2):
        compressed(folder, tmp_path / f"{threads}", calibration, threads=threads)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_calibration_brings_the_model_nearer_to_the_original(folder, text, windows, tmp_path):
    checkpoint.compress(folder / "model", tmp_path / "plain", 3.0, group=8)
    settings = replace(SETTINGS, bits=3.0)
    compressed(folder, tmp_path / "fed", Calibration(text), settings)
    compressed(folder, tmp_path / "tuned", Calibration(text, tune=3), settings)

    def logits(path):
        with torch.inference_mode():
            return load(path).model(torch.from_numpy(windows)).logits.log_softmax(-1)

    ref = logits(folder / "model")
    got = [
        torch.nn.functional.kl_div(
            logits(tmp_path / name), ref, reduction="batchmean", log_target=True
        ).item()
        for name in ("plain", "fed", "tuned")
    ]
    assert got[1] < 0.7 * got[0]
    assert got[2] < got[1]


class Stop(Exception):
    pass


def test_what_was_interrupted_goes_on_and_ends_in_the_same_bytes(folder, text, tmp_path):
    calibration = Calibration(text, Feedback(sweeps=0))
    compressed(folder, tmp_path / "ref", calibration)
    done = []

    def interrupt(name, weights):
        if len(set(done)) > 5:
            raise Stop
        done.append(name)

    with pytest.raises(Stop):
        compressed(folder, tmp_path / "got", calibration, progress=interrupt)
    assert not (tmp_path / "got").exists()
    kept = list((tmp_path / "got.partial").glob("0*"))
    assert 3 <= len(kept) <= 6
    times = {path: path.stat().st_mtime_ns for path in kept}
    broken = kept[0]
    broken.write_bytes(broken.read_bytes()[:-1] + b"x")
    with pytest.raises(Stop):  # what is kept is used, and what is broken is made anew
        done.clear()
        compressed(folder, tmp_path / "got", calibration, progress=interrupt, resume=True)
    assert all(path.stat().st_mtime_ns == times[path] for path in kept if path != broken)
    compressed(folder, tmp_path / "got", calibration, resume=True)
    assert contents(tmp_path / "got") == contents(tmp_path / "ref")
    assert not (tmp_path / "got.partial").exists()


def test_going_on_with_other_settings_is_refused_and_anew_is_said(folder, text, tmp_path):
    def stop(name, weights):
        raise Stop

    calibration = Calibration(text, Feedback(sweeps=0))
    with pytest.raises(Stop):
        compressed(folder, tmp_path / "out", calibration, progress=stop)
    other = replace(calibration, share=0.25)
    with pytest.raises(errors.OutputError, match="differs in calibration"):
        compressed(folder, tmp_path / "out", other, resume=True)
    lines = []
    compressed(folder, tmp_path / "out", other, say=lines.append)
    assert any("discarded" in line for line in lines)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": 10}, "tokens must fill a window"),
        ({"window": 1}, "window"),
        ({"part": (0.5, 0.2)}, "part must be"),
    ],
)
def test_texts_that_do_not_do(folder, text, tmp_path, change, message):
    with pytest.raises(errors.DomainError, match=message):
        compressed(folder, tmp_path / "out", Calibration(replace(text, **change)))
    assert not list(tmp_path.iterdir())


def test_what_can_not_be_calibrated(folder, text, tmp_path):
    file = next((folder / "model").glob("*.safetensors"))
    model = open_model(file)
    with pytest.raises(errors.ModelError, match=r"must be a folder with a config\.json"):
        compress_calibrated(model, make_plan(model, SETTINGS), tmp_path / "o", Calibration(text))
    for change in ({"share": 1.5}, {"tune": -1}, {"batch": 0}):
        with pytest.raises(errors.DomainError):
            Calibration(text, **change)
    with pytest.raises(errors.DomainError, match="search must be one of"):
        Feedback(search="best")


def test_windows_are_drawn_by_the_seed_and_stay_in_order(folder, text):
    tokenizer = load_tokenizer(folder / "model")
    every = replace(text, tokens=10**6).windows(tokenizer)
    drawn = [replace(text, seed=seed).windows(tokenizer) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    for chosen in drawn:
        places = [int(np.flatnonzero((every == row).all(axis=1))[0]) for row in chosen]
        assert places == sorted(places)


def test_a_factor_of_norms_scales_rows(folder, text, tmp_path):
    compressed(folder, tmp_path / "out", Calibration(text, Feedback(sweeps=0)))
    tensor = checkpoint.load(tmp_path / "out")["model.layers.0.mlp.up_proj.weight"]
    factors = np.linspace(-0.1, 1.5, len(tensor.row_norm))
    got = with_norms(tensor, factors)
    before = np.ldexp(tensor.row_norm.astype(float), tensor.norm_exponent)
    after = np.ldexp(got.row_norm.astype(float), got.norm_exponent)
    np.testing.assert_allclose(after, before * np.maximum(factors, 0), rtol=2**-10)
    assert got.index is tensor.index


def test_tuning_lowers_the_divergence_on_its_own_text(folder, windows, tmp_path):
    checkpoint.compress(folder / "model", tmp_path / "out", 2.5, group=8)
    names = [
        f"model.layers.{i}.{layer}.weight"
        for i in (0, 1)
        for layer in ("mlp.up_proj", "self_attn.o_proj")
    ]
    seen = []
    factors = tune(load(folder / "model"), load(tmp_path / "out"), names, windows, 8, seen.append)
    assert sorted(factors) == sorted(names)
    per_epoch = len(seen) // 8
    assert np.mean(seen[-per_epoch:]) < np.mean(seen[:per_epoch])
    assert all(np.abs(f - 1).max() < 0.2 and f.std() > 0 for f in factors.values())


def test_allocation_keeps_the_size_and_helps(folder, text, tmp_path):
    model = open_model(folder / "model")
    plan = make_plan(model, SETTINGS)
    rates = allocated(model, plan, Calibration(text), lambda line: None)
    assert sorted(rates) == sorted(t.entry.name for t in plan.compressed)
    assert len(set(rates.values())) > 3
    again = make_plan(model, replace(SETTINGS, rates=rates))
    assert again.compressed_size <= SETTINGS.bits * plan.weights / 8


def test_allocation_leaves_the_head_its_own_rate(text, tmp_path):
    make_llama(tmp_path / "model", tied=False)
    model = open_model(tmp_path / "model")
    plan = make_plan(model, replace(SETTINGS, embed_bits=6.0))
    assert "lm_head.weight" in {t.entry.name for t in plan.compressed}
    rates = allocated(model, plan, Calibration(text), lambda line: None)
    assert len(rates) == 14
    assert all(".layers." in name for name in rates)


def test_a_hessian_that_can_not_be_used_is_told_with_its_layer():
    with pytest.raises(
        errors.DomainError, match=r"inputs of 'a\.weight': hessian must be positive"
    ):
        layer_curvature("a.weight", np.ones((4, 4)), 4, None, 0.0)


def test_the_command_line_calibrates_and_keeps_a_plan(folder, tmp_path, capsys):
    arguments = [
        "compress", str(folder / "model"), str(tmp_path / "out"), "--bits", "4", "--group", "8",
        "--calibrate", str(folder / "text.txt"), "--tokens", "512", "--window", "64", "--json",
        "--allocate", "--plan", str(tmp_path / "plan.json"), "--threads", "1",
    ]  # fmt: skip
    assert main(arguments) == 0
    first = printed(capsys, "compress")
    assert (
        first["report"]["settings"]["rates"]
        == json.loads((tmp_path / "plan.json").read_bytes())["rates"]
    )
    arguments[2] = str(tmp_path / "again")
    assert main(arguments) == 0
    capsys.readouterr()
    assert contents(tmp_path / "out") == contents(tmp_path / "again")


def test_the_command_line_refuses_what_does_not_fit_together(folder, tmp_path, capsys):
    base = ["compress", str(folder / "model"), str(tmp_path / "out")]
    for option in (["--allocate"], ["--tune", "1"], ["--weigh-tokens"]):
        assert main([*base, *option]) == 2
        assert "--calibrate" in capsys.readouterr().err
    assert main([*base, "--allocate"]) == 2
    assert "--calibrate" in capsys.readouterr().err
    (tmp_path / "plan.json").write_text("{}")
    assert main([*base, "--plan", str(tmp_path / "plan.json")]) == 1
    assert "must have an object" in capsys.readouterr().err
    (tmp_path / "plan.json").write_text('{"rates": {"none": 3.0}}')
    assert main([*base, "--plan", str(tmp_path / "plan.json")]) == 2
    assert "rates must be of tensors of the model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_collected_hessians_are_those_of_the_model_and_compress_with_them(
    folder, windows, tmp_path, capsys
):
    out = tmp_path / "hessians.safetensors"
    arguments = ["--text", str(folder / "text.txt"), "--tokens", "1024", "--window", "64"]
    assert main(["calibrate", str(folder / "model"), *arguments, "-o", str(out), "--json"]) == 0
    assert printed(capsys, "calibrate")["layers"] == 14
    hessians = Hessians(out)
    assert hessians.tokens("model.layers.1.mlp.up_proj") == windows.size
    assert hessians.home("model.layers.1.self_attn.v_proj") == "model.layers.1.self_attn.q_proj"
    seen = []
    model = load(folder / "model").model
    layer = model.get_submodule("model.layers.1.mlp.down_proj")
    layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].reshape(-1, 56).double()))
    with torch.inference_mode():
        model(torch.from_numpy(windows))
    ref = (seen[0].T @ seen[0] / len(seen[0])).numpy()
    got = hessians.read("model.layers.1.mlp.down_proj")
    np.testing.assert_allclose(got, ref, rtol=1e-4, atol=1e-5 * np.abs(ref).max())

    compress = ["compress", str(folder / "model")]
    rest = ["--bits", "4", "--group", "8", "--hessians", str(out), "--json", "--threads"]
    for threads in ("1", "2"):
        assert main([*compress, str(tmp_path / threads), *rest, threads]) == 0
        report = printed(capsys, "compress")
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert len(report["losses"]) == 14
    assert all(0 < x["coded"] < x["without"] for x in report["losses"].values())
    assert not verify(tmp_path / "1").problems


def test_hessians_of_another_model_are_refused(folder, tmp_path, capsys):
    from safetensors.numpy import save_file

    save_file({"other.hessian": np.eye(4, dtype=np.float32)}, tmp_path / "h.safetensors")
    arguments = ["compress", str(folder / "model"), str(tmp_path / "out")]
    assert main([*arguments, "--hessians", str(tmp_path / "h.safetensors")]) == 1
    assert "must have Hessians of the model's layers" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
