"""The language of --backbone, --cut and --weights."""

import itertools
from pathlib import Path

import pytest
from headstart.features.backbones.cuts import (
    Cut,
    alternative_cuts,
    chosen_cuts,
    chosen_weights,
    cut_names,
    require_averaged,
    restricted,
)
from headstart.features.backbones.outlines import outline
from headstart.features.backbones.zoo import BACKBONES
from headstart.features.config import FeatureConfig
from headstart.features.errors import OptionError
from hypothesis import given
from hypothesis import strategies as st

BOTH = "inception_v3+xception"
EVERY = [Cut(name, block, map) for name in BACKBONES for block in outline(name).cuts for map in (False, True)]


def names(config: FeatureConfig) -> list[str]:
    return cut_names(chosen_cuts(config))


def test_what_is_written_is_meant() -> None:
    assert names(FeatureConfig()) == ["mixed10"]
    assert names(FeatureConfig(cut=("mixed8:map", "mixed2+mixed3"))) == ["mixed8:map", "mixed2", "mixed3"]
    assert len(names(FeatureConfig(cut=("all",)))) == 11
    assert names(FeatureConfig(backbone=BOTH)) == ["inception_v3/mixed10", "xception/block14"]
    assert names(FeatureConfig(backbone=BOTH, cut=("block3+mixed1",))) == ["inception_v3/mixed1", "xception/block3"]
    both = "efficientnet_v2_b0+mobilenet_v3_small"  # whose last cuts have one name
    assert len(names(FeatureConfig(backbone=both, cut=("top_activation",)))) == 2
    assert names(FeatureConfig(backbone=both, cut=("efficientnet_v2_b0/block2b_add",))) == [
        "efficientnet_v2_b0/block2b_add",
        "mobilenet_v3_small/top_activation",
    ]


@given(st.lists(st.sampled_from(EVERY), min_size=1, max_size=4, unique=True))
def test_cuts_are_read_back_from_their_names(cuts: list[Cut]) -> None:
    backbones = list(dict.fromkeys(cut.backbone for cut in cuts))
    by_backbone = [cut for name in backbones for cut in cuts if cut.backbone == name]
    config = FeatureConfig(backbone="+".join(backbones), cut=tuple(cut_names(cuts)))
    assert list(chosen_cuts(config)) == by_backbone
    alone = restricted(config, [cut for cut in cuts if cut.backbone == backbones[0]])
    assert alone.backbone == backbones[0]
    assert set(chosen_cuts(alone)) == {cut for cut in cuts if cut.backbone == backbones[0]}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": "inception_v4"}, "--backbone: there is no 'inception_v4'; did you mean inception_v3"),
        ({"backbone": "xception+xception"}, "names a backbone twice"),
        ({"backbone": ""}, "there is no ''"),
        ({"backbone": "xception+"}, "there is no ''"),
        ({"cut": ("mixed11",)}, "inception_v3 has no cut 'mixed11'; choose from mixed0"),
        ({"cut": ("mixed1", "mixed2+mixed1")}, "names a cut twice. Received: mixed1+mixed2+mixed1"),
        ({"backbone": BOTH, "cut": ("xception/mixed1",)}, "none of inception_v3, xception has a cut 'xception/mixed1'"),
    ],
)
def test_what_can_not_be_meant_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(OptionError) as raised:
        chosen_cuts(FeatureConfig(**settings))
    assert message in str(raised.value)


def test_a_wrong_name_is_told_before_anything_is_scanned(headstart, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for option, value in (("--backbone", "inception_v4"), ("--cut", "mixed11"), ("--optimizer", "adamm")):
        code, _, said = headstart.whole("head", tmp_path / "data", "--run", tmp_path / "run", option, value)
        assert (code, value in said) == (2, True)
        assert "device" not in said
    assert not (tmp_path / "run").exists()


def test_a_plus_in_the_path_of_weights_joins_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "c++"
    folder.mkdir()
    one, other = folder / "a.h5", folder / "b.h5"
    for file in (one, other):
        file.touch()
    read = {
        names: list(chosen_weights(FeatureConfig(backbone=BOTH, weights=names)).values())
        for names in (str(one), f"{one}+{other}", f"imagenet+{other}", "random", "random+imagenet", "a.h5+b.h5")
    }
    assert read == {
        str(one): [str(one), str(one)],
        f"{one}+{other}": [str(one), str(other)],
        f"imagenet+{other}": ["imagenet", str(other)],
        "random": ["random", "random"],
        "random+imagenet": ["random", "imagenet"],
        "a.h5+b.h5": ["a.h5", "b.h5"],
    }
    assert chosen_weights(FeatureConfig(weights="/gone/c++/w.h5")) == {"inception_v3": "/gone/c++/w.h5"}
    for text in ("/gone/c++/w.h5", "imagenet+", "a.h5+b.h5+c.h5"):
        with pytest.raises(OptionError, match="one for all, or one for each of 2 backbones"):
            chosen_weights(FeatureConfig(backbone=BOTH, weights=text))


def test_a_search_chooses_among_what_is_written() -> None:
    joined = lambda config: ([cut_names(cuts) for cuts in alternative_cuts(config)[0]], alternative_cuts(config)[1])  # noqa: E731
    assert joined(FeatureConfig()) == ([["mixed10"]], False)
    assert joined(FeatureConfig(cut=("mixed8", "mixed6+mixed8"))) == ([["mixed8"], ["mixed6", "mixed8"]], False)
    every, free = joined(FeatureConfig(cut=("all",)))
    assert (len(every), free) == (11, True)
    default = ["inception_v3/mixed10", "xception/block14"]
    alternatives, _ = alternative_cuts(FeatureConfig(backbone=BOTH))
    assert [len(cuts) for cuts in alternatives] == [1, 1, 2]
    assert cut_names(alternatives[-1]) == default
    alternatives, _ = alternative_cuts(FeatureConfig(backbone=BOTH, cut=("xception/block13", "mixed8")))
    assert [[cut.name for cut in cuts] for cuts in alternatives] == [["block13"], ["mixed8", "block14"]]


def test_restricting_keeps_the_weights_of_each_backbone() -> None:
    config = FeatureConfig(backbone=BOTH, weights="imagenet+random")
    inception, xception = chosen_cuts(config)
    assert restricted(config, [xception]).weights == "random"
    assert restricted(config, [inception, xception]) == FeatureConfig(
        backbone=BOTH, weights="imagenet+random", cut=("inception_v3/mixed10", "xception/block14")
    )


def test_a_head_takes_no_maps() -> None:
    for cuts in itertools.permutations([Cut("inception_v3", "mixed8", map=True), Cut("inception_v3", "mixed10")]):
        with pytest.raises(OptionError, match=r"averaged over space, 'mixed8'\. Received: 'mixed8:map'"):
            require_averaged(cuts)
