"""Evaluation against plain restatements of what docs/evaluate.md says, on tiny random models."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import pvq_ref
import pvq_ref.cli
from pvq_ref.errors import DomainError, ModelError, NonFiniteError
from pvq_ref.evaluate import evaluate
from pvq_ref.language_model import load

EXTRA = "needs pip install 'pvq-ref[calibrate]'"
torch = pytest.importorskip("torch", reason=EXTRA)
transformers = pytest.importorskip("transformers", reason=EXTRA)
from tests.language_models import LONGEST, TEXT, make_llama, make_tokenizer  # noqa: E402

SCHEMA = Path(__file__).parent.parent / "docs" / "schemas" / "evaluate.json"
WINDOW = 32
CHOICES = [
    {"context": "One cat sleeps by the", "choices": [" river.", " old boat.", " sea"], "gold": 1},
    {"context": "The ", "choices": ["house", "x"], "gold": 0},
    {"context": "", "choices": ["was", " seen here"], "gold": 1},
    {"contexts": ["One", "A small lantern"], "choices": [" stands", " stands"], "gold": 0},
    {"context": "The old " * 12, "choices": ["cat", "lantern by"], "gold": 0},  # is cut
] * 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models a and b, a compressed as c and decompressed as d, one with bos; a text; tasks."""
    root = tmp_path_factory.mktemp("evaluate")
    make_llama(root / "a")
    make_llama(root / "b", seed=1)
    make_llama(root / "bos", bos=True)
    pvq_ref.compress(root / "a", root / "c", bits=3)
    pvq_ref.decompress(root / "c", root / "d")
    (root / "t.txt").write_text(TEXT)
    (root / "choice.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in CHOICES))
    targets = [{"context": TEXT[:20], "target": chr(97 + i)} for i in range(26)]
    targets += [{"context": TEXT[: 30 + i], "target": " a"} for i in range(4)]
    (root / "cloze.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in targets))
    return root


def plain(folder, name):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / name, dtype=torch.float32)
    return model, transformers.AutoTokenizer.from_pretrained(folder / name)


def logs(model, ids):
    """Log-probabilities of every next token, in binary64, of one sequence without padding."""
    with torch.inference_mode():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), dim=-1).numpy()


def text_windows(tokenizer, size=WINDOW):
    ids = tokenizer(TEXT)["input_ids"]
    return [ids[i : i + size] for i in range(0, len(ids) - size + 1, size)]


def test_perplexity_and_its_error(folder):
    model, tokenizer = plain(folder, "a")
    cut = text_windows(tokenizer)
    losses = [
        [-logs(model, ids)[t - 1, ids[t]] for t in range(1, WINDOW)] for ids in cut
    ]  # the first token of a window has nothing before it
    for batch in (1, 3, 100):
        got = evaluate(folder / "a", text=folder / "t.txt", window=WINDOW, batch=batch)
        assert got.tokens == len(cut) * (WINDOW - 1)
        ref = np.exp(np.mean(losses))
        assert got.perplexity().value == pytest.approx(ref, rel=1e-5)
        spread = np.std(np.mean(losses, axis=1), ddof=1) / np.sqrt(len(cut))
        assert got.perplexity().standard_error == pytest.approx(ref * spread, rel=1e-4)


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary(folder, tmp_path):
    model, _ = plain(folder, "a")
    with torch.no_grad():
        model.model.norm.weight.zero_()
    model.save_pretrained(tmp_path / "zero")
    make_tokenizer(tmp_path / "zero")
    got = evaluate(tmp_path / "zero", text=folder / "t.txt", window=WINDOW)
    assert got.perplexity().value == pytest.approx(258, rel=1e-6)


