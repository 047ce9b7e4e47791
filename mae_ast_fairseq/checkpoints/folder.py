"""A model as the Hugging Face hub has them: a folder of its weights, its config and a card for people."""

from pathlib import Path

from mae_ast_fairseq import __version__
from mae_ast_fairseq.checkpoints.export import LAYOUTS, Exported
from mae_ast_fairseq.checkpoints.fields import short
from mae_ast_fairseq.checkpoints.read import Checkpoint
from mae_ast_fairseq.checkpoints.unpickling import as_folder
from mae_ast_fairseq.config.pretraining import ClassifierFields, MaeAstFields, MaskingFields
from mae_ast_fairseq.errors import printable
from mae_ast_fairseq.files import atomic_write
from mae_ast_fairseq.nn import fbank

CARD = "README.md"

NAMES = {"mae_ast": "MAE-AST", "ssast": "SSAST", "mae_ast_classifier": "AST classifier"}

_CARD = """---
library_name: mae_ast_fairseq
pipeline_tag: {pipeline}
license: unknown  # to be filled in: that of these weights, such as mit or cc-by-4.0
tags: [audio, mae-ast]
---
# {name}

```
pip install 'mae_ast_fairseq[hub]'
mae-ast {command}
```

```python
import mae_ast_fairseq

encoder = mae_ast_fairseq.load_pretrained("USER/{name}")
features = encoder(waveform)  # [B, S] at 16 kHz in [-1, 1] -> [B, L, C]
```

| | |
|---|---|
{rows}
| training data | *to be filled in: which audio, how many hours, under which licences* |
| results | *to be filled in: on which sets, by which protocol* |
| not for | *to be filled in* |

Written by mae_ast_fairseq {version}. MAE-AST: Baade, Peng, Harwath, Interspeech 2022,
[arXiv:2203.16691](https://arxiv.org/abs/2203.16691).
"""


def export_folder(checkpoint: Checkpoint, out: Path) -> Exported:
    """Write a model into a folder, which must be there; a card that lies in it stays as it is.

    Raises OSError where a file cannot be written.
    """
    content = LAYOUTS["safetensors"](checkpoint)
    files = as_folder(content)
    num_parameters = sum(tensor.numel() for tensor in checkpoint.state.values())
    if not (out / CARD).exists():
        files[CARD] = card(checkpoint, out.resolve().name).encode()
    for name, held in files.items():
        with atomic_write(out / name) as stream:
            stream.write(held)
    return Exported(len(content["model"]), num_parameters, sum(map(len, files.values())))


def card(checkpoint: Checkpoint, name: str) -> str:
    """Return the card of a model called `name`: what the hub reads, how to use it, how it was made, what is to be said.

    What only its maker knows is left to be filled in.
    """
    name = printable(name)
    is_classifier = isinstance(checkpoint.model, ClassifierFields)
    extract = f"extract USER/{name} recordings/ --readout mean+max --out features"
    return _CARD.format(
        pipeline="audio-classification" if is_classifier else "feature-extraction",
        name=name,
        command=f"predict USER/{name} recordings/" if is_classifier else extract,
        rows="\n".join(f"| {key} | {value} |" for key, value in _rows(checkpoint).items()),
        version=__version__,
    )


def _rows(checkpoint: Checkpoint) -> dict[str, str]:
    """Return what the checkpoint itself says, a line of the card's table each."""
    model = checkpoint.model
    decoder = f" and {model.decoder_layers} decoder" if isinstance(model, MaeAstFields) else ""
    num_values = sum(tensor.numel() for tensor in checkpoint.state.values())
    seconds = model.ast_kernel_size_time * fbank.FRAME_SHIFT / fbank.SAMPLE_RATE
    rows = {
        "model": f"{NAMES[checkpoint.kind]}: {model.encoder_layers} encoder{decoder} layers, width "
        f"{model.encoder_embed_dim}, {num_values:,} values",
        "input": f"mono, 16 kHz; {checkpoint.feature_dim} Mel bands, statistics of the {short(model.normalization)}",
        "tokens": f"{model.ast_kernel_size_chan} bands by {seconds:g} s",
    }
    if isinstance(model, MaskingFields):
        rows["masking"] = f"{model.random_mask_prob:.0%} of the tokens, {short(checkpoint.mask_type)}"
    if isinstance(model, ClassifierFields):
        several = "any number" if model.multi_label else "one"
        rows["labels"] = f"{len(model.labels)}, {several} a clip: config.json names them"
    if checkpoint.num_updates is not None:
        rows["training"] = f"{checkpoint.num_updates:,} updates"
    return rows
