"""Low-rank adapters (Hu et al., 2021, arXiv:2106.09685), by peft.

1. `add_adapters` puts adapters beside the encoder's linear layers; the encoder's own weights no longer train.
2. `merged` adds what they learned to the weights beside them, so that a fitted model is a plain one. The
   adapters remain as `adapters_`: with them, a file need not hold the weights that did not train.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from skbert.exceptions import InputError, InputTypeError, MissingExtraError
from skbert.network.model import SequenceClassifier
from skbert.randomness import building

if TYPE_CHECKING:
    from peft import LoraConfig

_ADAPTER = "default"  # peft's name for an adapter that has none
# Settings of a LoraConfig whose adapters cannot be added to the weights of a plain model, change weights that
# do not train (KaSA), or keep outside of their weights what an interrupted fit would lack (VeLoRA).
_REFUSED = tuple(
    "alora_invocation_tokens layer_replication kasa_config monteclora_config velora_config".split()
)


@dataclass(frozen=True, slots=True)
class Adapter:
    """What an adapter adds to a weight: the product of two narrow matrices."""

    a: torch.Tensor  # (rank, n_inputs)
    b: torch.Tensor  # (n_outputs, rank), times the scaling

    def added_to(self, weight: torch.Tensor) -> torch.Tensor:
        """The merged weight: the same bits on every machine, which no matrix product guarantees."""
        change = torch.zeros_like(weight)
        for column, row in zip(self.b.T, self.a, strict=True):
            change += column[:, None] * row
        return weight + change


def resolve_config(lora: Any) -> LoraConfig:
    """The configuration that `lora` stands for: a rank, or a `peft.LoraConfig`.

    A rank r puts adapters beside all linear layers of the encoder, scaled by 2 (lora_alpha is 2 r).

    Raises
    ------
    MissingExtraError
        If peft is not installed.
    """
    try:
        with building():  # it imports parts of transformers
            from peft import LoraConfig
    except ImportError as error:
        raise MissingExtraError(
            f"lora={lora!r} needs peft, which is not installed. Install it with: pip install 'skbert[lora]'"
        ) from error
    if isinstance(lora, Integral):
        return LoraConfig(r=int(lora), lora_alpha=2 * int(lora), target_modules="all-linear")
    if not isinstance(lora, LoraConfig):
        raise InputTypeError(f"lora is a {type(lora).__name__}. Expected a rank (int), a LoraConfig or None.")
    if lora.modules_to_save:
        raise InputError(
            f"lora.modules_to_save={lora.modules_to_save}, but the head is always trained, and besides "
            "adapters nothing else can be. Set it to None."
        )
    for name in _REFUSED:
        if (given := getattr(lora, name, None)) is not None:  # not every version of peft has all of them
            raise InputError(f"lora.{name}={given!r:.80}, which is not supported here. Set it to None.")
    return lora


def add_adapters(model: SequenceClassifier, config: LoraConfig, generator: torch.Generator) -> None:
    """Put adapters into the encoder; of its weights, only theirs require a gradient from now on."""
    from peft import inject_adapter_in_model

    linear = (n for n, m in model.encoder.named_modules() if isinstance(m, nn.Linear))
    names = sorted({n.rsplit(".", 1)[-1] for n in linear})
    try:
        with building(generator):
            # peft draws in torch's default dtype: in one that the caller set, the numbers would differ.
            # `building` restores it.
            torch.set_default_dtype(torch.float32)
            # peft writes what it resolved into the configuration, which is the user's.
            inject_adapter_in_model(copy.deepcopy(config), model.encoder)
    except ValueError as error:
        raise InputError(
            f"The target_modules={config.target_modules!r} of lora do not fit {type(model.encoder).__name__} "
            f"({error}). Its linear layers are called {names}; use these names, or give a rank."
        ) from error
    if not isinstance(model.encoder.get_input_embeddings(), nn.Embedding):
        raise InputError(
            "lora asks for adapters of the embedding table, which cannot be trained here. Leave its name out "
            "of target_modules, and trainable_token_indices at None."
        )
    for name, layer in _adapted_layers(model).items():
        base = layer.get_base_layer()
        if getattr(base, "weight", None) is None:  # a mixture of experts: peft adds to its tensors, too
            raise InputError(
                f"lora asks for an adapter of {name}, a {type(base).__name__}, which has no single weight "
                f"that it could be merged into. Pass a LoraConfig whose target_modules are among {names}, "
                "and no target_parameters."
            )
        if layer.lora_bias.get(_ADAPTER) and getattr(layer.base_layer, "bias", None) is None:
            raise InputError(
                f"lora has lora_bias=True, but {name} has no bias that the adapter's could be merged into. "
                "Set it to False."
            )


def check_some_train(model: SequenceClassifier, freeze: object) -> None:
    """Refuse adapters all of which are beside frozen layers."""
    adapters = _adapted_layers(model).values()
    if not any(weight.requires_grad for adapter in adapters for weight in adapter.parameters()):
        raise InputError(
            f"lora is set and freeze={freeze!r}, but no adapter is beside a layer that trains. Freeze fewer "
            "layers, or use one of the two."
        )


def adapters_of(model: SequenceClassifier, weights: dict[str, torch.Tensor]) -> dict[str, Adapter]:
    """The adapters among `weights`, by the name that the weight beside them has in a plain model.

    Only those that add a product of two factors to a weight, and nothing else (DoRA does more).
    """
    found = {}
    for name, layer in _adapted_layers(model).items():
        a, b = (weights.get(f"{name}.lora_{x}.{_ADAPTER}.weight") for x in "AB")
        simple = not layer.lora_variant and not layer.lora_bias[_ADAPTER] and not layer.fan_in_fan_out
        if simple and a is not None and b is not None:
            found[f"{name}.weight"] = Adapter(a, b * layer.scaling[_ADAPTER])
    return found


def merged(
    model: SequenceClassifier, weights: dict[str, torch.Tensor], adapters: dict[str, Adapter]
) -> dict[str, torch.Tensor]:
    """The weights of a model without adapters that computes the same.

    Parameters
    ----------
    model : SequenceClassifier
        With or without adapters; without any, `weights` are returned as they are.
    weights : dict of str to Tensor
        Its weights, on the CPU, in the precision in which adapters are added.
    adapters : dict of str to Adapter
        The result of `adapters_of`.
    """
    layers = _adapted_layers(model)
    plain = {n: w for n, w in weights.items() if not any(n.startswith(f"{layer}.") for layer in layers)}
    for name, layer in layers.items():
        own = {n.removeprefix(f"{name}."): w for n, w in weights.items() if n.startswith(f"{name}.")}
        twin: Any = copy.deepcopy(layer)
        twin.load_state_dict(own, assign=True)
        if f"{name}.weight" in adapters:
            twin.base_layer.weight.data = adapters[f"{name}.weight"].added_to(twin.base_layer.weight.data)
        else:
            twin.merge()
        plain |= {f"{name}.{n}": w.detach() for n, w in twin.base_layer.state_dict().items()}
    return plain


def _adapted_layers(model: SequenceClassifier) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if hasattr(module, "base_layer")}