def test_limits_and_parts_of_a_text(folder):
    got = evaluate(folder / "a", text=folder / "t.txt", window=WINDOW, limit=3 * WINDOW + 1)
    assert got.tokens == 3 * (WINDOW - 1)
    model, tokenizer = plain(folder, "a")
    second = TEXT[TEXT.index("\n", len(TEXT) // 2 - 1) + 1 :]
    ids = tokenizer(second)["input_ids"][:WINDOW]
    ref = np.exp(np.mean([-logs(model, ids)[t - 1, ids[t]] for t in range(1, WINDOW)]))
    got = evaluate(
        folder / "a", text=folder / "t.txt", window=WINDOW, limit=WINDOW, part=(0.5, 1.0)
    )
    assert got.perplexity().value == pytest.approx(ref, rel=1e-5)
    assert got.perplexity().standard_error is None  # of one window


def test_special_tokens_before_a_text_are_before_every_window(folder):
    model, tokenizer = plain(folder, "bos")
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    step = WINDOW - 1
    cut = [[0, *ids[i : i + step]] for i in range(0, len(ids) - step + 1, step)]
    losses = [-logs(model, one)[t - 1, one[t]] for one in cut for t in range(1, WINDOW)]
    got = evaluate(folder / "bos", text=folder / "t.txt", window=WINDOW)
    assert got.tokens == len(losses)
    assert got.perplexity().value == pytest.approx(np.exp(np.mean(losses)), rel=1e-5)


def likelihood(model, tokenizer, context, answer, special=()):
    """Log-probability of each token of an answer, and whether each is the most probable one."""
    head = tokenizer(context.rstrip(), add_special_tokens=False)["input_ids"]
    ids = tokenizer(context + answer, add_special_tokens=False)["input_ids"]
    lead = list(special) if special or head else [tokenizer.bos_token_id]
    scored = len(ids) - len(head)
    ids = [*lead, *ids][-LONGEST:]
    found = logs(model, ids)
    places = range(len(ids) - scored, len(ids))
    return [found[t - 1, ids[t]] for t in places], [found[t - 1].argmax() == ids[t] for t in places]


@pytest.mark.parametrize("name", ["a", "bos"])
def test_multiple_choice(folder, name):
    model, tokenizer = plain(folder, name)
    special = [0] if name == "bos" else []
    ref_correct, ref_normalized, ref_right = [], [], []
    for one in CHOICES:
        contexts = one.get("contexts") or [one["context"]] * len(one["choices"])
        sums = [
            sum(likelihood(model, tokenizer, context, answer, special)[0])
            for context, answer in zip(contexts, one["choices"], strict=True)
        ]
        lengths = [len(answer.lstrip(" ")) for answer in one["choices"]]
        ref_right.append(sums[one["gold"]])
        ref_correct.append(np.argmax(sums) == one["gold"])
        ref_normalized.append(np.argmax(np.divide(sums, lengths)) == one["gold"])
    assert {True, False} <= set(ref_correct) and ref_correct != ref_normalized
    for batch in (1, 8):  # padding and the order of batches change nothing
        got = evaluate(folder / name, tasks=[folder / "choice.jsonl"], window=64, batch=batch)
        (task,) = got.tasks
        assert task.correct[0].tolist() == ref_correct
        assert task.normalized[0].tolist() == ref_normalized
        np.testing.assert_allclose(task.log_likelihood[0], ref_right, rtol=1e-4)


def test_cloze(folder):
    model, tokenizer = plain(folder, "a")
    items = [json.loads(line) for line in (folder / "cloze.jsonl").read_text().splitlines()]
    ref = [likelihood(model, tokenizer, one["context"], one["target"]) for one in items]
    got = evaluate(folder / "a", tasks=[folder / "cloze.jsonl"])
    (task,) = got.tasks
    assert task.correct[0].tolist() == [all(greedy) for _, greedy in ref]
    np.testing.assert_allclose(task.log_likelihood[0], [sum(one) for one, _ in ref], rtol=1e-4)
    shown = got.as_json()["tasks"][0]
    assert shown["perplexity"] == pytest.approx(
        np.exp(-np.mean([sum(one) for one, _ in ref])), rel=1e-4
    )
    assert shown["accuracy"] == np.mean([all(greedy) for _, greedy in ref])


def test_the_answer_of_greedy_decoding_is_right(folder, tmp_path):
    model, tokenizer = plain(folder, "a")
    items = []
    for length in range(5, 60):
        context = TEXT[:length].rstrip()
        start = tokenizer(context, return_tensors="pt")
        out = model.generate(**start, do_sample=False, max_new_tokens=1, pad_token_id=1)[0, -1:]
        target = tokenizer.decode(out)
        if target.isascii() and target.isprintable():  # not a piece of a character
            items.append({"context": context, "target": target})
    assert len(items) > 5
    (tmp_path / "own.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in items))
    assert evaluate(folder / "a", tasks=[tmp_path / "own.jsonl"]).tasks[0].correct.all()


def test_against_another_model(folder):
    (mine, tokenizer), (other, _) = plain(folder, "a"), plain(folder, "b")
    kl, same, ratio = [], [], []
    for ids in text_windows(tokenizer):
        p, q = logs(other, ids)[:-1], logs(mine, ids)[:-1]
        kl.append((np.exp(p) * (p - q)).sum(axis=1).mean())
        same.append((p.argmax(axis=1) == q.argmax(axis=1)).mean())
        ratio.append(np.mean([p[t, ids[t + 1]] - q[t, ids[t + 1]] for t in range(WINDOW - 1)]))
    got = evaluate(
        folder / "a", text=folder / "t.txt", tasks=[folder / "choice.jsonl"],
        against=folder / "b", window=WINDOW, batch=3,
    )  # fmt: skip
    shown = got.as_json()["against"]
    count = np.sqrt(len(kl))
    for key, ref in (("kl_divergence", kl), ("top_token_agreement", same)):
        assert shown[key] == pytest.approx(np.mean(ref), rel=1e-4)
        assert shown[f"{key}_standard_error"] == pytest.approx(
            np.std(ref, ddof=1) / count, rel=1e-3
        )
    assert shown["perplexity_ratio"] == pytest.approx(np.exp(np.mean(ratio)), rel=1e-5)
    paired = np.exp(np.mean(ratio)) * np.std(ratio, ddof=1) / count
    assert shown["perplexity_ratio_standard_error"] == pytest.approx(paired, rel=1e-3)
    alone = [evaluate(folder / name, tasks=[folder / "choice.jsonl"]).tasks[0] for name in "ab"]
    ref = alone[0].correct[0].astype(int) - alone[1].correct[0]
    task = shown["tasks"][0]
    assert task["accuracy_difference"] == pytest.approx(ref.mean())
    assert task["accuracy_difference_standard_error"] == pytest.approx(
        np.std(ref, ddof=1) / np.sqrt(len(ref))
    )
    assert shown["mean_accuracy"]["difference"] == pytest.approx(ref.mean())


def test_a_model_against_itself_differs_in_nothing(folder):
    got = evaluate(
        folder / "d", text=folder / "t.txt", tasks=[folder / "cloze.jsonl"],
        against=folder / "c", window=WINDOW,
    )  # fmt: skip
    shown = got.as_json()["against"]  # decompressed against compressed: the same weights
    assert (shown["perplexity_ratio"], shown["perplexity_ratio_standard_error"]) == (1.0, 0.0)
    assert (shown["kl_divergence"], shown["top_token_agreement"]) == (0.0, 1.0)
    assert shown["tasks"][0]["log_likelihood_difference"] == 0.0
    assert shown["perplexity"] == got.perplexity().value
    worse = evaluate(folder / "c", text=folder / "t.txt", against=folder / "a", window=WINDOW)
    assert worse.as_json()["against"]["kl_divergence"] > 0.001


def test_models_in_memory(folder):
    model = load(folder / "a")
    ref = evaluate(folder / "a", text=folder / "t.txt", window=WINDOW).perplexity()
    got = evaluate(model, text=folder / "t.txt", against=model, window=WINDOW)
    assert got.perplexity() == ref == got.perplexity(1)


def test_compute_types(folder):
    got = [
        evaluate(folder / "a", text=folder / "t.txt", window=WINDOW, dtype=dtype).perplexity().value
        for dtype in ("float32", "bfloat16")
    ]
    assert got[0] != got[1] and got[0] == pytest.approx(got[1], rel=0.05)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_measures_the_same(folder):
    options = {"text": folder / "t.txt", "tasks": [folder / "choice.jsonl"], "window": WINDOW}
    ref, got = (
        evaluate(folder / "c", against=folder / "a", device=device, **options)
        for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(got.text.losses, ref.text.losses, rtol=1e-4)
    np.testing.assert_allclose(got.text.kl, ref.text.kl, rtol=1e-3)
    likelihoods = (one.tasks[0].log_likelihood for one in (got, ref))
    np.testing.assert_allclose(*likelihoods, rtol=1e-4)


def test_progress_comes_to_its_end(folder):
    seen = []
    evaluate(
        folder / "a", text=folder / "t.txt", tasks=[folder / "cloze.jsonl"], window=WINDOW,
        progress=lambda name, done, total: seen.append((name, done, total)),
    )  # fmt: skip
    assert [name for name, _, _ in seen] == sorted((name for name, _, _ in seen), reverse=True)
    assert {name for name, _, _ in seen} == {"text", "cloze"}
    assert {total for _, _, total in seen} == {sum(done for _, done, _ in seen)}


def broken(folder, target, change):
    """A copy of model a with one thing changed."""
    shutil.copytree(folder / "a", target)
    change(target)
    return target


def remove(*names):
    def change(target):
        for name in names:
            (target / name).unlink()

    return change


def spoil(target):
    model = transformers.AutoModelForCausalLM.from_pretrained(target)
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    model.save_pretrained(target)


def other_type(target):
    config = json.loads((target / "config.json").read_text()) | {"model_type": "nothing"}
    (target / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (shutil.rmtree, ModelError, "the model must be a folder, got"),
        (remove("config.json"), ModelError, r"the folder must have a config\.json"),
        (remove("tokenizer.json", "tokenizer_config.json"), ModelError, "must hold a tokenizer"),
        (remove("model.safetensors"), ModelError, "must hold safetensors files"),
        (other_type, ModelError, "must hold a (causal language model|tokenizer)"),
        (spoil, NonFiniteError, "outputs must be finite"),
    ],
)
def test_models_that_cannot_be_measured(folder, tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        evaluate(broken(folder, tmp_path / "x", change), text=folder / "t.txt", window=WINDOW)


def test_models_of_other_tokens(folder, tmp_path):
    other = broken(folder, tmp_path / "x", lambda target: make_tokenizer(target, swap=True))
    with pytest.raises(ModelError, match="must have the same tokens"):
        evaluate(folder / "a", text=folder / "t.txt", against=other, window=WINDOW)


def test_texts_and_tasks_that_cannot_be_measured(folder, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "short.txt").write_text("short")
    with pytest.raises(ModelError, match="the text must not be empty"):
        evaluate(folder / "a", text=tmp_path / "empty.txt")
    with pytest.raises(ModelError, match="must fill a window of 32 tokens, got 5"):
        evaluate(folder / "a", text=tmp_path / "short.txt", window=WINDOW)
    with pytest.raises(OSError, match=r"nothing\.txt"):
        evaluate(folder / "a", text=tmp_path / "nothing.txt")
    long = {"context": "a", "target": "b" * LONGEST}
    (tmp_path / "long.jsonl").write_text(json.dumps(long))
    with pytest.raises(ModelError, match="long: an answer must have fewer tokens"):
        evaluate(folder / "a", tasks=[tmp_path / "long.jsonl"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": None}, "must have a text or tasks"),
        ({"window": 1}, "window must be at least 2, got 1"),
        ({"window": LONGEST + 1}, f"window must be at most {LONGEST}"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"limit": 0}, "tokens must be at least 1, got 0"),
        ({"dtype": "int8"}, "dtype must be one of"),
        ({"device": "nowhere"}, "device must be one that torch can use, got 'nowhere'"),
        ({"part": (0.5, 0.2)}, "part must be two fractions"),
    ],
)
def test_options_outside_their_domain(folder, options, message):
    with pytest.raises(DomainError, match=message):
        evaluate(folder / "a", **({"text": folder / "t.txt"} | options))


def test_the_command_line(folder, capsys):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(SCHEMA.read_text())
    text = ["--text", str(folder / "t.txt"), "--window", "32"]
    tasks = ["--tasks", str(folder / "choice.jsonl"), str(folder / "cloze.jsonl"), "--items", "9"]
    for options in (text, tasks, [*text, *tasks, "--against", str(folder / "a")]):
        assert pvq_ref.cli.main(["evaluate", str(folder / "c"), *options, "--json", "-q"]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        jsonschema.validate(json.loads(out), schema)
    ref = json.loads(out)
    assert (ref["tokens"], ref["window"]) == (31 * (len(TEXT) // 32), 32)
    assert [one["items"] for one in ref["tasks"]] == [9, 9]
    assert pvq_ref.cli.main(["evaluate", str(folder / "c"), *options]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"perplexity {ref['perplexity']:.4f} ± ")
    assert f"KL divergence {ref['against']['kl_divergence']:.5f}" in out
    assert f"choice: accuracy {100 * ref['tasks'][0]['accuracy']:.2f}" in out


def test_wrong_usage_of_the_command_line(folder, capsys):
    for options in (["--part", "half"], ["--part", "0.5"], ["--dtype", "int8"]):
        with pytest.raises(SystemExit) as error:
            pvq_ref.cli.main(["evaluate", str(folder / "a"), *options])
        assert error.value.code == 2
    assert pvq_ref.cli.main(["evaluate", str(folder / "a")]) == 2
    assert "must have a text or tasks" in capsys.readouterr().err
