"""Adapter files that are odd, hostile or not for the base; written by hand, without PEFT."""

from __future__ import annotations

import contextlib
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.counting import at_most
from wnconvert.checkpoint import Checkpoint
from wnconvert.checkpoint.adapters.merging import fold_adapter, migrate_adapter
from wnconvert.checkpoint.adapters.peft import read_adapter
from wnconvert.checkpoint.conversions.fold import fold
from wnconvert.checkpoint.conversions.reference import apply_like
from wnconvert.checkpoint.layout import read_preset
from wnconvert.checkpoint.layouts.dora import Dora
from wnconvert.checkpoint.pickles.inert import Unknown
from wnconvert.errors import CheckpointError, NothingToConvertError, OptionError, UnsafePickleError, WnconvertError
from wnconvert.report import StaleOptimizer
from wnconvert.selection import Selection

FILE = "adapter_model.safetensors"


def adapter(folder: Path, name: str = "q", **config: object) -> Path:
    """An adapter of one layer, whose weight has the shape (4, 3)."""
    (folder / "adapter_config.json").write_text(json.dumps({"use_dora": True, "lora_alpha": 4, "r": 2, **config}))
    prefix = f"base_model.model.{name}.lora_"
    tensors = {
        f"{prefix}A.weight": torch.randn(2, 3),
        f"{prefix}B.weight": torch.zeros(4, 2),
        f"{prefix}magnitude_vector": torch.full((4,), 2.0),
    }
    save_file(tensors, folder / FILE)
    return folder


def entries(prefix: str = "", **tensors: Tensor) -> dict[str, Any]:
    return {f"{prefix}q.weight": torch.randn(4, 3), f"{prefix}other": torch.ones(2), **tensors}


def base(content: Any = None) -> Checkpoint:
    return Checkpoint(entries() if content is None else content, "torch_zip")


def is_folded(weight: Tensor) -> None:
    torch.testing.assert_close(weight.norm(dim=1), torch.full((4,), 2.0))


def test_a_selection_leaves_the_rest_of_the_base_as_it_was(tmp_path: Path) -> None:
    folder = adapter(tmp_path)
    content = fold_adapter(base(), folder, selection=Selection(include=("q",))).checkpoint.content
    assert list(content) == ["q.weight", "other"]
    is_folded(content["q.weight"])
    with pytest.raises(NothingToConvertError, match="excluded by"):
        fold_adapter(base(), folder, selection=Selection(exclude=("q",)))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "net.encoder."])
def test_what_wrappers_put_before_the_names_is_found(prefix: str, tmp_path: Path) -> None:
    conversion = fold_adapter(base(entries(prefix)), adapter(tmp_path))
    assert list(conversion.checkpoint.content) == [f"{prefix}q.weight", f"{prefix}other"]
    is_folded(conversion.checkpoint.content[f"{prefix}q.weight"])
    assert conversion.report.notes == ()


def test_the_base_may_leave_the_first_word_out(tmp_path: Path) -> None:
    folder = adapter(tmp_path, "transformer.h.q", alpha_pattern={"transformer.h.q": 6})
    conversion = fold_adapter(base({"h.q.weight": torch.randn(4, 3)}), folder)
    is_folded(conversion.checkpoint.content["h.q.weight"])
    assert conversion.report.notes == ()


def test_the_base_may_be_in_another_dict(tmp_path: Path) -> None:
    folder = adapter(tmp_path)
    content = {"state_dict": entries("model."), "epoch": 3, "stats": {"mean": torch.ones(2)}}
    made = fold_adapter(base(content), folder).checkpoint.content
    is_folded(made["state_dict"]["model.q.weight"])
    assert made["epoch"] == 3
    assert content["state_dict"]["model.q.weight"] is not made["state_dict"]["model.q.weight"]
    twice = base({"model": entries(), "ema": entries(), "plain": {"p": torch.ones(1)}})
    with pytest.raises(CheckpointError, match=r"several places of the base \('model', 'ema'\); choose one \(--only\)"):
        fold_adapter(twice, folder)
    made = fold_adapter(twice, folder, within=["ema"]).checkpoint.content
    is_folded(made["ema"]["q.weight"])
    assert made["model"]["q.weight"] is twice.content["model"]["q.weight"]
    with pytest.raises(OptionError, match="no state dict at 'nowhere'"):
        fold_adapter(twice, folder, within=["nowhere"])
    with pytest.raises(CheckpointError, match=r"\('a', 'b'\); save the part that is meant alone"):
        fold_adapter(base({**entries("a."), **entries("b.")}), folder)


