"""Gives generated pictures the spectrum of real ones, so that sharpness and contrast are no cue to which are generated.

A generator's decoder blurs, and its guidance exaggerates: its pictures hold too little of the fine frequencies and too
much of the coarse ones. How much is seen on generated *normal* pictures beside real ones, where nothing else should
differ. The same gains are then applied to every generated picture, which evens out the generator's manner and leaves
what they show. Amplitudes are exchanged in the frequency domain as in Fourier domain adaptation (Yang & Soatto 2020),
but on average over many pictures instead of picture by picture."""

import numpy as np
from numpy.typing import NDArray

from kka.controls import to_train_on
from kka.records import Images

Gains = NDArray[np.float64]
LARGEST = (
    3.0  # a gain is at most this and at least its inverse: what a generator does not draw at all is not made of noise
)


def match_spectrum(anomalies: Images, controls: Images, normals: Images) -> tuple[Images, Images]:
    """Anomalies and controls with the spectrum of real `normals`, by the gains that the training half of the controls
    shows: the other half measures how well it worked. All uint8 (n, h, w, 3) of one size."""
    gains = spectral_gains(to_train_on(controls), normals)
    return apply_gains(anomalies, gains), apply_gains(controls, gains)


def spectral_gains(generated: Images, real: Images) -> Gains:
    """Amplitude gains (frequencies of the height, of the width, 3) that give `generated` the mean power of `real`, ring
    by ring around the zero frequency; uint8 pictures (n, h, w, 3) of one size, as many as there are. The mean colour
    keeps its gain of 1."""
    rings = _rings(*real.shape[1:3])
    wanted, present = _power(real, rings), _power(generated, rings)
    gains = np.sqrt(wanted / np.maximum(present, 1e-9)).clip(1 / LARGEST, LARGEST)[rings]
    gains[0, 0] = 1
    return np.asarray(gains)


def apply_gains(images: Images, gains: Gains) -> Images:
    """The pictures (n, h, w, 3) with their frequencies amplified by `gains`, clipped to 0 to 255."""
    # one at a time: frequencies take 16 times the memory of a picture's bytes
    made = [np.fft.ifft2(np.fft.fft2(image, axes=(0, 1)) * gains, axes=(0, 1)).real for image in images]
    return np.asarray(np.stack(made).clip(0, 255).round(), dtype=np.uint8)


def _rings(height: int, width: int) -> NDArray[np.int64]:
    """The ring that each frequency (h, w) belongs to: its radius in waves a picture, rounded."""
    down, right = np.fft.fftfreq(height, 1 / height), np.fft.fftfreq(width, 1 / width)
    return np.asarray(np.hypot(down[:, None], right).round(), dtype=np.int64)


def _power(images: Images, rings: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean power by ring and channel (rings, 3)."""
    power = np.mean([np.abs(np.fft.fft2(image, axes=(0, 1))) ** 2 for image in images], axis=0)
    count = np.bincount(rings.ravel())
    return np.stack([np.bincount(rings.ravel(), power[..., c].ravel()) / count for c in range(power.shape[-1])], axis=1)
