"""Transfer of tensors between networks of equal and of different architectures."""

from dataclasses import replace

import pytest
import torch
from bounds import FEW_OPERATIONS32, IMAGES32
from untrained import move_statistics, randomized

from biggan.errors import InputError
from biggan.finetuning.block_mapping import d_candidates, g_candidates
from biggan.finetuning.class_mapping import class_rows, summary
from biggan.finetuning.plan import check_frozen
from biggan.finetuning.transfer import make_transfer, vector_for_estimate
from biggan.generation.architecture_json import meta_networks
from biggan.models.architecture import Architecture
from biggan.models.folding import folded

pytestmark = pytest.mark.numeric

KNOWN = ("cat", "dog", "owl")
CLASSES = ("owl", "wolf", "cat", "car")
TINY = Architecture(
    family="biggan",
    resolution=32,
    image_channels=3,
    channels=2,
    d_channels=2,
    depth=1,
    d_depth=1,
    classes=3,
    z_dim=8,
    class_embedding_dim=4,
    hierarchical=True,
    g_attention=(16,),
    d_attention=(16,),
    g_spectral_norm=True,
    residual=True,
    d_conv_shortcuts="downsampling",
    sn_eps=1e-6,
    bn_eps=1e-5,
)
DEEP = replace(TINY, family="biggan-deep", channels=4, d_channels=4, depth=2, d_depth=2)


def both(mine, theirs, classes=KNOWN, neighbours=()):
    """Return new networks and their transfers from trained ones: (G, source's G, G's transfer), and the same for D."""
    rows = class_rows(classes, KNOWN, neighbours)
    G, D = move_statistics(randomized(theirs.generator(), 1), randomized(theirs.discriminator(), 2))
    my_G, my_D = randomized(mine.generator(), 3), randomized(mine.discriminator(), 4)
    g = make_transfer("G", my_G, G, g_candidates(mine, theirs), rows)
    d = make_transfer("D", my_D, D, d_candidates(mine, theirs), rows)
    return (my_G, G, g), (my_D, D, d)


def fill(network, transfer):
    assert not network.load_state_dict(transfer.tensors, strict=False).unexpected_keys


def outcomes(transfer):
    return {row.part: row.outcome for row in transfer.rows}


@pytest.mark.parametrize("networks", [TINY, replace(TINY, class_embedding_dim=0, hierarchical=False), DEEP])
def test_equal_networks_and_classes_are_taken_completely(networks):
    for mine, theirs, transfer in both(networks, networks):
        fill(mine, transfer)
        state = mine.state_dict()
        assert all(torch.equal(state[name], value) for name, value in theirs.state_dict().items())
        assert set(outcomes(transfer).values()) == {"taken"}


@pytest.mark.parametrize("embedding", [4, 0])
def test_class_rows_are_mapped_by_name_neighbours_and_mean(embedding):
    theirs = replace(TINY, class_embedding_dim=embedding, hierarchical=embedding > 0)
    mine = replace(theirs, classes=4)
    rows = class_rows(CLASSES, KNOWN, ["wolf=dog+cat"])
    assert summary(rows) == ["by name: owl, cat", "dog + cat: wolf", "mean of all: car"]
    tables = 0
    for network, source, transfer in both(mine, theirs, CLASSES, ["wolf=dog+cat"]):
        fill(network, transfer)
        mine_by_path = dict(network.named_modules())
        for path, module in source.named_modules():
            if isinstance(module, torch.nn.Embedding):
                cat, dog, owl = module.weight
                expected = torch.stack([owl, (cat + dog) / 2, cat, (cat + dog + owl) / 3])
                torch.testing.assert_close(mine_by_path[path].weight, expected)
                assert torch.equal(mine_by_path[path].weight[0], owl)
                tables += 1
        assert outcomes(transfer)[f"{transfer.rows[0].part[0]}.blocks.1"] != "left"
    assert tables == (2 if embedding else 1 + 2 * 2 * 3)


def test_reordered_classes_give_the_same_function_by_name():
    order = ("dog", "owl", "cat")
    for network, source, transfer in both(TINY, TINY, order):
        fill(network, transfer)
        y = torch.arange(3)
        x = torch.randn(3, 8) if network.__class__.__name__.endswith("Generator") else torch.randn(3, 3, 32, 32)
        theirs = torch.tensor([KNOWN.index(name) for name in order])
        with torch.no_grad():
            torch.testing.assert_close(network.eval()(x, y), source.eval()(x, theirs), atol=IMAGES32, rtol=1e-5)