def test_stale_optimizers_are_left_out(tmp_path: Path) -> None:
    optimizer = {"state": {0: {"exp_avg": torch.zeros(4, 3)}}, "param_groups": [{"params": [0]}]}
    content = base({"model": entries(), "optimizer": optimizer})
    conversion = fold_adapter(content, adapter(tmp_path))
    assert "optimizer" not in conversion.checkpoint.content
    assert conversion.report.optimizers == (StaleOptimizer("optimizer", "dropped"),)
    assert "optimizer" in fold_adapter(content, tmp_path, optimizer="keep").checkpoint.content


def test_what_is_no_adapter_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = adapter(tmp_path)
    with pytest.raises(CheckpointError, match=r"which has no 'q\.weight'; if the model ties"):
        fold_adapter(base({"p.weight": torch.ones(2, 2)}), folder)
    with pytest.raises(CheckpointError, match=r"'q\.weight': its parts do not fit together: weight \(2, 3\)"):
        fold_adapter(base({"q.weight": torch.ones(2, 3)}), folder)
    with pytest.raises(CheckpointError, match="under a normalization; fold that first"):
        fold_adapter(base({"q.weight_g": torch.ones(4, 1), "q.weight_v": torch.ones(4, 3)}), folder)
    with pytest.raises(CheckpointError, match="dtype or layout"):
        fold_adapter(base({"q.weight": torch.ones(4, 3, dtype=torch.int8)}), folder)
    with pytest.raises(CheckpointError, match="holds no dict of tensors"):
        fold_adapter(base({}), folder)
    for name, reason in (
        ("score.weight", "has no 'score.weight'"),
        ("q.lora_E", "'q.lora_E' is of an adapter that is not"),
    ):
        save_file({**load_file(folder / FILE), f"base_model.model.{name}": torch.ones(2, 2)}, folder / FILE)
        with pytest.raises(CheckpointError, match=reason):
            fold_adapter(base(), folder)
    save_file({"base_model.model.q.hada_w1_a": torch.ones(2, 2)}, folder / FILE)
    with pytest.raises(CheckpointError, match="holds no LoRA or DoRA adapter"):
        fold_adapter(base(), folder)
    (folder / FILE).unlink()
    with pytest.raises(CheckpointError, match="neither"):
        fold_adapter(base(), folder)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no readable adapter_config\.json"):
        fold_adapter(base(), folder)
    with pytest.raises(CheckpointError, match="there is no such file"):
        fold_adapter(base(), folder / "nowhere")


