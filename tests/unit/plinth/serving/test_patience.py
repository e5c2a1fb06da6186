"""A store that is away for a moment costs nobody an answer; one that stays away costs nobody the wait twice."""

from plinth.serving.patience import Patience


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_callers_wait_until_the_absence_is_as_old_as_the_patience_and_later_ones_do_not_wait_at_all():
    clock = Clock()
    patience = Patience(1.5, clock)
    assert patience.lasts(0.1)
    clock.now += 1.0
    assert patience.lasts(0.2)  # whoever came meanwhile waits for what is left
    assert not patience.lasts(0.6)
    for _ in range(20):  # asked again and again, it stays one absence
        clock.now += 1.0
        assert not patience.lasts(0.02)


def test_a_store_that_answered_is_waited_for_again():
    clock = Clock()
    patience = Patience(1.5, clock)
    patience.lasts(0.1)
    clock.now += 2.0
    patience.answered()
    assert patience.lasts(0.1)


def test_a_failure_long_after_the_last_one_is_a_new_absence():
    clock = Clock()
    patience = Patience(1.5, clock)
    patience.lasts(0.1)
    clock.now += 3600
    assert patience.lasts(0.1)
