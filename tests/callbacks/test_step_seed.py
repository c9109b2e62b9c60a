"""Seeds of steps against the published generator they are made by."""

from steepest.callbacks.step_seed import mix


def test_seeds_are_those_of_splitmix64() -> None:
    # The first three numbers of splitmix64 from seed 1234567, as its test vectors have them: the state moves on by the
    # golden ratio, and `mix` adds that to its value.
    golden, first = 0x9E3779B97F4A7C15, 1234567
    states = [(first + step * golden) % 2**64 for step in range(3)]
    assert [mix(state) for state in states] == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert mix(1, 2) != mix(2, 1)
    assert mix(1, 2) == mix((mix(1) + 2) % 2**64)
    assert mix(-1) == mix(2**64 - 1)