def test_new_modules_are_added_where_the_config_names_them(tmp_path: Path) -> None:
    folder = adapter(tmp_path, modules_to_save=["score"])
    more = {"base_model.model.score.weight": torch.ones(2, 2), "base_model.model.other": torch.zeros(2)}
    save_file({**load_file(folder / FILE), **more}, folder / FILE)
    conversion = fold_adapter(base(), folder)
    content = conversion.checkpoint.content
    assert list(content) == ["q.weight", "other", "score.weight"]
    assert not content["other"].any()
    assert len(conversion.report.notes) == 2


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"lora_alpha": float("nan")}, "'lora_alpha' is nan, no finite number"),
        ({"lora_alpha": float("inf")}, "no finite number"),
        ({"lora_alpha": 10**400}, "no finite number"),
        ({"lora_alpha": "4"}, "'lora_alpha' is '4'"),
        ({"lora_alpha": None}, "no finite number"),
        ({"lora_alpha": [4]}, "no finite number"),
        ({"alpha_pattern": {"q": "x"}}, "'q' is 'x'"),
        ({"alpha_pattern": [1]}, "no mapping"),
        ({"alpha_pattern": {"(?<=a)q": 1}}, "the pattern"),
        ({"use_dora": "no"}, "'use_dora' is 'no', not true or false"),
        ({"use_dora": False}, "it has a magnitude, which LoRA has not"),
        ({"peft_type": "PROMPT_TUNING"}, "the method 'PROMPT_TUNING'"),
        ({"peft_type": ["LORA"]}, "the method"),
        ({"layer_replication": [[0, 4], [2, 5]]}, r"'layer_replication': \[\[0, 4\]"),
        ({"target_parameters": ["experts.w"]}, "'target_parameters'"),
        ({"init_lora_weights": "pissa_niter_4"}, "'init_lora_weights' is 'pissa_niter_4'"),
    ],
)
def test_configs_that_cannot_be_followed_are_refused(config: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=reason) as caught:
        fold_adapter(base(), adapter(tmp_path, **config))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, '{"lora_alpha": ' + "1" * 5000 + "}", "\udcff", "1"])
def test_damaged_configs_are_refused(text: str, tmp_path: Path) -> None:
    folder = adapter(tmp_path)
    (folder / "adapter_config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(CheckpointError, match="is damaged"):
        fold_adapter(base(), folder)


JSON = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.just([]), st.just({"a": [1]})
)
OPTIONS = (
    "peft_type",
    "lora_alpha",
    "use_dora",
    "use_rslora",
    "fan_in_fan_out",
    "alpha_pattern",
    "modules_to_save",
    "bias",
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(st.sampled_from(OPTIONS), JSON))
def test_no_config_makes_a_traceback(tmp_path: Path, config: dict[str, Any]) -> None:
    with contextlib.suppress(WnconvertError):
        fold_adapter(base(), adapter(tmp_path, **config))


