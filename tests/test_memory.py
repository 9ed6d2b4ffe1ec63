import numpy as np

from bench.memory import peak_memory_mb


def test_the_peak_grows_with_what_is_taken_and_does_not_fall() -> None:
    # Larger than anything that the process has given back, so that it must ask for more.
    size = int(peak_memory_mb() + 100) * 2**20
    before = peak_memory_mb()
    taken = np.ones(size, np.uint8)
    after = peak_memory_mb()
    assert after - before > 90
    del taken
    assert peak_memory_mb() >= after
