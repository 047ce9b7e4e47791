from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mae_ast_fairseq.benchmark.recipes import read_recipes, recipe_names
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
    tiny, ssast = recipes["mae_ast_tiny"], recipes["ssast_frame"]
    assert (tiny.model._name, tiny.model.encoder_embed_dim, tiny.model.normalization) == ("mae_ast", 192, "dataset")
    assert (ssast.model._name, ssast.model.ast_kernel_size_chan) == ("ssast", 128)
    assert (tiny.task.mask_type, tiny.optimizer.adam_eps) == ("chunk_mask", 1e-6)


def test_a_copied_recipe_composes_with_examples_and_hydra_s_own_words_do_no_harm(tmp_path: Path) -> None:
    path = changed_recipe(tmp_path, "decoder_embed_dim: 192", "encoder_layers: 5")
    recipe = read_recipes([path])[path]
    assert (recipe.model.encoder_layers, recipe.model.encoder_embed_dim) == (5, 192)
    assert recipe.common.user_dir == "benchmark/mae_ast_fairseq"
    assert "hydra" not in recipe


def test_a_recipe_may_say_itself_where_its_base_lies(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "tiny.yaml").write_text("# @package _global_\nmodel: {encoder_layers: 3}\n")
    path = tmp_path / "elsewhere.yaml"
    path.write_text(
        f"hydra: {{searchpath: [{tmp_path}/elsewhere, {examples_folder()}]}}\n"
        "defaults: [recipes/mae_ast_tiny, tiny, _self_]\n"
    )
    fields = read_recipes([str(path)])[str(path)].model
    assert (fields.encoder_layers, fields.encoder_embed_dim) == (3, 192)


def test_a_recipe_without_a_base_is_read_too(tmp_path: Path) -> None:
    config = read_recipes(["mae_ast_tiny"])["mae_ast_tiny"]
    path = tmp_path / "whole.yaml"
    OmegaConf.save(OmegaConf.masked_copy(config, ["model", "task", "criterion", "optimizer", "optimization"]), path)
    assert read_recipes([str(path)])[str(path)].model.encoder_embed_dim == 192


def test_settings_are_typed_as_in_yaml() -> None:
    settings = [
        "model.encoder_layers=2",
        "model.dropout=1e-1",
        "task.mask_type=random_mask",
        "model.layer_norm_first=on",
    ]
    recipe = read_recipes(["mae_ast_tiny"], settings)["mae_ast_tiny"]
    assert (recipe.model.encoder_layers, recipe.model.dropout, recipe.model.layer_norm_first) == (2, 0.1, True)
    assert recipe.task.mask_type == "random_mask"


@pytest.mark.parametrize("text", ["encoder_layers=2", "model.encoder_layers", "model", "hydra.run=1", "model.x=[", ""])
def test_settings_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        read_recipes(["mae_ast_tiny"], [text])


def test_a_setting_goes_to_the_recipes_that_have_its_field() -> None:
    recipes = read_recipes(["mae_ast_patch", "ssast_patch"], ["model.decoder_layers=3"])
    assert recipes["mae_ast_patch"].model.decoder_layers == 3
    assert "decoder_layers" not in recipes["ssast_patch"].model


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        (["nothing"], [], "nothing: there is no such recipe; expected one of mae_ast_frame, "),
        (["/nowhere/a.yaml"], [], "there is no such recipe"),
        (["finetune_any"], [], "finetune_any: no recipe of pretraining; expected one of mae_ast_frame, "),
        (["ssast_patch"], ["model.decoder_layers=3"], "model.decoder_layers=3: cannot be used .*decoder_layers"),
        (["ssast_patch"], ["model.encoder_layers=x"], "model.encoder_layers=x: cannot be used .*'x'"),
    ],
)
def test_what_is_not_there_is_named(names: list[str], settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_recipes(names, settings)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("defaults: [/base/decoder, /base/tiny, _self_]", "", "no recipe of pretraining"),
        ("/base/decoder", "/base/encoder", r"cannot be read \(.*base/encoder"),
        ("decoder_embed_dim: 192", "_name: hubert", "cannot be read"),
        ("decoder_embed_dim: 192", "encoder_layer: 4", r"cannot be read \(.*encoder_layer"),
        ("\nmodel:", "\nmodel: [", "cannot be read"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = changed_recipe(tmp_path, old, new)
    with pytest.raises(ConfigError, match=message) as caught:
        read_recipes([path])
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)
