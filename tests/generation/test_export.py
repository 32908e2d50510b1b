"""An export reproduces the EMA generator, exists completely or not at all, and describes itself."""

import json
import re
from itertools import product

import numpy as np
import pytest
import torch
import yaml
from bounds import IMAGES32
from generation.conftest import CLASSES, CPU, request
from safetensors.torch import load_file

from biggan import load_discriminator, load_generator
from biggan.errors import InputError
from biggan.generation import model_card, trained_generator
from biggan.generation.export import batches, export
from biggan.generation.export_reader import read_export
from biggan.generation.load import open_generator
from biggan.generation.sample import generate_rows
from biggan.generation.standing_stats import standing_statistics
from biggan.generation.torch_export import worst_difference


@pytest.mark.numeric
def test_export_reproduces_the_ema_generator(run, exported):
    trained, read = open_generator(str(run), CPU, print), read_export(exported, CPU)
    assert worst_difference(trained.generator, read.generator) <= IMAGES32
    assert (read.classes, read.step, read.images_seen) == (CLASSES, 8, 192)
    assert read.standing.keys() == {"none", "0.5"}


@pytest.mark.numeric
def test_every_truncation_has_its_own_statistics_stored_or_computed(run, exported):
    trained, G = open_generator(str(run), CPU, print).generator, load_generator(exported, device="cpu")
    expected = {t: standing_statistics(trained, t) for t in (None, 0.5, 0.8)}
    loaded = {t: G.at(t).network for t in expected}  # 0.8 is not stored
    for a, b in product(expected, expected):
        difference = worst_difference(expected[a], loaded[b])
        assert (difference <= IMAGES32) if a == b else (difference > 1e-3)


def test_stored_statistics_are_not_computed_again(exported, monkeypatch):
    monkeypatch.setattr(trained_generator, "standing_statistics", lambda *_: pytest.fail("computed again"))
    load_generator(exported, 0.5, device="cpu").at(None)


def test_sample_takes_class_names_and_numbers_and_a_seed(exported):
    G = load_generator(str(exported), truncation=0.5, device="cpu")
    images = G.sample(["b", 3], count=4, seed=1)
    assert (images.shape, images.dtype) == ((4, 32, 32, 3), np.uint8)
    rows = generate_rows(G.network, [1, 3], 2, 0.5, 1, CPU)
    assert np.array_equal(images, rows.swapaxes(0, 1).reshape(images.shape))  # the order of `biggan sample`
    assert np.array_equal(G.sample("b", seed=1), images[:1])
    assert not np.array_equal(G.sample("b", seed=2), images[:1])
    assert len(G.sample()) == 10
    for unknown in ("bee", 10, -1):
        with pytest.raises(InputError, match=rf"^classes: .*'{unknown}'.* 0 .* 9"):
            G.sample(unknown)
    for count in (0, -1):
        with pytest.raises(InputError, match=f"^count: {count} "):
            G.sample("b", count=count)
    with pytest.raises(InputError, match=r"^count: 0 .* 0 classes"):
        G.sample([])
    for truncation in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match=f"^truncation: {truncation};"):
            G.at(truncation)


def test_loading_leaves_the_global_random_state_unchanged(exported):
    before = torch.random.get_rng_state()
    load_generator(exported, 0.5).sample("a")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_exported_discriminator_can_be_trained(run, exported):
    trained = load_file(run / "checkpoints" / "step_00000008" / "discriminator.safetensors")
    D = load_discriminator(exported, "cpu")
    assert D.state_dict().keys() == trained.keys()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in D.state_dict().items())
    D(torch.randn(4, 3, 32, 32), torch.arange(4)).sum().backward()
    assert not torch.equal(D.blocks[0].conv1.u, trained["blocks.0.conv1.u"])  # power iteration moves u in training mode
    assert all(p.grad is not None for name, p in D.named_parameters())


