"""Naming schemes: which names form a layer, what a range means, which slots follow which variable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptsurgeon import formats, schemes
from ckptsurgeon.checkpoint import Checkpoint, Variable
from ckptsurgeon.errors import Problems, UsageError
from ckptsurgeon.names import natural_key, natural_order


class Fake:
    """What schemes look at of a checkpoint."""

    path = "m"

    def __init__(self, shapes: dict[str, tuple[int, ...]], **said: dict[str, Any]) -> None:
        self.variables = {name: Variable(name, name.encode(), "float32", shape, ()) for name, shape in shapes.items()}
        self.said = said

    def layer_tables(self) -> dict[str, dict[str, int]]:
        """What the test says."""
        return self.said.get("layers", {})

    def slot_owners(self) -> dict[str, str]:
        """What the test says."""
        return self.said.get("owners", {})


def _named(*names: str, **said: Any) -> Any:
    """A checkpoint of variables of one shape."""
    return Fake(dict.fromkeys(names, (2,)), **said)


def _open(tmp_path: Path, names: list[str]) -> Checkpoint:
    formats.write(str(tmp_path / "m"), {name: np.zeros(2, np.float32) for name in names}, sync=False)
    return formats.open(str(tmp_path / "m"))


@pytest.mark.parametrize(
    ("pattern", "name", "number"),
    [
        ("dnn/layer{K}/**", "dnn/layer12/Linear/Matrix", 12),
        ("dnn/layer{K}/**", "dnn/layer/Linear/Matrix", None),
        ("dnn/layer{K}/**", "other/dnn/layer1/x", None),
        ("tower/{K}/*", "tower/3/w", 3),
        ("tower/{K}/*", "tower/3/deep/w", None),
        ("dense{_K}/?", "dense/w", 0),
        ("dense{_K}/?", "dense_2/w", 2),
        ("dense{_K}/?", "dense_0/w", None),
        ("a.b[{K}]", "a.b[7]", 7),
        ("a.b[{K}]", "axb[7]", None),
    ],
)
def test_a_pattern_gives_a_layers_number(pattern: str, name: str, number: int | None) -> None:
    """{K} is a number, {_K} an optional one, wildcards keep to their components, all else is literal."""
    assert schemes.PatternScheme("user's", pattern).number(name) == number


@pytest.mark.parametrize("pattern", ["dnn/layer", "{K}/{K}", "{K}{_K}", "skflo"])
def test_a_pattern_needs_one_number(pattern: str) -> None:
    """A pattern without {K}, with two of them, or a misspelt scheme's name is refused."""
    with pytest.raises(UsageError, match=r"needs \{K\} once"):
        schemes.PatternScheme(pattern, pattern)


