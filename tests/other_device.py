"""A device that is not the CPU, on machines that have no other.

    with OtherDevice() as device:
        BertClassifier(device=NAME).fit(X, y)

Its tensors have their numbers in the CPU's memory, and torch's own operations for the CPU compute with them.
But they say that they are elsewhere, so that all code for other devices runs; an operation that is given some
of them and some of the CPU's is refused, as on a GPU, and so is a copy from the CPU that nobody waits for, as
devices may read it late; whoever asks for a number is written down; and where torch allows only deterministic
algorithms, what CUDA has none for is refused.

1. `OtherDevice` is a mode of torch that sees each operation, below autograd. What an operation gives is on
   the device if one of its tensors was, or if it was asked for there.
2. `Elsewhere` is a tensor that holds the one with the numbers. Optimizers and checkpointing take it for any
   other.

3. The kernel for attention that only CUDA has is written out here, as it is documented: what is called, and
   with what, can be tested, but not the kernel.

The name is that of torch's "meta" device: the only one besides the CPU that autograd has in every build.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

NAME = "meta"

_aten = torch.ops.aten
_DEVICE, _CPU = torch.device(NAME), torch.device("cpu")
_COPIES = (_aten.copy_.default, _aten._foreach_copy_.default)
_MOVES = (_aten._to_copy, _aten.to, *(copy.overloadpacket for copy in _COPIES))
_READS = (_aten._local_scalar_dense, _aten.is_nonzero, _aten.equal, _aten.nonzero, _aten.masked_select)
# What `torch.use_deterministic_algorithms` documents as refused on CUDA, of all that texts could need.
_NOT_DETERMINISTIC = {
    getattr(_aten, name)
    for name in (
        "put put_ histc median nanmedian kthvalue scatter_reduce scatter_reduce_ nll_loss2d_forward "
        "nll_loss2d_backward _ctc_loss_backward _embedding_bag_backward adaptive_max_pool2d_backward "
        "reflection_pad1d_backward _adaptive_avg_pool2d_backward avg_pool3d_backward "
        "upsample_linear1d_backward"
    ).split()
}


class Elsewhere(torch.Tensor):
    """A tensor on the other device."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, numbers):
        assert numbers.device == _CPU
        with torch.inference_mode(False):
            made = torch.Tensor._make_wrapper_subclass(
                cls,
                numbers.shape,
                strides=numbers.stride(),
                storage_offset=numbers.storage_offset(),
                dtype=numbers.dtype,
                device=_DEVICE,
            )
        made.numbers = numbers
        return made

    @property
    def data(self):
        """The tensor without its gradient; to be set to another, as any tensor's."""
        return self.detach()

    @data.setter
    def data(self, value):
        torch.Tensor.data.__set__(self, value)
        self.numbers = value.numbers

    def __int__(self):  # torch's own asks no mode
        return int(self.item())

    def __float__(self):
        return float(self.item())

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _compute(func, args, kwargs or {})[0]


class OtherDevice(TorchDispatchMode):
    """While it is on, `torch.device("meta")` computes.

    Attributes
    ----------
    reads : list of str
        Operations that took numbers from the device to the CPU; on a GPU each of them waits.
    transfers : int
        Operations that took numbers from the CPU to the device.
    """

    def __init__(self):
        super().__init__()
        self.reads = []
        self.transfers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out, way = _compute(func, args, kwargs or {})
        if way == "read":
            self.reads.append(str(func))
        self.transfers += way == "transfer"
        return out


def _with_numbers(tensor):
    """The tensor; an empty one of the device that torch made without asking the mode, as one with numbers."""
    if isinstance(tensor, Elsewhere) or not tensor.is_meta:
        return tensor
    assert tensor.numel() == 0, "a tensor of the other device came to be without its numbers"
    return Elsewhere(torch.empty_like(tensor, device=_CPU))


def _compute(func, args, kwargs):
    """What an operation gives, and which way numbers went: "read" to the CPU, "transfer" from it, or ""."""
    args, kwargs = _each(torch.Tensor, _with_numbers, (args, kwargs))
    leaves = list(_leaves((args, kwargs)))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    is_elsewhere = any(isinstance(tensor, Elsewhere) for tensor in tensors)
    on_cpu = [tensor for tensor in tensors if not isinstance(tensor, Elsewhere) and tensor.ndim]
    if is_elsewhere and on_cpu and func.overloadpacket not in _MOVES:
        raise RuntimeError(f"{func} was given tensors on the other device and on the CPU")
    if on_cpu and not is_elsewhere and kwargs.get("device") == _DEVICE and kwargs.get("non_blocking"):
        raise RuntimeError(f"{func} would read memory of the CPU when it may be gone")
    if is_elsewhere and torch.are_deterministic_algorithms_enabled() and _varies(func, tensors, kwargs):
        raise RuntimeError(f"{func} does not have a deterministic implementation")
    places = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
    goes_elsewhere = _DEVICE in places or (is_elsewhere and not places)

    unwrapped = _each(Elsewhere, lambda tensor: tensor.numbers, (args, kwargs))
    args_here, kwargs_here = _each(torch.device, lambda _: _CPU, unwrapped)
    out = _KERNELS.get(func, func)(*args_here, **kwargs_here)

    if func in _COPIES:
        target = leaves[0]
        is_read = is_elsewhere and not isinstance(target, Elsewhere)
        return (args[0] if func is _COPIES[0] else None), "read" if is_read else ""
    if tensors and is_elsewhere != goes_elsewhere:
        out = _each(torch.Tensor, torch.clone, out)  # two devices share no memory
    if goes_elsewhere:
        out = _each(torch.Tensor, Elsewhere, out)
    if is_elsewhere and goes_elsewhere:
        out = return_and_correct_aliasing(func, args, kwargs, out)
    is_moved = func.overloadpacket in _MOVES and not goes_elsewhere and tensors[0].numel() > 0
    is_read = is_moved or func.overloadpacket in _READS or _takes_a_mask(func, tensors)
    if func.overloadpacket in _MOVES and goes_elsewhere and not is_elsewhere:
        return out, "transfer"
    return out, "read" if is_elsewhere and is_read else ""


