"""From checked texts and targets to a fine-tuned model: the stages of a fit, in order.

1. Check that all ranks were given the same input (`identity.py`).
2. Get the model to start from (`starting.py`), and check whether this fit was interrupted before.
3. Encode the texts, and hold some out if early stopping asks for it (`preparing.py`).
4. Initialize a new head; choose what is trained (`recipe.py`); let training start above the frozen part
   (`training/skip_frozen.py`).
5. Train the model, and put the final weights into a fresh copy of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from skbert import identity
from skbert.caching.cache import open_cache
from skbert.data.fit_data import FitData, TrainingData
from skbert.data.outputs import make_loss
from skbert.frozen import FrozenLayers
from skbert.network import fingerprints
from skbert.network.memory_errors import telling_memory_errors
from skbert.network.model import SequenceClassifier
from skbert.preparing import encode_data
from skbert.pretrained.traits import check_max_length
from skbert.process.heap import freed_memory_kept
from skbert.process.openmp import threads_given_back
from skbert.process.scopes import own_settings
from skbert.randomness import Generators, isolated_cuda
from skbert.recipe import checked_lora, choose_trained, own_watchers, resolve_settings
from skbert.runtime import Runtime, resolve_runtime
from skbert.starting import Start, from_checkpoint, init_head
from skbert.training.callbacks import Watcher, Watchers
from skbert.training.diagnosis import warn_of_collapse
from skbert.training.loop import Trainer, TrainingResult
from skbert.training.lora import Adapter
from skbert.training.optimizer import Moments
from skbert.training.ranks import Ranks, current
from skbert.training.resume import FolderStateWriter, StateWriter
from skbert.training.skip_frozen import start_above

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from skbert.persistence.unfinished import FitFolder, Unfinished


@dataclass(frozen=True, slots=True)
class FittedModel:
    """The result of a fit."""

    model: SequenceClassifier  # on the CPU
    tokenizer: Tokenizer
    adapters: dict[str, Adapter]  # merged into the model
    loss_curve: list[float]  # mean training loss of each epoch
    validation_scores: list[float] | None  # of each epoch; None without validation
    head_init: str  # "linear_probe", "random" or "pretrained"
    learning_rate: float
    truncated_fraction: float
    moments: Moments | None = None  # of the optimizer, if training is to continue


@telling_memory_errors()
@freed_memory_kept()
@threads_given_back()
@own_settings()
def fit_texts(
    data: FitData,
    parameters: Mapping[str, Any],
    seed: int,
    start: Start | None,
    watcher: Watcher,
    *,
    open_ended: bool = False,
    folder: FitFolder | None = None,
) -> FittedModel:
    """Fine-tune a model on texts.

    Parameters
    ----------
    data : FitData
    parameters : mapping
        The parameters of the estimator, validated.
    seed : int
        For all random streams of the fit.
    start : Start or None
        A fitted model to continue from; None starts from the checkpoint.
    watcher : Watcher
        Is given results as `FittedModel`.
    open_ended : bool, default=False
        Whether more data will follow (`partial_fit`): the learning rate then does not decay, and the
        optimizer's state is part of the result.
    folder : FitFolder, default=None
        Stores the state of the fit, and may already hold that of the same fit if it was interrupted.
    """
    ranks = current()
    runtime = resolve_runtime(parameters["device"], parameters["precision"])
    lora = checked_lora(parameters)
    parameters, seed = _agree(ranks, data, parameters, seed, runtime)
    start = start or from_checkpoint(parameters, data.target.n_outputs)
    check_max_length(parameters["max_length"], start.max_positions, start.name)
    found = None if folder is None else folder.find(identity.describe(data, parameters, seed, start, runtime))
    seed = seed if found is None else found.seed
    cache = open_cache(parameters["memory"])
    training, validation = encode_data(data, parameters, start, cache, runtime, seed)
    frozen = FrozenLayers(start.encoder, runtime, cache, parameters["verbose"])
    target_type = data.target.target_type
    settings = resolve_settings(parameters, len(training), target_type, start, open_ended=open_ended)
    generators = Generators.from_seed(seed, runtime.device, ranks.rank)
    with isolated_cuda(generators.cuda_seed, runtime.device):
        ranks.compare(lambda: identity.describe_start(start))
        model = start.new_model()
        head_init = _init_new_head(start, found, model, training, parameters, frozen, generators)
        choose_trained(model, parameters, lora, generators)
        ranks.broadcast(list(model.parameters()))
        above = start_above(model, parameters["freeze"], lora, training, frozen, start)
        training = replace(training, held_out=None)  # the trainer has its own form of them
        truncated = float(training.encodings.truncated.mean())
        finish = partial(assemble, start, head_init, settings.learning_rate, truncated)
        smoothing = parameters.get("label_smoothing", 0.0)
        loss = make_loss(target_type, smoothing, data.class_weights)
        state_writer = _state_writer(folder, found, seed, head_init)
        found = None  # its arrays are several times as large as the model
        with Watchers([*own_watchers(model, parameters), watcher], finish) as watchers:
            trainer = Trainer(
                model,
                above,
                settings,
                loss,
                runtime,
                generators,
                watchers,
                validation,
                start.moments,
                state_writer,
            )
            del above
            result = trainer.fit()
        fitted = finish(result, trainer.moments() if open_ended else None)
        fingerprints.note_unchanged(start.encoder, fitted.model.encoder, model.encoder)
        if not open_ended:
            loss_of_fitted = result.loss_curve[validation.best_epoch]
            warn_of_collapse(fitted.model, loss_of_fitted, training, data.target, smoothing, runtime)
    ranks.end()
    return fitted


def _agree(
    ranks: Ranks, data: FitData, parameters: Mapping[str, Any], seed: int, runtime: Runtime
) -> tuple[Mapping[str, Any], int]:
    """Check that all ranks were given what rank 0 was; returns this rank's parameters and the common seed."""
    ranks.compare(
        lambda: (
            identity.describe_given(data, parameters, seed)
            | {"the device's type": runtime.device.type, "precision": str(runtime.dtype)}
        )
    )
    drawn = parameters["random_state"] is None
    shown = parameters if ranks.rank == 0 else {**parameters, "verbose": 0}
    return shown, ranks.broadcast_object(seed) if drawn else seed


