"""Pooling over the tokens of each text."""

import torch

from skbert.network.packing import Packing
from skbert.network.pooling import maximum_of_texts, mean_of_texts


def test_mean_of_texts_weighs_tokens_equally():
    states = torch.arange(12.0).view(6, 2)
    lengths = torch.tensor([1, 2, 3])
    packing = Packing(lengths, torch.tensor([0, 0, 1, 0, 1, 2]), 3)
    means = mean_of_texts(states, packing)
    assert means.tolist() == [[0, 1], [3, 4], [8, 9]]


def test_the_maximum_sees_each_text_alone():
    states = torch.tensor([[-1.0, 5.0], [-3.0, -2.0], [-4.0, -1.0]])
    packing = Packing(torch.tensor([1, 2]), torch.tensor([0, 0, 1]), 2)
    assert maximum_of_texts(states, packing).tolist() == [[-1.0, 5.0], [-3.0, -1.0]]
