"""Random streams, and who draws from them."""

from concurrent.futures import ThreadPoolExecutor

import torch

from skbert.randomness import DrawsFrom, DrawsNothing, Generators


def test_streams_repeat_and_differ():
    first, again, other = (Generators.from_seed(s, torch.device("cpu")) for s in (1, 1, 2))
    draws = [
        (
            g.order.random(),
            torch.rand(1, generator=g.weights).item(),
            torch.rand(1, generator=g.dropout).item(),
        )
        for g in (first, again, other)
    ]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]
    assert len(set(draws[0])) == 3


def test_draws_come_from_the_generator_of_the_scope_and_from_no_other():
    before = torch.get_rng_state()
    source = torch.Generator().manual_seed(5)
    with DrawsFrom(source):
        layer = torch.nn.Linear(3, 3)
        drawn = [
            torch.nn.functional.dropout(torch.ones(50)),
            torch.rand(3),
            torch.randn(3),
            torch.randperm(9),
        ]
        elsewhere = torch.rand(3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(elsewhere, torch.rand(3, generator=torch.Generator().manual_seed(1)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        again = torch.nn.Linear(3, 3)
        expected = [
            torch.nn.functional.dropout(torch.ones(50)),
            torch.rand(3),
            torch.randn(3),
            torch.randperm(9),
        ]
    assert torch.equal(layer.weight, again.weight)
    assert all(torch.equal(a, b) for a, b in zip(drawn, expected, strict=True))


def test_the_scope_is_of_its_thread_alone():
    """Another thread draws from the global generator, in its own sequence, while the scope is open."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        expected = torch.rand(4)
        torch.manual_seed(3)
        with DrawsFrom(torch.Generator().manual_seed(5)), ThreadPoolExecutor(1) as pool:
            torch.rand(100)
            assert torch.equal(pool.submit(torch.rand, 4).result(), expected)


def test_nothing_is_drawn_where_weights_are_to_come():
    before = torch.get_rng_state()
    with DrawsNothing():
        assert torch.equal(torch.nn.init.normal_(torch.ones(3), 2.0, 1.0), torch.full((3,), 2.0))
        assert torch.equal(torch.nn.init.uniform_(torch.ones(3), -1.0, 1.0), torch.full((3,), -1.0))
        # Drawn again until nothing lies outside, or cut off at the bounds, as the version of torch has it.
        assert torch.nn.init.trunc_normal_(torch.full((3,), torch.nan)).abs().le(2.0).all()
        assert torch.nn.Linear(4, 3).weight.unique().numel() == 1
        chances = torch.tensor([0.0, 1.0])
        assert torch.equal(torch.empty(2).bernoulli_(chances), chances)
        assert not torch.ones(3, dtype=torch.long).random_(5).any()  # five itself would be out of range
        assert torch.equal(torch.empty(3, dtype=torch.long).random_(2, 5), torch.full((3,), 2))
        drawn = torch.rand(3, generator=torch.Generator().manual_seed(1))  # not in place
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(torch.get_rng_state(), before)