def test_the_scheme_is_found_from_the_names(tmp_path: Path) -> None:
    """Known rows are told by the names; none or several of them is an error that says what to do."""
    with _open(tmp_path, ["dnn/layer0/w", "dnn/layer10/w", "dnn/layer2/w", "head"]) as checkpoint:
        scheme = schemes.find(checkpoint)
        assert scheme.name == "skflow"
        assert list(scheme.layers(checkpoint)) == [0, 2, 10]
    with _open(tmp_path, ["dnn/hiddenlayer_0/weights"]) as checkpoint:
        assert schemes.find(checkpoint).name == "estimator"
    with _open(tmp_path, ["tower/0/w"]) as checkpoint:  # one number alone suggests no layers
        with pytest.raises(UsageError, match=r"no known layer scheme.*tower/0/w.*--scheme"):
            schemes.find(checkpoint)
        assert list(schemes.find(checkpoint, "tower/{K}/**").layers(checkpoint)) == [0]
        with pytest.raises(UsageError, match="no variable fits --scheme skflow"):
            schemes.find(checkpoint, "skflow")
    with (
        _open(tmp_path, ["dnn/layer0/w", "dnn/hiddenlayer_0/weights"]) as checkpoint,
        pytest.raises(UsageError, match="skflow and estimator; choose by --scheme"),
    ):
        schemes.find(checkpoint)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0-2", [0, 1, 2]),
        ("1", [1]),
        ("3-", [3, 5, 6]),
        ("-1", [6]),
        ("-2,-1", [5, 6]),
        ("0,5", [0, 5]),
        ("all", [0, 1, 2, 3, 5, 6]),
        ("2-6", [2, 3, 5, 6]),
        (" 1 , 0-1 ", [0, 1]),
    ],
)
def test_a_range_means_layers_inclusively(text: str, numbers: list[int]) -> None:
    """Ranges are inclusive, count from the end with a minus, and may skip numbers that no layer has."""
    assert schemes.parse_layers(text, [0, 1, 2, 3, 5, 6]) == numbers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0:3", r"did you mean 0-2 \(inclusive\)"),
        ("2:3", r"did you mean 2 \(inclusive\)"),
        ("7", "no layer 7; expected layers 0-3, 5-6"),
        ("4", "no layer 4"),
        ("0-9", "no layer 9"),
        ("5-2", "is empty; did you mean 2-5"),
        ("-7", "no layer -7 from the end"),
        ("-0", "no layer -0 from the end"),
        ("", "invalid --layers ''"),
        ("x", "invalid --layers x"),
        ("1..2", "invalid --layers 1..2"),
        ("9" * 5000, "invalid --layers 9"),
    ],
)
def test_a_bad_range_is_explained(text: str, message: str) -> None:
    """A layer that does not exist and a range that is none are errors that show the way."""
    with pytest.raises(UsageError, match=message):
        schemes.parse_layers(text, [0, 1, 2, 3, 5, 6])


def test_all_problems_of_a_range_come_at_once() -> None:
    """Two bad items give two lines."""
    with pytest.raises(Problems) as caught:
        schemes.parse_layers("0:2,9", [0, 1])
    assert len(caught.value.lines) == 2


@given(st.lists(st.integers(0, 40), min_size=1, unique=True).map(sorted), st.data())
def test_ranges_select_what_lies_between_their_ends(numbers: list[int], data: st.DataObject) -> None:
    """For any layers, N-M is every layer from N to M, and -N the N-th from the end."""
    first = data.draw(st.sampled_from(numbers))
    last = data.draw(st.sampled_from([number for number in numbers if number >= first]))
    assert schemes.parse_layers(f"{first}-{last}", numbers) == [n for n in numbers if first <= n <= last]
    back = data.draw(st.integers(1, len(numbers)))
    assert schemes.parse_layers(f"-{back}", numbers) == [numbers[-back]]


def test_natural_order_puts_layer2_before_layer10() -> None:
    """Numbers in names compare as numbers."""
    names = ["dnn/layer10/w", "dnn/layer2/w", "b", "dnn/layer2/b", "a10", "a9"]
    assert sorted(names, key=natural_key) == [
        "a9", "a10", "b", "dnn/layer2/b", "dnn/layer2/w", "dnn/layer10/w",
    ]  # fmt: skip


def test_slots_are_told_by_suffix_and_shape(tmp_path: Path) -> None:
    """A slot has its variable's name and shape; a layer that is merely called Adam is none."""
    arrays = {
        "w": np.zeros((2, 3), np.float32),
        "w/Adam": np.zeros((2, 3), np.float32),
        "w/Adam_1": np.zeros((2, 3), np.float32),
        "w/Momentum": np.zeros(3, np.float32),
        "p/weights": np.zeros(4, np.float32),
        "p/weights/part_0/Ftrl": np.zeros(4, np.float32),
        "p/weights/t_0/Adagrad": np.zeros(4, np.float32),
        "lonely/Adam": np.zeros(1, np.float32),
        "Adam": np.zeros(1, np.float32),
        "o/kernel": np.zeros(2, np.float32),
        "o/kernel/.OPTIMIZER_SLOT/optimizer/m": np.zeros(2, np.float32),
    }
    formats.write(str(tmp_path / "m"), arrays, sync=False)
    with formats.open(str(tmp_path / "m")) as checkpoint:
        assert schemes.slots(checkpoint) == {
            "w/Adam": "w",
            "w/Adam_1": "w",
            "p/weights/part_0/Ftrl": "p/weights",
            "p/weights/t_0/Adagrad": "p/weights",
            "o/kernel/.OPTIMIZER_SLOT/optimizer/m": "o/kernel",
        }


