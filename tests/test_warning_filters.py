"""Warning filters, and joblib inside of what changes them."""

from contextlib import nullcontext

import joblib
import pytest

from skbert.process import warning_filters


@pytest.mark.parametrize("outer", [None, "threading"])
def test_joblib_is_as_it_was_where_an_interrupt_hinders_the_exit(outer, monkeypatch):
    class Interrupted(joblib.parallel_config):
        def __enter__(self):
            raise KeyboardInterrupt

    with joblib.parallel_config(outer) if outer else nullcontext():
        before = type(joblib.parallel.get_active_backend()[0])
        monkeypatch.setattr(warning_filters, "parallel_config", Interrupted)
        with pytest.raises(KeyboardInterrupt), warning_filters.holding_warning_filters():
            pass
        assert type(joblib.parallel.get_active_backend()[0]) is before
        monkeypatch.undo()
        with warning_filters.holding_warning_filters():
            assert joblib.effective_n_jobs(2) == 1
        assert type(joblib.parallel.get_active_backend()[0]) is before