def test_generator_json_and_model_card_describe_the_export(run, exported):
    information = json.loads((exported / "generator.json").read_text())
    assert information["origin"] == f"{run}@8"
    assert information["lineage"] == {"parent": "runs/z", "step": 2, "changes": {"optimizer.g_lr": [0.1, 0.2]}}
    assert [e["metrics"] for e in information["evaluations"]] == [{"fid": 12.5}, {"kid": 0.08}, {"kid": 0.08}]
    assert information["statistics"]["truncations"] == [None, 0.5]
    card = (exported / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    matter = yaml.safe_load(front)
    assert matter["license"] == information["license"] == "cc0-1.0"
    metrics = matter["model-index"][0]["results"][0]["metrics"]
    assert [(m["type"], m["value"]) for m in metrics] == [("fid", 12.5), ("kid", 0.08), ("kid", 0.08)]
    assert [m["name"] for m in metrics] == [
        "fid (classifier features, truncation none, 2,000 images)",
        "kid (classifier features, truncation none, 2,000 images)",
        "kid (classifier features, truncation 0.5, 2,000 images)",
    ]
    assert "Measured with features: classifier; truncation: None; num images: 2000." in card
    lines = re.findall(r"^    (.*)$", body, re.MULTILINE)
    here = {}
    exec("\n".join(lines).replace('"letters"', repr(str(exported))), here)  # the card's own lines
    assert here["images"].shape == (8, 32, 32, 3)
    assert (exported / "samples.png").stat().st_size > 1000


def test_progress_is_counted_in_batches(run, tmp_path):
    calls = []
    one = request(run, tmp_path / "out", truncations=(1.0,))
    export(one, {}, CPU, lambda: calls.append(1))
    assert len(calls) == batches(one)


def disagreeing(folder, sampler):
    (folder / "generator.lie").write_text("half")
    raise InputError("--format lie: other images")


def disk_full(folder, sampler):
    (folder / "generator.big").write_text("half")
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(("addition", "message"), [(disagreeing, "--format lie"), (disk_full, "OUT: .*No space left")])
def test_failed_export_leaves_no_files(run, tmp_path, addition, message):
    with pytest.raises(InputError, match=message):
        export(request(run, tmp_path / "out"), {"x": addition}, CPU, lambda: None)
    assert list(tmp_path.iterdir()) == []


def test_existing_output_is_kept_and_leftovers_of_a_kill_are_removed(run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match=f"^OUT: {out} "):
        export(request(run, out), {}, CPU, lambda: None)
    assert [f.name for f in out.iterdir()] == ["thesis.txt"]
    leftover = tmp_path / ".new.partial"
    leftover.mkdir()
    (leftover / "generator.old").write_text("half")
    export(request(run, tmp_path / "new", truncations=(None,)), {}, CPU, lambda: None)
    assert not leftover.exists()
    assert not (tmp_path / "new" / "generator.old").exists()


@pytest.fixture
def numbered(exported):
    """Return a sampler whose classes are named by other numbers than their own: class 0 is "1", class 9 is "10"."""
    G = load_generator(exported, device="cpu")
    G.classes = tuple(str(k + 1) for k in range(10))
    return G


def test_integers_are_numbers_and_text_is_a_name_whoever_made_them(numbered):
    of_number = numbered.sample([1])
    integers = (
        1,
        np.int64(1),
        np.uint8(1),
        np.array(1),
        torch.tensor(1),
        range(1, 2),
        np.array([1]),
        torch.tensor([1]),
    )
    for integer in integers:
        assert np.array_equal(numbered.sample(integer), of_number), integer
        assert not isinstance(integer, int | np.integer) or numbered.class_number(integer) == 1
    of_name = numbered.sample("1")
    assert np.array_equal(of_name, numbered.sample([0]))
    for text in (np.str_("1"), ["1"], np.array(["1"]), np.array("1")):
        assert np.array_equal(numbered.sample(text), of_name), text
    assert numbered.class_number("0") == 0  # no class has this name


@pytest.mark.parametrize(
    "wrong",
    [
        True,
        np.True_,
        np.array(True),
        torch.tensor(True),
        [False],
        1.0,
        np.array(1.0),
        10,
        -1,
        np.int64(10),
        b"1",
        "9" * 5000,
    ],
    ids=lambda wrong: f"{wrong!r:.20}",
)
def test_what_is_neither_a_number_nor_a_name_is_no_class(numbered, wrong):
    with pytest.raises(InputError, match=r"^classes: "):
        numbered.sample(wrong)


def test_names_in_the_model_card_are_shown_and_not_interpreted(exported):
    G = load_generator(exported, device="cpu")
    information = json.loads((exported / "generator.json").read_text())
    hostile = "<script>alert(1)</script> | ![x](http://evil/x.png) `a` *b* \x1b[31m\n# head"
    G.classes = (hostile, *G.classes[1:])
    information |= {"data": hostile, "origin": hostile, "license": hostile}
    information["lineage"] = {"parent": hostile, "step": 1, "changes": {"data.path": [hostile, hostile]}}
    card = model_card.text(hostile, information, G).split("---\n", 2)[2]
    body = "\n".join(line for line in card.splitlines() if not line.startswith("    "))  # code is shown as it is
    assert "<script" not in body
    assert "![x](" not in body
    assert "http://evil" not in body
    assert not re.search(r"(?<!\\)[`*|]( a|a|b)", body.replace("`data.path`", ""))
    assert "\x1b" not in card
    assert [line for line in card.splitlines() if line.startswith("#")] == [f"# {model_card.plain(hostile)}"]