def test_estimator_slots_are_paired(samples: Path) -> None:
    """A real tf.estimator checkpoint: every slot has its variable, through /part_0/."""
    with formats.open(str(samples / "estimator-linear" / "model.ckpt-1")) as checkpoint:
        slots = schemes.slots(checkpoint)
        assert len(slots) == sum("/Ftrl" in name for name in checkpoint)
        assert all(slot.startswith(owner + "/part_0/Ftrl") for slot, owner in slots.items())


def test_skflow_layers_are_counted(tmp_path: Path) -> None:
    """The scheme of skflow finds every layer with its matrix, its bias and their slots."""
    models.write(tmp_path / "m", 1)
    with formats.open(str(tmp_path / "m")) as checkpoint:
        layers = schemes.find(checkpoint).layers(checkpoint)
    assert {number: len(variables) for number, variables in layers.items()} == {0: 4, 1: 4, 2: 4}


@pytest.mark.parametrize(
    ("scheme", "names", "numbers"),
    [
        ("bert", ["bert/encoder/layer_{}/output/dense/kernel"], [0, 1, 11]),
        ("gpt-2", ["model/h{}/attn/c_attn/w", "model/wte"], [0, 1, 10]),
        ("t5-encoder", ["encoder/block_00{}/layer_000/SelfAttention/q"], [0, 1, 9]),
        ("t5-decoder", ["decoder/block_00{}/layer_000/SelfAttention/q"], [0, 1, 9]),
        ("slim-resnet", ["resnet_v1_50/block{}/unit_1/bottleneck_v1/conv1/weights", "resnet_v1_50/conv1/weights"],
         [1, 2, 4]),
        ("official-resnet", ["resnet_model/conv2d_{}/kernel", "resnet_model/dense/kernel"], [1, 2, 30]),
        ("hf-decoder", ["model.layers.{}.self_attn.q_proj.weight", "model.embed_tokens.weight", "lm_head.weight"],
         [0, 1, 31]),
        ("hf-bert", ["bert.encoder.layer.{}.attention.self.query.weight", "bert.embeddings.LayerNorm.weight"],
         [0, 1, 11]),
        ("hf-encoder", ["encoder.layer.{}.output.dense.bias", "pooler.dense.weight"], [0, 1, 11]),
        ("hf-gpt-2", ["transformer.h.{}.attn.c_attn.weight", "transformer.wte.weight"], [0, 1, 11]),
        ("hf-gpt-2-base", ["h.{}.attn.c_attn.weight", "wte.weight"], [0, 1, 11]),
        ("hf-t5-encoder", ["encoder.block.{}.layer.0.SelfAttention.q.weight", "shared.weight"], [0, 1, 5]),
        ("layers", ["layers.{}.weight", "layers.{}.bias", "head.weight"], [0, 1, 2]),
    ],
)  # fmt: skip
def test_known_models_are_recognised(scheme: str, names: list[str], numbers: list[int]) -> None:
    """The names of well-known models fit their row of the table and no other."""
    checkpoint = _named(*(name.format(number) for name in names for number in numbers))
    assert [each.name for each in schemes.fitting(checkpoint)] == [scheme]
    assert list(schemes.find(checkpoint).layers(checkpoint)) == numbers


def test_encoder_and_decoder_are_two_schemes() -> None:
    """T5 has both, so layers need --scheme, which takes a row's name."""
    checkpoint = _named("encoder/block_000/w", "decoder/block_000/w", "decoder/block_001/w")
    with pytest.raises(UsageError, match="found t5-encoder and t5-decoder; choose by --scheme"):
        schemes.find(checkpoint)
    assert list(schemes.find(checkpoint, "t5-decoder").layers(checkpoint)) == [0, 1]


