"""Encoder, pooling and head: from a packed batch to logits.

1. The encoder turns (n_tokens,) ids into (n_tokens, hidden_size) states. Families whose packed forward is
   exact run packed; the others run padded, and their states are packed afterwards.
2. Pooling turns the states of each text into one vector: the first token's, through the checkpoint's pooler
   where it has one ("cls"), or the mean or the maximum over tokens ("mean", "max"; `pooling.py`).
3. The head (`head.py`) turns vectors into logits, in float32 or wider whatever the encoder's precision.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar, cast

import torch
from torch import nn

from skbert.data.batching import Batch
from skbert.exceptions import InputError
from skbert.network import filler
from skbert.network.dropout import Dropout
from skbert.network.first_tokens import restore_last_layer, restrict_last_layer
from skbert.network.head import BarePooler, HiddenLayer, blank_linear
from skbert.network.layers import encoder_layers
from skbert.network.packing import Packing
from skbert.network.pooling import POOLS, Pooling
from skbert.process.scopes import own_settings
from skbert.randomness import DrawsFrom


@dataclass(frozen=True, slots=True)
class Architecture:
    """How an encoder expects its input; read once from the checkpoint's config."""

    packed: bool  # the encoder accepts packed batches with the packed attention function
    position_offset: int  # position id of the first token (RoBERTa: padding index + 1)
    takes_positions: bool  # positions are passed to the encoder; on the padded path it counts its own
    takes_segments: bool  # forward() has `token_type_ids`, and the checkpoint has such embeddings
    pad_id: int  # fills the gaps on the padded path; some families derive positions from it
    n_segments: int  # number of segment embeddings; RoBERTa has one