@torch.no_grad()
def test_at_another_resolution_fitting_blocks_are_taken_and_the_others_reported():
    theirs = replace(TINY, resolution=64, channels=1, d_channels=1, z_dim=10)
    mine = replace(theirs, resolution=128, z_dim=12)
    (G, their_G, g), (D, their_D, d) = both(mine, theirs)
    fill(G, g), fill(D, d)
    by_part = outcomes(g)
    assert [by_part[f"G.blocks.{k}"] for k in range(5)] == ["taken"] * 4 + ["left"]
    assert (by_part["G.linear"], by_part["G.output_bn"], by_part["G.output_conv"]) == ("taken", "left", "left")
    # Up to 64 px both are the same function of the chunks of z.
    for network in (G.eval(), their_G.eval()):
        network.output = network.blocks[3].register_forward_hook(lambda m, _, out: setattr(m, "features", out))
    z, y = torch.randn(4, 10), torch.tensor([0, 1, 2, 0])
    their_G(z, y), G(torch.cat([z, torch.randn(4, 2)], 1), y)
    torch.testing.assert_close(G.blocks[3].features, their_G.blocks[3].features)
    # D's blocks at equal resolution have different widths; those at equal distance from the image have equal widths.
    by_part = outcomes(d)
    assert [by_part[f"D.blocks.{k}"] for k in range(6)] == ["taken"] * 5 + ["left"]
    x = torch.randn(2, 3, 64, 64)
    for k in range(4):
        a, b = x, x
        for mine_block, their_block in zip(D.eval().blocks[: k + 1], their_D.eval().blocks, strict=False):
            a, b = mine_block(a), their_block(b)
        torch.testing.assert_close(a, b)
    (reason,) = [row.detail for row in d.rows if row.part == "D.blocks.5"]
    assert [part for part in ("conv1.weight", "[16, 16, 3, 3]", "[16, 8, 3, 3]") if part not in reason] == [], reason


def partners(mine, theirs):
    """Return {block: block of the source} for G and for D, from shapes alone."""
    rows = class_rows(KNOWN, KNOWN, [])
    mappings = []
    for name, k, candidates in (("G", 0, g_candidates), ("D", 1, d_candidates)):
        transfer = make_transfer(name, meta_networks(mine)[k], meta_networks(theirs)[k], candidates(mine, theirs), rows)
        blocks = {}
        for row in transfer.rows:
            if row.part.startswith(f"{name}.blocks") and row.outcome in ("taken", "adapted"):
                number = int(row.part.split(".")[-1])
                blocks[number] = int(row.detail.split(".")[-1]) if row.detail.startswith("from") else number
        mappings.append(blocks)
    return mappings


def test_blocks_are_matched_by_resolution_or_else_by_distance_from_the_image():
    """256 px has one more stage than 128 px, in the middle: from 16 px in both networks, 8 -> 8 channels."""
    theirs = replace(TINY, resolution=128, z_dim=12)
    g, d = partners(replace(theirs, resolution=256, z_dim=14), theirs)
    assert g == {0: 0, 1: 1, 3: 2, 4: 3, 5: 4}
    assert d == {0: 0, 1: 1, 2: 2, 3: 3, 5: 4, 6: 5}
    assert partners(theirs, replace(theirs, resolution=256, z_dim=14)) == [
        {theirs: mine for mine, theirs in blocks.items()} for blocks in (g, d)
    ]