def test_the_containers_own_numbering_is_a_scheme() -> None:
    """Its name is accepted, it fits beside known ones, and slots follow their variables."""
    table = {"ranks": {"a": 0, "b": 1}}
    checkpoint = _named("a", "b", "b/s", "c", layers=table, owners={"b/s": "b", "gone/s": "gone"})
    found = schemes.find(checkpoint)
    assert {number: [v.name for v in layer] for number, layer in found.layers(checkpoint).items()} == {
        0: ["a"],
        1: ["b", "b/s"],
    }
    assert schemes.slots(checkpoint) == {"b/s": "b"}
    both = _named("a", "dnn/layer0/w", layers={"ranks": {"a": 0}})
    with pytest.raises(UsageError, match="skflow and ranks"):
        schemes.find(both)
    assert schemes.find(both, "ranks").name == "ranks"


@pytest.mark.parametrize(
    ("names", "pattern", "numbers"),
    [
        (["tower/block_0/w", "tower/block_7/w", "head/w"], "tower/block_{K}/**", [0, 7]),
        (["dense/kernel", "dense_1/kernel", "dense_10/kernel"], "dense{_K}/**", [0, 1, 10]),
        (["dense_1/kernel", "dense_2/kernel"], "dense_{K}/**", [1, 2]),
        (["t/l_000/w", "t/l_001/w"], "t/l_{K}/**", [0, 1]),
        (["t/0/w", "t/1/w"], "t/{K}/**", [0, 1]),
        (["e/b_0/conv_0/w", "e/b_0/conv_1/w", "e/b_1/conv_0/w"], "e/b_{K}/**", [0, 1]),
        (["net_50/b1/w", "net_50/b2/w"], "net_50/b{K}/**", [1, 2]),
        (["fc1.weight", "fc2.weight"], "fc{K}.**", [1, 2]),
        (["a/l0/w", "a/l1/w", "a/l0/u0/w/Adam", "optimizer/_variables/2", "optimizer/_variables/3",
          "optimizer/x_0/v", "optimizer/x_1/v", "o/_trainable_variables/0/v", "o/_trainable_variables/1/v",
          "save_counter", "_CHECKPOINTABLE_OBJECT_GRAPH"], "a/l{K}/**", [0, 1]),
        (["l-1/k/.ATTRIBUTES/VARIABLE_VALUE", "l-2/k/.ATTRIBUTES/VARIABLE_VALUE",
          "l-2/k/.OPTIMIZER_SLOT/optimizer/m/.ATTRIBUTES/VARIABLE_VALUE"], "l-{K}/**", [1, 2]),
    ],
)  # fmt: skip
def test_an_unknown_scheme_is_inferred(names: list[str], pattern: str, numbers: list[int]) -> None:
    """The outermost numbered folder gives the scheme; its name is a pattern that --scheme takes."""
    checkpoint = _named(*names)
    scheme = schemes.find(checkpoint)
    assert scheme.name == pattern
    assert list(scheme.layers(checkpoint)) == numbers
    assert list(schemes.find(checkpoint, scheme.name).layers(checkpoint)) == numbers


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/l_0/w", "a/l_1/w", "b/l_0/w", "b/l_1/w"], r"several schemes.*a/l_\{K\}/\*\* and b/l_\{K\}/\*\*; choose"),
        (["dense/w", "dense_1/w", "conv/w", "conv_1/w"], r"conv\{_K\}/\*\* and dense\{_K\}/\*\*"),
        ([f"p{c}/l_{k}/w" for c in "abcdefgh" for k in (0, 1)], "pf/l_.* and 2 more"),
        (["w0", "w1"], "no known layer scheme"),
        (["a/l_1/w", "a/l_01/w"], "no known layer scheme"),
        (["a*/l_0/w", "a*/l_1/w"], "no known layer scheme"),
    ],
)
def test_names_that_do_not_tell_are_refused(names: list[str], message: str) -> None:
    """Several candidates are listed in one line; none is the error that asks for --scheme."""
    with pytest.raises(UsageError, match=message):
        schemes.find(_named(*names))


