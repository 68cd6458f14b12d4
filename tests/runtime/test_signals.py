import os
import signal

import pytest

from narrowband.runtime.signals import Stopped, postponed, stopping


def test_a_signal_is_raised_at_once_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match=r"^Stopped by SIGTERM; run the same command again$") as stopped, stopping():
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail()
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_postponed_signal_waits_for_the_end_of_the_block_and_a_second_one_does_not() -> None:
    done = []
    with pytest.raises(Stopped, match=r"SIGINT; .* to continue$"), stopping(), postponed() as signalled:
        assert signalled() == 0
        os.kill(os.getpid(), signal.SIGINT)
        done.append(signalled())
    assert done == [signal.SIGINT]
    with pytest.raises(Stopped, match=r"SIGTERM; run the same command again$"), stopping(), postponed():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail()