SHAPES = st.lists(st.integers(0, 4), max_size=5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(SHAPES, SHAPES, SHAPES, SHAPES, st.booleans(), st.booleans())
def test_no_shapes_make_a_traceback(
    tmp_path: Path, w: list[int], a: list[int], b: list[int], m: list[int], table: bool, turned: bool
) -> None:
    folder = adapter(tmp_path, fan_in_fan_out=turned)
    a_key, b_key = ("q.lora_embedding_A", "q.lora_embedding_B") if table else ("q.lora_A.weight", "q.lora_B.weight")
    tensors = {a_key: torch.ones(a), b_key: torch.ones(b), "q.lora_magnitude_vector": torch.ones(m)}
    save_file(tensors, folder / FILE)
    for convert in (fold_adapter, partial(migrate_adapter, to="hook")):
        with contextlib.suppress(WnconvertError):
            content = convert(base({"q.weight": torch.ones(w)}), folder).checkpoint.content  # type: ignore[operator]
            assert all((tensor + 0).shape == tensor.shape for tensor in content.values())


def test_patterns_that_would_take_forever_do_not(tmp_path: Path) -> None:
    name = "a" * 40 + ".q"
    folder = adapter(tmp_path, name, alpha_pattern={"(a+)+b": 3, "(a|a)*c": 4, "a+\\.q": 8, "q": 16})
    with at_most(50_000):
        fold_adapter(base({f"{name}.weight": torch.randn(4, 3)}), folder)


def test_parts_that_are_odd_are_refused(tmp_path: Path) -> None:
    folder = adapter(tmp_path)
    whole = load_file(folder / FILE)
    stem = "base_model.model.q.lora_"
    cases: dict[str, dict[str, Tensor]] = {
        "its rank is 0": {f"{stem}A.weight": torch.ones(0, 3), f"{stem}B.weight": torch.ones(4, 0)},
        "do not fit together": {f"{stem}magnitude_vector": torch.ones(3)},
        "do not fit together: weight .*, A \\(\\)": {f"{stem}A.weight": torch.tensor(1.0)},
        "dtype or layout": {f"{stem}B.weight": torch.ones(4, 2, dtype=torch.int8)},
        "several adapters": {f"{stem}A.other.weight": torch.ones(2, 3)},
    }
    for reason, changed in cases.items():
        save_file({**whole, **changed}, folder / FILE)
        with pytest.raises(CheckpointError, match=reason):
            fold_adapter(base(), folder)
        with pytest.raises(CheckpointError, match=reason):
            migrate_adapter(base(), folder, "hook")
    for part in ("A.weight", "B.weight", "magnitude_vector"):
        save_file({key: tensor for key, tensor in whole.items() if not key.endswith(part)}, folder / FILE)
        with pytest.raises(CheckpointError, match="is missing"):
            fold_adapter(base(), folder)


def test_the_options_of_the_preset_are_read() -> None:
    layout = read_preset("dora:alpha=16,rank_stabilized=false,fan_in_fan_out=TRUE")
    assert layout == Dora(alpha=16.0, fan_in_fan_out=True)
    with pytest.raises(OptionError, match="must be true or false"):
        read_preset("dora:fan_in_fan_out=maybe")
    with pytest.raises(OptionError, match="no option 'alpha_pattern'"):
        read_preset("dora:alpha_pattern=x")


def test_a_file_without_an_adapter_says_so(tmp_path: Path) -> None:
    config = adapter(tmp_path) / "adapter_config.json"
    with pytest.raises(CheckpointError, match="holds no adapter; give its folder"):
        fold_adapter(base(), config)
    with pytest.raises(NothingToConvertError, match="holds an adapter of PEFT"):
        fold(base(load_file(tmp_path / FILE)))
    whole = {**load_file(tmp_path / FILE), "base_model.model.q.base_layer.weight": torch.randn(4, 3)}
    assert list(fold_adapter(base(whole), config).checkpoint.content) == ["q.weight"]
    with pytest.raises(CheckpointError, match=r"'q\.trainable_tokens_delta' is of an adapter that is not LoRA"):
        fold_adapter(base({**whole, "q.trainable_tokens_delta": torch.ones(2)}), config)


def test_alpha_must_be_given_and_keys_be_free(tmp_path: Path) -> None:
    whole = {**load_file(adapter(tmp_path) / FILE), "base_model.model.q.base_layer.weight": torch.randn(4, 3)}
    for layout in (Dora(), Dora(alpha=float("inf"))):
        with pytest.raises(CheckpointError, match="its alpha is not known"):
            fold_adapter(base(whole), layout)
    with pytest.raises(CheckpointError, match=r"the key 'q\.weight_g' is taken"):
        migrate_adapter(base(entries(**{"q.weight_g": torch.ones(2)})), tmp_path, "hook")


def test_nothing_is_taken_apart_as_an_adapter_has_it(tmp_path: Path) -> None:
    reference = base(load_file(adapter(tmp_path) / FILE))
    with pytest.raises(CheckpointError, match="the reference is an adapter"):
        apply_like(base(), reference)


def test_what_only_its_code_can_write_is_refused(tmp_path: Path) -> None:
    content = {"model": entries(), "extra": Unknown("somewhere.Thing")}
    for convert in (fold_adapter, partial(migrate_adapter, to="hook")):
        with pytest.raises(UnsafePickleError, match="'extra' is an object of"):
            convert(base(content), adapter(tmp_path))  # type: ignore[operator]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no FIFOs")
@pytest.mark.parametrize("kind", ["fifo", "endless"])
def test_a_config_that_is_no_regular_file_is_never_opened(tmp_path: Path, kind: str) -> None:
    config = tmp_path / "adapter_config.json"
    os.mkfifo(config) if kind == "fifo" else config.symlink_to("/dev/zero")
    for path in (tmp_path, config):
        with pytest.raises(CheckpointError, match=r"^'[^']*adapter_config.json' is not a regular file$"):
            read_adapter(path)