class SequenceClassifier(nn.Module):
    """A pretrained encoder with pooling and a classification head.

    Parameters
    ----------
    encoder : nn.Module
        An encoder of transformers.
    architecture : Architecture
    pooling : {"cls", "mean", "max"}
    n_outputs : int
        Logits per text.
    head_dropout : float
        Dropout probability in the head.
    rebuild : callable and dict
        What an unpickled model builds its encoder with, and the encoder's config; see `__reduce__`.
    head_layers : int, default=0
        Hidden layers between the pooled vector and the head's linear layer.
    """

    def __init__(
        self,
        encoder: Any,
        architecture: Architecture,
        pooling: Pooling,
        n_outputs: int,
        head_dropout: float,
        rebuild: tuple[Callable[..., Any], dict[str, Any]],
        *,
        head_layers: int = 0,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.pooling = pooling
        self.rebuild = rebuild
        self.generator: torch.Generator | None = None
        # What a batch holds: tokens, or the outputs of frozen layers (`training/skip_frozen.py`).
        self.starts_at: Literal["tokens", "states", "vectors"] = "tokens"
        # The encoder would apply its pooler to the first token of the whole packed batch only.
        pooler = getattr(encoder, "pooler", None)
        if pooler is not None:
            encoder.pooler = None
        if isinstance(pooler, nn.Linear):
            activation = getattr(encoder, "pooler_activation", None) or encoder.activation
            pooler = BarePooler(pooler, activation)
        self.encoder: Any = encoder  # nn.Module of transformers, which has no types
        # Poolers of encoders read the first token; those of classifiers (families.py) any vector.
        self.pooler = pooler if pooling == "cls" or getattr(pooler, "reads_any_vector", False) else None
        # Whether the encoder's states are those of the first tokens only.
        self.gives_first_tokens = (
            architecture.packed and pooling == "cls" and restrict_last_layer(encoder_layers(encoder))
        )
        width = encoder.config.hidden_size
        self.hidden = nn.Sequential(*(HiddenLayer(width, head_dropout) for _ in range(head_layers)))
        self.dropout = Dropout(head_dropout)
        self.head = blank_linear(width, n_outputs)  # reset_head, or a saved model, sets its weights

    @property
    def config(self) -> dict[str, Any]:
        """The encoder's config, as plain values."""
        return self.rebuild[1]

    @property
    def hidden_size(self) -> int:
        """Width of the pooled vectors."""
        return self.head.in_features

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments that build a model like this one, besides its encoder."""
        return {
            "architecture": self.architecture,
            "pooling": self.pooling,
            "n_outputs": self.head.out_features,
            "head_dropout": float(self.dropout.p),
            "head_layers": len(self.hidden),
        }

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits of a packed batch, (n_texts, n_outputs), in the head's dtype."""
        return self.classify(self.embed(batch))

    def classify(self, vectors: torch.Tensor) -> torch.Tensor:
        """Logits of pooled vectors, (n_texts, hidden_size) → (n_texts, n_outputs)."""
        return filler.apply(lambda rows: self.head(self.dropout(self.hidden(rows))), vectors)

    def train(self, mode: bool = True) -> Self:
        """Set parts that train to training mode; frozen parts stay in eval mode, and so without dropout."""
        super().train(mode)
        if mode:
            for module in self.modules():
                weights = list(module.parameters())
                if weights and not any(weight.requires_grad for weight in weights):
                    module.eval()
        return self

    def embed(self, batch: Batch) -> torch.Tensor:
        """Pooled vectors of a packed batch, (n_texts, hidden_size), in the head's dtype."""
        if self.starts_at == "vectors":
            assert batch.frozen is not None
            return batch.frozen
        positions, n_filler = batch.positions, 0
        if self.architecture.packed:
            n_filler = filler.filler_size(len(positions), positions.device, self.encoder.dtype)
        packing = Packing(batch.lengths, positions, batch.max_length, self.generator, n_filler)
        encode = self._encode_packed if self.architecture.packed else self._encode_padded
        states = encode(batch, packing)  # (n_tokens, hidden_size); or (n_texts, hidden_size)
        if self.pooling != "cls":
            vectors = POOLS[self.pooling](states.to(self.head.weight.dtype), packing)
        else:
            vectors = states if self.gives_first_tokens else packing.take_firsts(states)
        return self._apply_pooler(vectors)  # (n_texts, hidden_size)

    def give_all_tokens(self) -> Self:
        """Make the encoder return the states of all tokens, even where pooling reads only the first ones."""
        if self.gives_first_tokens:
            restore_last_layer(encoder_layers(self.encoder))
            self.gives_first_tokens = False
        return self

    def _apply_pooler(self, vectors: torch.Tensor) -> torch.Tensor:
        if self.pooler is not None:
            dtype = next((p.dtype for p in self.pooler.parameters()), vectors.dtype)
            vectors = filler.apply(self.pooler, vectors.to(dtype)[:, None])
        return vectors.to(self.head.weight.dtype)

    def _encode_packed(self, batch: Batch, packing: Packing) -> torch.Tensor:
        inputs = {
            name: filler.fill(values, packing.n_filler)[None] for name, values in self._inputs(batch).items()
        }
        output = self.encoder(**inputs, packing=packing)
        return output.last_hidden_state.squeeze(0)[: len(batch.positions)]

    def _encode_padded(self, batch: Batch, packing: Packing) -> torch.Tensor:
        inputs = {name: packing.pad(values) for name, values in self._inputs(batch).items()}
        inputs["input_ids"] = inputs["input_ids"].masked_fill(~packing.mask, self.architecture.pad_id)
        # Some families' attention draws its masks itself; on CUDA all draw from the device's generator.
        draws = self.training and self.generator is not None and not self.head.weight.is_cuda
        with (
            DrawsFrom(cast(torch.Generator, self.generator)) if draws else nullcontext(),
            _naming_dtype(self.encoder),
        ):
            output = self.encoder(**inputs, attention_mask=packing.mask.long())
        return packing.unpad(output.last_hidden_state)

    def _inputs(self, batch: Batch) -> dict[str, torch.Tensor]:
        if self.starts_at == "states":
            assert batch.frozen is not None
            wanted = {"inputs_embeds": batch.frozen}
        else:
            wanted = {"input_ids": batch.input_ids}
        if self.architecture.takes_positions:
            wanted["position_ids"] = batch.positions + self.architecture.position_offset
        if self.architecture.takes_segments:
            wanted["token_type_ids"] = batch.segments.clamp(max=self.architecture.n_segments - 1)
        return wanted

    @own_settings()
    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # As for any module. With `__reduce__` the encoder would first be built with random weights.
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        # Weights as numpy arrays on the CPU: a model trained on a GPU loads where there is none,
        # and the pickle names no class of transformers or torch.
        weights = {name: t.detach().cpu().numpy() for name, t in self.state_dict().items()}
        return _restore, (*self.rebuild, self.settings, weights)


@contextmanager
def _naming_dtype(encoder: Any) -> Iterator[None]:
    """Say what to do where a family's own code computes only in some types, whatever its weights are."""
    try:
        yield
    except RuntimeError as error:
        about_types = re.search("dtype|scalar type|to type|matrix, got", str(error))
        if encoder.dtype == torch.float32 or not about_types:
            raise
        raise InputError(
            f"{type(encoder).__name__} cannot compute in {str(encoder.dtype).removeprefix('torch.')} "
            f"({error}). Set precision='float32'."
        ) from error


@own_settings()
def _restore(
    build: Callable[..., Any], config: dict[str, Any], settings: dict[str, Any], weights: dict[str, Any]
) -> SequenceClassifier:
    tensors = {name: torch.from_numpy(values.copy()) for name, values in weights.items()}
    encoder = build(config, settings["architecture"].packed)
    return with_weights(encoder, tensors, rebuild=(build, config), **settings)


def with_weights(encoder: Any, tensors: dict[str, torch.Tensor], **settings: Any) -> SequenceClassifier:
    """A model with these weights, frozen, in eval mode; the settings are those of `SequenceClassifier`."""
    model = outline(encoder, tensors, **settings)
    model.load_state_dict(tensors, assign=True)
    return model.eval().requires_grad_(False)


def outline(encoder: Any, names: Iterable[str], **settings: Any) -> SequenceClassifier:
    """A model for weights of these names, which are loaded later."""
    if not any(name.startswith("pooler.") for name in names):
        encoder.pooler = None  # the checkpoint had none
    return SequenceClassifier(encoder, **settings)


def reset_head(model: SequenceClassifier, generator: torch.Generator) -> None:
    """Draw the head's weights: normal with standard deviation 0.02 (Devlin et al., 2019), biases zero."""
    with torch.no_grad():
        for layer in model.hidden.children():
            cast(HiddenLayer, layer).reset(generator)
        model.head.weight.normal_(0.0, 0.02, generator=generator)
        model.head.bias.zero_()


Module = TypeVar("Module", bound=nn.Module)


def copy_module(module: Module, *, shared: bool = False) -> Module:
    """A copy of a module; if `shared`, its weights are the module's own, only to be read or replaced."""
    return copy.deepcopy(module, {id(p): p for p in module.parameters()} if shared else None)


def cast_encoder(model: SequenceClassifier, dtype: torch.dtype) -> None:
    """Make the encoder compute in `dtype`; its buffers (rotary frequencies) and the head stay wide."""
    # A pooler's weights may be tiny (`pretrained/families.py`), and would be zero in float16.
    for part in (model.encoder, None if dtype == torch.float16 else model.pooler):
        for parameter in [] if part is None else part.parameters():
            parameter.data = parameter.data.to(dtype)