def _each(kind, change, tree):
    """The tree with each leaf of a kind changed; torch's own `tree_map_only` takes ten times as long."""
    if isinstance(tree, (list, tuple)):
        return type(tree)([_each(kind, change, branch) for branch in tree])
    if isinstance(tree, dict):
        return {name: _each(kind, change, branch) for name, branch in tree.items()}
    return change(tree) if isinstance(tree, kind) else tree


def _leaves(tree):
    """What the lists, tuples and dicts of a tree hold."""
    if not isinstance(tree, (list, tuple, dict)):
        yield tree
        return
    for branch in tree.values() if isinstance(tree, dict) else tree:
        yield from _leaves(branch)


def _varies(func, tensors, kwargs):
    """Whether CUDA has no deterministic algorithm for an operation."""
    name = func.overloadpacket
    if name in (_aten.cumsum, _aten.cumsum_):
        return (kwargs.get("dtype") or tensors[0].dtype).is_floating_point
    return name in _NOT_DETERMINISTIC or (name is _aten.bincount and len(tensors) > 1)


def _takes_a_mask(func, tensors):
    """Whether an operation gives as many elements as a mask has: a number that the CPU must know."""
    indexes = func.overloadpacket in (_aten.index, _aten.index_put, _aten.index_put_)
    return indexes and any(tensor.dtype == torch.bool for tensor in tensors[1:])


def _flash_attention(q, k, v, q_bounds, k_bounds, max_q, max_k, dropout, causal, debug, **options):
    """What the kernel of CUDA does, text by text."""
    assert (max_q, max_k) == tuple(int(bounds.diff().max()) for bounds in (q_bounds, k_bounds))
    assert not causal
    assert not debug
    seed = torch.randint(2**31, (1,))
    draw = torch.Generator().manual_seed(int(seed))
    out = torch.empty_like(q)
    for queries, keys in _texts(q_bounds, k_bounds):
        weights, kept = _weights(q[queries], k[keys], dropout, draw, **options)
        out[queries] = ((weights * kept) @ v[keys].transpose(0, 1)).transpose(0, 1)
    return out, q.new_zeros(q.shape[1], q.shape[0]), seed, q.new_zeros(0), q.new_zeros(0)


def _flash_attention_backward(
    gradient, q, k, v, out, lse, q_bounds, k_bounds, max_q, max_k, dropout, causal, seed, unused, **options
):
    draw = torch.Generator().manual_seed(int(seed))
    found = [torch.empty_like(x) for x in (q, k, v)]
    for queries, keys in _texts(q_bounds, k_bounds):
        weights, kept = _weights(q[queries], k[keys], dropout, draw, **options)
        outer = gradient[queries].transpose(0, 1)  # (n_heads, n_queries, head_size)
        of_weights = outer @ v[keys].permute(1, 2, 0) * kept
        of_scores = weights * (of_weights - (weights * of_weights).sum(-1, keepdim=True)) * options["scale"]
        found[0][queries] = (of_scores @ k[keys].transpose(0, 1)).transpose(0, 1)
        found[1][keys] = (of_scores.mT @ q[queries].transpose(0, 1)).transpose(0, 1)
        found[2][keys] = ((weights * kept).mT @ outer).transpose(0, 1)
    return tuple(found)


def _texts(q_bounds, k_bounds):
    assert q_bounds.dtype == k_bounds.dtype == torch.int32
    pairs = (zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True) for bounds in (q_bounds, k_bounds))
    return [(slice(*queries), slice(*keys)) for queries, keys in zip(*pairs, strict=True)]


def _weights(q, k, dropout, draw, *, scale, window_size_left, window_size_right):
    """Attention weights of a text, (n_heads, n_queries, n_keys), and what dropout multiplies them by."""
    scores = q.transpose(0, 1) @ k.permute(1, 2, 0) * scale
    distance = torch.arange(len(k)) - torch.arange(len(q))[:, None]  # to the right
    for far, reach in ((-distance, window_size_left), (distance, window_size_right)):
        if reach >= 0:
            scores = scores.masked_fill(far > reach, float("-inf"))
    kept = torch.empty_like(scores).bernoulli_(1 - dropout, generator=draw) / (1 - dropout)
    return scores.softmax(-1), kept


_KERNELS = {
    _aten._flash_attention_forward.default: _flash_attention,
    _aten._flash_attention_backward.default: _flash_attention_backward,
}
