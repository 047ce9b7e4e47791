"""Opens a checkpoint as the authors' code and s3prl do: a program of its own, which knows torch alone.

    python tests/authors.py FRAMES CHECKPOINT...

It builds the module from `cfg["model"]` and `cfg["task"]` as plain mappings, loads the state strictly, and writes the
features of the log-Mel frames [B, T, F] in FRAMES to CHECKPOINT.features. It was written from the names and shapes in
the project's issue and the formulas of the paper, and shares no line with the package.
"""

import sys

sys.modules["fairseq"] = sys.modules["mae_ast_fairseq"] = None  # whoever imports them gets an ImportError

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

TASK_FIELDS = "feature_dim feature_type sample_rate feature_rate mask_type"
MODEL_FIELDS = """
    ast_kernel_size_chan ast_kernel_size_time ast_kernel_stride_chan ast_kernel_stride_time encoder_layers
    encoder_embed_dim encoder_ffn_embed_dim encoder_attention_heads encoder_layerdrop decoder_layers decoder_embed_dim
    decoder_layerdrop use_post_enc_proj dropout attention_dropout activation_dropout dropout_input activation_fn
    layer_norm_first feature_grad_mult random_mask_prob mask_length mask_selection mask_other no_mask_overlap
    mask_min_space conv_pos conv_pos_groups max_token_length enc_sine_pos enc_conv_pos dec_sine_pos dec_conv_pos
    checkpoint_activations
"""
PLAIN = (type(None), str, bool, int, float)


class Positions(nn.Module):
    """A table that stands in the state."""

    def __init__(self, length, width):
        super().__init__()
        self.register_buffer("pe", torch.full((1, length, width), torch.nan))


class Attention(nn.Module):
    """Multi-head self-attention with four projections."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        """[B, L, C] -> [B, L, C]."""
        q, k, v = (p(x).unflatten(-1, (self.heads, -1)) for p in (self.q_proj, self.k_proj, self.v_proj))
        weights = torch.einsum("blhd,bmhd->bhlm", q, k).div((x.shape[-1] / self.heads) ** 0.5).softmax(-1)
        return self.out_proj(torch.einsum("bhlm,bmhd->blhd", weights, v).flatten(2))


class Layer(nn.Module):
    """One transformer layer."""

    def __init__(self, model):
        super().__init__()
        width, self.first = model["encoder_embed_dim"], model["layer_norm_first"]
        self.self_attn = Attention(width, model["encoder_attention_heads"])
        self.self_attn_layer_norm, self.final_layer_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, model["encoder_ffn_embed_dim"])
        self.fc2 = nn.Linear(model["encoder_ffn_embed_dim"], width)
        self.activation = {"gelu": F.gelu, "relu": F.relu}[model["activation_fn"]]

    def forward(self, x):
        """[B, L, C] -> [B, L, C]."""
        if self.first:
            x = x + self.self_attn(self.self_attn_layer_norm(x))
            return x + self.fc2(self.activation(self.fc1(self.final_layer_norm(x))))
        x = self.self_attn_layer_norm(x + self.self_attn(x))
        return self.final_layer_norm(x + self.fc2(self.activation(self.fc1(x))))


class Stack(nn.Module):
    """Layers, and a LayerNorm before or after them."""

    def __init__(self, model, layers, width):
        super().__init__()
        self.layers = nn.ModuleList(Layer({**model, "encoder_embed_dim": width}) for _ in range(layers))
        self.layer_norm, self.first = nn.LayerNorm(width), model["layer_norm_first"]

    def forward(self, x):
        """[B, L, C] -> [B, L, C]."""
        x = x if self.first else self.layer_norm(x)
        for layer in self.layers:
            x = layer(x)
        return self.layer_norm(x) if self.first else x


class Model(nn.Module):
    """All modules of the state; only the encoder is run."""

    def __init__(self, model, task):
        super().__init__()
        width, decoder_width = model["encoder_embed_dim"], model["decoder_embed_dim"]
        self.kernel = model["ast_kernel_size_chan"], model["ast_kernel_size_time"]
        self.stride = model["ast_kernel_stride_chan"], model["ast_kernel_stride_time"]
        values = self.kernel[0] * self.kernel[1]
        self.encoder_mask_emb, self.decoder_mask_emb = (
            nn.Parameter(torch.empty(size)) for size in (width, decoder_width)
        )
        self.post_extract_proj = nn.Linear(values, width)
        self.layer_norm = nn.LayerNorm(task["feature_dim"])
        self.batch_norm = nn.BatchNorm2d(1, affine=False)
        self.enc_sine_pos_embed = Positions(model["max_token_length"], width)
        self.encoder = Stack(model, model["encoder_layers"], width)
        if model["use_post_enc_proj"]:
            self.post_enc_proj = nn.Linear(width, decoder_width)
        self.dec_sine_pos_embed = Positions(model["max_token_length"], decoder_width)
        self.decoder = Stack(model, model["decoder_layers"], decoder_width)
        self.final_proj_reconstruction, self.final_proj_classification = (
            nn.Linear(decoder_width, values) for _ in range(2)
        )

    def forward(self, frames):
        """Encode frames [B, T, F] to [B, L, C]."""
        image = self.batch_norm(frames[:, None]) * 0.5  # [B, 1, T, F]
        kernel, stride = self.kernel[::-1], self.stride[::-1]
        x = self.post_extract_proj(F.unfold(image, kernel, stride=stride).transpose(1, 2))
        return self.encoder(x + self.enc_sine_pos_embed.pe[:, : x.shape[1]])


def is_plain(value):
    """Tell whether a config holds nothing but Python's own values, of exactly their types."""
    if type(value) is dict:
        return all(type(key) is str and is_plain(item) for key, item in value.items())
    return all(map(is_plain, value)) if type(value) is list else type(value) in PLAIN


def features(checkpoint, frames):
    """Open, build, load, encode."""
    content = torch.load(checkpoint, weights_only=True)
    cfg = content["cfg"]
    assert is_plain(cfg), cfg
    assert all(type(value) is torch.Tensor for value in content["model"].values())
    model = {name: cfg["model"][name] for name in MODEL_FIELDS.split()}
    task = {name: cfg["task"][name] for name in TASK_FIELDS.split()}
    assert (task["feature_type"], task["sample_rate"]) == ("fbank", 16_000)
    assert model["checkpoint_activations"] is False
    assert model["enc_sine_pos"] is model["dec_sine_pos"] is True
    assert model["enc_conv_pos"] is model["dec_conv_pos"] is False
    module = Model(model, task).eval()
    module.load_state_dict(content["model"], strict=True)
    with torch.no_grad():
        return module(frames)


if __name__ == "__main__":
    given = torch.load(sys.argv[1], weights_only=True)
    for path in sys.argv[2:]:
        torch.save(features(path, given), f"{path}.features")