def test_absurd_names_are_borne() -> None:
    """Millions of digits or slashes in a name are no layer, and do no harm."""
    names = ["d/" + "9" * 100_000 + "/w", "a/" * 100_000 + "w", "dnn/layer" + "1" * 100_000 + "/w", "/_1/w"]
    checkpoint = _named(*names)
    with pytest.raises(UsageError, match="no known layer scheme"):
        schemes.find(checkpoint)
    assert len(natural_order(checkpoint.variables.values())) == len(names)


@pytest.mark.parametrize(
    ("slot", "variable"),
    [
        ("dnn/h/kernel/t_0/Adagrad", "dnn/h/kernel"),
        ("kernel//part_0/Adam", "kernel"),
        ("abc/kernel/nel/part_12/Adam_1", "abc/kernel"),
        ("kernel/0/Momentum", "kernel"),
        ("w/Adam_3", "w"),
        ("w/adam_m", "w"),
        ("training/Adagrad/dnn/w/accumulator", "dnn/w"),
        ("training/Adam/w/m", "w"),
        ("a/k/.OPTIMIZER_SLOT/o/m/.ATTRIBUTES/VARIABLE_VALUE", "a/k/.ATTRIBUTES/VARIABLE_VALUE"),
    ],
)
def test_a_slot_finds_its_variable(slot: str, variable: str) -> None:
    """Every way in which TensorFlow names slots leads back to the variable."""
    assert schemes.slots(_named(slot, variable, "other")) == {slot: variable}


@pytest.mark.parametrize("name", ["w/part_0/m", "w/other/Adam", "training/Trainer/w/m", "w/Adam_x", "w/adam_m/x"])
def test_what_only_resembles_a_slot_is_none(name: str) -> None:
    """A name that no optimizer gives is a variable like any other."""
    assert schemes.slots(_named(name, "w")) == {}


def test_the_optimizers_own_variables() -> None:
    """Slots, beta powers, an optimizer's folder, training/<optimizer>; never weights, rates, steps and counters."""
    own = {
        "beta1_power": (), "scope/beta2_power_1": (), "w/Adam": (2,), "optimizer/iter": (),
        "optimizer/_variables/2": (2,), "model/opt/_iterations": (), "model/opt/_variables/3": (2,),
        "training/Adam/iter": (), "training/Adam/w/m": (2,),
        "k/.OPTIMIZER_SLOT/o/m": (2,), "o/decay": (),
    }  # fmt: skip
    kept = {
        "w": (2,), "k": (2,), "learning_rate": (), "global_step": (), "save_counter": (), "optimizer/global_step": (),
        "optimizer/_trainable_variables/0": (2,), "model/opt/_trainable_variables/0": (2,), "beta1_powers": (),
        "training/dense/kernel": (2,), "odd/x": (2,),
    }  # fmt: skip
    checkpoint: Any = Fake({**own, **kept})
    assert schemes.optimizer_variables(checkpoint) == set(own)


@pytest.mark.parametrize(
    ("rest", "role"),
    [
        ("kernel", "kernel"), ("Linear/Matrix", "kernel"), ("weights", "kernel"), ("attn/w", "kernel"),
        ("_kernel", "kernel"), ("vars/0", "kernel"), ("x/vars/1", "bias"), ("Bias", "bias"), ("biases", "bias"),
        ("b", "bias"), ("bias", "bias"),
        ("gamma", None), ("vars/2", None), ("0", None), ("bw", None), ("", None),
    ],
)  # fmt: skip
def test_a_role_is_told_by_the_end_of_the_name(rest: str, role: str | None) -> None:
    """Kernels and biases are known under all their names; anything else has no role."""
    assert schemes.role(rest) == role


def test_gpt2_layers_of_a_real_checkpoint(samples: Path) -> None:
    """The sample's transformer blocks are layers by the row gpt-2."""
    with formats.open(str(samples / "gpt2-toy" / "model.ckpt")) as checkpoint:
        assert schemes.find(checkpoint).name == "gpt-2"
