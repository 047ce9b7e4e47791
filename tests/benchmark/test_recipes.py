from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mae_ast_fairseq.benchmark.recipes import SECTIONS, Setting, parse_setting, read_recipes, recipe_names
from mae_ast_fairseq.config.pretraining import MaeAstFields, SsastFields
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.files import examples_folder


def changed_recipe(folder: Path, old: str, new: str) -> str:
    text = (examples_folder() / "recipes" / "mae_ast_tiny.yaml").read_text()
    assert old in text
    path = folder / "copied.yaml"
    path.write_text(text.replace(old, new))
    return str(path)


def test_every_pretraining_recipe_is_named() -> None:
    assert {"mae_ast_patch", "mae_ast_frame", "mae_ast_tiny", "ssast_patch", "ssast_frame"} <= set(recipe_names())


def test_the_model_s_fields_are_the_recipe_s() -> None:
    recipes = read_recipes(["mae_ast_tiny", "ssast_frame"])
    tiny, ssast = recipes["mae_ast_tiny"].fields, recipes["ssast_frame"].fields
    assert isinstance(tiny, MaeAstFields)
    assert isinstance(ssast, SsastFields)
    assert (tiny.encoder_embed_dim, tiny.normalization, ssast.ast_kernel_size_chan) == (192, "dataset", 128)
    assert recipes["mae_ast_tiny"].mask_type == "chunk_mask"
    assert recipes["mae_ast_tiny"].config.optimizer.adam_eps == 1e-6


def test_a_copied_recipe_composes_with_examples_and_hydra_s_own_words_do_no_harm(tmp_path: Path) -> None:
    path = changed_recipe(tmp_path, "encoder_layers: 4", "encoder_layers: 5")
    recipe = read_recipes([path])[path]
    assert (recipe.fields.encoder_layers, recipe.fields.encoder_embed_dim) == (5, 192)
    assert recipe.config.common.user_dir == "benchmark/mae_ast_fairseq"
    assert "hydra" not in recipe.config


def test_a_recipe_may_say_itself_where_its_base_lies(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "tiny.yaml").write_text("# @package _global_\nmodel: {encoder_layers: 3}\n")
    path = tmp_path / "elsewhere.yaml"
    path.write_text(
        f"hydra: {{searchpath: [{tmp_path}/elsewhere, {examples_folder()}]}}\n"
        "defaults: [recipes/mae_ast_tiny, tiny, _self_]\n"
    )
    fields = read_recipes([str(path)])[str(path)].fields
    assert (fields.encoder_layers, fields.encoder_embed_dim) == (3, 192)


def test_a_recipe_without_a_base_is_read_too(tmp_path: Path) -> None:
    config = read_recipes(["mae_ast_tiny"])["mae_ast_tiny"].config
    path = tmp_path / "whole.yaml"
    OmegaConf.save({section: config[section] for section in SECTIONS}, path)
    assert read_recipes([str(path)])[str(path)].fields.encoder_embed_dim == 192


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model.encoder_layers=2", Setting("model", "encoder_layers", 2)),
        ("model.dropout=1e-1", Setting("model", "dropout", 0.1)),
        ("task.mask_type=random_mask", Setting("task", "mask_type", "random_mask")),
        ("model.layer_norm_first=true", Setting("model", "layer_norm_first", True)),
    ],
)
def test_settings_are_typed_as_in_yaml(text: str, expected: Setting) -> None:
    assert parse_setting(text) == expected


@pytest.mark.parametrize("text", ["encoder_layers=2", "model.encoder_layers", "hydra.run=1", "model.x=[", ""])
def test_settings_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        parse_setting(text)


def test_a_setting_goes_to_the_recipes_that_have_its_field() -> None:
    recipes = read_recipes(["mae_ast_patch", "ssast_patch"], [Setting("model", "decoder_layers", 3)])
    assert recipes["mae_ast_patch"].fields.decoder_layers == 3
    assert not hasattr(recipes["ssast_patch"].fields, "decoder_layers")


@pytest.mark.parametrize(
    ("names", "setting", "message"),
    [
        (["nothing"], None, "nothing: there is no such recipe; expected one of mae_ast_frame, "),
        (["/nowhere/a.yaml"], None, "there is no such recipe"),
        (["ssast_patch"], Setting("model", "decoder_layers", 3), "model.decoder_layers: no such field in ssast_patch"),
        (["ssast_patch"], Setting("model", "encoder_layers", "x"), "its model cannot be read"),
        (["ssast_patch"], Setting("task", "mask_type", "x"), "task.mask_type: 'x' is unknown"),
        (["ssast_patch"], Setting("task", "feature_dim", 0), "task.feature_dim: 0"),
    ],
)
def test_what_is_not_there_is_named(names: list[str], setting: Setting | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_recipes(names, [setting] if setting else [])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("defaults: [/base/decoder, _self_]", "", "expected a recipe that has the sections"),
        ("/base/decoder", "/base/encoder", r"cannot be read \(.*base/encoder"),
        ("encoder_layers: 4", "_name: hubert", "no recipe of pretraining"),
        ("encoder_layers: 4", "encoder_layer: 4", "its model cannot be read"),
        ("\nmodel:", "\nmodel: [", "cannot be read"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = changed_recipe(tmp_path, old, new)
    with pytest.raises(ConfigError, match=message) as caught:
        read_recipes([path])
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)