def _init_new_head(
    start: Start,
    found: Unfinished | None,
    model: SequenceClassifier,
    training: TrainingData,
    parameters: Mapping[str, Any],
    frozen: FrozenLayers,
    generators: Generators,
) -> str:
    """Initialize a head that has no weights yet; returns how, which is the same on all ranks."""
    if start.head_init is not None:
        return start.head_init
    # The weights of an interrupted fit are restored later; until then, any head will do.
    wanted = parameters["head_init"] if found is None else "random"
    how = init_head(model, training, wanted, frozen, generators)
    return current().broadcast_object(how if found is None else found.head_init)


def _state_writer(
    folder: FitFolder | None, found: Unfinished | None, seed: int, head_init: str
) -> StateWriter:
    if folder is None:
        return StateWriter()
    write, state = partial(folder.write, seed, head_init), None if found is None else found.state
    return FolderStateWriter(write, state, str(folder.file))


def assemble(
    start: Start,
    head_init: str,
    learning_rate: float,
    truncated_fraction: float,
    result: TrainingResult,
    moments: Moments | None = None,
) -> FittedModel:
    """A fitted model from a training's result: its weights in a fresh copy of the model it started from."""
    model = start.new_model(shared=True)
    model.load_state_dict(result.weights, assign=True)
    return FittedModel(
        model=model.eval().requires_grad_(False),
        tokenizer=start.tokenizer,
        adapters=result.adapters,
        loss_curve=result.loss_curve,
        validation_scores=result.scores or None,
        head_init=head_init,
        learning_rate=learning_rate,
        truncated_fraction=truncated_fraction,
        moments=moments,
    )
