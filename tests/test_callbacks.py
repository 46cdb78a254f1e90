"""The progress bar and its silent counterpart."""

import pytest

from skbert.callbacks import Progress, ProgressBar, make_progress


def test_verbose_chooses():
    assert type(make_progress(0, 2, 10)) is Progress
    with make_progress(1, 2, 10) as progress:
        assert isinstance(progress, ProgressBar)


def test_the_bar_shows_epochs_texts_and_loss(capfd):
    with ProgressBar(2, 10) as progress:
        progress.step(10)
        progress.epoch_end(1, 0.4321)
        progress.step(10)
        progress.epoch_end(2, 0.1234)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "epoch 1/2" in shown.err
    assert "epoch 2/2: 100%" in shown.err
    assert "20/20" in shown.err
    assert "loss=0.1234" in shown.err


def test_the_bar_closes_after_an_error(capfd):
    with pytest.raises(KeyboardInterrupt), ProgressBar(2, 10) as progress:
        raise KeyboardInterrupt
    assert progress._bar.disable
    assert capfd.readouterr().err.endswith("\n")
