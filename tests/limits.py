"""Less memory, and less disk, than there is."""

from __future__ import annotations

from contextlib import contextmanager


@contextmanager
def at_most(n_tokens):
    """Let every linear layer fail as an allocator does when it sees more rows than `n_tokens`."""
    import torch

    def refuse(module, inputs):
        if isinstance(module, torch.nn.Linear) and inputs[0].numel() // inputs[0].shape[-1] > n_tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    handle = torch.nn.modules.module.register_module_forward_pre_hook(refuse)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def files_of_at_most(n_bytes):
    """Let the system refuse to write larger files, from here or from the call of the function it yields."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