def test_deeper_stages_match_the_blocks_that_change_the_resolution():
    g, d = partners(replace(DEEP, depth=3, d_depth=3), DEEP)
    assert g == {k: 2 * (k // 3) + k % 3 - 1 for k in range(9) if k % 3}
    assert d == {k: 2 * (k // 3) + k % 3 for k in range(9) if k % 3 < 2}


def test_another_z_dim_leaves_condition_maps_and_other_widths_leave_all_blocks():
    (_, _, g), _ = both(replace(TINY, z_dim=16), TINY)
    (row,) = [row for row in g.rows if row.part == "G.blocks.0"]
    left = "bn1.gain.weight, bn1.bias.weight, bn2.gain.weight, bn2.bias.weight"
    assert row.outcome == "adapted"
    assert [part for part in (left, "[8, 4+4]", "[8, 4+2]") if part not in row.detail] == [], row.detail
    assert "blocks.0.bn1.running_mean" in g.tensors
    for _, _, transfer in both(replace(TINY, channels=4, d_channels=4), TINY):
        assert all(row.outcome == "left" for row in transfer.rows if ".blocks." in row.part)


@pytest.mark.parametrize(
    ("theirs", "change"),
    [
        (TINY, {"class_embedding_dim": 2, "z_dim": 16}),
        (TINY, {"class_embedding_dim": 6, "hierarchical": False}),
        (DEEP, {"class_embedding_dim": 8, "z_dim": 4}),
    ],
)
def test_condition_maps_of_equal_size_but_other_columns_are_left(theirs, change):
    mine = replace(theirs, **change)
    (network, source, transfer), _ = both(mine, theirs)
    before, theirs_now = network.state_dict(), source.state_dict()
    maps = [name for name in before if name.endswith(("gain.weight", "bias.weight"))]
    same = [name for name in maps if before[name].shape == theirs_now[name].shape]
    assert same == maps, "equal shapes, or the test proves nothing"
    assert not {*maps, "linear.weight"} & transfer.tensors.keys()
    by_part = outcomes(transfer)
    assert (by_part["G.class_embedding"], by_part["G.linear"], by_part["G.blocks.0"]) == ("left", "left", "adapted")


@pytest.mark.parametrize(
    ("change", "name", "frozen", "new", "allowed"),
    [
        ({"z_dim": 16}, "G", 1, "linear.weight", 0),
        ({"class_embedding_dim": 6}, "G", 2, "blocks.0.bn1.gain.weight", 0),
        ({"g_attention": (8,)}, "G", 3, "attention.0.gamma", 0),
        ({"d_attention": (8, 16)}, "D", 4, "attention.1.gamma", 1),
        ({"family": "biggan-deep", "image_channels": 1}, "D", 1, "input_conv.weight", 0),
    ],
)
def test_newly_initialized_weights_cannot_be_frozen(change, name, frozen, new, allowed):
    theirs = DEEP if "family" in change else TINY
    networks = both(replace(theirs, **change), theirs)
    mine, _, transfer = networks["GD".index(name)]
    with pytest.raises(InputError) as refused:
        check_frozen(name, frozen, mine, transfer)
    key = f"init.freeze_{name.lower()}"
    assert str(refused.value).startswith(f"{key}_blocks: {frozen}, ")
    assert f" {name}.{new} " in str(refused.value)
    assert (f" {allowed}" if allowed else f"{key}_steps") in str(refused.value)
    check_frozen(name, allowed, mine, transfer)


def test_class_table_is_never_confused_with_a_map_of_the_same_shape():
    """8 features, 8 classes and a shared embedding of 8: all are [8, 8]."""
    plain = replace(TINY, hierarchical=False, classes=8)
    names = tuple("abcdefgh")
    for mine, theirs in ((0, 8), (8, 0)):
        mine, theirs = (replace(plain, class_embedding_dim=size) for size in (mine, theirs))
        G = make_transfer(
            "G",
            meta_networks(mine)[0],
            meta_networks(theirs)[0],
            g_candidates(mine, theirs),
            class_rows(names, names, []),
        )
        assert not [name for name in G.tensors if name.endswith(("gain.weight", "bias.weight"))]
        assert "blocks.0.conv1.weight" in G.tensors


@torch.no_grad()
def test_weights_divided_by_spectral_norm_give_the_same_function():
    G, _ = move_statistics(randomized(TINY.generator(), 1), randomized(TINY.discriminator(), 2))
    z, y = torch.randn(16, 8), torch.arange(16) % 3
    expected = G.eval()(z, y)
    sigmas = [
        torch.linalg.matrix_norm(w.flatten(1), 2) for n, w in folded(G).named_parameters() if "conv" in n and w.ndim > 1
    ]
    assert max(sigmas) > 1.02, "power iteration has nearly converged: the test proves nothing"
    for mine in (TINY, replace(TINY, g_spectral_norm=False)):
        network = randomized(mine.generator(), 5)
        rows = class_rows(KNOWN, KNOWN, [])
        fill(network, make_transfer("G", network, folded(G), g_candidates(mine, TINY), rows))
        torch.testing.assert_close(network.eval()(z, y), expected, atol=IMAGES32, rtol=0)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (4, 3, 3, 3)])
@pytest.mark.parametrize(("largest", "estimate"), [(1.3, 1.0), (0.8, 1.0), (7.0, 6.0)])
def test_vector_gives_the_estimate_where_possible(shape, largest, estimate):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weight *= largest / torch.linalg.matrix_norm(weight.flatten(1), 2)
    matrix, u = weight.flatten(1), vector_for_estimate(weight, estimate)
    v = torch.nn.functional.normalize(u @ matrix, dim=0)
    assert u.norm().item() == pytest.approx(1, abs=FEW_OPERATIONS32)
    assert (matrix @ v).norm().item() == pytest.approx(min(largest, estimate), rel=FEW_OPERATIONS32)


@pytest.mark.parametrize(
    ("neighbour", "parts"),
    [
        ("wolves=dog", ("data set", "'wolves'", " wolf")),
        ("wolf=dig", ("source", "'dig'", " dog")),
        ("wolf=dog+cta", ("source", "'cta'", " cat")),
        ("cat=dog", ("source", "'cat'", "remove it")),
    ],
)
def test_unknown_neighbours_are_named(neighbour, parts):
    with pytest.raises(InputError) as refused:
        class_rows(CLASSES, KNOWN, [neighbour])
    assert str(refused.value).startswith(f"init.neighbours: '{neighbour}': ")
    assert [part for part in parts if part not in str(refused.value)] == [], refused.value


@pytest.mark.parametrize(
    ("name", "known", "neighbour", "sources"),
    [
        ("c", ("c++", "c#"), "c=c++", (0,)),
        ("x=y", ("a", "b"), "x=y=a+b", (0, 1)),
        ("x", ("a", "y=a"), "x=y=a", (1,)),
        ("x=y", ("a", "b=a"), "x=y=b=a", (1,)),
    ],
)
def test_class_names_may_contain_plus_and_equals_signs(name, known, neighbour, sources):
    (row,) = class_rows([name], known, [neighbour])
    assert row.sources == sources
