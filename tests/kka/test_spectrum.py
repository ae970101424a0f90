"""Generated pictures get the power of real ones, frequency by frequency, and keep what they show."""

import numpy as np
import pytest

from kka.spectrum import LARGEST, apply_gains, match_spectrum, spectral_gains

RNG = np.random.default_rng(0)


def waves(n: int, amplitudes: dict[int, float], height: int = 32, width: int = 32) -> np.ndarray:
    """Grey pictures of horizontal waves with so many periods a picture, at random phases."""
    x = np.arange(width) / width
    rows = 128 + sum(a * np.sin(2 * np.pi * (k * x + RNG.random((n, 1)))) for k, a in amplitudes.items())
    return np.broadcast_to(rows[:, None, :, None], (n, height, width, 3)).round().astype(np.uint8)


def amplitude(images: np.ndarray, k: int) -> float:
    """The mean amplitude of horizontal waves with k periods."""
    return float(np.abs(np.fft.fft(images[:, 0, :, 0].astype(float), axis=1))[:, k].mean() / images.shape[2] * 2)


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_each_frequency_gets_the_amplitude_of_real_ones(size):
    real, generated = waves(50, {2: 20, 9: 30}, *size), waves(50, {2: 30, 9: 15}, *size)
    made = apply_gains(waves(8, {2: 15, 9: 20}, *size), spectral_gains(generated, real))
    assert amplitude(made, 2) == pytest.approx(15 * 20 / 30, abs=0.5)
    assert amplitude(made, 9) == pytest.approx(20 * 30 / 15, abs=0.5)


def test_a_gain_is_bounded_and_noise_is_not_blown_up():
    gains = spectral_gains(waves(50, {2: 30}), waves(50, {2: 30, 9: 40}))
    assert gains[0, 9] == pytest.approx([LARGEST] * 3)
    assert gains.min() >= 1 / LARGEST


def test_pictures_with_the_same_spectrum_stay_as_they_are():
    images = RNG.integers(0, 256, (5, 16, 16, 3)).astype(np.uint8)
    assert np.array_equal(apply_gains(images, spectral_gains(images, images)), images)


def test_the_mean_colour_stays():
    dark, bright = (
        np.full((4, 16, 16, 3), v, np.uint8) + RNG.integers(0, 9, (4, 16, 16, 3)).astype(np.uint8) for v in (20, 200)
    )
    assert np.allclose(apply_gains(dark, spectral_gains(dark, bright)).mean((1, 2)), dark.mean((1, 2)), atol=0.5)


def test_spectra_are_matched_by_the_training_half_of_the_controls_alone() -> None:
    images = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 3)).astype(np.uint8)
    matched = []
    for start in (10, 20):  # the measuring half differs
        controls = np.concatenate([images[:8] // 2, images[start : start + 8]])
        anomalies, changed = match_spectrum(images[:5], controls, images[200:])
        assert not np.array_equal(changed[8:], controls[8:])
        matched.append(anomalies)
    assert np.array_equal(*matched)
    assert matched[0].std() > images[:5].std() * 1.2  # the controls held half the contrast of the normals
